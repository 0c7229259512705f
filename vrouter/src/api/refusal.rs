//! How is the user told what was wrong with what they wrote, and what would be right?

use std::{fmt, path::PathBuf};

use serde::Serialize;

use super::Key;

/// An object, or a whole file, that is not in force, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Refusal {
    /// The file it was read from; empty when it did not come from one.
    pub file: PathBuf,
    /// The first line of the object in that file, from 1; 0 when unknown.
    pub line: usize,
    /// The kind as it was written; empty when unknown.
    pub kind: String,
    /// The name, with its namespace before a slash; empty when unknown.
    pub name: String,
    /// The field, as a dotted path from the object's root; empty for the object as a whole.
    pub field: String,
    /// The value that was refused; empty where there is none.
    pub value: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// Something accepted that does less than it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Warning(pub Refusal);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if !self.file.as_os_str().is_empty() {
            write!(f, "{}", self.file.display())?;
            if self.line > 0 {
                write!(f, ":{}", self.line)?;
            }
            separator = ": ";
        }
        if !self.kind.is_empty() || !self.name.is_empty() {
            let space = if self.kind.is_empty() || self.name.is_empty() { "" } else { " " };
            write!(f, "{separator}{}{space}{}", self.kind, self.name)?;
            separator = ": ";
        }
        if !self.field.is_empty() {
            write!(f, "{separator}{}", self.field)?;
            separator = ": ";
        }
        if !self.value.is_empty() {
            write!(f, "{separator}{}", self.value)?;
            separator = ": ";
        }
        write!(f, "{separator}{}", self.reason)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// A refusal of a stored or given object as a whole.
    pub fn of(key: &Key, reason: impl Into<String>) -> Self {
        let name = match &key.namespace {
            Some(namespace) => format!("{namespace}/{}", key.name),
            None => key.name.clone(),
        };
        let kind = key.kind.as_str().to_owned();
        Self { kind, name, reason: reason.into(), ..Self::default() }
    }
}

/// The faults found in one object; each becomes one [`Refusal`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, as a dotted path.
    pub field: String,
    /// The value found there, if it helps.
    pub value: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl Faults {
    /// Notes a broken rule.
    pub fn add(
        &mut self,
        field: impl Into<String>,
        value: impl fmt::Display,
        reason: impl Into<String>,
    ) {
        let value = shorten(&value.to_string());
        self.0.push(Fault { field: field.into(), value, reason: reason.into() });
    }

    /// Notes a broken rule where `broken` holds.
    pub fn add_if(&mut self, broken: bool, field: &str, value: impl fmt::Display, reason: &str) {
        if broken {
            self.add(field, value, reason);
        }
    }

    /// Whether no rule was broken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The faults as refusals of the object `key`.
    pub fn into_refusals(self, key: &Key) -> Vec<Refusal> {
        let about = |fault: Fault| Refusal {
            field: fault.field,
            value: fault.value,
            ..Refusal::of(key, fault.reason)
        };
        self.0.into_iter().map(about).collect()
    }
}

/// Keeps a value printable in one line of a message.
pub(crate) fn shorten(value: &str) -> String {
    const LONGEST: usize = 120;
    let mut short: String =
        value.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    if value.chars().count() > LONGEST {
        short.push('…');
    }
    short
}
