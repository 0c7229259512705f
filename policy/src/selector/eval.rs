//! Does a selector hold for these labels?

use super::{Comparison, Selector};
use crate::model::Labels;

impl Selector {
    /// Does it hold? Absent labels fail every comparison but `!=` and `not in`.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = |key: &str| labels.get(key).map(String::as_str);
        match self {
            Self::All | Self::Global => true,
            Self::Has(key) => value(key).is_some(),
            Self::Compare(key, Comparison::NotEqual, wanted) => value(key) != Some(wanted),
            Self::Compare(key, comparison, wanted) => value(key).is_some_and(|value| {
                let wanted: &str = wanted;
                match comparison {
                    Comparison::Equal => value == wanted,
                    Comparison::NotEqual => value != wanted,
                    Comparison::Contains => value.contains(wanted),
                    Comparison::StartsWith => value.starts_with(wanted),
                    Comparison::EndsWith => value.ends_with(wanted),
                }
            }),
            Self::In(key, values) => value(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => value(key).is_none_or(|value| !values.contains(value)),
            Self::Not(part) => !part.matches(labels),
            Self::And(parts) => parts.iter().all(|part| part.matches(labels)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(labels)),
        }
    }
}
