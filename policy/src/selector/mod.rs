//! Which labels does a selector want?
//!
//! One expression type for both languages: Calico's text ([`parse`]) and Kubernetes' label
//! selectors (converted in [`crate::kubernetes`]). Its [`fmt::Display`] is the normal form of
//! Calico's text, and parsing it gives the expression back.

mod eval;
mod parse;
#[cfg(test)]
mod tests;

pub use parse::{DEPTH_MAX, Expected, LENGTH_MAX, ParseError};

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A condition on labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Selector {
    /// `all()`: whatever has labels at all, even none.
    All,
    /// `global()`: says of a `namespaceSelector` that it means what is in no namespace; as a
    /// condition on labels it holds.
    Global,
    /// `has(key)`
    Has(Arc<str>),
    /// `key OP "value"`
    Compare(Arc<str>, Comparison, Arc<str>),
    /// `key in {"a", "b"}`; false if the label is absent.
    In(Arc<str>, BTreeSet<Arc<str>>),
    /// `key not in {"a", "b"}`; true if the label is absent.
    NotIn(Arc<str>, BTreeSet<Arc<str>>),
    /// `!x`
    Not(Box<Selector>),
    /// `(x && y)`: all of at least two.
    And(Vec<Selector>),
    /// `(x || y)`: one of at least two.
    Or(Vec<Selector>),
}

/// How a label's value is compared. Without the label only [`Comparison::NotEqual`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`; true if the label is absent.
    NotEqual,
    /// `contains`
    Contains,
    /// `starts with`
    StartsWith,
    /// `ends with`
    EndsWith,
}

impl Selector {
    /// All of these: [`Selector::All`] for none, the part itself for one.
    pub fn and(mut parts: Vec<Selector>) -> Self {
        match parts.len() {
            0 => Self::All,
            1 => parts.remove(0),
            _ => Self::And(parts),
        }
    }

    /// `key == "value"`
    pub fn equal(key: &str, value: &str) -> Self {
        Self::Compare(key.into(), Comparison::Equal, value.into())
    }
}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Compare(key, comparison, value) => {
                let operator = match comparison {
                    Comparison::Equal => "==",
                    Comparison::NotEqual => "!=",
                    Comparison::Contains => "contains",
                    Comparison::StartsWith => "starts with",
                    Comparison::EndsWith => "ends with",
                };
                write!(f, "{key} {operator} {}", Quoted(value))
            }
            Self::In(key, values) => write!(f, "{key} in {}", Values(values)),
            Self::NotIn(key, values) => write!(f, "{key} not in {}", Values(values)),
            Self::Not(part) => write!(f, "!{part}"),
            Self::And(parts) => joined(f, parts, " && "),
            Self::Or(parts) => joined(f, parts, " || "),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, parts: &[Selector], operator: &str) -> fmt::Result {
    f.write_str("(")?;
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(operator)?;
        }
        write!(f, "{part}")?;
    }
    f.write_str(")")
}

/// A string in the quotes it does not contain: the language has no escapes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Values<'a>(&'a BTreeSet<Arc<str>>);

impl fmt::Display for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, value) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", Quoted(value))?;
        }
        f.write_str("}")
    }
}
