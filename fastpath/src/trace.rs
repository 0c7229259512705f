//! What happened to these packets, stage by stage? Taps that an operator opens; closed, they cost
//! one load per batch.
//!
//! An open tap may allocate: it is the operator's wish. A full one loses records and counts them.

use crate::acl::RuleId;
use crate::limits::TAP_RING;
use crate::outcome::{DropReason, Outcome};
use crate::packet::{Offload, PortId};
use crate::tables::nexthop::NextHop;
use crate::tables::port::PortRole;
use crate::wire::headers::Headers;
use crossbeam::channel::{self, Receiver, Sender};
use ipnet::IpNet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Which packets; every part that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Came in (a capture: or left) by this port.
    pub port: Option<PortId>,
    /// One end is in here.
    pub host: Option<IpNet>,
    /// The other end is in here.
    pub peer: Option<IpNet>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// One end has this transport port.
    pub l4_port: Option<u16>,
}

impl Filter {
    /// Does a packet at a port match? One whose headers could not be read matches only a filter
    /// that asks nothing of them.
    pub fn matches(&self, port: PortId, headers: Option<&Headers>) -> bool {
        if self.port.is_some_and(|wanted| wanted != port) {
            return false;
        }
        let Some(h) = headers else {
            let asks = self.host.is_some() || self.peer.is_some();
            return !asks && self.protocol.is_none() && self.l4_port.is_none();
        };
        let within = |net: &Option<IpNet>, address| net.is_none_or(|net| net.contains(&address));
        let ends = (within(&self.host, h.source) && within(&self.peer, h.destination))
            || (within(&self.host, h.destination) && within(&self.peer, h.source));
        let l4_port =
            |wanted| h.l4_len != 0 && (h.source_port == wanted || h.destination_port == wanted);
        ends && self.protocol.is_none_or(|p| p == h.protocol) && self.l4_port.is_none_or(l4_port)
    }
}

/// One thing that a stage found or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It came in.
    Entered {
        /// By this port.
        port: PortId,
        /// What hangs on the port.
        role: PortRole,
        /// It came out of a tunnel.
        decapsulated: bool,
        /// What its offload header said.
        offload: Offload,
    },
    /// What its headers say (a later fragment: with its first's ports).
    Parsed(Headers),
    /// Its connection was looked up.
    LookedUp {
        /// It was known, in this generation.
        hit: bool,
        /// The packet is an ICMP error about the connection, none of it.
        related: bool,
    },
    /// Where it goes.
    Routed(NextHop),
    /// What the rules say of its connection.
    Judged {
        /// The originator's egress rule that decided (0: none).
        egress_rule: RuleId,
        /// The responder's ingress rule that decided (0: none).
        ingress_rule: RuleId,
        /// Why it is denied.
        denied: Option<DropReason>,
    },
    /// What it leaves by.
    Left {
        /// The port.
        port: PortId,
        /// Largest IP packet the way takes, in bytes, tunnel header excluded.
        mtu: u16,
        /// It was put into a tunnel.
        encapsulated: bool,
    },
    /// How its stay ended.
    Ended(Outcome),
}

/// One packet's way.
#[derive(Clone, Debug)]
pub struct Trace {
    /// When its batch was taken up.
    pub time: Instant,
    /// What happened, in order.
    pub steps: Vec<Step>,
}

/// A moment on the wall clock.
pub fn wall_clock(moment: Instant) -> SystemTime {
    SystemTime::now() - moment.elapsed()
}

/// One operator's wish.
pub struct Tap<T> {
    /// Which packets.
    pub filter: Filter,
    /// Bytes of each packet that are kept (captures).
    pub snaplen: usize,
    sender: Sender<T>,
    left: AtomicUsize,
    lost: AtomicU64,
}

impl<T> Tap<T> {
    /// Hands a record over, as long as records are wished for.
    pub fn offer(&self, record: T) {
        let take = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
            && self.sender.try_send(record).is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// All open taps of one kind.
pub struct Taps<T> {
    version: AtomicU64,
    open: Mutex<Vec<Arc<Tap<T>>>>,
}

impl<T> Default for Taps<T> {
    fn default() -> Self {
        Self { version: AtomicU64::new(0), open: Mutex::new(Vec::new()) }
    }
}

impl<T> Taps<T> {
    /// Opens a tap for `limit` records.
    pub fn open(self: &Arc<Self>, filter: Filter, snaplen: usize, limit: usize) -> TapReceiver<T> {
        let (sender, receiver) = channel::bounded(limit.clamp(1, TAP_RING));
        let (left, lost) = (AtomicUsize::new(limit), AtomicU64::new(0));
        let tap = Arc::new(Tap { filter, snaplen, sender, left, lost });
        self.change(|open| open.push(Arc::clone(&tap)));
        TapReceiver { receiver, tap, taps: Arc::clone(self) }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Tap<T>>>)) {
        change(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner));
        self.version.fetch_add(1, Ordering::Release);
    }
}

/// The operator's end of a tap; dropping it closes the tap.
pub struct TapReceiver<T> {
    receiver: Receiver<T>,
    tap: Arc<Tap<T>>,
    taps: Arc<Taps<T>>,
}

impl<T> TapReceiver<T> {
    /// A record that is there already.
    pub fn try_recv(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// Waits for a record.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<T> {
        self.receiver.recv_timeout(timeout).ok()
    }

    /// Records that nobody took in time.
    pub fn lost(&self) -> u64 {
        self.tap.lost.load(Ordering::Relaxed)
    }

    /// As many records as were wished for have been written, and all were taken.
    pub fn is_finished(&self) -> bool {
        self.tap.left.load(Ordering::Relaxed) == 0 && self.receiver.is_empty()
    }
}

impl<T> Drop for TapReceiver<T> {
    fn drop(&mut self) {
        self.taps.change(|open| open.retain(|tap| !Arc::ptr_eq(tap, &self.tap)));
    }
}

/// One worker's view of the open taps.
pub struct LocalTaps<T> {
    shared: Arc<Taps<T>>,
    version: u64,
    open: Vec<Arc<Tap<T>>>,
}

impl<T> LocalTaps<T> {
    /// A view of these taps.
    pub fn new(shared: Arc<Taps<T>>) -> Self {
        Self { shared, version: 0, open: Vec::new() }
    }

    /// Looks whether taps were opened or closed. Once per batch.
    pub fn refresh(&mut self) {
        let version = self.shared.version.load(Ordering::Relaxed);
        if version != self.version {
            let open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
            self.open.clone_from(&open);
            self.version = version;
        }
    }

    /// Nobody listens.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The taps that a packet runs into.
    pub fn matching<'a>(
        &'a self,
        port: PortId,
        headers: Option<&'a Headers>,
    ) -> impl Iterator<Item = &'a Tap<T>> {
        self.open.iter().map(AsRef::as_ref).filter(move |tap| tap.filter.matches(port, headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_ends_at_its_limit_and_closes_when_nobody_listens() {
        let taps = Arc::new(Taps::<u32>::default());
        let mut local = LocalTaps::new(Arc::clone(&taps));
        local.refresh();
        assert!(local.is_empty());
        let receiver = taps.open(Filter::default(), 0, 2);
        local.refresh();
        for n in 0..3 {
            local.matching(PortId(1), None).for_each(|tap| tap.offer(n));
        }
        assert_eq!(
            (receiver.try_recv(), receiver.try_recv(), receiver.try_recv()),
            (Some(0), Some(1), None)
        );
        assert!(receiver.is_finished() && receiver.lost() == 0);
        drop(receiver);
        local.refresh();
        assert!(local.is_empty());
    }

    #[test]
    fn a_filter_that_asks_for_headers_wants_them() {
        let by_port = Filter { port: Some(PortId(3)), ..Filter::default() };
        assert!(by_port.matches(PortId(3), None) && !by_port.matches(PortId(4), None));
        let by_protocol = Filter { protocol: Some(6), ..Filter::default() };
        assert!(!by_protocol.matches(PortId(3), None));
    }
}
