//! How far is a connection, and how long may it be silent? Coarse states: enough to time out
//! rightly, no judge of sequence numbers.

use super::Tick;
use crate::wire::protocol;

/// The TCP flag bits that matter here (RFC 9293 §3.1).
pub mod flag {
    /// The sender has finished.
    pub const FIN: u8 = 0x01;
    /// Synchronize: opens a connection.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// TCP: the originator's SYN was seen.
    Opening,
    /// TCP: the responder answered with its SYN.
    Answered,
    /// TCP: the handshake is complete, or the connection was taken up in mid-stream.
    Established,
    /// TCP: a FIN or RST was seen.
    Closing,
    /// Not TCP: packets of the originator only.
    #[default]
    OneWay,
    /// Not TCP: packets of both sides.
    TwoWay,
}

impl Phase {
    /// Name for operators.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "syn-sent",
            Self::Answered => "syn-received",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::OneWay => "one-way",
            Self::TwoWay => "two-way",
        }
    }

    /// The phase that the packet without an entry puts its connection in.
    pub fn first(proto: u8, flags: u8) -> Self {
        if proto != protocol::TCP {
            Self::OneWay
        } else if flags & (flag::RST | flag::FIN) != 0 {
            Self::Closing
        } else if opens(proto, flags) {
            Self::Opening
        } else {
            Self::Established
        }
    }

    /// The phase after one more packet.
    #[must_use]
    pub fn step(self, from_originator: bool, flags: u8) -> Self {
        match self {
            Self::OneWay if !from_originator => Self::TwoWay,
            Self::OneWay | Self::TwoWay | Self::Closing => self,
            _ if flags & (flag::RST | flag::FIN) != 0 => Self::Closing,
            Self::Opening if !from_originator && flags & flag::SYN != 0 => Self::Answered,
            Self::Answered if from_originator && flags & (flag::SYN | flag::ACK) == flag::ACK => {
                Self::Established
            }
            Self::Opening | Self::Answered | Self::Established => self,
        }
    }

    /// How long a connection may be silent in this phase.
    pub fn patience(self, proto: u8) -> Tick {
        Tick::seconds(match (self, proto) {
            (Self::Opening | Self::Answered, _) => 20,
            (Self::Established, _) => 3600,
            (Self::Closing, _) => 40,
            (_, protocol::ICMP | protocol::ICMPV6) => 5,
            (Self::OneWay, protocol::UDP) => 60,
            (Self::TwoWay, protocol::UDP) => 180,
            (Self::OneWay | Self::TwoWay, _) => 600,
        })
    }
}

/// Does a packet with these flags open a TCP connection (SYN without ACK)?
pub fn opens(proto: u8, flags: u8) -> bool {
    proto == protocol::TCP && flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN
}

/// Does this packet belong to the middle of a TCP connection?
pub fn mid_stream(proto: u8, flags: u8) -> bool {
    proto == protocol::TCP && !opens(proto, flags)
}

#[cfg(test)]
mod tests {
    use super::Phase::{Answered, Closing, Established, Opening};
    use super::*;

    #[test]
    fn a_handshake_leads_to_an_established_connection_and_a_fin_ends_it() {
        let mut phase = Phase::first(protocol::TCP, flag::SYN);
        let mut seen = vec![phase];
        for (origin, flags) in [
            (true, flag::SYN),
            (false, flag::SYN | flag::ACK),
            (false, flag::SYN | flag::ACK),
            (true, flag::ACK),
            (false, flag::ACK),
            (true, flag::FIN | flag::ACK),
            (false, flag::ACK),
        ] {
            phase = phase.step(origin, flags);
            seen.push(phase);
        }
        assert_eq!(
            seen,
            [Opening, Opening, Answered, Answered, Established, Established, Closing, Closing]
        );
    }

    #[test]
    fn an_unanswered_originator_cannot_talk_itself_into_a_long_patience() {
        let phase = Phase::first(protocol::TCP, flag::SYN).step(true, flag::ACK);
        assert_eq!(phase.patience(protocol::TCP), Tick::seconds(20));
    }

    #[test]
    fn middle_and_beginning_are_told_apart() {
        assert!(opens(protocol::TCP, flag::SYN) && !opens(protocol::UDP, flag::SYN));
        assert!(mid_stream(protocol::TCP, flag::ACK) && !mid_stream(protocol::UDP, 0));
        assert_eq!(Phase::first(protocol::TCP, flag::ACK), Established);
        assert_eq!(Phase::first(protocol::TCP, flag::RST), Closing);
        assert_eq!(Phase::first(protocol::UDP, 0).step(false, 0), Phase::TwoWay);
    }
}
