//! What does the data plane know of a local workload?

use crate::packet::PortId;
use ipnet::IpNet;

/// Index of an [`EndpointEntry`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u32);

/// Index of a compiled rule program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProgramId(pub u32);

/// What stands before one direction of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Guard {
    /// Nothing passes: its policy is not known yet.
    #[default]
    Closed,
    /// Everything passes: no policy applies.
    Open,
    /// What the program says.
    Program(ProgramId),
}

/// One local workload.
#[derive(Clone, Debug, Default)]
pub struct EndpointEntry {
    /// The port it hangs on.
    pub port: PortId,
    /// The sources it may use: its own addresses, and prefixes it was granted.
    pub sources: Vec<IpNet>,
    /// What it may send (as a connection's originator).
    pub egress: Guard,
    /// What may be sent to it (as a connection's responder).
    pub ingress: Guard,
    /// Its MAC address, on a port with Ethernet framing.
    pub mac: [u8; 6],
}
