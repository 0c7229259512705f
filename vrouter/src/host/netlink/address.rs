//! Which addresses do the devices have, and how are they given and taken?

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::route::RouteScope;
use super::{Netlink, NetlinkError};

/// An address of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The device's index.
    pub link: u32,
    /// The address with its prefix length (host bits kept: `10.1.5.7/24`).
    pub net: IpNet,
    /// How far it is valid.
    pub scope: RouteScope,
    /// Not the first of its subnet on this device (IPv4), or temporary (IPv6).
    pub secondary: bool,
    /// Not to be used as a source of new connections.
    pub deprecated: bool,
    /// Not usable yet or not at all: duplicate address detection runs or failed (IPv6).
    pub tentative: bool,
}

impl Netlink {
    /// All addresses of both families.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.dump(&request, || "list addresses".into())?;
        Ok(answers.iter().filter_map(Address::from_netlink).collect())
    }

    /// Gives a device an address; one it has already stays as it is. IPv6 addresses are usable at
    /// once (no duplicate address detection): the node allocates them itself.
    pub fn add_address(&mut self, link: u32, net: IpNet) -> Result<(), NetlinkError> {
        let mut message = request(link, net);
        if net.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        let request = RouteNetlinkMessage::NewAddress(message);
        self.execute(request, NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("add address {net} to link {link}")
        })
    }

    /// Takes an address away; `Ok(false)` if the device does not have it.
    pub fn delete_address(&mut self, link: u32, net: IpNet) -> Result<bool, NetlinkError> {
        let request = RouteNetlinkMessage::DelAddress(request(link, net));
        match self.execute(request, 0, || format!("delete address {net} from link {link}")) {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Address {
    /// Whether it is the same address of the same device, whatever its flags.
    pub fn is_same(&self, other: &Self) -> bool {
        self.link == other.link && self.net == other.net
    }

    /// Whether the kernel keeps this IPv4 address before a new primary one of the same device:
    /// primaries come by falling scope number, then in the order they were added.
    pub(in crate::host) fn precedes_primary(&self, new: &Self) -> bool {
        !self.secondary && new.scope.to_u8() <= self.scope.to_u8()
    }

    /// Reads an address out of a `NewAddress` or `DelAddress` message.
    pub(in crate::host) fn from_netlink(message: &RouteNetlinkMessage) -> Option<Self> {
        let (RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message)) =
            message
        else {
            return None;
        };
        let (mut local, mut address) = (None::<IpAddr>, None::<IpAddr>);
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        // On point-to-point links IFA_ADDRESS is the far end's address.
        let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
        Some(Self {
            link: message.header.index,
            net,
            scope: RouteScope::from_u8(message.header.scope.into()),
            secondary: flags.contains(AddressFlags::Secondary),
            deprecated: flags.contains(AddressFlags::Deprecated),
            tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        })
    }
}

fn request(link: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link;
    message.header.prefix_len = net.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.family =
        if net.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    message
}
