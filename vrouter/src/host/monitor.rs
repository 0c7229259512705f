//! What has the kernel changed since we last looked?
//!
//! Subscribe first, then [dump](super::state::KernelState::dump), then apply what is read here:
//! so nothing that happens in between is missed (events are idempotent).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use nix::sys::socket::{setsockopt, sockopt};

use super::netlink::{
    Address, Link, Neighbour, NetlinkError, Route, Rule, decode, open_socket, receive, split,
};
use super::netns::{NetNs, run_in};

/// One change in the kernel's networking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelEvent {
    /// A device appeared or changed.
    Link(Link),
    /// A device is gone, or moved to another namespace.
    LinkGone {
        /// Its index here.
        index: u32,
    },
    /// A device has an address, or the address changed.
    Address(Address),
    /// A device lost an address.
    AddressGone(Address),
    /// A route appeared or changed.
    Route {
        /// The route.
        route: Route,
        /// Where it stands among those with the same destination and metric.
        place: RoutePlace,
    },
    /// A route is gone, or (IPv6 multipath) the named next hops of it.
    RouteGone(Route),
    /// A policy rule appeared.
    Rule(Rule),
    /// A policy rule is gone.
    RuleGone(Rule),
    /// A neighbour appeared or changed.
    Neighbour(Neighbour),
    /// A neighbour is forgotten.
    NeighbourGone {
        /// Its device.
        link: u32,
        /// Its address.
        address: IpAddr,
    },
    /// Events were lost: everything must be read again.
    Overrun,
}

/// Where a new route stands among those with the same destination, table and metric. The first one
/// is the one in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutePlace {
    /// Before the others.
    First,
    /// In place of the first.
    Replace,
    /// After the others.
    Last,
}

/// A subscription to one namespace's changes; its descriptor is non-blocking.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

/// What is subscribed to.
const GROUPS: [libc::c_uint; 8] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
];
/// Room for bursts, in bytes: a routing daemon that loads some ten thousand routes at once.
const RECEIVE_QUEUE: usize = 4 * 1024 * 1024;
/// Datagrams taken per call, so that a storm cannot keep the caller from its other work.
const DATAGRAMS_PER_READ: usize = 1024;

impl Monitor {
    /// Subscribes in the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = open_socket()?;
        let failed = |operation: &str, source: io::Error| NetlinkError::Socket {
            operation: operation.into(),
            source,
        };
        // Without CAP_NET_ADMIN over the initial namespace the default size has to do: then
        // overruns are likelier, and announced.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_QUEUE)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_QUEUE));
        socket.set_non_blocking(true).map_err(|e| failed("make the monitor non-blocking", e))?;
        for group in GROUPS {
            socket.add_membership(group).map_err(|e| failed("subscribe to changes", e))?;
        }
        Ok(Self { socket, buffer: Vec::new() })
    }

    /// Subscribes in another namespace.
    pub fn open_in(namespace: &NetNs) -> Result<Self, NetlinkError> {
        run_in(namespace, Self::open)?
    }

    /// What has happened since the last call, in order, at most some thousand events: call again
    /// until the answer is empty.
    pub fn read(&mut self) -> Result<Vec<KernelEvent>, NetlinkError> {
        let mut events = Vec::new();
        let mut taken = 0;
        // Datagrams that mean nothing here must not make an empty answer before the end.
        while taken < DATAGRAMS_PER_READ || events.is_empty() {
            taken += 1;
            match receive(&self.socket, &mut self.buffer) {
                Ok(()) => {
                    events.extend(split(&self.buffer).map_while(Result::ok).filter_map(|piece| {
                        KernelEvent::from_netlink(&decode(&piece)?, piece.flags())
                    }));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    events.push(KernelEvent::Overrun);
                }
                Err(source) => {
                    return Err(NetlinkError::Socket { operation: "read changes".into(), source });
                }
            }
        }
        Ok(events)
    }
}

impl KernelEvent {
    /// Reads a notification; `None` for what the node does not follow.
    fn from_netlink(message: &RouteNetlinkMessage, flags: u16) -> Option<Self> {
        use RouteNetlinkMessage as M;
        Some(match message {
            M::NewLink(_) => Self::Link(Link::from_netlink(message)?),
            M::DelLink(_) => Self::LinkGone { index: Link::from_netlink(message)?.index },
            M::NewAddress(_) => Self::Address(Address::from_netlink(message)?),
            M::DelAddress(_) => Self::AddressGone(Address::from_netlink(message)?),
            M::NewRoute(_) => {
                let place = if flags & NLM_F_REPLACE != 0 {
                    RoutePlace::Replace
                } else if flags & NLM_F_APPEND != 0 {
                    RoutePlace::Last
                } else {
                    RoutePlace::First
                };
                Self::Route { route: Route::from_netlink(message)?, place }
            }
            M::DelRoute(_) => Self::RouteGone(Route::from_netlink(message)?),
            M::NewRule(_) => Self::Rule(Rule::from_netlink(message)?),
            M::DelRule(_) => Self::RuleGone(Rule::from_netlink(message)?),
            M::NewNeighbour(_) => Self::Neighbour(Neighbour::from_netlink(message)?),
            M::DelNeighbour(_) => {
                let Neighbour { link, address, .. } = Neighbour::from_netlink(message)?;
                Self::NeighbourGone { link, address }
            }
            _ => return None,
        })
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
