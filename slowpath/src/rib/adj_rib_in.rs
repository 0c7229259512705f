//! What has one peer told us, before our filters?
//!
//! Routes carry the epoch (session count) they were last heard in, so that after a graceful restart
//! the stale ones are those of an older epoch, without touching the table when the session ends.

use super::route::{Family, PathAttributes};
use ahash::AHashMap;
use ipnet::IpNet;
use std::sync::Arc;

/// A received route's key: prefix, and the path identifier the peer chose (0 without ADD-PATH).
pub type RouteKey = (IpNet, u32);

/// The routes one peer has announced.
#[derive(Debug, Default)]
pub struct AdjRibIn {
    routes: AHashMap<RouteKey, Received>,
    accepted: usize,
    epoch: u32,
    sweep: Vec<RouteKey>,
}

/// A received route.
#[derive(Debug, Clone)]
pub struct Received {
    /// As received, before the import filter.
    pub attributes: Arc<PathAttributes>,
    /// It passed the import filter and takes part in the decision.
    pub accepted: bool,
    epoch: u32,
}

impl AdjRibIn {
    /// A new session begins: everything held so far is stale until heard again.
    pub fn begin_epoch(&mut self) {
        self.epoch += 1;
    }

    /// Stores a route, whether accepted or not; `true` if it is new, differs from before, or was last
    /// heard in an earlier session.
    pub fn insert(
        &mut self,
        key: RouteKey,
        attributes: Arc<PathAttributes>,
        accepted: bool,
    ) -> bool {
        let route = Received { attributes, accepted, epoch: self.epoch };
        self.accepted += usize::from(accepted);
        match self.routes.insert(key, route.clone()) {
            Some(old) => {
                self.accepted -= usize::from(old.accepted);
                old.accepted != accepted
                    || old.epoch != self.epoch
                    || !Arc::ptr_eq(&old.attributes, &route.attributes)
            }
            None => true,
        }
    }

    /// Records what the import filter says now about a route held.
    pub fn set_accepted(&mut self, key: &RouteKey, accepted: bool) {
        if let Some(route) = self.routes.get_mut(key) {
            self.accepted -= usize::from(route.accepted);
            self.accepted += usize::from(accepted);
            route.accepted = accepted;
        }
    }

    /// Forgets a route; `true` if it was there.
    pub fn remove(&mut self, key: &RouteKey) -> bool {
        let old = self.routes.remove(key);
        self.accepted -= usize::from(old.as_ref().is_some_and(|route| route.accepted));
        old.is_some()
    }

    /// Whether the peer has announced this.
    pub fn contains(&self, key: &RouteKey) -> bool {
        self.routes.contains_key(key)
    }

    /// Prefixes received.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether nothing was received.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Of these, how many passed the import filter.
    pub fn accepted(&self) -> usize {
        self.accepted
    }

    /// Every route, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&RouteKey, &Received)> {
        self.routes.iter()
    }

    /// Puts the stale routes of `family` (`None` = all) on the list to be removed by and by:
    /// with `all`, the routes of the present epoch too.
    pub fn start_sweep(&mut self, family: Option<Family>, all: bool) {
        let epoch = self.epoch;
        let doomed = self.routes.iter().filter(|((prefix, _), route)| {
            (all || route.epoch < epoch) && family.is_none_or(|f| f == Family::of(prefix))
        });
        let doomed: Vec<RouteKey> = doomed.map(|(key, _)| *key).collect();
        if all {
            // What the next session brings must survive this sweep.
            self.epoch += 1;
        }
        self.sweep.extend(doomed);
    }

    /// Removes up to `limit` of the routes being swept that were not heard again; returns them.
    pub fn sweep(&mut self, limit: usize) -> Vec<RouteKey> {
        let from = self.sweep.len().saturating_sub(limit);
        let mut doomed = self.sweep.split_off(from);
        doomed.retain(|key| self.routes.get(key).is_some_and(|route| route.epoch < self.epoch));
        for key in &doomed {
            self.remove(key);
        }
        doomed
    }

    /// Whether a sweep is under way.
    pub fn sweeping(&self) -> bool {
        !self.sweep.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn key(text: &str) -> RouteKey {
        (text.parse().expect("a prefix"), 0)
    }

    #[test]
    fn only_what_was_not_heard_again_is_swept() {
        let attributes = Arc::new(PathAttributes::local(IpAddr::from([10, 0, 0, 1])));
        let mut rib = AdjRibIn::default();
        rib.begin_epoch();
        for text in ["10.0.0.0/24", "10.0.1.0/24", "fd00::/64"] {
            rib.insert(key(text), Arc::clone(&attributes), true);
        }
        rib.begin_epoch();
        assert!(rib.insert(key("10.0.0.0/24"), Arc::clone(&attributes), true), "of a new session");
        assert!(!rib.insert(key("10.0.0.0/24"), Arc::clone(&attributes), true), "unchanged");
        rib.start_sweep(Some(Family::Ipv4), false);
        assert!(rib.sweeping());
        assert_eq!(rib.sweep(10), [key("10.0.1.0/24")]);
        assert_eq!((rib.len(), rib.accepted()), (2, 2));
    }

    #[test]
    fn a_full_sweep_goes_slice_by_slice_and_spares_what_comes_meanwhile() {
        let attributes = Arc::new(PathAttributes::local(IpAddr::from([10, 0, 0, 1])));
        let mut rib = AdjRibIn::default();
        rib.begin_epoch();
        for number in 0..10_u8 {
            let prefix = key(&format!("10.0.{number}.0/24"));
            rib.insert(prefix, Arc::clone(&attributes), number % 2 == 0);
        }
        rib.start_sweep(None, true);
        rib.insert(key("10.0.3.0/24"), Arc::clone(&attributes), true);
        let mut removed = 0;
        while rib.sweeping() {
            removed += rib.sweep(3).len();
        }
        assert_eq!((removed, rib.len(), rib.accepted()), (9, 1, 1));
    }
}
