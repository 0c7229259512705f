//! What becomes of an offload header that is wrong? A queue can't drop with a reason, so it hands
//! the packet on with one that ingress refuses for that very reason.

use crate::outcome::DropReason;
use crate::packet::{Gso, Offload};
use crate::wire::offload;
pub(super) use crate::wire::offload::{LEN, encode};

/// Points outside any packet.
const OUT_OF_BOUNDS: Offload = Offload {
    needs_checksum: true,
    gso: Gso::None,
    gso_size: 0,
    header_len: 0,
    csum_start: u16::MAX,
    csum_offset: u16::MAX,
};

/// A super-packet whose checksum is said to be finished: there is no such thing.
const CONTRADICTION: Offload = Offload {
    needs_checksum: false,
    gso: Gso::Udp,
    gso_size: 0,
    header_len: 0,
    csum_start: 0,
    csum_offset: 0,
};

/// Reads the header in front of `packet`.
pub(super) fn decode(mut header: [u8; LEN], packet: &[u8]) -> Offload {
    match offload::decode(&header, packet) {
        Ok(offload) => offload,
        Err(DropReason::OffloadBounds) => OUT_OF_BOUNDS,
        Err(DropReason::OffloadSegmentSize) => {
            // Everything but the size, which stays too small.
            header[4..6].copy_from_slice(&1_u16.to_ne_bytes());
            offload::decode(&header, packet).unwrap_or(OUT_OF_BOUNDS)
        }
        Err(_) => CONTRADICTION,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::headers;
    use etherparse::PacketBuilder;

    #[test]
    fn a_wrong_header_is_refused_by_validation_for_its_own_reason() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut packet, &[0; 2_000])
            .expect("fits");
        let parsed = headers::parse(&packet).expect("a packet");
        let header = |flags: u8, kind: u8, size: u16, start: u16, offset: u16| {
            let mut header = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
            for (at, value) in [(4, size), (6, start), (8, offset)] {
                header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
            }
            header
        };
        let cases = [
            (header(1, 5, 1_000, 20, 6), Ok(())),
            (header(0, 0, 0, 0, 0), Ok(())),
            (header(1, 5, 0, 20, 6), Err(DropReason::OffloadSegmentSize)),
            (header(1, 5, 255, 20, 6), Err(DropReason::OffloadSegmentSize)),
            (header(1, 0, 0, 3_000, 6), Err(DropReason::OffloadBounds)),
            (header(0, 5, 1_000, 0, 0), Err(DropReason::OffloadKind)),
            (header(1, 3, 1_000, 20, 6), Err(DropReason::OffloadKind)),
            (header(1, 1, 1_000, 20, 6), Err(DropReason::OffloadKind)),
        ];
        for (header, expected) in cases {
            let offload = decode(header, &packet);
            assert_eq!(offload::validate(&offload, &parsed, &packet), expected, "{header:?}");
        }
    }
}
