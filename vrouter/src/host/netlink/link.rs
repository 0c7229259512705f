//! Which network devices are there, and how are they made, changed and removed?

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError};

/// A network device as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in its namespace.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// The driver's kind (`veth`, `tun`, `ipip`, `bridge`, `vlan`, `bond` …); `None` for hardware.
    pub kind: Option<String>,
    /// What its frames look like.
    pub layer: LinkLayer,
    /// Its own MAC address, where it has one of six bytes.
    pub mac: Option<MacAddress>,
    /// Largest packet in bytes, without the link's own header.
    pub mtu: u32,
    /// Set up by the administrator (`IFF_UP`).
    pub up: bool,
    /// The driver has carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// The device this one is a port of: a bond, a bridge.
    pub master: Option<u32>,
    /// The device below (VLAN) or at the other end (veth), as an index there.
    pub lower: Option<u32>,
    /// Whether `lower` is in another namespace.
    pub lower_elsewhere: bool,
    /// Free text set by `alias`.
    pub alias: Option<String>,
    /// Length of the transmit queue in packets.
    pub tx_queue_length: u32,
    /// The root queueing discipline.
    pub qdisc: Option<String>,
}

/// What a device's frames look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    /// Ethernet frames.
    Ethernet,
    /// The loopback device.
    Loopback,
    /// IP packets without a link header (TUN).
    None,
    /// Anything else, with its `ARPHRD_` number.
    Other(u16),
}

/// Six bytes, as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

/// A veth pair to be made in one step, its far end in another namespace or beside it.
#[derive(Debug)]
pub struct VethPair<'a> {
    /// The near end's name, in the socket's namespace.
    pub name: &'a str,
    /// The far end's name.
    pub peer_name: &'a str,
    /// Where the far end goes; `None` is the same namespace.
    pub peer_namespace: Option<BorrowedFd<'a>>,
    /// The near end's MAC; `None` lets the kernel choose.
    pub mac: Option<MacAddress>,
    /// The far end's MAC; `None` lets the kernel choose.
    pub peer_mac: Option<MacAddress>,
    /// Both ends' MTU in bytes.
    pub mtu: u32,
}

/// What to change on a device; `None` leaves as it is.
#[derive(Debug, Default)]
pub struct LinkChange<'a> {
    /// New name. Together with `namespace`: its name there.
    pub name: Option<&'a str>,
    /// Moves the device; it arrives down.
    pub namespace: Option<BorrowedFd<'a>>,
    /// Administrative state.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Transmit queue length in packets.
    pub tx_queue_length: Option<u32>,
    /// MAC address.
    pub mac: Option<MacAddress>,
    /// Free text, at most 255 bytes.
    pub alias: Option<&'a str>,
    /// Joins a bridge or bond; 0 leaves it.
    pub master: Option<u32>,
    /// No IPv6 link-local address of its own, so the device stays quiet when it comes up.
    pub no_link_local: bool,
}

impl Netlink {
    /// All devices.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.dump(&request, || "list links".into())?;
        Ok(answers.iter().filter_map(Link::from_netlink).collect())
    }

    /// The device of that name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        self.one_link(message, || format!("look up link {name}"))
    }

    /// The device with that index, if there is one.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.one_link(header(index), || format!("look up link {index}"))
    }

    fn one_link(
        &mut self,
        message: LinkMessage,
        operation: impl Fn() -> String,
    ) -> Result<Option<Link>, NetlinkError> {
        match self.ask(RouteNetlinkMessage::GetLink(message), operation) {
            Ok(answers) => Ok(answers.iter().find_map(Link::from_netlink)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a veth pair with both ends where they belong; refused if a name is taken.
    pub fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<(), NetlinkError> {
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(pair.peer_name.into()));
        peer.attributes.push(LinkAttribute::Mtu(pair.mtu));
        if let Some(mac) = pair.peer_mac {
            peer.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        }
        if let Some(namespace) = pair.peer_namespace {
            peer.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        }
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(pair.name.into()));
        message.attributes.push(LinkAttribute::Mtu(pair.mtu));
        if let Some(mac) = pair.mac {
            message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        }
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.execute(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, || {
            format!("create veth pair {} and {}", pair.name, pair.peer_name)
        })
    }

    /// Makes a device that needs no more than its kind (`dummy`, `bridge`).
    pub fn create_link(&mut self, name: &str, kind: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        let kind_attribute = LinkInfo::Kind(InfoKind::Other(kind.into()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![kind_attribute]));
        self.execute(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, || {
            format!("create {kind} {name}")
        })
    }

    /// Changes a device.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<(), NetlinkError> {
        let mut message = header(index);
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        let attributes = &mut message.attributes;
        attributes.extend(change.name.map(|v| LinkAttribute::IfName(v.into())));
        attributes.extend(change.namespace.map(|v| LinkAttribute::NetNsFd(v.as_raw_fd())));
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.tx_queue_length.map(LinkAttribute::TxQueueLen));
        attributes.extend(change.mac.map(|v| LinkAttribute::Address(v.0.to_vec())));
        attributes.extend(change.alias.map(|v| LinkAttribute::IfAlias(v.into())));
        attributes.extend(change.master.map(LinkAttribute::Controller));
        if change.no_link_local {
            let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
            attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
        }
        self.execute(RouteNetlinkMessage::SetLink(message), 0, || {
            format!("change link {index}: {}", describe(change))
        })
    }

    /// Removes a device; `Ok(false)` if it is not there.
    pub fn delete_link(&mut self, index: u32) -> Result<bool, NetlinkError> {
        let request = RouteNetlinkMessage::DelLink(header(index));
        match self.execute(request, 0, || format!("delete link {index}")) {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Replaces the device's root queueing discipline by one without parameters (`noqueue`).
    pub fn set_root_qdisc(&mut self, index: u32, kind: &str) -> Result<(), NetlinkError> {
        let mut message = TcMessage::default();
        message.header.index = i32::try_from(index).unwrap_or(i32::MAX);
        message.header.parent = TcHandle::ROOT;
        message.attributes.push(TcAttribute::Kind(kind.into()));
        let request = RouteNetlinkMessage::NewQueueDiscipline(message);
        self.execute(request, NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("set qdisc {kind} on link {index}")
        })
    }
}

impl Link {
    /// Reads a link out of a `NewLink` or `DelLink` message.
    pub(in crate::host) fn from_netlink(message: &RouteNetlinkMessage) -> Option<Self> {
        let (RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)) =
            message
        else {
            return None;
        };
        // Bridges report on their ports under their own family: a port that leaves its bridge
        // looks like a deleted link otherwise.
        if message.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: None,
            layer: match message.header.link_layer_type {
                LinkLayerType::Ether => LinkLayer::Ethernet,
                LinkLayerType::Loopback => LinkLayer::Loopback,
                LinkLayerType::None => LinkLayer::None,
                other => LinkLayer::Other(other.into()),
            },
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            master: None,
            lower: None,
            lower_elsewhere: false,
            alias: None,
            tx_queue_length: 0,
            qdisc: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::TxQueueLen(length) => link.tx_queue_length = *length,
                LinkAttribute::Qdisc(kind) => link.qdisc = Some(kind.clone()),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::Link(index) => link.lower = Some(*index),
                LinkAttribute::LinkNetNsId(_) => link.lower_elsewhere = true,
                LinkAttribute::Address(bytes) => {
                    link.mac = bytes.as_slice().try_into().ok().map(MacAddress);
                }
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

fn header(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn describe(change: &LinkChange<'_>) -> String {
    let mut parts = Vec::new();
    parts.extend(change.namespace.map(|_| "move to another namespace".to_owned()));
    parts.extend(change.name.map(|v| format!("name {v}")));
    parts.extend(change.up.map(|v| if v { "up" } else { "down" }.to_owned()));
    parts.extend(change.mtu.map(|v| format!("mtu {v}")));
    parts.extend(change.tx_queue_length.map(|v| format!("txqueuelen {v}")));
    parts.extend(change.mac.map(|v| format!("address {v}")));
    parts.extend(change.alias.map(|v| format!("alias {v}")));
    parts.extend(change.master.map(|v| format!("master {v}")));
    parts.extend(change.no_link_local.then(|| "addrgenmode none".to_owned()));
    parts.join(", ")
}
