//! Where does it go, and where would its answer go? Longest-prefix match, equal-cost choice, and
//! the port of the node's kernel that a connection came in by.

use super::{Entry, Items, Miss, Misses, View};
use crate::flow::key::{FlowKey, mix};
use crate::outcome::{DropReason, PuntReason};
use crate::packet::PortId;
use crate::tables::nexthop::NextHop;
use crate::tables::port::PortRole;
use std::net::IpAddr;

/// Finds both next hops of each miss.
pub fn run(view: &View<'_>, items: &mut Items, misses: &mut Misses) {
    for miss in misses.iter_mut() {
        let item = &mut items[miss.item];
        if item.entry == Entry::Own && miss.conn.is_none() {
            item.next_hop = toward(view, item.headers.destination, &item.key);
            continue;
        }
        item.next_hop = both(view, &item.key, item.sender, miss);
    }
}

/// Next hop of what `sender` sends; `miss.back` becomes that of what it receives.
pub fn both(
    view: &View<'_>,
    key: &FlowKey,
    sender: crate::flow::key::Side,
    miss: &mut Miss,
) -> NextHop {
    let mut there = toward(view, key.end(sender.other()).address, key);
    miss.back = toward(view, key.end(sender).address, key);
    // What came in by the node's kernel goes back by it: its translations live there.
    if let Some(host) = host_hop(view, miss.origin_port) {
        *(if miss.origin == sender { &mut miss.back } else { &mut there }) = host;
    }
    there
}

/// The next hop that leads back out of a port of the node's kernel; `None` for other ports.
pub fn host_hop(view: &View<'_>, port: PortId) -> Option<NextHop> {
    match view.role(port) {
        PortRole::HostLocal => Some(NextHop::HostLocal),
        PortRole::HostForward => Some(NextHop::HostForward),
        PortRole::Unused | PortRole::Pod(_) | PortRole::Uplink => None,
    }
}

/// The next hop towards an address; never a group.
fn toward(view: &View<'_>, address: IpAddr, key: &FlowKey) -> NextHop {
    match view.tables.next_hop(view.tables.fib.lookup(address)) {
        NextHop::Group(group) => {
            let Some(group) = view.tables.groups.get(group.0 as usize) else {
                return NextHop::NoRoute;
            };
            // The highest of the members' hashes wins, so that a member that leaves moves only
            // its own flows.
            let flow = key.stable_hash();
            let best = group.members.iter().max_by_key(|id| mix(flow ^ mix(u64::from(id.0))));
            match best.map_or(NextHop::NoRoute, |id| view.tables.next_hop(*id)) {
                NextHop::Group(_) => NextHop::NoRoute,
                member => member,
            }
        }
        next_hop => next_hop,
    }
}

/// How a packet ends whose route leads nowhere; `None` if it leads on.
pub fn dead_end(next_hop: NextHop) -> Option<(Option<PuntReason>, DropReason)> {
    match next_hop {
        NextHop::Blackhole => Some((None, DropReason::Blackhole)),
        NextHop::NoRoute | NextHop::Group(_) => {
            Some((Some(PuntReason::Unreachable), DropReason::NoRoute))
        }
        NextHop::Unreachable => Some((Some(PuntReason::Unreachable), DropReason::Unreachable)),
        NextHop::Prohibit => Some((Some(PuntReason::Unreachable), DropReason::Prohibited)),
        NextHop::Endpoint(_)
        | NextHop::HostLocal
        | NextHop::HostForward
        | NextHop::Router
        | NextHop::Adjacency(_)
        | NextHop::Tunnel { .. }
        | NextHop::Glean(_) => None,
    }
}
