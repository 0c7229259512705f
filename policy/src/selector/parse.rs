//! What does the text of a selector mean? Calico's grammar, by recursive descent.
//!
//! ```text
//! or        = and { "||" and }
//! and       = operation { "&&" operation }
//! operation = { "!" } ( "(" or ")" | "all()" | "global()" | "has(" key ")"
//!           | key ( "==" | "!=" | "contains" | "starts with" | "ends with" ) string
//!           | key ( "in" | "not in" ) "{" [ string { "," string } [ "," ] ] "}" )
//! key       = 1 to 512 of  a-z A-Z 0-9 _ . / -
//! string    = '"' anything but '"' '"'  |  "'" anything but "'" "'"
//! ```
//! Blanks (space, tab) may stand between tokens, need not, and an empty text is `all()`.

use super::{Comparison, Selector};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Longest text that is read, in bytes.
pub const LENGTH_MAX: usize = 65_536;
/// Deepest nesting of parentheses.
pub const DEPTH_MAX: usize = 100;
/// Longest label key, in bytes.
const KEY_MAX: usize = 512;

/// Where a text stops being a selector, and what could have stood there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at position {position}: expected {expected}")]
pub struct ParseError {
    /// Bytes before the place.
    pub position: usize,
    /// What would have been right.
    pub expected: Expected,
}

/// What could have stood at the place of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// `(`, `!`, a function or a label key.
    Operation,
    /// A comparison after a label key.
    Operator,
    /// A label key of at most 512 bytes.
    Key,
    /// A string in single or double quotes.
    String,
    /// The quote that ends a string.
    Quote,
    /// This text.
    Text(&'static str),
    /// `&&`, `||` or the end.
    End,
    /// Less text, or fewer parentheses within each other.
    Less,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation => {
                f.write_str("a label key, has(key), all(), global(), `!` or a parenthesis")
            }
            Self::Operator => f.write_str(
                "==, !=, in, not in, contains, starts with or ends with after the label key",
            ),
            Self::Key => write!(f, "a label key of 1 to {KEY_MAX} letters, digits and _ . / -"),
            Self::String => f.write_str("a string in quotes"),
            Self::Quote => f.write_str("the quote that ends the string"),
            Self::Text(text) => write!(f, "`{text}`"),
            Self::End => f.write_str("&&, || or the end"),
            Self::Less => write!(
                f,
                "at most {LENGTH_MAX} bytes and {DEPTH_MAX} parentheses within each other"
            ),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Selector, ParseError> {
    let mut parser = Parser { text, position: 0, depth: 0 };
    if text.len() > LENGTH_MAX {
        return Err(ParseError { position: LENGTH_MAX, expected: Expected::Less });
    }
    parser.blanks();
    if parser.rest().is_empty() {
        return Ok(Selector::All);
    }
    let selector = parser.or()?;
    if parser.rest().is_empty() { Ok(selector) } else { parser.fail(Expected::End) }
}

struct Parser<'a> {
    text: &'a str,
    position: usize,
    depth: usize,
}

type Parsed<T> = Result<T, ParseError>;

impl<'a> Parser<'a> {
    fn or(&mut self) -> Parsed<Selector> {
        let mut parts = vec![self.and()?];
        while self.take("||") {
            parts.push(self.and()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Selector::Or(parts) })
    }

    fn and(&mut self) -> Parsed<Selector> {
        let mut parts = vec![self.operation()?];
        while self.take("&&") {
            parts.push(self.operation()?);
        }
        Ok(Selector::and(parts))
    }

    fn operation(&mut self) -> Parsed<Selector> {
        let mut negated = false;
        while !self.rest().starts_with("!=") && self.take("!") {
            negated = !negated;
        }
        let selector = if self.take("(") {
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return self.fail(Expected::Less);
            }
            let inner = self.or()?;
            self.expect(")")?;
            self.depth -= 1;
            inner
        } else if self.take("has(") {
            let key = self.key(Expected::Key)?;
            self.expect(")")?;
            Selector::Has(key)
        } else if self.take("all(") {
            self.expect(")")?;
            Selector::All
        } else if self.take("global(") {
            self.expect(")")?;
            Selector::Global
        } else {
            let key = self.key(Expected::Operation)?;
            self.condition(key)?
        };
        Ok(match selector {
            Selector::Not(inner) if negated => *inner,
            selector if negated => Selector::Not(Box::new(selector)),
            selector => selector,
        })
    }

    /// What follows a label key.
    fn condition(&mut self, key: Arc<str>) -> Parsed<Selector> {
        let comparison = if self.take("==") {
            Comparison::Equal
        } else if self.take("!=") {
            Comparison::NotEqual
        } else if self.take("contains") {
            Comparison::Contains
        } else if self.take("starts") {
            self.expect("with")?;
            Comparison::StartsWith
        } else if self.take("ends") {
            self.expect("with")?;
            Comparison::EndsWith
        } else if self.take("not") {
            self.expect("in")?;
            return Ok(Selector::NotIn(key, self.values()?));
        } else if self.take("in") {
            return Ok(Selector::In(key, self.values()?));
        } else {
            return self.fail(Expected::Operator);
        };
        Ok(Selector::Compare(key, comparison, self.string()?))
    }

    fn values(&mut self) -> Parsed<BTreeSet<Arc<str>>> {
        self.expect("{")?;
        let mut values = BTreeSet::new();
        while !self.rest().starts_with('}') {
            values.insert(self.string()?);
            if !self.take(",") {
                break;
            }
        }
        self.expect("}")?;
        Ok(values)
    }

    fn string(&mut self) -> Parsed<Arc<str>> {
        let Some(quote) = self.rest().chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            return self.fail(Expected::String);
        };
        let inside = &self.rest()[1..];
        let Some(end) = inside.find(quote) else {
            self.position = self.text.len();
            return self.fail(Expected::Quote);
        };
        self.position += end + 2;
        self.blanks();
        Ok(inside[..end].into())
    }

    fn key(&mut self, expected: Expected) -> Parsed<Arc<str>> {
        let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let rest = self.rest();
        let key = &rest[..rest.find(|c| !inside(c)).unwrap_or(rest.len())];
        if key.is_empty() {
            return self.fail(expected);
        }
        if key.len() > KEY_MAX {
            return self.fail(Expected::Key);
        }
        self.position += key.len();
        self.blanks();
        Ok(key.into())
    }

    /// Takes the token if it stands here, and the blanks behind it.
    fn take(&mut self, token: &str) -> bool {
        let here = self.rest().starts_with(token);
        if here {
            self.position += token.len();
            self.blanks();
        }
        here
    }

    fn expect(&mut self, token: &'static str) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { self.fail(Expected::Text(token)) }
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.position += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    fn rest(&self) -> &'a str {
        &self.text[self.position..]
    }

    fn fail<T>(&self, expected: Expected) -> Parsed<T> {
        Err(ParseError { position: self.position, expected })
    }
}
