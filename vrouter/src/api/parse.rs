//! Which objects does a text of manifests hold, and what in it must be refused?
//!
//! One broken document never takes its neighbours with it: the text is cut into documents before any of
//! them is read.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::{Body, Kind, Refusal, Resource, Warning, metadata, refusal::shorten, support};

/// No manifest may be longer; etcd and the Kubernetes API take no more than half of it.
pub const MAX_DOCUMENT_BYTES: usize = 3 << 20;

/// What a text of manifests holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// The objects that are valid, with defaults filled in.
    pub objects: Vec<Located>,
    /// What is not in force.
    pub refusals: Vec<Refusal>,
    /// What is in force but does less than it says.
    pub warnings: Vec<Warning>,
}

/// An object and where it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// The object.
    pub resource: Resource,
    /// Where it was read.
    pub position: Position,
}

/// Where in a text an object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file.
    pub file: PathBuf,
    /// The first line of the document, from 1.
    pub line: usize,
    /// The bytes of the whole document, its `---` line included.
    pub span: Range<usize>,
    /// The object's place in the document's `items`, where the document is a list.
    pub item: Option<usize>,
}

/// Why a body is not an object of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DecodeError {
    pub(crate) field: String,
    pub(crate) value: String,
    pub(crate) reason: String,
}

/// Reads every manifest of `text`, YAML (any number of documents) or JSON; `file` is for the messages.
///
/// Never panics, whatever the text.
pub fn parse_documents(text: &str, file: &Path) -> Parsed {
    let mut parsed = Parsed::default();
    for document in split(text) {
        let position = Position {
            file: file.to_owned(),
            line: document.line,
            span: document.span.clone(),
            item: None,
        };
        match read(&text[document.span]) {
            Ok(Value::Null) => {}
            Ok(value) => parsed.take(&value, position),
            Err(error) => parsed.refuse(&position, "", "", error),
        }
    }
    parsed
}

impl Parsed {
    fn refuse(&mut self, position: &Position, kind: &str, name: &str, error: DecodeError) {
        self.refusals.push(Refusal {
            file: position.file.clone(),
            line: position.line,
            kind: shorten(kind),
            name: shorten(name),
            field: error.field,
            value: error.value,
            reason: error.reason,
        });
    }

    fn take(&mut self, value: &Value, position: Position) {
        let api_version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
        let is_list = kind == "List"
            || Kind::from_manifest(api_version, kind.trim_end_matches("List")).is_some();
        if let (true, Some(items)) =
            (is_list && kind.ends_with("List"), value.get("items").and_then(Value::as_array))
        {
            if position.item.is_some() {
                return self.refuse(
                    &position,
                    kind,
                    "",
                    DecodeError::whole("a list within a list; write one list"),
                );
            }
            for (index, item) in items.iter().enumerate() {
                self.take(item, Position { item: Some(index), ..position.clone() });
            }
            return;
        }
        let name = written_name(value);
        match Kind::from_manifest(api_version, kind) {
            None => {
                self.refuse(
                    &position,
                    kind,
                    &name,
                    support::unknown_kind(value, api_version, kind),
                );
            }
            Some(known) => self.take_known(known, value, &name, position),
        }
    }

    fn take_known(&mut self, kind: Kind, value: &Value, name: &str, position: Position) {
        let (mut resource, unknown) = match Resource::decode(kind, &body_of(value)) {
            Ok(decoded) => decoded,
            Err(error) => return self.refuse(&position, kind.as_str(), name, error),
        };
        let before = self.refusals.len();
        for field in unknown.iter().filter(|field| !may_be_ignored(kind, field)) {
            let reason = format!("unknown field of {kind}; correct its name or remove it");
            self.refuse(
                &position,
                kind.as_str(),
                name,
                DecodeError::new(field.clone(), "", reason),
            );
        }
        for field in value.as_object().into_iter().flat_map(serde_json::Map::keys) {
            let ours =
                matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "spec" | "status");
            if !ours && !may_be_ignored(kind, field) {
                let reason = format!("unknown field of {kind}; correct its name or remove it");
                self.refuse(
                    &position,
                    kind.as_str(),
                    name,
                    DecodeError::new(field.clone(), "", reason),
                );
            }
        }
        resource.fill_defaults();
        for fault in resource.validate().0 {
            let error = DecodeError::new(fault.field, fault.value, fault.reason);
            self.refuse(&position, kind.as_str(), name, error);
        }
        // What is not valid is not looked at further: one thing at a time is easier to mend.
        let valid = self.refusals.len() == before;
        for notice in support::check(kind, value).into_iter().filter(|_| valid) {
            let error =
                DecodeError::new(notice.field.to_owned(), notice.value, notice.reason.to_owned());
            self.refuse(&position, kind.as_str(), name, error);
            if !notice.refused {
                self.warnings.extend(self.refusals.pop().map(Warning));
            }
        }
        if self.refusals.len() == before {
            self.objects.push(Located { resource, position });
        }
    }
}

impl DecodeError {
    fn new(field: impl Into<String>, value: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.into(), reason: reason.into() }
    }

    pub(crate) fn whole(reason: impl Into<String>) -> Self {
        Self::new("", "", reason)
    }
}

/// Reads `T`, and tells which fields it does not know.
pub(crate) fn decode<T: Body>(body: &Value) -> Result<(T, Vec<String>), DecodeError> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(body, &mut track);
    let ignored =
        serde_ignored::deserialize(tracked, |path| unknown.push(plain_path(&path.to_string())));
    match ignored {
        Ok(object) => Ok((object, unknown)),
        Err(error) => Err(explain(body, &track.path(), &error)),
    }
}

/// Makes the decoder's words about one field into ours.
fn explain(
    body: &Value,
    path: &serde_path_to_error::Path,
    error: &serde_json::Error,
) -> DecodeError {
    let mut field = String::new();
    let mut found = Some(body);
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                field.extend(["[", &index.to_string(), "]"]);
                found = found.and_then(|value| value.get(index));
            }
            Segment::Map { key } => {
                if !field.is_empty() {
                    field.push('.');
                }
                field.push_str(key);
                found = found.and_then(|value| value.get(key));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let message = error.to_string();
    if let Some(missing) =
        message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next())
    {
        let dot = if field.is_empty() { "" } else { "." };
        return DecodeError::new(format!("{field}{dot}{missing}"), "", "is required");
    }
    let value = match found {
        Some(Value::Object(_) | Value::Array(_)) | None => String::new(),
        Some(Value::String(text)) => format!("{:?}", shorten(text)),
        Some(scalar) => scalar.to_string(),
    };
    let quoted = message.starts_with("invalid type") && message.ends_with("expected a string");
    let advice = if quoted { "; write it in quotes" } else { "" };
    DecodeError::new(field, value, message + advice)
}

/// `spec.?.ports.0.name` → `spec.ports[0].name`.
fn plain_path(path: &str) -> String {
    let mut plain = String::new();
    for part in path.split('.').filter(|part| *part != "?") {
        if part.bytes().all(|b| b.is_ascii_digit()) {
            plain.extend(["[", part, "]"]);
        } else {
            if !plain.is_empty() {
                plain.push('.');
            }
            plain.push_str(part);
        }
    }
    plain
}

/// Kubernetes' own objects have many fields that policy does not look at; an API server adds others.
fn may_be_ignored(kind: Kind, field: &str) -> bool {
    if matches!(kind, Kind::Pod | Kind::Namespace) {
        return true;
    }
    let Some(rest) = field.strip_prefix("metadata.") else { return false };
    metadata::SERVER_SIDE.iter().any(|known| rest.split(['.', '[']).next() == Some(*known))
}

/// The part of a manifest that the kind's type reads. A field without a value is a field not written.
fn body_of(manifest: &Value) -> Value {
    let mut body = serde_json::Map::new();
    for field in ["metadata", "spec", "status"] {
        let value = manifest.get(field).filter(|value| !value.is_null()).cloned();
        let value = match (value, field) {
            (None, "status") => continue,
            (value, _) => value.unwrap_or_else(|| Value::Object(serde_json::Map::new())),
        };
        body.insert(field.to_owned(), without_nulls(value));
    }
    Value::Object(body)
}

pub(crate) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        scalar => scalar,
    }
}

fn written_name(value: &Value) -> String {
    let metadata = value.get("metadata");
    let part = |field| metadata.and_then(|metadata| metadata.get(field)).and_then(Value::as_str);
    match (part("namespace"), part("name")) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.to_owned(),
        (_, None) => String::new(),
    }
}

struct Document {
    span: Range<usize>,
    line: usize,
}

/// Cuts a text at the lines that begin a YAML document; nothing in YAML may hide such a line (YAML 1.2
/// §9.1.2). Texts of JSON values that follow one another are cut behind each value.
fn split(text: &str) -> Vec<Document> {
    if text.trim_start().starts_with(['{', '['])
        && let Some(documents) = split_json(text)
    {
        return documents;
    }
    let mut documents = Vec::new();
    let mut current = Document { span: 0..0, line: 1 };
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let begins = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if begins && at > 0 {
            documents
                .push(std::mem::replace(&mut current, Document { span: at..at, line: number + 1 }));
        }
        at += line.len();
        current.span.end = at;
    }
    documents.push(current);
    for document in &mut documents {
        let skipped = text[document.span.clone()].lines().take_while(|line| is_blank(line)).count();
        document.line += skipped;
    }
    documents
}

fn split_json(text: &str) -> Option<Vec<Document>> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let mut documents = Vec::new();
    let mut start = 0;
    while let Some(value) = values.next() {
        value.ok()?;
        let end = values.byte_offset();
        let lead = text[start..end].len() - text[start..end].trim_start().len();
        let line = 1 + text[..start + lead].matches('\n').count();
        documents.push(Document { span: start..end, line });
        start = end;
    }
    Some(documents)
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty()
        || line.starts_with('#')
        || line.starts_with('%')
        || line == "---"
        || line.starts_with("--- #")
        || line == "..."
}

/// One document as a value; `Null` where it holds nothing.
pub(crate) fn read(text: &str) -> Result<Value, DecodeError> {
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(DecodeError::whole(format!(
            "the document has {} bytes; split it into documents of at most {MAX_DOCUMENT_BYTES}",
            text.len()
        )));
    }
    if text.lines().all(is_blank) {
        return Ok(Value::Null);
    }
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    let wrong = |error: serde_yaml_ng::Error| {
        DecodeError::whole(format!("not YAML: {}", shorten(&error.to_string())))
    };
    let deserializer = serde_yaml_ng::Deserializer::from_str(text);
    let mut value = serde_yaml_ng::Value::deserialize(deserializer).map_err(wrong)?;
    value.apply_merge().map_err(wrong)?;
    serde_json::to_value(value).map_err(|error| {
        DecodeError::whole(format!("not an object: {}", shorten(&error.to_string())))
    })
}

/// Whether a text has no document in it, only comments or nothing.
pub(crate) fn holds_nothing(text: &str) -> bool {
    text.lines().all(is_blank)
}
