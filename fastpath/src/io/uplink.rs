//! In which form does the router take an Ethernet interface's packets? XDP in the driver, XDP
//! behind it, or a packet socket: the first that works, with the reasons why not another.

use super::Queue;
use super::netdev::Netdev;
use super::packet_socket::PacketQueue;
use super::packet_socket::sender::PacketSender;
use super::steer::{self, Steer, SteerCounters, SteerError, Take, UplinkMode};
use super::xdp::{self, XdpError, XdpQueue};
use crate::packet::PortId;
use ipnet::IpNet;
use nft::NftDrop;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

pub mod nft;

/// Receive queues of one interface that XDP can serve.
const QUEUES: u32 = 64;

/// Which form an uplink shall take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UplinkIo {
    /// The first that works: native XDP, generic XDP, packet socket.
    #[default]
    Auto,
    /// XDP in the driver or not at all.
    Xdp,
    /// XDP behind the driver or not at all.
    XdpGeneric,
    /// A packet socket.
    Packet,
}

/// The packets that are the router's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// This node's own addresses, which tunnels end at.
    pub locals: Vec<Ipv4Addr>,
    /// The other nodes, whose tunnels are ours.
    pub nodes: Vec<Ipv4Addr>,
    /// Prefixes whose addresses are ours (pools).
    pub pools: Vec<IpNet>,
}

/// What an uplink shall be like.
#[derive(Debug, Default)]
pub struct UplinkOptions {
    /// The interface, in the calling thread's network namespace.
    pub interface: String,
    /// Its form.
    pub io: UplinkIo,
    /// What is taken from it.
    pub sets: Sets,
    /// The XDP link of an earlier process, if one was kept ([`UplinkControl::link_fd`]).
    pub kept: Option<OwnedFd>,
}

/// An interface opened for the router.
pub struct Uplink {
    /// One per receive queue of the device (one for packet sockets).
    pub queues: Vec<Box<dyn Queue>>,
    /// The form it has.
    pub mode: UplinkMode,
    /// Why it has not another, and what was changed on the interface; for `node status`.
    pub notes: Vec<String>,
    /// What can be changed while it runs. Dropping it ends the steering, so keep it.
    pub control: UplinkControl,
    /// The interface's own MAC address.
    pub mac: [u8; 6],
    /// The largest IP packet it takes.
    pub mtu: u32,
    /// The device is a veth.
    pub is_veth: bool,
    /// Its frames may carry unfinished checksums that nothing announces (a packet socket
    /// announces them).
    pub partial_checksums: bool,
}

/// The control side of an open uplink.
pub struct UplinkControl {
    // Dropped first: the program goes before coalescing comes back.
    steer: Steer,
    nft: Option<NftDrop>,
    sets: Sets,
    _coalescing: Option<Coalescing>,
}

/// Why an interface can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// There is no such interface, or it can't be asked.
    #[error("interface {interface}: {error}")]
    Interface {
        /// Its name.
        interface: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// Not an Ethernet device.
    #[error("interface {interface} is no Ethernet device; uplinks and veth pod ports must be")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// No form works.
    #[error("interface {interface}: no way to take its packets: {}", reasons.join("; "))]
    NoForm {
        /// Its name.
        interface: String,
        /// One line per form that was tried.
        reasons: Vec<String>,
    },
}

/// Why one form does not work.
#[derive(Debug, thiserror::Error)]
enum FormError {
    #[error(transparent)]
    Steer(#[from] SteerError),
    #[error(transparent)]
    Xdp(#[from] XdpError),
    #[error("{0} receive queues; at most {QUEUES} can be served (ethtool -L)")]
    Queues(u32),
    #[error("packet socket: {0}")]
    Socket(io::Error),
    #[error("{0}")]
    Sets(io::Error),
    #[error("{hook}; and without it: {nft}")]
    Shadow { hook: SteerError, nft: io::Error },
}

/// Opens an uplink in the calling thread's network namespace.
pub fn open_uplink(port: PortId, options: UplinkOptions) -> Result<Uplink, UplinkError> {
    let UplinkOptions { interface, io, sets, kept } = options;
    Opening::new(port, &interface, Take::Ours, sets)?.open(io, kept)
}

/// Opens the host's end of a pod's veth pair, all of whose packets are the router's; `kept` as in
/// [`UplinkOptions`]. While its control lives but its sockets don't, the pod is cut off: closed.
pub fn open_veth_pod(
    port: PortId,
    interface: &str,
    kept: Option<OwnedFd>,
) -> Result<Uplink, UplinkError> {
    Opening::new(port, interface, Take::All, Sets::default())?.open(UplinkIo::Auto, kept)
}

impl UplinkControl {
    /// The nodes whose tunnels are ours. In force at once; only differences are written.
    ///
    /// # Errors
    /// The set is full (65536), or `nft` failed; what was set before may be in force in part.
    pub fn set_nodes(&mut self, nodes: &[Ipv4Addr]) -> io::Result<()> {
        self.steer.set_nodes(nodes).map_err(io::Error::other)?;
        nodes.clone_into(&mut self.sets.nodes);
        self.follow()
    }

    /// This node's own addresses, which tunnels end at (at most 64).
    ///
    /// # Errors
    /// As [`UplinkControl::set_nodes`].
    pub fn set_locals(&mut self, locals: &[Ipv4Addr]) -> io::Result<()> {
        self.steer.set_locals(locals).map_err(io::Error::other)?;
        locals.clone_into(&mut self.sets.locals);
        self.follow()
    }

    /// The prefixes whose addresses are ours (at most 65536 of each family).
    ///
    /// # Errors
    /// As [`UplinkControl::set_nodes`].
    pub fn set_pools(&mut self, pools: &[IpNet]) -> io::Result<()> {
        let (mut pools4, mut pools6) = (Vec::new(), Vec::new());
        for pool in pools {
            match pool {
                IpNet::V4(net) => pools4.push(*net),
                IpNet::V6(net) => pools6.push(*net),
            }
        }
        self.steer.set_pools(&pools4, &pools6).map_err(io::Error::other)?;
        pools.clone_into(&mut self.sets.pools);
        self.follow()
    }

    /// What the steering program counted.
    pub fn counters(&self) -> io::Result<SteerCounters> {
        self.steer.counters().map_err(io::Error::other)
    }

    /// The descriptor to be kept across a restart, where the form has one (XDP).
    pub fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        self.steer.link_fd()
    }

    /// Ends the steering for good, whoever else keeps the link.
    pub fn close(self) {
        self.steer.detach();
    }

    /// Where rules stand in for the program at ingress, they follow.
    fn follow(&self) -> io::Result<()> {
        self.nft.as_ref().map_or(Ok(()), |nft| nft.set(&self.sets))
    }
}

/// An interface on its way to a form.
struct Opening {
    port: PortId,
    netdev: Netdev,
    take: Take,
    sets: Sets,
    mac: [u8; 6],
    mtu: u32,
    driver: String,
    notes: Vec<String>,
}

/// What a form yields.
type Form = (Vec<Box<dyn Queue>>, UplinkControl);

impl Opening {
    fn new(port: PortId, interface: &str, take: Take, sets: Sets) -> Result<Self, UplinkError> {
        let failed = |error| UplinkError::Interface { interface: interface.to_owned(), error };
        let netdev = Netdev::open(interface).map_err(failed)?;
        let mtu = netdev.mtu().map_err(failed)?;
        let Some(mac) = netdev.mac().map_err(failed)? else {
            return Err(UplinkError::NotEthernet { interface: interface.to_owned() });
        };
        let driver = netdev.driver();
        Ok(Self { port, netdev, take, sets, mac, mtu, driver, notes: Vec::new() })
    }

    fn open(mut self, io: UplinkIo, kept: Option<OwnedFd>) -> Result<Uplink, UplinkError> {
        let modes = self.candidates(io);
        let mut kept = kept.and_then(|link| self.adopt(link, modes));
        // A kept program is in place already; another form could not be had beside it.
        let first = kept.as_ref().map(Steer::mode);
        let others = modes.iter().copied().filter(|mode| Some(*mode) != first);
        for mode in first.into_iter().chain(others) {
            let made = match mode {
                UplinkMode::PacketSocket => self.packet_socket(),
                xdp => self.xdp(xdp, kept.take()),
            };
            match made {
                Ok((queues, control)) => {
                    let partial_checksums = mode != UplinkMode::PacketSocket
                        && matches!(self.driver.as_str(), "veth" | "virtio_net");
                    let Self { notes, mac, mtu, driver, .. } = self;
                    let is_veth = driver == "veth";
                    return Ok(Uplink {
                        queues,
                        mode,
                        notes,
                        control,
                        mac,
                        mtu,
                        is_veth,
                        partial_checksums,
                    });
                }
                Err(error) => self.notes.push(format!("{}: {error}", mode.name())),
            }
        }
        let interface = self.netdev.name().to_owned();
        Err(UplinkError::NoForm { interface, reasons: self.notes })
    }

    /// The forms to try, in order.
    fn candidates(&mut self, io: UplinkIo) -> &'static [UplinkMode] {
        match io {
            UplinkIo::Xdp => &[UplinkMode::Native],
            UplinkIo::XdpGeneric => &[UplinkMode::Generic],
            UplinkIo::Packet => &[UplinkMode::PacketSocket],
            UplinkIo::Auto => {
                let reason = match self.driver.as_str() {
                    "bridge" => "a bridge has no receive queues of its own",
                    "bonding" | "team" => "its members, not the bond, could be taken by XDP",
                    driver if driver.contains("VLAN") => "a VLAN's frames are its parent's",
                    _ if self.mtu > xdp::MTU_MAX => "its MTU is above what one XDP frame takes",
                    _ => {
                        return &[
                            UplinkMode::Native,
                            UplinkMode::Generic,
                            UplinkMode::PacketSocket,
                        ];
                    }
                };
                self.notes.push(format!("packet socket chosen: {reason}"));
                &[UplinkMode::PacketSocket]
            }
        }
    }

    /// Takes up a kept link if it fits, takes its program off if not.
    fn adopt(&mut self, link: OwnedFd, modes: &[UplinkMode]) -> Option<Steer> {
        let steer = match Steer::from_link(link) {
            Ok(steer) => steer,
            Err(error) => {
                self.notes.push(error.to_string());
                return None;
            }
        };
        if steer.index() == self.netdev.index()
            && steer.take() == self.take
            && modes.contains(&steer.mode())
        {
            return Some(steer);
        }
        self.notes.push("the kept XDP link is of another interface or form: detached".to_owned());
        steer.detach();
        None
    }

    fn xdp(&mut self, mode: UplinkMode, kept: Option<Steer>) -> Result<Form, FormError> {
        let queues = self.netdev.rx_queues();
        if queues > QUEUES {
            return Err(FormError::Queues(queues));
        }
        let steer = match kept {
            Some(steer) => steer,
            None => Steer::attach(self.netdev.index(), self.take, mode)?,
        };
        match self.xdp_sockets(queues, &steer) {
            Ok(sockets) => {
                let coalescing = (mode == UplinkMode::Generic).then(|| self.coalescing_off());
                let control = self.control(steer, None, coalescing.flatten())?;
                Ok((sockets, control))
            }
            Err(error) => {
                // Another process may hold the link too.
                steer.detach();
                Err(error)
            }
        }
    }

    /// What sends super-packets whole: into tunnels as well, where the kernel can be told.
    fn senders(&mut self, count: u32) -> io::Result<Vec<PacketSender>> {
        let index = self.netdev.index();
        let tunnels = match (self.take == Take::Ours).then(|| steer::attach_tunnels(index)) {
            // No tunnel leads into a pod.
            None => None,
            Some(Ok(link)) => Some(Arc::new(link)),
            Some(Err(error)) => {
                self.notes.push(format!("packets are cut before they enter a tunnel: {error}"));
                None
            }
        };
        (0..count).map(|_| PacketSender::open(index, tunnels.clone())).collect()
    }

    fn xdp_sockets(
        &mut self,
        queues: u32,
        steer: &Steer,
    ) -> Result<Vec<Box<dyn Queue>>, FormError> {
        let mut senders = self.senders(queues).unwrap_or_else(|error| {
            self.notes.push(format!("super-packets are cut here: packet socket: {error}"));
            Vec::new()
        });
        let mut sockets: Vec<Box<dyn Queue>> = Vec::new();
        for queue in 0..queues {
            let socket = XdpQueue::open(self.port, self.netdev.name(), queue, self.mtu)?;
            let socket = match senders.pop() {
                Some(sender) => socket.with_sender(sender),
                None => socket,
            };
            steer.set_socket(queue, socket.as_fd())?;
            sockets.push(Box::new(socket));
        }
        Ok(sockets)
    }

    fn packet_socket(&mut self) -> Result<Form, FormError> {
        let index = self.netdev.index();
        let (steer, nft) = match Steer::attach(index, self.take, UplinkMode::PacketSocket) {
            Ok(steer) => (steer, None),
            // Kernels before 6.6 have no such hook.
            Err(hook) => {
                let steer = Steer::filter_only(index, self.take)?;
                match NftDrop::new(self.netdev.name(), self.take, &self.sets) {
                    Ok(nft) => {
                        self.notes.push(format!("nftables drop the kernel's copies: {hook}"));
                        (steer, Some(nft))
                    }
                    Err(nft) => return Err(FormError::Shadow { hook, nft }),
                }
            }
        };
        let sender = self.senders(1).map_err(FormError::Socket)?.remove(0);
        let queue = PacketQueue::with_sender(self.port, index, steer.filter_fd(), sender)
            .map_err(FormError::Socket)?;
        Ok((vec![Box::new(queue)], self.control(steer, nft, None)?))
    }

    fn control(
        &self,
        steer: Steer,
        nft: Option<NftDrop>,
        coalescing: Option<Coalescing>,
    ) -> Result<UplinkControl, FormError> {
        let sets = Sets::default();
        let mut control = UplinkControl { steer, nft, sets, _coalescing: coalescing };
        let Sets { locals, nodes, pools } = &self.sets;
        control
            .set_locals(locals)
            .and_then(|()| control.set_nodes(nodes))
            .and_then(|()| control.set_pools(pools))
            .map_err(FormError::Sets)?;
        Ok(control)
    }

    /// Generic XDP sits behind the kernel's coalescing and can't take what that makes.
    fn coalescing_off(&mut self) -> Option<Coalescing> {
        let interface = self.netdev.name().to_owned();
        if self.driver == "veth" {
            self.notes.push(format!(
                "{interface}: the veth's other end must send single packets \
                 (ethtool -K PEER tso off gso off tx-udp-segmentation off)"
            ));
        }
        let again = Netdev::open(&interface).ok()?;
        match again.set_coalescing(false) {
            Ok(false) => None,
            Ok(true) => {
                self.notes.push(format!("{interface}: GRO switched off for generic XDP"));
                Some(Coalescing(again))
            }
            Err(error) => {
                self.notes.push(format!("{interface}: GRO can't be switched off: {error}"));
                None
            }
        }
    }
}

/// Switches GRO on again at the end.
struct Coalescing(Netdev);

impl Drop for Coalescing {
    fn drop(&mut self) {
        // The interface may be gone.
        let _ = self.0.set_coalescing(true);
    }
}
