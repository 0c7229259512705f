//! The node.
pub mod cni;
pub mod hold;
pub mod host;
