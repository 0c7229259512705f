//! Which link-layer addresses does the kernel know, and how is it told to find and keep them?

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState as KernelState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::link::MacAddress;
use super::rule::Family;
use super::{Netlink, NetlinkError};

/// An ARP or ND entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The device it is reached by.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC, where known. Usable only if [`NeighbourState::is_usable`].
    pub mac: Option<MacAddress>,
    /// What the kernel thinks of it.
    pub state: NeighbourState,
    /// The kernel keeps it fresh by itself.
    pub managed: bool,
    /// It says it is a router (IPv6).
    pub router: bool,
}

/// What the kernel thinks of a neighbour (its `NUD_` states).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourState {
    /// Created, nothing known yet.
    None,
    /// The first answer is awaited.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Known, not confirmed lately.
    Stale,
    /// Known, used, to be confirmed.
    Delay,
    /// Known, being confirmed.
    Probe,
    /// Nobody answered.
    Failed,
    /// Set by an administrator, or needs no resolution.
    Permanent,
}

impl NeighbourState {
    /// Whether packets may be sent to its MAC.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Reachable | Self::Stale | Self::Delay | Self::Probe | Self::Permanent)
    }
}

impl Netlink {
    /// All neighbours of both families.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut message = NeighbourMessage::default();
            message.header.family = family.to_netlink();
            let request = RouteNetlinkMessage::GetNeighbour(message);
            let answers = self.dump(&request, || format!("list IP{family:?} neighbours"))?;
            found.extend(answers.iter().filter_map(Neighbour::from_netlink));
        }
        Ok(found)
    }

    /// Lets the kernel resolve a neighbour now and keep it fresh for ever, though it sends nothing
    /// there itself. The answer arrives as a neighbour event.
    pub fn manage_neighbour(&mut self, link: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = request(link, address);
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        let request = RouteNetlinkMessage::NewNeighbour(message);
        self.execute(request, NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("manage neighbour {address} on link {link}")
        })
    }

    /// Lets the kernel resolve or confirm a neighbour once.
    pub fn probe_neighbour(&mut self, link: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = request(link, address);
        message.header.flags = NeighbourFlags::Use;
        let request = RouteNetlinkMessage::NewNeighbour(message);
        self.execute(request, NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("probe neighbour {address} on link {link}")
        })
    }

    /// Sets a neighbour by hand, for ever.
    pub fn set_neighbour(
        &mut self,
        link: u32,
        address: IpAddr,
        mac: MacAddress,
    ) -> Result<(), NetlinkError> {
        let mut message = request(link, address);
        message.header.state = KernelState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let request = RouteNetlinkMessage::NewNeighbour(message);
        self.execute(request, NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("set neighbour {address} on link {link}")
        })
    }

    /// Forgets a neighbour; `Ok(false)` if it is not there.
    pub fn delete_neighbour(&mut self, link: u32, address: IpAddr) -> Result<bool, NetlinkError> {
        let request = RouteNetlinkMessage::DelNeighbour(request(link, address));
        match self.execute(request, 0, || format!("delete neighbour {address} on link {link}")) {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Neighbour {
    /// Reads a neighbour out of a `NewNeighbour` or `DelNeighbour` message; `None` for bridge
    /// forwarding entries and for those that need no resolution (multicast, loopback).
    pub(in crate::host) fn from_netlink(message: &RouteNetlinkMessage) -> Option<Self> {
        let (RouteNetlinkMessage::NewNeighbour(message)
        | RouteNetlinkMessage::DelNeighbour(message)) = message
        else {
            return None;
        };
        if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
            return None;
        }
        let state = match message.header.state {
            KernelState::Incomplete => NeighbourState::Incomplete,
            KernelState::Reachable => NeighbourState::Reachable,
            KernelState::Stale => NeighbourState::Stale,
            KernelState::Delay => NeighbourState::Delay,
            KernelState::Probe => NeighbourState::Probe,
            KernelState::Failed => NeighbourState::Failed,
            KernelState::Permanent => NeighbourState::Permanent,
            KernelState::None => NeighbourState::None,
            _ => return None,
        };
        let (mut address, mut mac, mut managed) = (None, None, false);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                    address = Some(IpAddr::V4(*ip));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                    address = Some(IpAddr::V6(*ip));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = bytes.as_slice().try_into().ok().map(MacAddress);
                }
                NeighbourAttribute::ExtFlags(flags) => {
                    managed = flags.contains(NeighbourExtFlags::Managed);
                }
                _ => {}
            }
        }
        Some(Self {
            link: message.header.ifindex,
            address: address?,
            mac,
            state,
            managed,
            router: message.header.flags.contains(NeighbourFlags::Router),
        })
    }
}

fn request(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = link;
    message.header.family = Family::of(address).to_netlink();
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }));
    message
}
