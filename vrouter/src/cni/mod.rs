//! How does the container runtime attach a pod to this node?
//!
//! The runtime starts the plugin ([`shim`]), which only translates: environment and standard input
//! into one [`request::CniRequest`] over a UNIX socket, the node's answer into what the runtime
//! expects. The node's side ([`server`]) hands requests to a [`server::CniHandler`].

pub mod config;
pub mod handler;
pub mod request;
pub mod result;
pub mod server;
pub mod shim;
#[cfg(test)]
mod tests;

/// Where the node listens unless the network configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/vrouter/cni.sock";
/// Largest request or answer, in bytes: a GC lists every attachment of the node.
pub const MAX_MESSAGE: u64 = 4 * 1024 * 1024;
