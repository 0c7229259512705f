//! What tells one state of an object from another?

use crate::api::{Resource, ipam::digest, parse::without_nulls};

/// Gives the object the revision of its content.
pub(super) fn stamp(resource: &mut Resource) {
    let metadata = resource.metadata_mut();
    metadata.resource_version = None;
    // What reads back the same must have the same revision.
    let content = without_nulls(resource.to_value()).to_string();
    resource.metadata_mut().resource_version = Some(digest(&content));
}

/// A random identity for a new object.
pub(super) fn new_uid() -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    random.map_or_else(|_| now(), |text| text.trim().to_owned())
}

/// The wall clock, RFC 3339.
pub(super) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
