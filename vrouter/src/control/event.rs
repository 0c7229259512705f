//! What can wake the control loop? One closed list.

use super::workloads::{Attach, Detach, Record};
use crate::ctl::request::{Reply, Request};
use crate::datastore::WatchEvent;
use crate::host::monitor::KernelEvent;
use crossbeam::channel::Sender;
use slowpath::bgp::SpeakerEvent;

/// Everything that can wake the control loop.
#[derive(Debug)]
pub enum Event {
    /// The datastore changed.
    Datastore(WatchEvent),
    /// The kernel's networking changed.
    Kernel(Vec<KernelEvent>),
    /// BGP has news.
    Bgp(SpeakerEvent),
    /// CNI: a pod's interface is made, and waits for its generation.
    Attach(Box<Attach>),
    /// CNI: a pod's interface goes away.
    Detach(Detach),
    /// A pod's network namespace is gone, though nobody has detached the pod.
    NetnsGone(Box<Record>),
    /// An operator asks.
    Operator(Request, Sender<Reply>),
    /// Packets wait in the punt ring.
    Punts,
    /// The node's tunnel address was allocated, or could not be.
    TunnelAddress(anyhow::Result<Option<std::net::Ipv4Addr>>),
    /// Stop, in good order.
    Stop,
}
