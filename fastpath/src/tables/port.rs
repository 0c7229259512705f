//! What is a port for, and what does it take?

use super::endpoint::EndpointId;
use crate::io::Framing;

/// What hangs on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PortRole {
    /// Nothing (any more): what comes from it is dropped.
    #[default]
    Unused,
    /// A local workload.
    Pod(EndpointId),
    /// The node's kernel, for what the node itself originates and receives (`tunl0`).
    HostLocal,
    /// The node's kernel, for what it forwards (`vrouter-fwd`).
    HostForward,
    /// The network between the nodes.
    Uplink,
}

/// One port as the stages see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEntry {
    /// What hangs on it.
    pub role: PortRole,
    /// What its packets start with.
    pub framing: Framing,
    /// Its own MAC address, where it has one.
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes, it takes.
    pub mtu: u16,
    /// Its device is a veth: a transport checksum that equals the pseudo-header sum is a partial
    /// one that nothing announced, and is treated as such.
    pub partial_checksums: bool,
}

impl Default for PortEntry {
    fn default() -> Self {
        Self {
            role: PortRole::Unused,
            framing: Framing::Ip,
            mac: [0; 6],
            mtu: 1500,
            partial_checksums: false,
        }
    }
}
