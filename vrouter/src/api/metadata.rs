//! What does every object carry beside its content, and what may it be called?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Faults, Kind, is_default};

/// The common part of every object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The name, unique in its kind and namespace.
    pub name: String,
    /// The namespace, of kinds that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What selectors look at.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What selectors don't look at.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The datastore's revision of the object; opaque, compared for equality only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Tells an object from a later one of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// When the object was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Counts changes of the specification, where the datastore does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// When deletion was asked for, where it waits for something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    /// Objects this one goes away with; kept as they were read.
    #[serde(skip_serializing_if = "is_default")]
    pub owner_references: Vec<Value>,
    /// What deletion waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
}

/// Fields an API server adds that nothing here depends on.
pub(crate) const SERVER_SIDE: &[&str] =
    &["managedFields", "selfLink", "generateName", "deletionGracePeriodSeconds", "clusterName"];

impl Metadata {
    /// Checks names, labels and annotations by Kubernetes' rules.
    pub(crate) fn validate(&self, kind: Kind, faults: &mut Faults) {
        if self.name.is_empty() {
            faults.add("metadata.name", "", "a name is required");
        } else if !is_subdomain(&self.name) {
            faults.add(
                "metadata.name",
                &self.name,
                "not a name: lower-case letters, digits, `-` and `.`, beginning and ending with a letter or digit, at most 253 characters",
            );
        }
        match &self.namespace {
            Some(namespace) if !kind.namespaced() => {
                faults.add(
                    "metadata.namespace",
                    namespace,
                    format!("{kind} objects have no namespace; leave it out"),
                );
            }
            Some(namespace) if !is_label(namespace) => faults.add(
                "metadata.namespace",
                namespace,
                "not a namespace: lower-case letters, digits and `-`, at most 63 characters",
            ),
            _ => {}
        }
        for (key, value) in &self.labels {
            if !is_qualified_name(key) {
                faults.add("metadata.labels", key, LABEL_KEY);
            }
            if !is_label_value(value) {
                faults.add(format!("metadata.labels.{key}"), value, LABEL_VALUE);
            }
        }
    }
}

/// What a label's key must look like.
pub(crate) const LABEL_KEY: &str = "not a label key: at most 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit, optionally after a DNS name and `/`";
/// What a label's value must look like.
pub(crate) const LABEL_VALUE: &str = "not a label value: empty, or at most 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit";

/// A DNS-1123 label.
pub(crate) fn is_label(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A DNS-1123 subdomain. It also keeps names safe as parts of file names: no `/`, no `..`, no leading dot.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty()
            && part.bytes().all(inside)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// A Kubernetes qualified name: what a label's key is.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

/// A Kubernetes label value.
pub(crate) fn is_label_value(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let inside = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    bytes.len() <= 63 && bytes.iter().all(inside) && edge(bytes.first()) && edge(bytes.last())
}
