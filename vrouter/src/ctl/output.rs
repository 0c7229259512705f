//! In which form does a command answer, and where does the answer go?

use std::io::{self, Read, Write};

use serde_json::Value;

/// A form of answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
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

impl From<Exit> for std::process::ExitCode {
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
    /// Writes a value as JSON or YAML.
    pub fn value(&mut self, format: Format, value: &Value) -> io::Result<()> {
        match format {
            Format::Yaml => {
                let text = serde_yaml_ng::to_string(value).map_err(io::Error::other)?;
                self.out.write_all(text.as_bytes())
            }
            Format::Json | Format::Table | Format::Wide => {
                serde_json::to_writer_pretty(&mut *self.out, value)?;
                writeln!(self.out)
            }
        }
    }

    /// Says what went wrong.
    pub fn problem(&mut self, text: impl std::fmt::Display) -> io::Result<Exit> {
        writeln!(self.err, "{text}")?;
        Ok(Exit::Refused)
    }
}

/// The characters in a line of the terminal that standard output goes to.
pub fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0))
}
