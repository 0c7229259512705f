//! What can each side do: the OPEN message's capabilities, and what two OPENs agree on.

use super::bytes::{self, Reader};
use super::notification::{Notification, code};
use crate::rib::route::Family;
use std::net::Ipv4Addr;
use std::time::Duration;

/// An OPEN message (RFC 4271 §4.2), its capabilities understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The AS number; the 4-octet one if that capability is present.
    pub asn: u32,
    /// The proposed hold time in seconds; 0 is "none", 1 and 2 are never accepted.
    pub hold_time: u16,
    /// The BGP identifier.
    pub router_id: Ipv4Addr,
    /// The capabilities offered.
    pub capabilities: Capabilities,
}

/// The capabilities this speaker understands; others are ignored (RFC 5492 §3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Multiprotocol (RFC 4760) by [`Family::index`].
    pub families: [bool; 2],
    /// A multiprotocol capability of any family was sent; without one, IPv4 unicast is meant.
    pub multiprotocol: bool,
    /// 4-octet AS numbers (RFC 6793).
    pub four_byte_as: bool,
    /// Route refresh (RFC 2918).
    pub route_refresh: bool,
    /// Graceful restart (RFC 4724).
    pub graceful_restart: Option<GracefulRestart>,
    /// ADD-PATH (RFC 7911) by [`Family::index`].
    pub add_path: [AddPath; 2],
}

/// The graceful restart capability's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GracefulRestart {
    /// The R bit: the sender has just restarted.
    pub restarting: bool,
    /// How long to keep its routes, in seconds (12 bits).
    pub restart_time: u16,
    /// Per family: `None` = not kept, `Some(f)` = kept, f is the "forwarding state preserved" bit.
    pub families: [Option<bool>; 2],
}

/// What a side offers of ADD-PATH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddPath {
    /// Can receive several paths of a prefix.
    pub receive: bool,
    /// Can send several paths of a prefix.
    pub send: bool,
}

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's AS number.
    pub remote_as: u32,
    /// The peer's BGP identifier.
    pub router_id: Ipv4Addr,
    /// The hold time in force; zero is "no timers".
    pub hold_time: Duration,
    /// Families both sides speak, by [`Family::index`].
    pub families: [bool; 2],
    /// Both use 4-octet AS numbers.
    pub four_byte_as: bool,
    /// The peer accepts ROUTE-REFRESH.
    pub route_refresh: bool,
    /// The peer sends path identifiers to us, by [`Family::index`].
    pub add_path_receive: [bool; 2],
    /// The peer's graceful restart capability, if we offered it too.
    pub graceful_restart: Option<GracefulRestart>,
}

/// What `local` and `remote` have in common.
pub fn negotiate(local: &Open, remote: &Open) -> Negotiated {
    let (ours, theirs) = (&local.capabilities, &remote.capabilities);
    let mut families = [false; 2];
    let mut add_path_receive = [false; 2];
    for family in Family::ALL {
        let index = family.index();
        families[index] = ours.speaks(family) && theirs.speaks(family);
        add_path_receive[index] = ours.add_path[index].receive && theirs.add_path[index].send;
    }
    Negotiated {
        remote_as: remote.asn,
        router_id: remote.router_id,
        hold_time: Duration::from_secs(u64::from(local.hold_time.min(remote.hold_time))),
        families,
        four_byte_as: ours.four_byte_as && theirs.four_byte_as,
        route_refresh: theirs.route_refresh,
        add_path_receive,
        graceful_restart: ours.graceful_restart.and(theirs.graceful_restart),
    }
}

impl Negotiated {
    /// The agreement in words, for status displays.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for family in Family::ALL {
            if self.families[family.index()] {
                words.push(family.to_string());
            }
            if self.add_path_receive[family.index()] {
                words.push(format!("ADD-PATH receive {family}"));
            }
        }
        if self.four_byte_as {
            words.push("4-byte AS".to_owned());
        }
        if self.route_refresh {
            words.push("route refresh".to_owned());
        }
        if let Some(restart) = self.graceful_restart {
            words.push(format!("graceful restart {} s", restart.restart_time));
        }
        words
    }
}

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_BYTE_AS: u8 = 65;
const ADD_PATH: u8 = 69;
/// The optional parameter that carries capabilities (RFC 5492).
const PARAMETER_CAPABILITIES: u8 = 2;
/// Marks the extended format of optional parameters (RFC 9072).
const PARAMETER_EXTENDED: u8 = 255;
/// The AS number that stands for one that does not fit 16 bits (RFC 6793).
pub(crate) const AS_TRANS: u16 = 23456;
const RESTART_STATE: u16 = 0x8000;
const RESTART_TIME: u16 = 0x0FFF;
const FORWARDING_STATE: u8 = 0x80;

impl Capabilities {
    /// Whether routes of `family` may be exchanged.
    pub fn speaks(&self, family: Family) -> bool {
        self.families[family.index()] || (!self.multiprotocol && family == Family::Ipv4)
    }

    fn encode(&self, asn: u32, out: &mut Vec<u8>) {
        for family in Family::ALL {
            if self.families[family.index()] {
                let [high, low] = family.afi().to_be_bytes();
                out.extend_from_slice(&[MULTIPROTOCOL, 4, high, low, 0, 1]);
            }
        }
        if self.route_refresh {
            out.extend_from_slice(&[ROUTE_REFRESH, 0]);
        }
        if let Some(restart) = self.graceful_restart {
            let kept = restart.families.iter().flatten().count();
            let flags = if restart.restarting { RESTART_STATE } else { 0 };
            out.extend_from_slice(&[GRACEFUL_RESTART, bytes::len8(2 + 4 * kept)]);
            out.extend_from_slice(&(flags | (restart.restart_time & RESTART_TIME)).to_be_bytes());
            for family in Family::ALL {
                if let Some(preserved) = restart.families[family.index()] {
                    let [high, low] = family.afi().to_be_bytes();
                    let flag = if preserved { FORWARDING_STATE } else { 0 };
                    out.extend_from_slice(&[high, low, 1, flag]);
                }
            }
        }
        if self.four_byte_as {
            out.extend_from_slice(&[FOUR_BYTE_AS, 4]);
            out.extend_from_slice(&asn.to_be_bytes());
        }
        self.encode_add_path(out);
    }

    fn encode_add_path(&self, out: &mut Vec<u8>) {
        let offered = |family: &Family| {
            let offer = self.add_path[family.index()];
            u8::from(offer.receive) | (u8::from(offer.send) << 1)
        };
        let families: Vec<Family> =
            Family::ALL.into_iter().filter(|family| offered(family) != 0).collect();
        if families.is_empty() {
            return;
        }
        out.extend_from_slice(&[ADD_PATH, bytes::len8(4 * families.len())]);
        for family in families {
            let [high, low] = family.afi().to_be_bytes();
            out.extend_from_slice(&[high, low, 1, offered(&family)]);
        }
    }

    /// Reads one capability into `self`; `None` if its length does not fit its meaning.
    fn read(&mut self, kind: u8, value: &[u8], asn: &mut u32) -> Option<()> {
        let mut reader = Reader::new(value);
        match kind {
            MULTIPROTOCOL => {
                let (afi, _, safi) = (reader.u16()?, reader.u8()?, reader.u8()?);
                self.multiprotocol = true;
                if let Some(family) = Family::from_wire(afi, safi) {
                    self.families[family.index()] = true;
                }
            }
            ROUTE_REFRESH => self.route_refresh = true,
            FOUR_BYTE_AS => {
                *asn = reader.u32()?;
                self.four_byte_as = true;
            }
            GRACEFUL_RESTART => {
                let flags = reader.u16()?;
                let mut families = [None; 2];
                while !reader.is_empty() {
                    let (afi, safi, bits) = (reader.u16()?, reader.u8()?, reader.u8()?);
                    if let Some(family) = Family::from_wire(afi, safi) {
                        families[family.index()] = Some(bits & FORWARDING_STATE != 0);
                    }
                }
                self.graceful_restart = Some(GracefulRestart {
                    restarting: flags & RESTART_STATE != 0,
                    restart_time: flags & RESTART_TIME,
                    families,
                });
            }
            ADD_PATH => {
                while !reader.is_empty() {
                    let (afi, safi, offer) = (reader.u16()?, reader.u8()?, reader.u8()?);
                    // Values above 3 are ignored for that family (RFC 7911 §4).
                    if let (Some(family), 1..=3) = (Family::from_wire(afi, safi), offer) {
                        self.add_path[family.index()] =
                            AddPath { receive: offer & 1 != 0, send: offer & 2 != 0 };
                    }
                }
            }
            _ => {}
        }
        Some(())
    }
}

impl Open {
    /// Appends the message's body (without the header).
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut capabilities = Vec::new();
        self.capabilities.encode(self.asn, &mut capabilities);
        out.push(4);
        out.extend_from_slice(&u16::try_from(self.asn).unwrap_or(AS_TRANS).to_be_bytes());
        out.extend_from_slice(&self.hold_time.to_be_bytes());
        out.extend_from_slice(&self.router_id.octets());
        if capabilities.is_empty() {
            out.push(0);
            return;
        }
        // All we offer is below 64 bytes, so both lengths fit an octet.
        out.push(bytes::len8(capabilities.len() + 2));
        out.extend_from_slice(&[PARAMETER_CAPABILITIES, bytes::len8(capabilities.len())]);
        out.extend_from_slice(&capabilities);
    }

    /// Reads the body of an OPEN and checks what can be checked without knowing the peer.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, Notification> {
        let mut reader = Reader::new(body);
        let malformed = || Notification::of(code::OPEN_UNSPECIFIC);
        let version = reader.u8().ok_or_else(malformed)?;
        if version != 4 {
            return Err(Notification::with(code::BAD_VERSION, vec![0, 4]));
        }
        let mut asn = u32::from(reader.u16().ok_or_else(malformed)?);
        let hold_time = reader.u16().ok_or_else(malformed)?;
        let router_id = reader.ipv4().ok_or_else(malformed)?;
        let mut capabilities = Capabilities::default();
        read_parameters(reader, &mut capabilities, &mut asn)?;
        // AS 0 is reserved (RFC 7607 §2).
        if asn == 0 {
            return Err(Notification::of(code::BAD_PEER_AS));
        }
        if router_id.is_unspecified() {
            return Err(Notification::of(code::BAD_IDENTIFIER));
        }
        // RFC 4271 §4.2: the hold time MUST be either zero or at least three seconds.
        if matches!(hold_time, 1 | 2) {
            return Err(Notification::with(code::BAD_HOLD_TIME, hold_time.to_be_bytes()));
        }
        Ok(Self { asn, hold_time, router_id, capabilities })
    }
}

fn read_parameters(
    mut reader: Reader<'_>,
    capabilities: &mut Capabilities,
    asn: &mut u32,
) -> Result<(), Notification> {
    let malformed = || Notification::of(code::OPEN_UNSPECIFIC);
    let mut length = usize::from(reader.u8().ok_or_else(malformed)?);
    let extended = length != 0 && reader.rest().first() == Some(&PARAMETER_EXTENDED);
    if extended {
        reader.u8().ok_or_else(malformed)?;
        length = usize::from(reader.u16().ok_or_else(malformed)?);
    }
    // The parameters must fill the message exactly.
    if reader.len() != length {
        return Err(malformed());
    }
    while !reader.is_empty() {
        let kind = reader.u8().ok_or_else(malformed)?;
        let length = if extended {
            usize::from(reader.u16().ok_or_else(malformed)?)
        } else {
            usize::from(reader.u8().ok_or_else(malformed)?)
        };
        let value = reader.take(length).ok_or_else(malformed)?;
        if kind != PARAMETER_CAPABILITIES {
            return Err(Notification::of(code::BAD_PARAMETER));
        }
        let mut list = Reader::new(value);
        while !list.is_empty() {
            let kind = list.u8().ok_or_else(malformed)?;
            let length = usize::from(list.u8().ok_or_else(malformed)?);
            let value = list.take(length).ok_or_else(malformed)?;
            capabilities.read(kind, value, asn).ok_or_else(malformed)?;
        }
    }
    Ok(())
}
