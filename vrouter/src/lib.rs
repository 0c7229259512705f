//! The node.

pub mod api;
pub mod cni;
pub mod datastore;
pub mod hold;
pub mod host;
pub mod ipam;
