//! Which packets of an interface come to the router? Those that the program behind a [`Steer`]
//! takes: IPIP from nodes and what goes to pool addresses. Everything else stays the kernel's.

use bpf::{LinkInfo, Map, Object, Place};
use bytemuck::{AnyBitPattern, NoUninit};
use ipnet::{Ipv4Net, Ipv6Net};
use std::ffi::CStr;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

mod bpf;

const BUSY_TRIES: u32 = 15;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Which packets are the router's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Those the sets name (an uplink).
    Ours,
    /// Every one (a pod's veth): without its socket the port is closed.
    All,
}

/// Where packets are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkMode {
    /// XDP in the driver, before the kernel has made anything of the frame.
    Native,
    /// XDP behind the driver.
    Generic,
    /// A packet socket; the kernel's own copy is dropped at ingress.
    PacketSocket,
}

impl UplinkMode {
    /// The name an operator sees.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "xdp-native",
            Self::Generic => "xdp-generic",
            Self::PacketSocket => "packet-socket",
        }
    }
}

/// What the program counted since it was loaded, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerCounters {
    /// Given to a socket.
    pub taken: u64,
    /// Left to the kernel.
    pub passed: u64,
    /// Dropped because no socket was there (IPIP, and all of a pod's packets).
    pub dropped: u64,
}

/// Why packets can't be steered.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// The kernel refused the program (needs `CAP_BPF` and `CAP_NET_ADMIN`, or `CAP_SYS_ADMIN`).
    #[error(
        "the kernel does not load the steering program (it needs CAP_BPF and CAP_NET_ADMIN): {error} {log}"
    )]
    Load {
        /// What the kernel said.
        error: io::Error,
        /// The end of the verifier's log.
        log: String,
    },
    /// The program can't be attached to the interface.
    #[error(
        "interface index {index}: the steering program can't be attached: {error}{}",
        hint(error)
    )]
    Attach {
        /// The interface's index.
        index: u32,
        /// Where it should have been attached.
        mode: UplinkMode,
        /// What the kernel said.
        error: io::Error,
    },
    /// A set can't be changed.
    #[error("the steering program's set `{set}`: {error}")]
    Set {
        /// The set's name.
        set: &'static str,
        /// What the kernel said; `E2BIG` when it is full.
        error: io::Error,
    },
    /// A link kept by another process can't be taken up.
    #[error("the kept XDP link can't be taken up: {reason}")]
    Kept {
        /// What does not fit.
        reason: String,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => " (another XDP program is attached)",
        Some(libc::EOPNOTSUPP) => " (the driver has no XDP)",
        Some(libc::ERANGE) => " (the MTU is too large for the driver's XDP)",
        _ => "",
    }
}

/// Attaches where the last owner's link may not be gone yet: it goes a moment after its last
/// descriptor, and a child process between fork and exec has copies of all descriptors. A program
/// that really stands there still does after the tries.
fn attach_patiently(program: BorrowedFd<'_>, index: u32, place: Place) -> io::Result<OwnedFd> {
    let mut tries = 0;
    loop {
        match bpf::attach(program, index, place) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries < BUSY_TRIES => {
                tries += 1;
                thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

/// Lets TCP super-packets leave by an interface behind a tunnel's header: attaches the program that
/// tells the kernel what it can't be told by an offload header. It stays attached as long as the
/// link's descriptor lives.
///
/// # Errors
/// What the kernel said; before Linux 6.6 there is no such place for programs.
pub(super) fn attach_tunnels(index: u32) -> io::Result<OwnedFd> {
    let object = Object::load_with(&[c"tunnel"], false).map_err(|(error, _)| error)?;
    bpf::attach(object.program(c"tunnel")?.as_fd(), index, Place::Egress)
}

/// The program on one interface and its sets. It stays attached as long as this value, or a copy
/// of its link's descriptor in any process, lives; the kernel takes it off when the last is gone.
pub struct Steer {
    index: u32,
    take: Take,
    mode: UplinkMode,
    link: Option<OwnedFd>,
    choose: Option<OwnedFd>,
    maps: Maps,
}

impl Steer {
    /// Loads the program and attaches it to the interface with this index. Its sets are empty.
    pub fn attach(index: u32, take: Take, mode: UplinkMode) -> Result<Self, SteerError> {
        let mut steer = Self::load(index, take, mode)?;
        let (program, place) = match (mode, take) {
            (UplinkMode::Native, Take::Ours) => (c"steer", Place::XdpNative),
            (UplinkMode::Native, Take::All) => (c"steer_all", Place::XdpNative),
            (UplinkMode::Generic, Take::Ours) => (c"steer", Place::XdpGeneric),
            (UplinkMode::Generic, Take::All) => (c"steer_all", Place::XdpGeneric),
            (UplinkMode::PacketSocket, Take::Ours) => (c"shadow", Place::Ingress),
            (UplinkMode::PacketSocket, Take::All) => (c"shadow_all", Place::Ingress),
        };
        let failed = |error| SteerError::Attach { index, mode, error };
        let program = steer.0.program(program).map_err(failed)?;
        steer.1.link = Some(attach_patiently(program.as_fd(), index, place).map_err(failed)?);
        Ok(steer.1)
    }

    /// Loads what a packet socket's filter needs and attaches nothing: the kernel's copy of the
    /// packets must be dropped by other means.
    pub fn filter_only(index: u32, take: Take) -> Result<Self, SteerError> {
        Ok(Self::load(index, take, UplinkMode::PacketSocket)?.1)
    }

    fn load(index: u32, take: Take, mode: UplinkMode) -> Result<(Object, Self), SteerError> {
        let programs: &[&CStr] = match (mode, take) {
            (UplinkMode::PacketSocket, Take::Ours) => &[c"choose", c"shadow"],
            (UplinkMode::PacketSocket, Take::All) => &[c"shadow_all"],
            (_, Take::Ours) => &[c"steer"],
            (_, Take::All) => &[c"steer_all"],
        };
        let object =
            Object::load(programs).map_err(|(error, log)| SteerError::Load { error, log })?;
        let maps = Maps::open(|name| object.map(name))
            .map_err(|error| SteerError::Load { error, log: String::new() })?;
        let choose = match (mode, take) {
            (UplinkMode::PacketSocket, Take::Ours) => object.program(c"choose").ok(),
            _ => None,
        };
        Ok((object, Self { index, take, mode, link: None, choose, maps }))
    }

    /// Takes up an XDP link that another process kept: program, sets and counters go on as they
    /// were; the sockets are the new process's own.
    pub fn from_link(link: OwnedFd) -> Result<Self, SteerError> {
        let kept = |reason: String| SteerError::Kept { reason };
        let LinkInfo { index, program, maps, native } =
            bpf::inspect(link.as_fd()).map_err(|error| kept(error.to_string()))?;
        if index == 0 {
            return Err(kept("its interface is gone".to_owned()));
        }
        let take = match program.as_str() {
            "steer" => Take::Ours,
            "steer_all" => Take::All,
            _ => return Err(kept(format!("its program is `{program}`, not `steer`"))),
        };
        let mut found = maps;
        let maps = Maps::open(|name| {
            let at = found.iter().position(|(n, _)| n.as_bytes() == name.to_bytes());
            at.map(|at| found.swap_remove(at).1).ok_or_else(|| io::ErrorKind::NotFound.into())
        });
        let maps = maps.map_err(|error| kept(format!("the sets of another version: {error}")))?;
        let mode = if native { UplinkMode::Native } else { UplinkMode::Generic };
        Ok(Self { index, take, mode, link: Some(link), choose: None, maps })
    }

    /// The interface's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Which packets are taken.
    pub fn take(&self) -> Take {
        self.take
    }

    /// Where packets are taken.
    pub fn mode(&self) -> UplinkMode {
        self.mode
    }

    /// The descriptor that keeps an XDP program attached; the process that holds a copy of it
    /// keeps it across a restart of this one ([`Steer::from_link`]). None for packet sockets:
    /// there the kernel has to go on without us.
    pub fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        if self.mode == UplinkMode::PacketSocket {
            None
        } else {
            self.link.as_ref().map(AsFd::as_fd)
        }
    }

    /// The socket filter that lets a packet socket see the router's packets only.
    pub fn filter_fd(&self) -> Option<BorrowedFd<'_>> {
        self.choose.as_ref().map(AsFd::as_fd)
    }

    /// Takes the program off at once, whoever else holds its link.
    pub fn detach(self) {
        if let Some(link) = &self.link {
            // A link that can't be detached any more is not attached any more.
            let _ = bpf::detach(link.as_fd());
        }
    }

    /// Gives the packets of one receive queue to an `AF_XDP` socket. The kernel forgets it when
    /// the socket is closed.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), SteerError> {
        let raw = socket.as_raw_fd().unsigned_abs();
        self.maps.xsks.insert(queue, raw).map_err(failed("xsks"))
    }

    /// The nodes whose IPIP is ours. Only differences are written, additions first.
    pub fn set_nodes(&self, nodes: &[Ipv4Addr]) -> Result<(), SteerError> {
        let wanted = nodes.iter().map(Ipv4Addr::octets).collect();
        replace(&self.maps.nodes, wanted).map_err(failed("nodes"))
    }

    /// This node's own addresses, to which IPIP is addressed.
    pub fn set_locals(&self, locals: &[Ipv4Addr]) -> Result<(), SteerError> {
        let wanted = locals.iter().map(Ipv4Addr::octets).collect();
        replace(&self.maps.locals, wanted).map_err(failed("locals"))
    }

    /// The pools: what goes to their addresses is ours.
    pub fn set_pools(&self, pools4: &[Ipv4Net], pools6: &[Ipv6Net]) -> Result<(), SteerError> {
        let wanted = pools4.iter().map(|net| Prefix4::from(*net)).collect();
        replace(&self.maps.pools4, wanted).map_err(failed("pools4"))?;
        let wanted = pools6.iter().map(|net| Prefix6::from(*net)).collect();
        replace(&self.maps.pools6, wanted).map_err(failed("pools6"))
    }

    /// What the program counted.
    pub fn counters(&self) -> Result<SteerCounters, SteerError> {
        let sum =
            |slot| bpf::sum_per_cpu(self.maps.counters.as_fd(), slot).map_err(failed("counters"));
        Ok(SteerCounters { taken: sum(0)?, passed: sum(1)?, dropped: sum(2)? })
    }
}

fn failed(set: &'static str) -> impl Fn(io::Error) -> SteerError {
    move |error| SteerError::Set { set, error }
}

/// Any value: the sets only know members.
const MEMBER: u32 = 1;

struct Maps {
    xsks: Map<u32, u32>,
    nodes: Map<[u8; 4], u32>,
    locals: Map<[u8; 4], u32>,
    pools4: Map<Prefix4, u32>,
    pools6: Map<Prefix6, u32>,
    counters: OwnedFd,
}

impl Maps {
    fn open(mut get: impl FnMut(&CStr) -> io::Result<OwnedFd>) -> io::Result<Self> {
        Ok(Self {
            xsks: Map::new(get(c"xsks")?)?,
            nodes: Map::new(get(c"nodes")?)?,
            locals: Map::new(get(c"locals")?)?,
            pools4: Map::new(get(c"pools4")?)?,
            pools6: Map::new(get(c"pools6")?)?,
            counters: get(c"counters")?,
        })
    }
}

/// A key of the IPv4 prefix set: its length in the host's order, its address in the network's.
#[derive(Clone, Copy, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
struct Prefix4 {
    length: u32,
    address: [u8; 4],
}

impl From<Ipv4Net> for Prefix4 {
    fn from(net: Ipv4Net) -> Self {
        Self { length: net.prefix_len().into(), address: net.network().octets() }
    }
}

/// A key of the IPv6 prefix set.
#[derive(Clone, Copy, PartialEq, Eq, NoUninit, AnyBitPattern)]
#[repr(C)]
struct Prefix6 {
    length: u32,
    address: [u8; 16],
}

impl From<Ipv6Net> for Prefix6 {
    fn from(net: Ipv6Net) -> Self {
        Self { length: net.prefix_len().into(), address: net.network().octets() }
    }
}

/// Brings a set to what is wanted. The kernel's copy is what it is compared with, so it does not
/// matter who filled it.
fn replace<K>(map: &Map<K, u32>, wanted: Vec<K>) -> io::Result<()>
where
    K: NoUninit + AnyBitPattern + PartialEq,
{
    let sorted = |mut keys: Vec<K>| {
        keys.sort_unstable_by(|a, b| bytemuck::bytes_of(a).cmp(bytemuck::bytes_of(b)));
        keys
    };
    let (present, wanted) = (sorted(map.keys()?), sorted(wanted));
    let has = |keys: &[K], key: &K| {
        keys.binary_search_by(|k| bytemuck::bytes_of(k).cmp(bytemuck::bytes_of(key))).is_ok()
    };
    for key in wanted.iter().filter(|key| !has(&present, key)) {
        map.insert(*key, MEMBER)?;
    }
    for key in present.iter().filter(|key| !has(&wanted, key)) {
        map.remove(*key)?;
    }
    Ok(())
}
