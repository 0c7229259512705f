//! What does an Ethernet header say, and how is one put in front of a packet?

use crate::outcome::DropReason;
use crate::packet::Packet;

/// Bytes of an Ethernet header without tags.
pub const LEN: usize = 14;
/// Ethertype of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethertype of ARP.
pub const ARP: u16 = 0x0806;
/// Ethertype of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Ethertype of an IEEE 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// Ethertype of an IEEE 802.1ad service tag.
pub const SERVICE_VLAN: u16 = 0x88a8;
/// The broadcast address.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// One Ethernet header, 14 bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ether {
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// Source MAC address.
    pub source: [u8; 6],
    /// What follows.
    pub ethertype: u16,
}

impl Ether {
    /// The frame goes to several stations (broadcast included).
    #[inline]
    pub fn is_multicast(&self) -> bool {
        self.destination[0] & 1 == 1
    }
}

/// Reads the header of a frame. Tagged frames belong to a VLAN device of their own, not to the
/// port below it: refused as [`DropReason::NotIp`].
#[inline]
pub fn parse(frame: &[u8]) -> Result<Ether, DropReason> {
    let header = frame.first_chunk::<LEN>().ok_or(DropReason::EthernetTruncated)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
    let ethertype = u16::from_be_bytes([t0, t1]);
    if matches!(ethertype, VLAN | SERVICE_VLAN) {
        return Err(DropReason::NotIp);
    }
    Ok(Ether { destination: [d0, d1, d2, d3, d4, d5], source: [s0, s1, s2, s3, s4, s5], ethertype })
}

/// Writes a header into the first 14 bytes of `frame` (nothing if there are fewer).
#[inline]
pub fn write(frame: &mut [u8], destination: [u8; 6], source: [u8; 6], ethertype: u16) {
    if let Some(header) = frame.first_chunk_mut::<LEN>() {
        header[..6].copy_from_slice(&destination);
        header[6..12].copy_from_slice(&source);
        header[12..].copy_from_slice(&ethertype.to_be_bytes());
    }
}

/// Puts a header in front of a packet.
#[inline]
pub fn push(
    packet: &mut Packet,
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: u16,
) -> Result<(), DropReason> {
    let header = packet.push_front(LEN).ok_or(DropReason::NoHeadroom)?;
    write(header, destination, source, ethertype);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{EtherType, Ethernet2Header};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_are_written_and_read_as_another_dissector_does(
            destination: [u8; 6], source: [u8; 6], ethertype in 0x0800u16..0x8100,
        ) {
            let mut packet = Packet::from_bytes(&[7; 46]);
            push(&mut packet, destination, source, ethertype).expect("headroom");
            let (theirs, rest) = Ethernet2Header::from_slice(packet.bytes()).expect("a frame");
            prop_assert_eq!(theirs.destination, destination);
            prop_assert_eq!(theirs.source, source);
            prop_assert_eq!(theirs.ether_type, EtherType(ethertype));
            prop_assert_eq!(rest, &[7; 46]);
            prop_assert_eq!(parse(packet.bytes()), Ok(Ether { destination, source, ethertype }));
        }

        #[test]
        fn short_frames_are_named(frame in prop::collection::vec(any::<u8>(), 0..14)) {
            prop_assert_eq!(parse(&frame), Err(DropReason::EthernetTruncated));
        }
    }

    #[test]
    fn tagged_frames_are_refused_and_group_addresses_known() {
        let mut frame = [0; 60];
        write(&mut frame, BROADCAST, [2; 6], VLAN);
        assert_eq!(parse(&frame), Err(DropReason::NotIp));
        write(&mut frame, [0x33, 0x33, 0, 0, 0, 1], [2; 6], IPV6);
        assert!(parse(&frame).expect("a frame").is_multicast());
        write(&mut frame, [2; 6], [2; 6], ARP);
        assert!(!parse(&frame).expect("a frame").is_multicast());
    }

    #[test]
    fn without_headroom_nothing_is_written() {
        let mut packet = Packet::from_bytes(&[1]);
        let room = packet.headroom();
        packet.push_front(room).expect("all of it");
        assert_eq!(push(&mut packet, [0; 6], [0; 6], IPV4), Err(DropReason::NoHeadroom));
    }
}
