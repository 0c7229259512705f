//! Does a real `vrouter` node do what it promises, on real devices? One or two nodes on a bridge,
//! pods attached through the CNI plugin, traffic, and every way of disturbing them.

mod addresses;
mod bad_input;
mod bgp;
mod cni;
mod datastore;
mod fragments;
mod hosts;
mod ipv6;
mod kernel;
mod killed;
mod pod_ports;
mod policy;
mod restart;
mod setup;
mod underlay;
mod upheaval;
mod uplinks;
mod watching;
mod workers;
