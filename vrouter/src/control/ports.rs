//! Which ports does the router have, and what are they for?

use fastpath::io::Framing;
use fastpath::limits;
use fastpath::packet::PortId;
use fastpath::tables::EndpointId;
use fastpath::tables::port::{PortEntry, PortRole};
use std::collections::BTreeMap;

/// One port as operators see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// `cali…`, `tunl0`, `vrouter-fwd`, or the uplink's interface name.
    pub name: String,
    /// What the workers see.
    pub entry: PortEntry,
    /// The kernel's interface index, where the device is in the node's namespace.
    pub link: Option<u32>,
    /// How packets are moved: `tun`, `xdp native`, `xdp generic`, `packet socket`.
    pub mode: String,
    /// Why not a better mode, and other things worth knowing.
    pub notes: Vec<String>,
}

/// All ports, by id.
#[derive(Debug, Default)]
pub struct Ports {
    slots: Vec<Option<Port>>,
    by_name: BTreeMap<String, PortId>,
}

/// No port is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node has all {} ports it may have", limits::PORTS)]
pub struct Full;

impl Ports {
    /// Adds a port; an id that was free is used again, the lowest first.
    pub fn add(&mut self, port: Port) -> Result<PortId, Full> {
        let index = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if index >= limits::PORTS {
            return Err(Full);
        }
        let id = PortId(index as u16);
        self.by_name.insert(port.name.clone(), id);
        if index == self.slots.len() {
            self.slots.push(Some(port));
        } else {
            self.slots[index] = Some(port);
        }
        Ok(id)
    }

    /// Takes a port away.
    pub fn remove(&mut self, id: PortId) -> Option<Port> {
        let port = self.slots.get_mut(usize::from(id.0))?.take()?;
        self.by_name.remove(&port.name);
        Some(port)
    }

    /// One port.
    pub fn get(&self, id: PortId) -> Option<&Port> {
        self.slots.get(usize::from(id.0))?.as_ref()
    }

    /// One port, to be changed.
    pub fn get_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.slots.get_mut(usize::from(id.0))?.as_mut()
    }

    /// The port of that name.
    pub fn named(&self, name: &str) -> Option<PortId> {
        self.by_name.get(name).copied()
    }

    /// Every port, by id.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &Port)> {
        self.slots.iter().enumerate().filter_map(|(i, p)| p.as_ref().map(|p| (PortId(i as u16), p)))
    }

    /// What the workers see, indexed by id.
    pub fn entries(&self) -> Vec<PortEntry> {
        self.slots.iter().map(|p| p.as_ref().map_or_else(PortEntry::default, |p| p.entry)).collect()
    }

    /// The ports that hang on interfaces of the node, by interface index.
    pub fn uplinks(&self) -> BTreeMap<u32, PortId> {
        self.iter()
            .filter(|(_, p)| p.entry.role == PortRole::Uplink)
            .filter_map(|(id, p)| Some((p.link?, id)))
            .collect()
    }
}

/// The endpoint that hangs on a pod port: there is exactly one, so it shares the port's number.
pub fn endpoint_of(port: PortId) -> EndpointId {
    EndpointId(u32::from(port.0))
}

/// A port that is read and written as plain IP packets.
pub fn ip_entry(role: PortRole, mtu: u16) -> PortEntry {
    PortEntry { role, framing: Framing::Ip, mtu, ..PortEntry::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_used_again_and_names_follow() {
        let mut ports = Ports::default();
        let port = |name: &str| Port {
            name: name.into(),
            entry: ip_entry(PortRole::HostLocal, 1480),
            link: None,
            mode: "tun".into(),
            notes: Vec::new(),
        };
        let a = ports.add(port("a")).expect("free");
        let b = ports.add(port("b")).expect("free");
        assert_eq!((a, b), (PortId(0), PortId(1)));
        ports.remove(a);
        assert_eq!(ports.named("a"), None);
        assert_eq!(ports.entries()[0].role, PortRole::Unused);
        assert_eq!(ports.add(port("c")).expect("free"), PortId(0));
        assert_eq!(ports.named("c"), Some(PortId(0)));
    }
}
