//! What does one peer get to hear: which routes, with which attributes, and what is still to be sent?

use super::route::{
    DEFAULT_LOCAL_PREF, Family, NO_ADVERTISE, NO_EXPORT, NO_EXPORT_SUBCONFED, PathAttributes,
    Source, SourceKind,
};
use ahash::{AHashMap, AHashSet};
use ipnet::IpNet;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// What must be known of a peer to send it routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The speaker's number for the peer.
    pub peer: u32,
    /// The AS number we use towards it.
    pub local_as: u32,
    /// The peer is of our own AS.
    pub internal: bool,
    /// The peer is a route-reflection client of ours.
    pub rr_client: bool,
    /// Our cluster id; `None` = we reflect nothing.
    pub cluster_id: Option<Ipv4Addr>,
    /// Which next hop the peer hears.
    pub next_hop_mode: NextHopMode,
    /// Our own address as an IPv4 next hop.
    pub own_ipv4: Option<Ipv4Addr>,
    /// Our own address as an IPv6 next hop.
    pub own_ipv6: Option<Ipv6Addr>,
    /// The families of the session, by [`Family::index`].
    pub families: [bool; 2],
}

/// Which next hop a peer hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NextHopMode {
    /// External peers hear ourselves; internal peers what we heard, or ourselves for our own routes.
    #[default]
    Auto,
    /// Always ourselves (except in reflected routes, RFC 4456 §10).
    OwnAddress,
    /// Always what we heard.
    Keep,
}

/// What `target` should hear of a best path from `source` whose attributes (after the export filter)
/// are `heard`; `None` = nothing.
pub fn export(
    family: Family,
    source: &Source,
    heard: &PathAttributes,
    target: &Target,
) -> Option<PathAttributes> {
    if source.peer == target.peer || !target.families[family.index()] {
        return None;
    }
    if heard.has_community(NO_ADVERTISE) && source.kind != SourceKind::Local {
        return None;
    }
    if !target.internal
        && (heard.has_community(NO_EXPORT) || heard.has_community(NO_EXPORT_SUBCONFED))
        && source.kind != SourceKind::Local
    {
        return None;
    }
    let reflected = target.internal && source.kind == SourceKind::Internal;
    // RFC 4271 §9.2: no internal peer hears what an internal peer said, unless we reflect
    // between a client and anybody (RFC 4456 §6).
    let cluster_id = match target.cluster_id {
        Some(id) if source.rr_client || target.rr_client => Some(id),
        _ => None,
    };
    if reflected && cluster_id.is_none() {
        return None;
    }
    let mut sent = heard.clone();
    (sent.next_hop, sent.link_local) = next_hop(family, source, heard, target)?;
    if target.internal {
        sent.local_pref = Some(heard.local_pref.unwrap_or(DEFAULT_LOCAL_PREF));
        if let (true, Some(cluster_id)) = (reflected, cluster_id) {
            // RFC 4456 §8.
            sent.originator_id = Some(heard.originator_id.unwrap_or(source.router_id));
            sent.cluster_list.insert(0, cluster_id);
        }
    } else {
        sent.as_path.prepend(target.local_as);
        sent.local_pref = None;
        sent.originator_id = None;
        sent.cluster_list.clear();
        if source.kind != SourceKind::Local {
            // RFC 4271 §5.1.4: a MED we received must not go on to another AS.
            sent.med = None;
        }
    }
    Some(sent)
}

fn next_hop(
    family: Family,
    source: &Source,
    heard: &PathAttributes,
    target: &Target,
) -> Option<(IpAddr, Option<Ipv6Addr>)> {
    let own = match family {
        Family::Ipv4 => target.own_ipv4.map(IpAddr::V4),
        Family::Ipv6 => target.own_ipv6.map(IpAddr::V6),
    };
    let local = source.kind == SourceKind::Local;
    let reflected = target.internal && source.kind == SourceKind::Internal;
    let keep = match target.next_hop_mode {
        NextHopMode::Keep => true,
        NextHopMode::OwnAddress => reflected,
        NextHopMode::Auto => target.internal,
    };
    // A route of ours without an explicit next hop means "ourselves", whatever the mode.
    let unset = heard.next_hop.is_unspecified();
    if unset || !(keep || (local && target.internal)) {
        return own.map(|address| (address, None));
    }
    Some((heard.next_hop, heard.link_local.filter(|_| !local)))
}

/// What one peer was told, and which prefixes must be looked at again.
#[derive(Debug, Default)]
pub struct AdjRibOut {
    advertised: AHashMap<IpNet, Arc<PathAttributes>>,
    queue: VecDeque<IpNet>,
    queued: AHashSet<IpNet>,
    /// Prefixes to send even if the peer has already been told the same (route refresh).
    again: AHashSet<IpNet>,
}

impl AdjRibOut {
    /// Marks a prefix to be looked at.
    pub fn touch(&mut self, prefix: IpNet) {
        if self.queued.insert(prefix) {
            self.queue.push_back(prefix);
        }
    }

    /// Marks a prefix to be sent again, changed or not (RFC 2918).
    pub fn resend(&mut self, prefix: IpNet) {
        self.again.insert(prefix);
        self.touch(prefix);
    }

    /// The next prefixes to look at, at most `limit`.
    pub fn take(&mut self, limit: usize) -> Vec<IpNet> {
        let count = self.queue.len().min(limit);
        let taken: Vec<IpNet> = self.queue.drain(..count).collect();
        for prefix in &taken {
            self.queued.remove(prefix);
        }
        if self.queue.is_empty() {
            // A full table's worth of capacity is not kept for the trickle that follows.
            self.queue.shrink_to(1024);
            self.queued.shrink_to(1024);
        }
        taken
    }

    /// Whether something waits to be looked at.
    pub fn pending(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Records that the peer should know `attributes` (`None` = nothing) for `prefix`; tells what
    /// must be sent for that.
    pub fn set(&mut self, prefix: IpNet, attributes: Option<Arc<PathAttributes>>) -> Send {
        let again = self.again.remove(&prefix);
        match attributes {
            Some(new) => {
                let old = self.advertised.insert(prefix, Arc::clone(&new));
                if !again && old.is_some_and(|old| Arc::ptr_eq(&old, &new)) {
                    Send::Nothing
                } else {
                    Send::Announce
                }
            }
            None if self.advertised.remove(&prefix).is_some() => Send::Withdraw,
            None => Send::Nothing,
        }
    }

    /// The session has ended: the peer knows nothing.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Prefixes the peer was told.
    pub fn len(&self) -> usize {
        self.advertised.len()
    }

    /// Whether the peer was told nothing.
    pub fn is_empty(&self) -> bool {
        self.advertised.is_empty()
    }

    /// What the peer was told, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&IpNet, &Arc<PathAttributes>)> {
        self.advertised.iter()
    }
}

/// What a change asks for on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Send {
    /// The peer knows already.
    Nothing,
    /// Announce it.
    Announce,
    /// Withdraw it.
    Withdraw,
}

#[cfg(test)]
mod tests;
