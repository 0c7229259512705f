//! The node: everything around the fast path, the slow path and policy that makes a router of them.

pub mod api;
pub mod cni;
pub mod config;
pub mod control;
pub mod ctl;
pub mod datastore;
pub mod hold;
pub mod host;
pub mod ipam;
pub mod node;

use std::collections::BTreeMap;

/// Does a selector (Calico's language) select an object with these labels? One that does not parse
/// selects nothing: it was refused where it was written.
pub(crate) fn selects(selector: &str, labels: &BTreeMap<String, String>) -> bool {
    selector.parse::<policy::selector::Selector>().is_ok_and(|s| s.matches(labels))
}
