//! What does the control plane do with a punted packet? Answer it, or hold it for a neighbour.

use super::Control;
use super::holds::Held;
use crate::host::netlink::NeighbourState;
use fastpath::outcome::PuntReason;
use fastpath::packet::Packet;
use fastpath::punt::{Inject, Punt};
use fastpath::tables::nexthop::NextHop;
use slowpath::neighbour;
use slowpath::punt::Answer;
use slowpath::rib::table::Via;
use std::net::IpAddr;
use std::time::Instant;

/// Punts handled before other events get their turn.
const PUNTS_PER_TURN: usize = 256;

impl Control {
    pub(super) fn punts(&mut self, now: Instant) {
        for _ in 0..PUNTS_PER_TURN {
            let Some(punt) = self.router.punts().try_recv() else { return };
            self.punted(punt, now);
        }
        // More may wait: come back after the other events.
        let _ = self.sender.try_send(super::Event::Punts);
    }

    fn punted(&mut self, punt: Punt, now: Instant) {
        let answer = match punt.reason {
            PuntReason::LocalIcmp => Answer::Echo,
            PuntReason::TtlExpired => Answer::TimeExceeded,
            PuntReason::FragmentationNeeded => Answer::TooBig(punt.mtu),
            PuntReason::Unreachable if punt.next_hop == NextHop::Prohibit => Answer::Prohibited,
            PuntReason::Unreachable if punt.next_hop == NextHop::NoRoute => Answer::NoRoute,
            PuntReason::Unreachable if punt.next_hop == NextHop::Router => Answer::PortUnreachable,
            PuntReason::Unreachable => Answer::HostUnreachable,
            PuntReason::UnresolvedNeighbour => return self.unresolved(punt, now),
            PuntReason::ArpOrNd => return self.arp_or_nd(&punt),
        };
        self.send_answer(punt.packet.bytes(), answer, now);
    }

    fn send_answer(&mut self, packet: &[u8], answer: Answer, now: Instant) {
        if let Some(reply) = self.answerer.answer(packet, answer, now) {
            self.router.inject(Inject::Route { packet: Packet::from_bytes(&reply) });
        }
    }

    fn arp_or_nd(&mut self, punt: &Punt) {
        let Some(port) = self.ports.get(punt.in_port) else { return };
        let Some(workload) = self.workloads.get(&port.name) else { return };
        let own = &workload.record.addresses;
        if let Some(frame) = neighbour::answer(punt.packet.bytes(), port.entry.mac, own) {
            let packet = Packet::from_bytes(&frame);
            self.router.inject(Inject::ToPort { port: punt.in_port, packet });
        }
    }

    fn unresolved(&mut self, punt: Punt, now: Instant) {
        let key = match punt.next_hop {
            NextHop::Adjacency(id) | NextHop::Tunnel { adjacency: id, .. } => {
                let tables = self.router.tables();
                let Some(adjacency) = tables.adjacencies.get(id.0 as usize).copied() else {
                    return;
                };
                let link = self.ports.get(adjacency.port).and_then(|p| p.link);
                link.map(|link| (link, adjacency.address))
            }
            NextHop::Glean(port) => {
                let link = self.ports.get(port).and_then(|p| p.link);
                link.zip(destination(punt.packet.bytes()))
            }
            _ => None,
        };
        let Some((link, address)) = key else { return };
        if self.holds.hold((link, address), punt.packet.detach(), punt.in_port, now)
            && let Err(error) = self.netlink.manage_neighbour(link, address)
        {
            tracing::debug!(%address, %error, "the kernel won't ask for a neighbour");
        }
        // It may have answered before the packet came here.
        self.dirty.kernel = true;
    }

    /// Sends on what waited for neighbours that are known now, and refuses what waited in vain.
    pub(super) fn resume_held(&mut self, now: Instant) {
        for key @ (link, address) in self.holds.keys() {
            let Some(neighbour) = self.kernel.neighbours.get(&key) else { continue };
            if neighbour.state.is_usable() && neighbour.mac.is_some() {
                // Through the subnet's route it would come back at once.
                if matches!(self.routing.lookup(address), Some((_, _, Via::Link(_)))) {
                    continue;
                }
                for held in self.holds.release(key) {
                    let (packet, in_port) = (held.packet, held.in_port);
                    self.router.inject(Inject::Resume { packet, in_port });
                }
            } else if neighbour.state == NeighbourState::Failed {
                // Asked for again by the next packet; kept, the kernel would ask for ever.
                let _ = self.netlink.delete_neighbour(link, address);
                for held in self.holds.release(key) {
                    self.refuse_held(&held, now);
                }
            }
        }
    }

    pub(super) fn refuse_held(&mut self, held: &Held, now: Instant) {
        self.send_answer(held.packet.bytes(), Answer::HostUnreachable, now);
    }
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?)),
        _ => None,
    }
}
