//! How is one object of a user's file changed, and the rest of the file left as it was written?

use std::fs;

use serde_json::Value;

use super::{Error, index::Place, io, write};
use crate::api::{Resource, parse};

/// Puts `new` where the object stands in its file, or takes the object out of it.
pub(super) fn replace(place: &Place, new: Option<&Resource>) -> Result<(), Error> {
    let text = fs::read_to_string(&place.file).map_err(io("read", &place.file))?;
    let json = place.file.extension().is_some_and(|extension| extension == "json");
    let before = text.get(..place.span.start).unwrap_or_default();
    let after = text.get(place.span.end..).unwrap_or_default();
    let document = text.get(place.span.clone()).unwrap_or_default();
    let middle = match (place.item, new) {
        (Some(item), new) => {
            let mut list = parse::read(document).unwrap_or_default();
            if let Some(items) = list
                .get_mut("items")
                .and_then(Value::as_array_mut)
                .filter(|items| item < items.len())
            {
                match new {
                    Some(new) => items[item] = new.to_value(),
                    None => drop(items.remove(item)),
                }
            }
            let empty = list.get("items").and_then(Value::as_array).is_none_or(Vec::is_empty);
            (!empty).then(|| print(&list, json))
        }
        (None, Some(new)) => Some(print(&new.to_value(), json)),
        (None, None) => None,
    };
    let separator = if json { "" } else { "---\n" };
    let rest = match middle {
        Some(middle) if place.span.start == 0 && !document.starts_with("---") => {
            format!("{middle}{after}")
        }
        Some(middle) => format!("{before}{separator}{middle}{after}"),
        None => format!("{before}{after}"),
    };
    if parse::holds_nothing(&rest) {
        return write::remove(&place.file);
    }
    write::write_whole(&place.file, rest.as_bytes())
}

fn print(value: &Value, json: bool) -> String {
    let mut text = if json {
        serde_json::to_string_pretty(value).unwrap_or_default()
    } else {
        serde_yaml_ng::to_string(value).unwrap_or_default()
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
