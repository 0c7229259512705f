//! Which pods hang on this node's router, and what is kept of them for a restart?

use super::convert::granted_sources;
use crate::api::{Key, Kind, Resource};
use crate::config::PodPort;
use fastpath::packet::PortId;
use ipnet::IpNet;
use policy::model::WorkloadKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What a restart must know of a pod's interface; one file each in the run directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// The `WorkloadEndpoint`'s namespace.
    pub namespace: String,
    /// The `WorkloadEndpoint`'s name.
    pub endpoint: String,
    /// The pod's name.
    pub pod: String,
    /// The container runtime's id.
    pub container_id: String,
    /// The pod's network namespace.
    pub netns: PathBuf,
    /// The interface's name in the pod.
    pub interface: String,
    /// The router's name of the port (`cali…`).
    pub port: String,
    /// What it is made of.
    pub kind: PodPort,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// MTU in bytes.
    pub mtu: u16,
    /// The pod's MAC address, on a veth.
    #[serde(default)]
    pub mac: [u8; 6],
    /// The host end's interface index, of a veth.
    #[serde(default)]
    pub host_link: Option<u32>,
    /// The pod's kernel may forward.
    #[serde(default)]
    pub ip_forwarding: bool,
}

/// A pod's port is made and wants to be in the tables.
#[derive(Debug)]
pub struct Attach {
    /// What it is.
    pub record: Record,
    /// The TUN descriptor; `None` for a veth, which is opened by its name.
    pub tun: Option<OwnedFd>,
    /// Its `WorkloadEndpoint`, as stored.
    pub resource: Resource,
    /// Told when every worker runs a generation that holds the pod and its policy.
    pub reply: crossbeam::channel::Sender<Result<(), AttachError>>,
}

/// Why a pod's port is not in the tables.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The port and its descriptor don't go together.
    #[error("a TUN port needs its descriptor, a veth none")]
    Descriptor,
    /// No port is free.
    #[error(transparent)]
    Full(#[from] super::ports::Full),
    /// The veth's host end can't be opened.
    #[error(transparent)]
    Device(#[from] fastpath::io::uplink::UplinkError),
    /// A worker did not take the tables.
    #[error("a worker did not take the pod's tables in time")]
    Late,
}

/// A pod's port goes away.
#[derive(Debug)]
pub struct Detach {
    /// The router's name of the port.
    pub port: String,
    /// Told when the port is closed: whether there was one.
    pub reply: crossbeam::channel::Sender<bool>,
}

/// One attached pod.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its name for policy.
    pub key: WorkloadKey,
    /// Its `WorkloadEndpoint`.
    pub resource: Key,
    /// Its port.
    pub port: PortId,
    /// What a restart must know.
    pub record: Record,
    /// Further sources it may send from.
    pub granted: Vec<IpNet>,
    /// The pod's MAC address, on a veth.
    pub mac: [u8; 6],
}

impl Workload {
    /// The sources it may use.
    pub fn sources(&self) -> Vec<IpNet> {
        let own = self.record.addresses.iter().copied().map(IpNet::from);
        own.chain(self.granted.iter().copied()).collect()
    }
}

/// The attached pods, by port name.
#[derive(Debug, Default)]
pub struct Workloads {
    by_port: BTreeMap<String, Workload>,
}

impl Workloads {
    /// Adds or replaces one.
    pub fn insert(&mut self, workload: Workload) {
        self.by_port.insert(workload.record.port.clone(), workload);
    }

    /// Takes one away.
    pub fn remove(&mut self, port: &str) -> Option<Workload> {
        self.by_port.remove(port)
    }

    /// Takes over what an endpoint's object grants its pod; true if that is something else now.
    pub fn grant(&mut self, endpoint: &Resource) -> bool {
        if endpoint.kind() != Kind::WorkloadEndpoint {
            return false;
        }
        let key = endpoint.key();
        let Some(workload) = self.by_port.values_mut().find(|w| w.resource == key) else {
            return false;
        };
        let granted = granted_sources(endpoint);
        let changed = workload.granted != granted;
        workload.granted = granted;
        changed
    }

    /// One by the port's name.
    pub fn get(&self, port: &str) -> Option<&Workload> {
        self.by_port.get(port)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Workload> {
        self.by_port.values()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.by_port.len()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.by_port.is_empty()
    }
}

/// The records' directory.
#[derive(Clone, Debug)]
pub struct Records {
    directory: PathBuf,
}

impl Records {
    /// Opens (and makes) the directory `endpoints` in the run directory.
    pub fn open(run_directory: &Path) -> io::Result<Self> {
        let directory = run_directory.join("endpoints");
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    fn path(&self, port: &str) -> PathBuf {
        self.directory.join(format!("{port}.json"))
    }

    /// Keeps a record: written beside and renamed, so that a crash leaves the old or the new one.
    pub fn put(&self, record: &Record) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.persist(self.path(&record.port)).map_err(|e| e.error)?;
        Ok(())
    }

    /// One record, if there is one.
    pub fn get(&self, port: &str) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.path(port)).ok()?).ok()
    }

    /// Forgets a record.
    pub fn remove(&self, port: &str) {
        let _ = fs::remove_file(self.path(port));
    }

    /// Every record; what can't be read is named, and left for a person to look at.
    pub fn all(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match serde_json::from_slice(&fs::read(&path)?) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "not an endpoint's record");
                }
            }
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_kept_and_broken_ones_passed_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let records = Records::open(directory.path()).expect("opened");
        let record = Record {
            namespace: "default".into(),
            endpoint: "n1-k8s-web-eth0".into(),
            pod: "web".into(),
            container_id: "c1".into(),
            netns: "/run/netns/web".into(),
            interface: "eth0".into(),
            port: "cali12345678901".into(),
            kind: PodPort::Tun,
            addresses: vec![[192, 168, 0, 2].into()],
            mtu: 1480,
            mac: [0; 6],
            host_link: None,
            ip_forwarding: false,
        };
        records.put(&record).expect("written");
        fs::write(directory.path().join("endpoints/broken.json"), "{").expect("written");
        assert_eq!(records.get(&record.port), Some(record.clone()));
        assert_eq!(records.all().expect("read"), std::slice::from_ref(&record));
        records.remove(&record.port);
        assert!(records.all().expect("read").is_empty());
    }
}
