//! How do routes move: from a peer's UPDATE through the tables to the other peers' UPDATEs?
//!
//! All work is done in bounded slices, so that one peer's table of a million routes never keeps the
//! speaker from another's hold timer.

use super::capability::GracefulRestart;
use super::config::{DEFAULT_MAX_RESTART, OriginatedRoute, PeerConfig, SpeakerConfig};
use super::encode::{self, EncodeError};
use super::message::{Announcement, Update};
use super::nlri::Nlri;
use super::notification::{Notification, code};
use super::peer::{Peer, Session};
use super::status::{BestPath, RouteChange};
use crate::rib::adj_rib_out::{self, Send, Target};
use crate::rib::best_path::Candidate;
use crate::rib::loc_rib::LocRib;
use crate::rib::route::{Family, Interner, PathAttributes, Source, SourceKind};
use ahash::{AHashMap, AHashSet};
use ipnet::IpNet;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Prefixes looked at for one peer's output per turn.
const EXPORT_SLICE: usize = 1024;
/// Routes removed per turn after a peer has gone.
const SWEEP_SLICE: usize = 2048;
/// How long a restarted peer may take to send its table before its stale routes go.
const END_OF_RIB_WAIT: Duration = Duration::from_mins(2);

/// The tables all peers share.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) loc_rib: LocRib,
    pub(crate) interner: Interner,
    pub(crate) originated: BTreeMap<IpNet, OriginatedRoute>,
    /// Prefixes whose paths in use have changed since the last [`Tables::take_changes`].
    changed: AHashSet<IpNet>,
}

impl Tables {
    pub(crate) fn new(multipath: usize) -> Self {
        Self {
            loc_rib: LocRib::new(multipath),
            interner: Interner::default(),
            originated: BTreeMap::new(),
            changed: AHashSet::new(),
        }
    }

    pub(crate) fn mark(&mut self, prefixes: impl IntoIterator<Item = IpNet>) {
        self.changed.extend(prefixes);
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    fn insert(&mut self, prefix: IpNet, candidate: Candidate) {
        if self.loc_rib.insert(prefix, candidate) {
            self.changed.insert(prefix);
        }
    }

    fn remove(&mut self, prefix: &IpNet, peer: u32, path_id: u32) {
        if self.loc_rib.remove(prefix, peer, path_id) {
            self.changed.insert(*prefix);
        }
    }

    /// Makes `routes` the set of routes that start here.
    pub(crate) fn set_originated(&mut self, routes: Vec<OriginatedRoute>, router_id: Ipv4Addr) {
        let new: BTreeMap<IpNet, OriginatedRoute> =
            routes.into_iter().map(|route| (route.prefix.trunc(), route)).collect();
        let old = std::mem::replace(&mut self.originated, new.clone());
        for prefix in old.keys().filter(|prefix| !new.contains_key(prefix)) {
            self.remove(prefix, Source::LOCAL, 0);
        }
        let source = Arc::new(Source::local(router_id));
        for (prefix, route) in &new {
            if old.get(prefix) == Some(route) {
                continue;
            }
            let attributes = self.interner.intern(local_attributes(route));
            let source = Arc::clone(&source);
            self.insert(*prefix, Candidate { source, path_id: 0, attributes });
        }
    }

    /// What has changed for the forwarding plane and for the peers.
    pub(crate) fn take_changes(&mut self) -> Vec<RouteChange> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|prefix| self.change(prefix)).collect()
    }

    /// The learned paths in use for `prefix`.
    pub(crate) fn change(&self, prefix: IpNet) -> RouteChange {
        let learned = |candidate: &&Candidate| candidate.source.kind != SourceKind::Local;
        let paths =
            self.loc_rib.selected(&prefix).iter().filter(learned).map(|candidate| BestPath {
                next_hop: candidate.attributes.next_hop,
                peer: candidate.source.address,
                ibgp: candidate.source.kind == SourceKind::Internal,
                attributes: Arc::clone(&candidate.attributes),
            });
        RouteChange { prefix, paths: paths.collect() }
    }
}

fn local_attributes(route: &OriginatedRoute) -> PathAttributes {
    let unspecified = match route.prefix {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    PathAttributes {
        origin: route.origin,
        med: route.med,
        local_pref: route.local_pref,
        communities: route.communities.clone(),
        large_communities: route.large_communities.clone(),
        ..PathAttributes::local(route.next_hop.unwrap_or(unspecified))
    }
}

/// Takes in one UPDATE; an error ends the session.
pub(crate) fn receive(
    peer: &mut Peer,
    update: Update,
    tables: &mut Tables,
    speaker: &SpeakerConfig,
) -> Result<(), Notification> {
    for error in &update.errors {
        peer.update_errors += 1;
        // The first ones and then ever fewer: a broken peer must not fill the log.
        if !peer.update_errors.is_power_of_two() {
            continue;
        }
        tracing::warn!(peer = %peer.config.name, address = %peer.config.address, %error,
            so_far = peer.update_errors, "malformed UPDATE");
    }
    let Some(session) = peer.session.as_mut() else { return Ok(()) };
    let families = session.negotiated.families;
    if let Some(family) = update.end_of_rib {
        session.heard_all[family.index()] = true;
        if peer.stale_until.is_some() {
            peer.rib_in.start_sweep(Some(family), false);
            let waiting =
                Family::ALL.iter().any(|f| families[f.index()] && !session.heard_all[f.index()]);
            if !waiting {
                peer.stale_until = None;
            }
        }
    }
    for nlri in update.withdrawn {
        let key = (nlri.prefix, nlri.path_id);
        if peer.rib_in.remove(&key) {
            tables.remove(&nlri.prefix, peer.id, nlri.path_id);
        }
    }
    for Announcement { attributes, nlri } in update.announced {
        let speaks = |nlri: &&Nlri| families[Family::of(&nlri.prefix).index()];
        if !nlri.iter().any(|nlri| speaks(&nlri)) {
            continue;
        }
        let attributes = tables.interner.intern(attributes);
        for nlri in nlri.iter().filter(speaks) {
            let key = (nlri.prefix, nlri.path_id);
            check_limit(peer, &key)?;
            import(peer, key, Arc::clone(&attributes), tables, speaker);
        }
    }
    Ok(())
}

fn check_limit(peer: &Peer, key: &(IpNet, u32)) -> Result<(), Notification> {
    let Some(limit) = peer.config.max_prefixes else { return Ok(()) };
    let full = peer.rib_in.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    if !full || peer.rib_in.contains(key) {
        return Ok(());
    }
    let [high, low] = Family::of(&key.0).afi().to_be_bytes();
    let mut data = vec![high, low, 1];
    data.extend_from_slice(&limit.to_be_bytes());
    Err(Notification::with(code::MAX_PREFIXES, data))
}

/// Stores a route as heard, and offers it to the decision process if it is acceptable.
fn import(
    peer: &mut Peer,
    key: (IpNet, u32),
    heard: Arc<PathAttributes>,
    tables: &mut Tables,
    speaker: &SpeakerConfig,
) {
    let Some(session) = &peer.session else { return };
    let accepted = judge(&key.0, &heard, session, &peer.config, tables, speaker);
    if peer.rib_in.insert(key, heard, accepted.is_some()) {
        offer(peer.id, &session.source, key, accepted, tables);
    }
}

/// A route as the decision process may use it; `None` = not at all.
fn judge(
    prefix: &IpNet,
    heard: &Arc<PathAttributes>,
    session: &Session,
    config: &PeerConfig,
    tables: &mut Tables,
    speaker: &SpeakerConfig,
) -> Option<Arc<PathAttributes>> {
    if loops(heard, session, config, speaker) {
        return None;
    }
    match config.import.apply(prefix, heard)? {
        Cow::Borrowed(_) => Some(Arc::clone(heard)),
        Cow::Owned(changed) => Some(tables.interner.intern(changed)),
    }
}

fn offer(
    peer: u32,
    source: &Arc<Source>,
    (prefix, path_id): (IpNet, u32),
    accepted: Option<Arc<PathAttributes>>,
    tables: &mut Tables,
) {
    match accepted {
        Some(attributes) => {
            let source = Arc::clone(source);
            tables.insert(prefix, Candidate { source, path_id, attributes });
        }
        // An announcement we refuse still replaces the one before it.
        None => tables.remove(&prefix, peer, path_id),
    }
}

/// Routes that have been here already, or would send packets back to us.
fn loops(
    heard: &PathAttributes,
    session: &Session,
    config: &PeerConfig,
    speaker: &SpeakerConfig,
) -> bool {
    let own_as = session.target.local_as;
    let allowed = usize::from(config.allow_own_as);
    let seen = |asn: u32| heard.as_path.occurrences(asn) > allowed;
    // RFC 4271 §9.1.2: our AS in the path; §5.1.3: our own address as next hop.
    if seen(own_as) || seen(speaker.local_as) {
        return true;
    }
    let target = &session.target;
    if Some(heard.next_hop) == target.own_ipv4.map(IpAddr::V4)
        || Some(heard.next_hop) == target.own_ipv6.map(IpAddr::V6)
    {
        return true;
    }
    // RFC 4456 §8.
    heard.originator_id == Some(speaker.router_id)
        || speaker.cluster_id.is_some_and(|id| heard.cluster_list.contains(&id))
}

/// Judges everything the peer announced again, after its filter or our view of it has changed.
pub(crate) fn import_again(peer: &mut Peer, tables: &mut Tables, speaker: &SpeakerConfig) {
    let Some(session) = &peer.session else { return };
    let routes: Vec<_> =
        peer.rib_in.iter().map(|(key, route)| (*key, Arc::clone(&route.attributes))).collect();
    for (key, heard) in routes {
        let accepted = judge(&key.0, &heard, session, &peer.config, tables, speaker);
        peer.rib_in.set_accepted(&key, accepted.is_some());
        offer(peer.id, &session.source, key, accepted, tables);
    }
}

/// A session was established: what was kept for the peer is now to be confirmed by it.
pub(crate) fn session_up(peer: &mut Peer, tables: &Tables, now: Instant) {
    peer.rib_in.begin_epoch();
    peer.recovered = true;
    peer.rib_out.clear();
    for (prefix, _) in tables.loc_rib.iter() {
        peer.rib_out.touch(*prefix);
    }
    let Some(session) = &peer.session else { return };
    if peer.stale_until.is_none() {
        return;
    }
    let terms = session.negotiated.graceful_restart;
    let mut kept = false;
    for family in Family::ALL {
        // RFC 4724 §4.2: without the F bit, what was kept of this family goes at once.
        if preserved(terms, family) == Some(true) {
            kept = true;
        } else {
            peer.rib_in.start_sweep(Some(family), false);
        }
    }
    peer.stale_until = kept.then(|| now + END_OF_RIB_WAIT);
}

fn preserved(terms: Option<GracefulRestart>, family: Family) -> Option<bool> {
    terms.and_then(|terms| terms.families[family.index()])
}

/// A session has ended: its routes go, or stay for a while if the peer asked for that.
pub(crate) fn session_down(peer: &mut Peer, graceful: bool, now: Instant) {
    let Some(session) = peer.session.take() else { return };
    peer.rib_out.clear();
    peer.flaps += 1;
    let terms = session.negotiated.graceful_restart.filter(|terms| {
        graceful && terms.restart_time > 0 && terms.families.iter().any(Option::is_some)
    });
    let Some(terms) = terms else {
        peer.stale_until = None;
        peer.rib_in.start_sweep(None, true);
        return;
    };
    for family in Family::ALL {
        if preserved(Some(terms), family).is_none() {
            peer.rib_in.start_sweep(Some(family), true);
        }
    }
    let asked = Duration::from_secs(u64::from(terms.restart_time));
    let longest = peer.config.max_restart_time.unwrap_or(DEFAULT_MAX_RESTART);
    peer.stale_until = Some(now + asked.min(longest));
}

/// The peer's time to come back, or to send its table again, is over.
pub(crate) fn stale_timer(peer: &mut Peer, now: Instant) {
    if peer.stale_until.is_some_and(|until| until <= now) {
        peer.stale_until = None;
        let gone = peer.session.is_none();
        peer.rib_in.start_sweep(None, gone);
    }
}

/// Removes a slice of the routes that are to go; `true` if more remain.
pub(crate) fn sweep(peer: &mut Peer, tables: &mut Tables) -> bool {
    for (prefix, path_id) in peer.rib_in.sweep(SWEEP_SLICE) {
        tables.remove(&prefix, peer.id, path_id);
    }
    peer.rib_in.sweeping()
}

/// What to send to a peer, by attributes.
#[derive(Default)]
struct Batch {
    withdrawn: [Vec<Nlri>; 2],
    /// In the order first met, so that the output is the same for the same input.
    announced: Vec<(Arc<PathAttributes>, Family, Vec<Nlri>)>,
    index: AHashMap<(*const PathAttributes, Family), usize>,
}

impl Batch {
    fn announce(&mut self, attributes: &Arc<PathAttributes>, nlri: Nlri) {
        let family = Family::of(&nlri.prefix);
        let next = self.announced.len();
        let index = *self.index.entry((Arc::as_ptr(attributes), family)).or_insert(next);
        if index == next {
            self.announced.push((Arc::clone(attributes), family, Vec::new()));
        }
        self.announced[index].2.push(nlri);
    }
}

/// Writes a slice of what the peer must hear into its output buffer. `hold_end` keeps the
/// end-of-RIB markers back (our own first table is not complete yet).
pub(crate) fn advertise(peer: &mut Peer, tables: &mut Tables, hold_end: bool) {
    let Peer { session: Some(session), connections, rib_out, config, .. } = peer else { return };
    let Some(connection) = &mut connections[session.slot.index()] else { return };
    if !connection.has_room() {
        return;
    }
    let mut sent = 0;
    let mut batch = Batch::default();
    let mut cache = ExportCache::default();
    for prefix in rib_out.take(EXPORT_SLICE) {
        let attributes = tables.loc_rib.best(&prefix).and_then(|best| {
            let heard = config.export.apply(&prefix, &best.attributes)?;
            cache.export(&prefix, best, heard, &session.target, &mut tables.interner)
        });
        match rib_out.set(prefix, attributes.clone()) {
            Send::Nothing => {}
            Send::Withdraw => {
                batch.withdrawn[Family::of(&prefix).index()].push(Nlri::of(prefix));
            }
            Send::Announce => {
                if let Some(attributes) = attributes {
                    batch.announce(&attributes, Nlri::of(prefix));
                }
            }
        }
    }
    let out = connection.output();
    for family in Family::ALL {
        let withdrawn = &batch.withdrawn[family.index()];
        sent += encode::withdraw(family, withdrawn, session.encode, out);
    }
    for (attributes, family, nlri) in batch.announced {
        match encode::announce(&attributes, family, &nlri, session.encode, out) {
            Ok(count) => sent += count,
            Err(error) => skipped(&config.name, family, &nlri, error),
        }
    }
    for family in Family::ALL {
        let index = family.index();
        if session.negotiated.families[index]
            && !session.told_all[index]
            && !rib_out.pending()
            && !hold_end
        {
            encode::end_of_rib(family, out);
            session.told_all[index] = true;
            sent += 1;
        }
    }
    peer.messages_out += u64::try_from(sent).unwrap_or(0);
}

fn skipped(name: &str, family: Family, nlri: &[Nlri], error: EncodeError) {
    tracing::warn!(peer = %name, %family, routes = nlri.len(), %error, "routes cannot be sent");
}

/// Exported attribute sets of one slice: the same set heard from the same source is told alike.
#[derive(Default)]
struct ExportCache {
    known: AHashMap<(*const PathAttributes, u32, Family), Option<Arc<PathAttributes>>>,
}

impl ExportCache {
    fn export(
        &mut self,
        prefix: &IpNet,
        best: &Candidate,
        heard: Cow<'_, PathAttributes>,
        target: &Target,
        interner: &mut Interner,
    ) -> Option<Arc<PathAttributes>> {
        let family = Family::of(prefix);
        let mut export = |heard: &PathAttributes| {
            adj_rib_out::export(family, &best.source, heard, target).map(|set| interner.intern(set))
        };
        match heard {
            Cow::Owned(changed) => export(&changed),
            Cow::Borrowed(heard) => {
                let key = (Arc::as_ptr(&best.attributes), best.source.peer, family);
                self.known.entry(key).or_insert_with(|| export(heard)).clone()
            }
        }
    }
}
