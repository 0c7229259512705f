//! How does the demo tell what it saw? One line per claim, with what was measured.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

const WIDTH: usize = 52;

/// The claims so far.
#[derive(Debug)]
pub(crate) struct Report {
    colour: bool,
    started: Instant,
    held: u32,
    failed: Vec<String>,
}

impl Report {
    pub(crate) fn new() -> Self {
        let colour = io::stdout().is_terminal();
        Self { colour, started: Instant::now(), held: 0, failed: Vec::new() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A heading: what the next lines are about.
    pub(crate) fn section(&self, title: &str) {
        let at = self.started.elapsed().as_secs_f64();
        say(&format!("\n{} {}", self.paint("1", title), self.paint("2", &format!("[{at:.1} s]"))));
    }

    /// A line that claims nothing.
    pub(crate) fn note(&self, text: &str) {
        say(&format!("  {}", self.paint("2", text)));
    }

    /// A claim and its proof: what was measured, or why it does not hold.
    pub(crate) fn check(&mut self, claim: &str, proof: anyhow::Result<String>) {
        let fill = " ".repeat(WIDTH.saturating_sub(claim.chars().count()));
        match proof {
            Ok(measured) => {
                self.held += 1;
                say(&format!("  {} {claim}{fill} {measured}", self.paint("32", "✔")));
            }
            Err(error) => {
                self.failed.push(claim.to_owned());
                let reason = format!("{error:#}").replace('\n', "\n      ");
                say(&format!("  {} {claim}{fill} {reason}", self.paint("31", "✘")));
            }
        }
    }

    /// The last lines; whether everything held.
    pub(crate) fn finish(&self) -> bool {
        let took = self.started.elapsed().as_secs_f64();
        if self.failed.is_empty() {
            say(&format!(
                "\n{} {} claims hold [{took:.1} s]",
                self.paint("32", "✔ all"),
                self.held
            ));
            return true;
        }
        say(&format!(
            "\n{} of {} claims do not hold [{took:.1} s]:",
            self.paint("31", &format!("✘ {}", self.failed.len())),
            self.failed.len() + self.held as usize
        ));
        for claim in &self.failed {
            say(&format!("  ✘ {claim}"));
        }
        false
    }
}

/// A line on standard output. A closed pipe ends nobody's demo.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    _ = writeln!(out, "{text}");
    _ = out.flush();
}

/// Milliseconds with a sensible number of digits.
pub(crate) fn ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.0} ms") }
}
