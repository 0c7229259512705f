//! How does a running speaker change its configuration, and what does it show of itself?

use super::config::{PeerConfig, SpeakerConfig};
use super::fsm::Event;
use super::message;
use super::notification::{Notification, code};
use super::peer::Peer;
use super::routing;
use super::speaker::Speaker;
use super::status::{PeerStatus, RouteEntry, RouteQuery};
use crate::rib::best_path::{Candidate, Step};
use crate::rib::route::{Family, PathAttributes, SourceKind};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

impl Speaker {
    pub(super) fn set_global(&mut self, config: SpeakerConfig, now: Instant) {
        let old = std::mem::replace(&mut self.config, config);
        if old.router_id != self.config.router_id {
            let routes = self.tables.originated.values().cloned().collect();
            self.tables.set_originated(Vec::new(), self.config.router_id);
            self.tables.set_originated(routes, self.config.router_id);
        }
        if old.multipath != self.config.multipath {
            let changed = self.tables.loc_rib.set_multipath(self.config.multipath);
            self.tables.mark(changed);
        }
        let moved = old.listen_port != self.config.listen_port
            || old.listen_addresses != self.config.listen_addresses;
        if moved && let Err(error) = self.listen() {
            tracing::error!(port = self.config.listen_port, %error, "BGP cannot listen");
        }
        for id in self.peers_at(None) {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let reset = old.router_id != self.config.router_id
                || peer.config.effective_local_as(&old)
                    != peer.config.effective_local_as(&self.config)
                || (old.hold_time != self.config.hold_time && peer.config.hold_time.is_none());
            peer.refresh_settings(&self.config, self.restarting);
            if reset {
                let notification = Notification::of(code::CONFIGURATION);
                self.feed(id, Event::Reset(notification, None), now);
            } else if old.cluster_id != self.config.cluster_id {
                self.reconsider(id);
            }
        }
    }

    pub(super) fn set_peers(&mut self, peers: Vec<PeerConfig>, now: Instant) {
        let mut wanted: Vec<PeerConfig> = Vec::with_capacity(peers.len());
        for config in peers {
            if wanted.iter().any(|other| other.name == config.name) {
                tracing::error!(peer = %config.name, "two BGP peers of one name, the second is ignored");
            } else {
                wanted.push(config);
            }
        }
        for id in self.peers_at(None) {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let position = wanted.iter().position(|config| config.name == peer.config.name);
            match position {
                // At another address it is another peer, whose first route replaces none of these.
                Some(index) if wanted[index].address == peer.config.address => {
                    let config = wanted.swap_remove(index);
                    self.change_peer(id, config, now);
                }
                _ => self.remove_peer(id, now),
            }
        }
        for config in wanted {
            self.add_peer(config, now);
        }
    }

    fn change_peer(&mut self, id: u32, config: PeerConfig, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.config == config {
            return;
        }
        let old = std::mem::replace(&mut peer.config, config);
        peer.refresh_settings(&self.config, self.restarting);
        let reset = old.needs_reset(&peer.config);
        let (address, password) = (peer.config.address, peer.config.password.clone());
        if old.password != password
            && let Err(error) = self.set_listener_key(address, password.as_deref())
        {
            tracing::error!(peer = %old.name, %error, "cannot set the TCP-MD5 password");
        }
        if reset {
            // Not "reset", whose pause is for errors: the new terms are to be tried at once.
            self.feed(id, Event::Stop(Notification::of(code::CONFIGURATION)), now);
            self.feed(id, Event::Start, now);
        } else {
            self.reconsider(id);
        }
    }

    fn remove_peer(&mut self, id: u32, now: Instant) {
        self.feed(id, Event::Stop(Notification::of(code::DECONFIGURED)), now);
        self.report(id, now);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.departed = true;
        peer.stale_until = None;
        peer.rib_in.start_sweep(None, true);
        let (address, keyed) = (peer.config.address, peer.config.password.is_some());
        let shared = !self.peers_at(Some(address)).is_empty();
        if keyed
            && !shared
            && let Err(error) = self.set_listener_key(address, None)
        {
            tracing::error!(%address, %error, "cannot remove the TCP-MD5 password");
        }
    }

    /// Applies changed filters and roles to a running session.
    fn reconsider(&mut self, id: u32) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(session) = &peer.session else { return };
        let local = peer.connections[session.slot.index()]
            .as_ref()
            .and_then(super::session::Connection::local_address);
        let source = peer.source(&session.negotiated, &self.config);
        let target = peer.target(&session.negotiated, local, &self.config);
        if let Some(session) = &mut peer.session {
            if *session.source != *source {
                session.source = source;
            }
            session.target = target;
        }
        routing::import_again(peer, &mut self.tables, &self.config);
        touch_all(peer, &self.tables, None, false);
    }

    /// Sends a peer everything of a family again (RFC 2918).
    pub(super) fn resend(&mut self, id: u32, family: Family) {
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.session.is_some()
        {
            touch_all(peer, &self.tables, Some(family), true);
        }
    }

    pub(super) fn clear(&mut self, address: Option<IpAddr>, soft: bool, now: Instant) {
        for id in self.peers_at(address) {
            if !soft {
                let reset = Notification::with_text(code::RESET, "cleared by the operator");
                self.feed(id, Event::Stop(reset), now);
                self.feed(id, Event::Start, now);
                continue;
            }
            if !self.established(id) {
                continue;
            }
            for family in Family::ALL {
                self.resend(id, family);
            }
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let Some(session) = &peer.session else { continue };
            let (slot, terms) = (session.slot, session.negotiated.clone());
            if terms.route_refresh {
                for family in Family::ALL.into_iter().filter(|f| terms.families[f.index()]) {
                    self.write(id, slot, |out| message::encode_route_refresh(family, out));
                }
            }
            self.reconsider(id);
        }
    }

    pub(super) fn show_peers(&self, now: Instant) -> Vec<PeerStatus> {
        let present = self.peers.values().filter(|peer| !peer.departed);
        let mut list: Vec<PeerStatus> =
            present.map(|peer| peer.status(&self.config, now)).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    pub(super) fn show_routes(&self, query: RouteQuery) -> Vec<RouteEntry> {
        let mut entries = match query {
            RouteQuery::LocRib => {
                let prefixes = self.tables.loc_rib.iter();
                prefixes.flat_map(|(prefix, paths)| in_use(*prefix, paths)).collect()
            }
            RouteQuery::Received(address) => self.received_from(address),
            RouteQuery::Advertised(address) => self.advertised_to(address),
            RouteQuery::Why(prefix) => self.why(&prefix.trunc()),
        };
        // Stable: the paths of one prefix keep their rank.
        entries.sort_by_key(|entry| entry.prefix);
        entries
    }

    fn received_from(&self, address: IpAddr) -> Vec<RouteEntry> {
        let mut entries = Vec::new();
        for id in self.peers_at(Some(address)) {
            let Some(peer) = self.peers.get(&id) else { continue };
            for ((prefix, path_id), route) in peer.rib_in.iter() {
                let ours = |c: &Candidate| c.source.peer == id && c.path_id == *path_id;
                let used = self.tables.loc_rib.selected(prefix);
                entries.push(RouteEntry {
                    prefix: *prefix,
                    peer: Some(address),
                    source: if peer.config.internal(&self.config) {
                        SourceKind::Internal
                    } else {
                        SourceKind::External
                    },
                    attributes: Arc::clone(&route.attributes),
                    best: used.first().is_some_and(ours),
                    in_use: used.iter().any(ours),
                    accepted: route.accepted,
                    step: None,
                });
            }
        }
        entries
    }

    fn advertised_to(&self, address: IpAddr) -> Vec<RouteEntry> {
        let mut entries = Vec::new();
        for id in self.peers_at(Some(address)) {
            let Some(peer) = self.peers.get(&id) else { continue };
            for (prefix, attributes) in peer.rib_out.iter() {
                let best = self.tables.loc_rib.best(prefix);
                let shown = best.map(|best| (best.source.kind, peer_of(best)));
                let (source, from) = shown.unwrap_or((SourceKind::Local, None));
                entries.push(entry(*prefix, source, from, attributes));
            }
        }
        entries
    }

    fn why(&self, prefix: &IpNet) -> Vec<RouteEntry> {
        let used = self.tables.loc_rib.selected(prefix).len();
        let Some(explanation) = self.tables.loc_rib.explain(prefix) else {
            return Vec::new();
        };
        let mut entries: Vec<RouteEntry> = Vec::with_capacity(explanation.paths.len());
        for (index, (candidate, lost_at)) in explanation.paths.into_iter().enumerate() {
            let (kind, from) = (candidate.source.kind, peer_of(candidate));
            let best = index == 0 && index < used;
            entries.push(RouteEntry {
                best,
                in_use: index < used,
                step: Some(lost_at.unwrap_or(explanation.decided_by)),
                ..entry(*prefix, kind, from, &candidate.attributes)
            });
        }
        // Who lost last came closest.
        entries[used..].sort_by_key(|entry| std::cmp::Reverse(entry.step));
        entries
    }
}

fn touch_all(peer: &mut Peer, tables: &routing::Tables, family: Option<Family>, again: bool) {
    for (prefix, _) in tables.loc_rib.iter() {
        if family.is_none_or(|family| family == Family::of(prefix)) {
            if again {
                peer.rib_out.resend(*prefix);
            } else {
                peer.rib_out.touch(*prefix);
            }
        }
    }
}

fn in_use(prefix: IpNet, paths: &[Candidate]) -> impl Iterator<Item = RouteEntry> + '_ {
    paths.iter().enumerate().map(move |(index, path)| RouteEntry {
        best: index == 0,
        in_use: true,
        step: None::<Step>,
        ..entry(prefix, path.source.kind, peer_of(path), &path.attributes)
    })
}

fn peer_of(candidate: &Candidate) -> Option<IpAddr> {
    (candidate.source.kind != SourceKind::Local).then_some(candidate.source.address)
}

fn entry(
    prefix: IpNet,
    source: SourceKind,
    peer: Option<IpAddr>,
    attributes: &Arc<PathAttributes>,
) -> RouteEntry {
    RouteEntry {
        prefix,
        peer,
        source,
        attributes: Arc::clone(attributes),
        best: false,
        in_use: false,
        accepted: true,
        step: None,
    }
}
