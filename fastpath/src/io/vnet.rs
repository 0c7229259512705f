//! What do the ten bytes say that TUN and packet sockets put in front of every packet?

use crate::packet::{Gso, Offload};

/// Bytes of the header (without the buffer count that newer devices may add).
pub(super) const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const UDP_L4: u8 = 5;
const ECN: u8 = 0x80;

/// Reads a header. Nothing of it is trusted here: ingress validates it against its packet, and a
/// kind this router does not know becomes one that no validation passes (no segment size).
pub(super) fn decode(header: [u8; LEN]) -> Offload {
    let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let (gso, gso_size) = match header[1] & !ECN {
        0 => (Gso::None, 0),
        TCP4 => (Gso::Tcp4, field(4)),
        TCP6 => (Gso::Tcp6, field(4)),
        UDP_L4 => (Gso::Udp, field(4)),
        _ => (Gso::Udp, 0),
    };
    let needs_checksum = header[0] & NEEDS_CSUM != 0;
    let (csum_start, csum_offset) = if needs_checksum { (field(6), field(8)) } else { (0, 0) };
    Offload { needs_checksum, gso, gso_size, header_len: field(2), csum_start, csum_offset }
}

/// Writes a header.
pub(super) fn encode(offload: &Offload) -> [u8; LEN] {
    let mut header = [0; LEN];
    let mut put = |at: usize, value: u16| {
        header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    };
    if offload.gso != Gso::None {
        put(2, offload.header_len);
        put(4, offload.gso_size);
    }
    if offload.needs_checksum {
        put(6, offload.csum_start);
        put(8, offload.csum_offset);
        header[0] = NEEDS_CSUM;
    }
    header[1] = match offload.gso {
        Gso::None => 0,
        Gso::Tcp4 => TCP4,
        Gso::Tcp6 => TCP6,
        Gso::Udp => UDP_L4,
    };
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_written_is_read_back() {
        for gso in [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp] {
            for needs_checksum in [false, true] {
                let is_gso = gso != Gso::None;
                let offload = Offload {
                    needs_checksum,
                    gso,
                    gso_size: if is_gso { 1448 } else { 0 },
                    header_len: if is_gso { 52 } else { 0 },
                    csum_start: if needs_checksum { 20 } else { 0 },
                    csum_offset: if needs_checksum { 16 } else { 0 },
                };
                assert_eq!(decode(encode(&offload)), offload);
            }
        }
    }

    #[test]
    fn an_unknown_kind_has_no_segment_size_and_the_ecn_mark_is_none() {
        let mut header = [0; LEN];
        (header[1], header[4]) = (3, 200);
        assert_eq!(decode(header).gso_size, 0);
        assert_ne!(decode(header).gso, Gso::None);
        header[1] = TCP4 | ECN;
        assert_eq!(decode(header).gso, Gso::Tcp4);
    }
}
