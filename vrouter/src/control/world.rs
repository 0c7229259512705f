//! What does the datastore hold? Every object, by kind, as last seen.

use crate::api::{self, ApiObject, Key, Resource};
use ipnet::{IpNet, Ipv4Net};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// The datastore's objects as last seen.
#[derive(Debug, Default)]
pub struct World {
    me: String,
    resources: BTreeMap<Key, Resource>,
}

/// A node as routing sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address with its subnet's prefix length (`spec.bgp.ipv4Address`).
    pub v4: Option<Ipv4Net>,
    /// The same for IPv6.
    pub v6: Option<IpNet>,
    /// Its own AS number, where it differs from the cluster's.
    pub as_number: Option<u32>,
    /// A route reflector's cluster id.
    pub cluster_id: Option<Ipv4Addr>,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

impl World {
    /// An empty world, seen from the node called `me`.
    pub fn new(me: impl Into<String>) -> Self {
        Self { me: me.into(), resources: BTreeMap::new() }
    }

    /// The node it is seen from.
    pub fn me(&self) -> &str {
        &self.me
    }

    /// Takes an object in; false if it was known just so.
    pub fn upsert(&mut self, resource: Resource) -> bool {
        let key = resource.key();
        if self.resources.get(&key) == Some(&resource) {
            return false;
        }
        self.resources.insert(key, resource);
        true
    }

    /// Forgets an object.
    pub fn remove(&mut self, key: &Key) -> Option<Resource> {
        self.resources.remove(key)
    }

    /// One object of any kind.
    pub fn get(&self, key: &Key) -> Option<&Resource> {
        self.resources.get(key)
    }

    /// Every object of one kind, by name.
    pub fn all<T: ApiObject + 'static>(&self) -> impl Iterator<Item = &T> {
        self.resources
            .range(Key::new(T::KIND, "")..)
            .take_while(|(key, _)| key.kind == T::KIND)
            .filter_map(|(_, resource)| T::from_resource_ref(resource))
    }

    /// One cluster-wide object.
    pub fn named<T: ApiObject + 'static>(&self, name: &str) -> Option<&T> {
        T::from_resource_ref(self.resources.get(&Key::new(T::KIND, name))?)
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.all::<api::Node>().map(|node| {
            let bgp = node.spec.bgp.as_ref();
            let v4 = bgp.and_then(|b| b.ipv4_address.as_ref()).and_then(|c| match c.0 {
                IpNet::V4(net) => Some(net),
                IpNet::V6(_) => None,
            });
            NodeView {
                name: &node.metadata.name,
                v4,
                v6: bgp.and_then(|b| b.ipv6_address.as_ref()).map(|c| c.0),
                as_number: bgp.and_then(|b| b.as_number).map(|a| a.0),
                cluster_id: bgp.and_then(|b| b.route_reflector_cluster_id),
                labels: &node.metadata.labels,
            }
        })
    }

    /// The pool an address belongs to.
    pub fn pool_of(&self, address: IpAddr) -> Option<&api::IpPool> {
        self.all::<api::IpPool>().find(|pool| pool.spec.cidr.0.contains(&address))
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Nothing seen yet.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }
}
