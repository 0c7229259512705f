//! What does a device's offload header (virtio network header) say, and does it fit its packet?

use super::checksum;
use super::headers::{Family, Fragment, Headers};
use super::protocol;
use crate::limits::GSO_SIZE_MIN;
use crate::outcome::DropReason;
use crate::packet::{Gso, Offload};

/// Bytes of the header as TUN and packet sockets use it.
pub const LEN: usize = 10;

/// `flags`: the transport checksum is left to the receiver of this header.
const NEEDS_CSUM: u8 = 1;
/// `gso_type` values (virtio 1.3 §5.1.6).
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// `gso_type`: the first segment carries CWR. The packet's own TCP flags say so as well.
const GSO_ECN: u8 = 0x80;

/// Reads the header in front of `packet` (the bytes behind it), fields in the machine's byte
/// order. Checks what can be checked without parsing: known kinds, offsets within the packet.
#[inline]
pub fn decode(header: &[u8; LEN], packet: &[u8]) -> Result<Offload, DropReason> {
    let [flags, kind, h0, h1, g0, g1, s0, s1, o0, o1] = *header;
    let needs_checksum = flags & NEEDS_CSUM != 0;
    let mut offload = Offload { needs_checksum, ..Offload::default() };
    if needs_checksum {
        offload.csum_start = u16::from_ne_bytes([s0, s1]);
        offload.csum_offset = u16::from_ne_bytes([o0, o1]);
        if checksum_end(&offload) > packet.len() {
            return Err(DropReason::OffloadBounds);
        }
    }
    offload.gso = match kind & !GSO_ECN {
        GSO_NONE => return Ok(offload),
        GSO_TCPV4 => Gso::Tcp4,
        GSO_TCPV6 => Gso::Tcp6,
        GSO_UDP_L4 => Gso::Udp,
        _ => return Err(DropReason::OffloadKind),
    };
    // virtio 1.3 §5.1.6.2: a segmented packet leaves its checksum to who segments.
    if !needs_checksum {
        return Err(DropReason::OffloadKind);
    }
    offload.gso_size = u16::from_ne_bytes([g0, g1]);
    offload.header_len = u16::from_ne_bytes([h0, h1]);
    if offload.gso_size == 0 {
        return Err(DropReason::OffloadSegmentSize);
    }
    if usize::from(offload.header_len) > packet.len() {
        return Err(DropReason::OffloadBounds);
    }
    Ok(offload)
}

/// Writes the header that goes in front of a packet.
#[inline]
pub fn encode(offload: &Offload) -> [u8; LEN] {
    let kind = match offload.gso {
        Gso::None => GSO_NONE,
        Gso::Tcp4 => GSO_TCPV4,
        Gso::Tcp6 => GSO_TCPV6,
        Gso::Udp => GSO_UDP_L4,
    };
    let mut header = [0; LEN];
    header[0] = if offload.needs_checksum { NEEDS_CSUM } else { 0 };
    header[1] = kind;
    header[2..4].copy_from_slice(&offload.header_len.to_ne_bytes());
    header[4..6].copy_from_slice(&offload.gso_size.to_ne_bytes());
    header[6..8].copy_from_slice(&offload.csum_start.to_ne_bytes());
    header[8..10].copy_from_slice(&offload.csum_offset.to_ne_bytes());
    header
}

/// Holds an offload header that came with a packet (`ip` starts with its IP header) against the
/// packet's own headers. What passes may be segmented, finished and rewritten without a look back.
///
/// A checksum of something deeper inside the packet (a pod's own tunnel) is left to go its way.
#[inline]
pub fn validate(offload: &Offload, headers: &Headers, ip: &[u8]) -> Result<(), DropReason> {
    if !offload.needs_checksum {
        return match offload.gso {
            Gso::None => Ok(()),
            _ => Err(DropReason::OffloadKind),
        };
    }
    if checksum_end(offload) > ip.len().min(headers.total_len as usize) {
        return Err(DropReason::OffloadBounds);
    }
    if headers.fragment != Fragment::None {
        return Err(DropReason::OffloadKind);
    }
    let start = usize::from(offload.csum_start);
    let own = usize::from(headers.l3_len);
    if start < own || (start > own && start < headers.payload_offset()) {
        return Err(DropReason::OffloadBounds);
    }
    if start == own {
        let known = checksum::field_offset(headers.family, headers.protocol);
        if known.is_some_and(|at| at != usize::from(offload.csum_offset)) {
            return Err(DropReason::OffloadKind);
        }
    }
    let fits = match (offload.gso, headers.family, headers.protocol) {
        (Gso::None, ..) => return Ok(()),
        (Gso::Tcp4, Family::V4, protocol::TCP)
        | (Gso::Tcp6, Family::V6, protocol::TCP)
        | (Gso::Udp, _, protocol::UDP) => start == own,
        _ => false,
    };
    if !fits {
        return Err(DropReason::OffloadKind);
    }
    if offload.gso_size < GSO_SIZE_MIN {
        return Err(DropReason::OffloadSegmentSize);
    }
    Ok(())
}

/// The packet's own transport checksum is a partial one (not that of something deeper inside).
#[inline]
pub fn is_partial(offload: &Offload, headers: &Headers) -> bool {
    offload.needs_checksum && offload.csum_start == headers.l3_len
}

/// Behind the last byte of the checksum field.
#[inline]
fn checksum_end(offload: &Offload) -> usize {
    usize::from(offload.csum_start) + usize::from(offload.csum_offset) + 2
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
