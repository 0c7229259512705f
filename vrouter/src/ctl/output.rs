//! In which form does a command answer, and where does the answer go?

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use serde_json::Value;

/// A form of answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A table.
    #[default]
    #[value(alias = "ps")]
    Table,
    /// A table with every column.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

impl Output {
    /// Whether programs are to read it.
    pub const fn is_structured(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }

    /// Writes a value as YAML or, where that was not asked for, as JSON.
    pub fn write(self, value: &Value, out: &mut dyn Write) -> io::Result<()> {
        if self == Self::Yaml {
            let text = serde_yaml_ng::to_string(value).map_err(io::Error::other)?;
            return out.write_all(text.as_bytes());
        }
        serde_json::to_writer_pretty(&mut *out, value)?;
        writeln!(out)
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All was done.
    Done = 0,
    /// Something was refused, or not found.
    Refused = 1,
    /// The command makes no sense.
    Usage = 2,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What a command reads and writes.
pub struct Streams<'a> {
    /// What `-f -` reads.
    pub input: &'a mut dyn Read,
    /// Answers.
    pub out: &'a mut dyn Write,
    /// What went wrong.
    pub err: &'a mut dyn Write,
    /// The characters in a line of the terminal; `None` where answers don't go to one.
    pub width: Option<usize>,
}

impl Streams<'_> {
    /// Says what went wrong.
    pub fn problem(&mut self, text: impl std::fmt::Display) -> io::Result<Exit> {
        writeln!(self.err, "{text}")?;
        Ok(Exit::Refused)
    }
}

/// Runs a command on the process's own input and error output.
pub(super) fn with_standard_streams(
    out: &mut dyn Write,
    run: impl FnOnce(&mut Streams<'_>) -> io::Result<Exit>,
) -> io::Result<ExitCode> {
    let (mut input, mut err) = (io::stdin().lock(), io::stderr().lock());
    let mut streams = Streams { input: &mut input, out, err: &mut err, width: terminal_width() };
    run(&mut streams).map(ExitCode::from)
}

/// The characters in a line of the terminal that standard output goes to.
pub fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0))
}
