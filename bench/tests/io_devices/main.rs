//! Do packets pass real devices as the queues promise? TUN, `AF_XDP` and packet sockets, each in
//! network namespaces of its own.

mod frames;
mod net;
mod tun;
mod uplink;
