//! Which packets belong together? Both directions of a connection have one [`FlowKey`].

use ahash::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::OnceLock;

/// One end of a connection. `l4_port` is 0 for protocols without ports; for ICMP queries it is the
/// identifier (at both ends), for other ICMP messages type * 256 + code (at both ends).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its address.
    pub address: IpAddr,
    /// Its transport port.
    pub l4_port: u16,
}

/// One of the two ends of a [`FlowKey`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// The end with the smaller address (then port).
    #[default]
    Low = 0,
    /// The other end.
    High = 1,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Low => Self::High,
            Self::High => Self::Low,
        }
    }

    /// As an index into pairs.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Canonical 5-tuple: the smaller end comes first, so that both directions give the same key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    low: [u64; 2],
    high: [u64; 2],
    low_port: u16,
    high_port: u16,
    protocol: u8,
    /// Bit 0: IPv6. Bit 1: the ports are an ICMP query's identifier.
    kind: u8,
}

const KIND_V6: u8 = 1;
const KIND_ICMP_QUERY: u8 = 2;

fn words(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(a) => [0, u64::from(u32::from(a))],
        IpAddr::V6(a) => {
            let bits = u128::from(a);
            [(bits >> 64) as u64, bits as u64]
        }
    }
}

fn address(words: [u64; 2], v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(((u128::from(words[0]) << 64) | u128::from(words[1])).into())
    } else {
        IpAddr::V4((words[1] as u32).into())
    }
}

impl FlowKey {
    /// The key of a packet from `source` to `destination`, and which side sent it.
    pub fn new(protocol: u8, source: End, destination: End) -> (Self, Side) {
        Self::with_kind(protocol, source, destination, 0)
    }

    /// The key of an ICMP query (echo and kin) and its answer, told apart by their identifier.
    pub fn icmp_query(protocol: u8, source: IpAddr, destination: IpAddr, id: u16) -> (Self, Side) {
        let source = End { address: source, l4_port: id };
        let destination = End { address: destination, l4_port: id };
        Self::with_kind(protocol, source, destination, KIND_ICMP_QUERY)
    }

    fn with_kind(protocol: u8, source: End, destination: End, kind: u8) -> (Self, Side) {
        let kind = kind | if source.address.is_ipv6() { KIND_V6 } else { 0 };
        let from = (words(source.address), source.l4_port);
        let to = (words(destination.address), destination.l4_port);
        let (low, high, sender) =
            if from <= to { (from, to, Side::Low) } else { (to, from, Side::High) };
        let key =
            Self { low: low.0, high: high.0, low_port: low.1, high_port: high.1, protocol, kind };
        (key, sender)
    }

    /// IP protocol number.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Are the ports the identifier of an ICMP query?
    pub fn is_icmp_query(&self) -> bool {
        self.kind & KIND_ICMP_QUERY != 0
    }

    /// The end on one side.
    pub fn end(&self, side: Side) -> End {
        let v6 = self.kind & KIND_V6 != 0;
        match side {
            Side::Low => End { address: address(self.low, v6), l4_port: self.low_port },
            Side::High => End { address: address(self.high, v6), l4_port: self.high_port },
        }
    }

    /// Hash for this process' tables: random per process, so that nobody outside can aim at one
    /// bucket.
    pub fn hash64(&self) -> u64 {
        BuildHasher::hash_one(process_hasher(), self)
    }

    /// Symmetric hash that is the same in every process: an equal-cost choice must survive a
    /// restart.
    pub fn stable_hash(&self) -> u64 {
        let mut hash = 0x9e37_79b9_7f4a_7c15u64;
        for word in [self.low[0], self.low[1], self.high[0], self.high[1], self.tail()] {
            hash = mix(hash ^ word);
        }
        hash
    }

    fn tail(&self) -> u64 {
        u64::from(self.low_port) << 32
            | u64::from(self.high_port) << 16
            | u64::from(self.protocol) << 8
            | u64::from(self.kind)
    }
}

/// Spreads every input bit over the whole word (a multiply and xor-shift finalizer).
pub fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    word ^ (word >> 32)
}

impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for word in [self.low[0], self.low[1], self.high[0], self.high[1], self.tail()] {
            state.write_u64(word);
        }
    }
}

/// The hasher of every table of this process that holds addresses from outside.
pub fn process_hasher() -> &'static RandomState {
    static HASHER: OnceLock<RandomState> = OnceLock::new();
    HASHER.get_or_init(RandomState::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end(address: IpAddr, l4_port: u16) -> End {
        End { address, l4_port }
    }

    proptest! {
        #[test]
        fn both_directions_share_a_key(a: [u8; 4], b: [u8; 4], p: u16, q: u16, protocol: u8) {
            let (a, b) = (end(a.into(), p), end(b.into(), q));
            let (there, sender) = FlowKey::new(protocol, a, b);
            let (back, answerer) = FlowKey::new(protocol, b, a);
            prop_assert_eq!(there, back);
            prop_assert_eq!(there.stable_hash(), back.stable_hash());
            prop_assert!(a == b || sender == answerer.other());
            prop_assert_eq!((there.end(sender), there.end(sender.other())), (a, b));
        }

        #[test]
        fn ipv6_ends_come_back_as_they_went_in(a: [u8; 16], b: [u8; 16], p: u16) {
            let (a, b) = (end(a.into(), p), end(b.into(), 1));
            let (key, sender) = FlowKey::new(6, a, b);
            prop_assert_eq!((key.end(sender), key.end(sender.other())), (a, b));
        }
    }

    #[test]
    fn an_echo_is_no_other_message_with_the_same_number() {
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let (query, _) = FlowKey::icmp_query(1, a, b, 0x0300);
        let (other, _) = FlowKey::new(1, end(a, 0x0300), end(b, 0x0300));
        assert_ne!(query, other);
        assert!(query.is_icmp_query() && !other.is_icmp_query());
    }

    #[test]
    fn an_ipv4_address_is_not_the_ipv6_address_with_its_number() {
        let v4 = FlowKey::new(6, end([10, 0, 0, 1].into(), 1), end([10, 0, 0, 2].into(), 2)).0;
        let six = |n: u128| IpAddr::V6(n.into());
        let v6 = FlowKey::new(6, end(six(0x0a00_0001), 1), end(six(0x0a00_0002), 2)).0;
        assert_ne!(v4, v6);
    }
}
