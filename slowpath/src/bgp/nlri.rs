//! How do prefixes stand on the wire (RFC 4271 §4.3, RFC 7911 §3)?

use super::bytes::Reader;
use crate::rib::route::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A prefix with its path identifier (0 where ADD-PATH is not in use).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nlri {
    /// The prefix; host bits are zero.
    pub prefix: IpNet,
    /// The path identifier.
    pub path_id: u32,
}

impl Nlri {
    /// A prefix without path identifier.
    pub fn of(prefix: IpNet) -> Self {
        Self { prefix, path_id: 0 }
    }
}

/// Reads prefixes to the end of `reader`; `None` if one is longer than its family or than the bytes
/// (RFC 7606 §5.3). Prefixes that no router may route are left out (RFC 4271 §6.3: logged, ignored).
pub(crate) fn decode(mut reader: Reader<'_>, family: Family, add_path: bool) -> Option<Vec<Nlri>> {
    let mut list = Vec::with_capacity(reader.len() / 4);
    while !reader.is_empty() {
        let path_id = if add_path { reader.u32()? } else { 0 };
        let length = reader.u8()?;
        let octets = reader.take(usize::from(length).div_ceil(8))?;
        let prefix = match family {
            Family::Ipv4 => {
                let mut address = [0; 4];
                address.get_mut(..octets.len())?.copy_from_slice(octets);
                IpNet::V4(Ipv4Net::new(Ipv4Addr::from(address), length).ok()?.trunc())
            }
            Family::Ipv6 => {
                let mut address = [0; 16];
                address.get_mut(..octets.len())?.copy_from_slice(octets);
                IpNet::V6(Ipv6Net::new(Ipv6Addr::from(address), length).ok()?.trunc())
            }
        };
        if routable(&prefix) {
            list.push(Nlri { prefix, path_id });
        }
    }
    Some(list)
}

fn routable(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(v4) => {
            let [first, ..] = v4.addr().octets();
            v4.prefix_len() == 0 || (first != 127 && !(224..240).contains(&first))
        }
        IpNet::V6(v6) => {
            let address = v6.addr();
            let host_only = v6.prefix_len() == 128 && address.is_loopback();
            v6.prefix_len() == 0
                || !(host_only || address.is_multicast() || address.is_unicast_link_local())
        }
    }
}

/// Octets [`encode`] will append for `prefix`.
pub(crate) fn encoded_len(prefix: &IpNet, add_path: bool) -> usize {
    1 + usize::from(prefix.prefix_len()).div_ceil(8) + if add_path { 4 } else { 0 }
}

/// Appends one prefix.
pub(crate) fn encode(nlri: &Nlri, add_path: bool, out: &mut Vec<u8>) {
    if add_path {
        out.extend_from_slice(&nlri.path_id.to_be_bytes());
    }
    let length = nlri.prefix.prefix_len();
    out.push(length);
    let count = usize::from(length).div_ceil(8);
    match nlri.prefix {
        IpNet::V4(v4) => out.extend_from_slice(&v4.addr().octets()[..count]),
        IpNet::V6(v6) => out.extend_from_slice(&v6.addr().octets()[..count]),
    }
}
