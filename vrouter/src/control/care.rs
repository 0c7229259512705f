//! What does no event tell? Devices and workers that end, doors and uplinks to be opened again.

use super::Control;
use crate::host::state::Changed;
use fastpath::io::QueueError;
use fastpath::packet::PortId;
use std::time::{Duration, Instant};

/// How often doors, uplinks and the doors' routes are looked after at most.
const CARE: Duration = Duration::from_secs(2);

/// When things were looked after last, and what was noticed since.
#[derive(Debug)]
pub(super) struct Care {
    last: Instant,
    /// Somebody changed rules or routes beside the main table: perhaps ours.
    rules: bool,
}

impl Care {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, rules: false }
    }
}

impl Control {
    /// What has to be done whether or not there are events.
    pub(super) fn housekeep(&mut self, now: Instant) {
        for held in self.holds.expire(now) {
            self.refuse_held(&held, now);
        }
        for (port, error) in self.router.closed_ports() {
            self.port_closed(port, error);
        }
        if !self.router.is_running() {
            // Limping on would leave ports unread that the tables still promise.
            tracing::error!("a worker has died: stopping, so that the node starts afresh");
            self.failed = true;
            self.stopping = true;
        }
        if now.saturating_duration_since(self.care.last) < CARE {
            return;
        }
        self.care.last = now;
        if std::mem::take(&mut self.care.rules) {
            self.host.doubt();
            self.dirty.world = true;
        }
        if self.host.is_incomplete() {
            match self.open_doors() {
                Ok(()) => self.dirty.world = true,
                Err(error) => tracing::error!("a door to the kernel stays closed: {error:#}"),
            }
        }
        // An uplink that could not be opened is tried again by the next flush.
        self.dirty.ports |= self.uplinks.any_failed();
    }

    /// Rules and routes of other tables are not followed, but ours may be among those that changed.
    pub(super) fn notice(&mut self, changed: Changed) {
        self.care.rules |= changed.any(Changed::RULES | Changed::OTHER_ROUTES);
    }

    /// A queue reported that its device is gone or broken.
    pub(super) fn port_closed(&mut self, port: PortId, error: QueueError) {
        let Some(name) = self.ports.get(port).map(|p| p.name.clone()) else { return };
        tracing::warn!(port = %name, %error, "a port closed");
        // What the holder has of it leads nowhere any more.
        self.keeper.release(&format!("tun:{name}"));
        if self.workloads.get(&name).is_some() {
            self.detach(&name);
            return;
        }
        self.keeper.release(&format!("xdp:{name}"));
        self.close_port(port);
        self.ports.remove(port);
        self.uplinks.forget(port);
        self.host.forget(port);
        self.dirty.ports = true;
        self.dirty.kernel = true;
    }
}
