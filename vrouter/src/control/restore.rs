//! What does a node take over from the forwarder before it? Doors, pods' devices, and their state.

use super::Control;
use super::workloads::{Attach, Record, Records};
use crate::api::{Key, Kind, Resource};
use crate::cni::handler::pod_interface;
use crate::config::PodPort;
use crate::datastore;
use crate::host::netns::NetNs;
use crate::host::pod;
use crossbeam::channel::bounded;
use std::os::fd::{AsFd, OwnedFd};

impl Control {
    /// Opens the doors to the kernel and every recorded pod's port: descriptors from the holder
    /// where it has them, else the devices are taken over or made anew.
    pub fn take_over(&mut self, records: &Records) -> anyhow::Result<()> {
        self.open_doors()?;
        for record in records.all()? {
            let name = record.port.clone();
            match self.restore(record) {
                Ok(how) => tracing::info!(port = %name, how, "a pod's port is back"),
                Err(error) => tracing::warn!(port = %name, "a pod's port stays closed: {error:#}"),
            }
        }
        Ok(())
    }

    fn restore(&mut self, mut record: Record) -> anyhow::Result<&'static str> {
        let endpoint = Key::namespaced(
            Kind::WorkloadEndpoint,
            record.namespace.clone(),
            record.endpoint.clone(),
        );
        let resource = match self.store.get(&endpoint) {
            Ok(resource @ Resource::WorkloadEndpoint(_)) => resource,
            Ok(_) | Err(datastore::Error::NotFound(_)) => {
                anyhow::bail!("{endpoint} is not in the datastore")
            }
            Err(error) => return Err(error.into()),
        };
        let (tun, how) = match record.kind {
            PodPort::Tun => {
                let (fd, how) = self.restore_tun(&record)?;
                (Some(fd), how)
            }
            PodPort::Veth => {
                // A veth has no descriptor to lose; its host end is opened by name.
                let link = self.netlink.link(&record.port)?;
                let Some(link) = link else { anyhow::bail!("its veth is gone") };
                record.host_link = Some(link.index);
                (None, "its veth is still there")
            }
        };
        let (reply, _nobody_waits) = bounded(1);
        self.attach(Attach { record, tun, resource, reply });
        Ok(how)
    }

    fn restore_tun(&mut self, record: &Record) -> anyhow::Result<(OwnedFd, &'static str)> {
        let kept = format!("tun:{}", record.port);
        // An open descriptor would keep the namespace of a pod alive that is gone.
        if let Err(error) = NetNs::open(&record.netns) {
            if error.is_gone() {
                self.keeper.release(&kept);
            }
            return Err(error.into());
        }
        if let Some(fd) = self.keeper.take_over(&kept) {
            return Ok((fd, "the holder kept its descriptor"));
        }
        let namespace = NetNs::open(&record.netns)?;
        let fd = pod::reattach_tun(&namespace, &pod_interface(record))?;
        self.keeper.keep(&kept, fd.as_fd());
        Ok((fd, "its device was taken over"))
    }
}
