//! Is a path attribute well formed, and what follows if it is not (RFC 7606)?
//!
//! Every malformed attribute gets one of three treatments: the attribute is dropped, the routes of
//! the message are treated as withdrawn, or the session is reset. The strongest one wins
//! (RFC 7606 §3 h); the walk goes on after an error so that the NLRI can still be found.

use super::bytes::Reader;
use super::capability::AS_TRANS;
use super::message::Context;
use super::nlri::{self, Nlri};
use super::notification::{Notification, code};
use crate::rib::route::{
    AsPath, Family, Origin, PathAttributes, Segment, SegmentKind, UnknownAttribute,
};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Attribute type codes.
pub(crate) mod kind {
    pub(crate) const ORIGIN: u8 = 1;
    pub(crate) const AS_PATH: u8 = 2;
    pub(crate) const NEXT_HOP: u8 = 3;
    pub(crate) const MED: u8 = 4;
    pub(crate) const LOCAL_PREF: u8 = 5;
    pub(crate) const ATOMIC_AGGREGATE: u8 = 6;
    pub(crate) const AGGREGATOR: u8 = 7;
    pub(crate) const COMMUNITIES: u8 = 8;
    pub(crate) const ORIGINATOR_ID: u8 = 9;
    pub(crate) const CLUSTER_LIST: u8 = 10;
    pub(crate) const MP_REACH: u8 = 14;
    pub(crate) const MP_UNREACH: u8 = 15;
    pub(crate) const EXTENDED_COMMUNITIES: u8 = 16;
    pub(crate) const AS4_PATH: u8 = 17;
    pub(crate) const AS4_AGGREGATOR: u8 = 18;
    pub(crate) const LARGE_COMMUNITIES: u8 = 32;
}

pub(crate) const OPTIONAL: u8 = 0x80;
pub(crate) const TRANSITIVE: u8 = 0x40;
pub(crate) const PARTIAL: u8 = 0x20;
pub(crate) const EXTENDED_LENGTH: u8 = 0x10;

/// What is wrong with an attribute, and what was done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttributeError {
    /// The attribute's type code; 0 for the list as a whole.
    pub code: u8,
    /// What is wrong.
    pub problem: Problem,
    /// What follows (never a reset: that is a [`Notification`]).
    pub treatment: Treatment,
}

/// What can be wrong with an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// Optional, Transitive or Partial bit against the type's definition.
    Flags,
    /// Length against the type's definition, or past the end of the list.
    Length,
    /// A value nothing allows.
    Value,
    /// A mandatory attribute is not there.
    Missing,
    /// Present twice; the first one counts.
    Duplicate,
    /// Not allowed from this kind of peer.
    NotAllowed,
}

/// The mild treatments of RFC 7606 §2, the weaker one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Treatment {
    /// The attribute is dropped, the routes are used.
    Discard,
    /// The routes of the message are treated as withdrawn.
    Withdraw,
}

impl fmt::Display for AttributeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = match self.problem {
            Problem::Flags => "wrong flags",
            Problem::Length => "wrong length",
            Problem::Value => "invalid value",
            Problem::Missing => "missing",
            Problem::Duplicate => "present twice",
            Problem::NotAllowed => "not allowed from this peer",
        };
        let treatment = match self.treatment {
            Treatment::Discard => "attribute discarded",
            Treatment::Withdraw => "routes treated as withdrawn",
        };
        write!(f, "{}: {problem}, {treatment}", name(self.code))
    }
}

/// An attribute's name by type code.
pub(crate) fn name(code: u8) -> &'static str {
    match code {
        0 => "attribute list",
        kind::ORIGIN => "ORIGIN",
        kind::AS_PATH => "AS_PATH",
        kind::NEXT_HOP => "NEXT_HOP",
        kind::MED => "MULTI_EXIT_DISC",
        kind::LOCAL_PREF => "LOCAL_PREF",
        kind::ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        kind::AGGREGATOR => "AGGREGATOR",
        kind::COMMUNITIES => "COMMUNITIES",
        kind::ORIGINATOR_ID => "ORIGINATOR_ID",
        kind::CLUSTER_LIST => "CLUSTER_LIST",
        kind::MP_REACH => "MP_REACH_NLRI",
        kind::MP_UNREACH => "MP_UNREACH_NLRI",
        kind::EXTENDED_COMMUNITIES => "EXTENDED_COMMUNITIES",
        kind::AS4_PATH => "AS4_PATH",
        kind::AS4_AGGREGATOR => "AS4_AGGREGATOR",
        kind::LARGE_COMMUNITIES => "LARGE_COMMUNITIES",
        _ => "unknown attribute",
    }
}

/// `MP_REACH_NLRI` of a family we know.
#[derive(Debug)]
pub(crate) struct MpReach {
    pub(crate) next_hop: IpAddr,
    pub(crate) link_local: Option<Ipv6Addr>,
    pub(crate) nlri: Vec<Nlri>,
}

/// What an attribute list says.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// The attributes; `next_hop` is that of the `NEXT_HOP` attribute, or unspecified.
    pub(crate) attributes: PathAttributes,
    pub(crate) mp_reach: Option<MpReach>,
    pub(crate) mp_unreach: Option<(Family, Vec<Nlri>)>,
    /// An `MP_REACH` or `MP_UNREACH` of a family we do not speak was skipped.
    pub(crate) foreign_family: bool,
    pub(crate) errors: Vec<AttributeError>,
    seen: [bool; 256],
    as4_path: Option<AsPath>,
    as4_aggregator: Option<(u32, Ipv4Addr)>,
}

impl Decoded {
    /// Whether any attribute of this type was there, malformed or not.
    pub(crate) fn has(&self, code: u8) -> bool {
        self.seen[usize::from(code)]
    }

    pub(crate) fn fail(&mut self, code: u8, problem: Problem, treatment: Treatment) {
        self.errors.push(AttributeError { code, problem, treatment });
    }
}

/// Walks the attribute list of an UPDATE. An `Err` resets the session.
pub(crate) fn decode(block: &[u8], context: Context) -> Result<Decoded, Notification> {
    let mut decoded = Decoded {
        attributes: PathAttributes::local(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        mp_reach: None,
        mp_unreach: None,
        foreign_family: false,
        errors: Vec::new(),
        seen: [false; 256],
        as4_path: None,
        as4_aggregator: None,
    };
    let mut reader = Reader::new(block);
    while !reader.is_empty() {
        let start = reader.rest();
        let Some((flags, code, value)) = next(&mut reader) else {
            // RFC 7606 §4: a length past the end, or fewer than 3 octets left.
            decoded.fail(0, Problem::Length, Treatment::Withdraw);
            break;
        };
        let raw = &start[..start.len() - reader.len()];
        if decoded.seen[usize::from(code)] {
            // RFC 7606 §3 g.
            if matches!(code, kind::MP_REACH | kind::MP_UNREACH) {
                return Err(Notification::of(code::MALFORMED_ATTRIBUTES));
            }
            decoded.fail(code, Problem::Duplicate, Treatment::Discard);
            continue;
        }
        decoded.seen[usize::from(code)] = true;
        read(&mut decoded, &Attribute { flags, code, value, raw }, context)?;
    }
    merge_as4(&mut decoded, context);
    Ok(decoded)
}

struct Attribute<'a> {
    flags: u8,
    code: u8,
    value: &'a [u8],
    /// With its header, for a NOTIFICATION's data.
    raw: &'a [u8],
}

fn next<'a>(reader: &mut Reader<'a>) -> Option<(u8, u8, &'a [u8])> {
    let (flags, code) = (reader.u8()?, reader.u8()?);
    let length = if flags & EXTENDED_LENGTH != 0 {
        usize::from(reader.u16()?)
    } else {
        usize::from(reader.u8()?)
    };
    Some((flags, code, reader.take(length)?))
}

/// The Optional and Transitive bits each known type must have.
fn expected_flags(code: u8) -> Option<u8> {
    match code {
        kind::ORIGIN
        | kind::AS_PATH
        | kind::NEXT_HOP
        | kind::LOCAL_PREF
        | kind::ATOMIC_AGGREGATE => Some(TRANSITIVE),
        kind::MED
        | kind::ORIGINATOR_ID
        | kind::CLUSTER_LIST
        | kind::MP_REACH
        | kind::MP_UNREACH => Some(OPTIONAL),
        kind::AGGREGATOR
        | kind::COMMUNITIES
        | kind::EXTENDED_COMMUNITIES
        | kind::AS4_PATH
        | kind::AS4_AGGREGATOR
        | kind::LARGE_COMMUNITIES => Some(OPTIONAL | TRANSITIVE),
        _ => None,
    }
}

fn read(
    decoded: &mut Decoded,
    attribute: &Attribute<'_>,
    context: Context,
) -> Result<(), Notification> {
    let Attribute { flags, code, value, raw } = *attribute;
    let Some(expected) = expected_flags(code) else {
        return unknown(decoded, attribute);
    };
    // RFC 7606 §3 c; RFC 4271 §4.3: the Partial bit of a well-known attribute MUST be 0.
    let wrong_partial = expected == TRANSITIVE && flags & PARTIAL != 0;
    if flags & (OPTIONAL | TRANSITIVE) != expected || wrong_partial {
        let treatment = match code {
            kind::AS4_PATH | kind::AS4_AGGREGATOR => Treatment::Discard,
            _ => Treatment::Withdraw,
        };
        decoded.fail(code, Problem::Flags, treatment);
        if !matches!(code, kind::MP_REACH | kind::MP_UNREACH) {
            return Ok(());
        }
    }
    match code {
        kind::MP_REACH => return mp_reach(decoded, value, raw, context),
        kind::MP_UNREACH => return mp_unreach(decoded, value, raw, context),
        // RFC 7606 §7.5, §7.9, §7.10: from an external peer, discard whatever they contain.
        kind::LOCAL_PREF | kind::ORIGINATOR_ID | kind::CLUSTER_LIST if !context.internal => {
            decoded.fail(code, Problem::NotAllowed, Treatment::Discard);
        }
        // RFC 6793 §4.1: a 4-octet speaker MUST NOT send them, discard.
        kind::AS4_PATH | kind::AS4_AGGREGATOR if context.four_byte_as => {
            decoded.fail(code, Problem::NotAllowed, Treatment::Discard);
        }
        _ => {
            if let Err(problem) = value_of(decoded, code, value, context) {
                let treatment = match code {
                    kind::ATOMIC_AGGREGATE
                    | kind::AGGREGATOR
                    | kind::AS4_PATH
                    | kind::AS4_AGGREGATOR => Treatment::Discard,
                    _ => Treatment::Withdraw,
                };
                decoded.fail(code, problem, treatment);
            }
        }
    }
    Ok(())
}

fn unknown(decoded: &mut Decoded, attribute: &Attribute<'_>) -> Result<(), Notification> {
    if attribute.flags & OPTIONAL == 0 {
        return Err(Notification::with(code::UNKNOWN_WELL_KNOWN, attribute.raw));
    }
    // RFC 4271 §5: unrecognized non-transitive ones are quietly ignored, transitive ones go on.
    if attribute.flags & TRANSITIVE != 0 {
        decoded.attributes.unknown.push(UnknownAttribute {
            code: attribute.code,
            // The length's form is no property of the value; the low bits mean nothing (§4.3).
            flags: attribute.flags & (OPTIONAL | TRANSITIVE | PARTIAL),
            value: attribute.value.to_vec(),
        });
    }
    Ok(())
}

fn value_of(
    decoded: &mut Decoded,
    code: u8,
    value: &[u8],
    context: Context,
) -> Result<(), Problem> {
    let attributes = &mut decoded.attributes;
    match code {
        kind::ORIGIN => {
            attributes.origin = match fixed::<1>(value)? {
                [0] => Origin::Igp,
                [1] => Origin::Egp,
                [2] => Origin::Incomplete,
                _ => return Err(Problem::Value),
            }
        }
        kind::AS_PATH => attributes.as_path = as_path(value, context.four_byte_as)?,
        kind::NEXT_HOP => {
            let next_hop = Ipv4Addr::from(fixed::<4>(value)?);
            if !usable_next_hop(IpAddr::V4(next_hop)) {
                return Err(Problem::Value);
            }
            attributes.next_hop = IpAddr::V4(next_hop);
        }
        kind::MED => attributes.med = Some(u32::from_be_bytes(fixed(value)?)),
        kind::LOCAL_PREF => attributes.local_pref = Some(u32::from_be_bytes(fixed(value)?)),
        kind::ATOMIC_AGGREGATE => {
            fixed::<0>(value)?;
            attributes.atomic_aggregate = true;
        }
        kind::AGGREGATOR => attributes.aggregator = Some(aggregator(value, context.four_byte_as)?),
        kind::COMMUNITIES => {
            attributes.communities = list(value)?.map(u32::from_be_bytes).collect();
        }
        kind::ORIGINATOR_ID => {
            attributes.originator_id = Some(Ipv4Addr::from(fixed::<4>(value)?));
        }
        kind::CLUSTER_LIST => {
            attributes.cluster_list = list::<4>(value)?.map(Ipv4Addr::from).collect();
        }
        kind::EXTENDED_COMMUNITIES => attributes.extended_communities = list(value)?.collect(),
        kind::LARGE_COMMUNITIES => {
            attributes.large_communities = list(value)?.map(large_community).collect();
        }
        kind::AS4_PATH => decoded.as4_path = Some(as_path(value, true)?),
        kind::AS4_AGGREGATOR => decoded.as4_aggregator = Some(aggregator(value, true)?),
        _ => {}
    }
    Ok(())
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Problem> {
    value.try_into().map_err(|_| Problem::Length)
}

/// The items of a list that must be a non-zero multiple of `N` octets (RFC 7606 §7.8, §7.10, §7.14).
fn list<const N: usize>(value: &[u8]) -> Result<impl Iterator<Item = [u8; N]> + '_, Problem> {
    let (items, rest) = value.as_chunks::<N>();
    if items.is_empty() || !rest.is_empty() {
        Err(Problem::Length)
    } else {
        Ok(items.iter().copied())
    }
}

fn large_community(item: [u8; 12]) -> [u32; 3] {
    let mut parts = [0; 3];
    for (part, bytes) in parts.iter_mut().zip(item.as_chunks::<4>().0) {
        *part = u32::from_be_bytes(*bytes);
    }
    parts
}

fn aggregator(value: &[u8], four_byte_as: bool) -> Result<(u32, Ipv4Addr), Problem> {
    let mut reader = Reader::new(value);
    let expected = if four_byte_as { 8 } else { 6 };
    if value.len() != expected {
        return Err(Problem::Length);
    }
    let asn = if four_byte_as { reader.u32() } else { reader.u16().map(u32::from) };
    match (asn, reader.ipv4()) {
        // AS 0 makes it malformed (RFC 7607 §2).
        (Some(0), _) => Err(Problem::Value),
        (Some(asn), Some(address)) => Ok((asn, address)),
        _ => Err(Problem::Length),
    }
}

/// RFC 7606 §7.2; AS 0 makes the path malformed too (RFC 7607 §2).
fn as_path(value: &[u8], four_byte_as: bool) -> Result<AsPath, Problem> {
    let mut reader = Reader::new(value);
    let mut segments = Vec::new();
    while !reader.is_empty() {
        let kind = match reader.u8() {
            Some(1) => SegmentKind::Set,
            Some(2) => SegmentKind::Sequence,
            _ => return Err(Problem::Value),
        };
        let count = usize::from(reader.u8().ok_or(Problem::Length)?);
        if count == 0 {
            return Err(Problem::Value);
        }
        let mut asns = Vec::with_capacity(count);
        for _ in 0..count {
            let asn = if four_byte_as { reader.u32() } else { reader.u16().map(u32::from) };
            match asn.ok_or(Problem::Length)? {
                0 => return Err(Problem::Value),
                asn => asns.push(asn),
            }
        }
        segments.push(Segment { kind, asns });
    }
    Ok(AsPath { segments })
}

/// An address packets can be sent to (RFC 4271 §6.3 asks for a valid host address).
pub(crate) fn usable_next_hop(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast()),
    }
}

/// RFC 7606 §7.11: if the next hop's length is wrong, the NLRI cannot be found: reset.
fn mp_reach(
    decoded: &mut Decoded,
    value: &[u8],
    raw: &[u8],
    context: Context,
) -> Result<(), Notification> {
    let malformed = || Notification::with(code::OPTIONAL_ATTRIBUTE, raw);
    let mut reader = Reader::new(value);
    let afi = reader.u16().ok_or_else(malformed)?;
    let safi = reader.u8().ok_or_else(malformed)?;
    let length = usize::from(reader.u8().ok_or_else(malformed)?);
    let next_hop = reader.take(length).ok_or_else(malformed)?;
    let _reserved = reader.u8().ok_or_else(malformed)?;
    let Some(family) = Family::from_wire(afi, safi) else {
        decoded.foreign_family = true;
        return Ok(());
    };
    let (next_hop, link_local) = mp_next_hop(family, next_hop).ok_or_else(malformed)?;
    let nlri = nlri::decode(reader, family, context.add_path_receive[family.index()])
        .ok_or_else(malformed)?;
    if !usable_next_hop(next_hop) {
        decoded.fail(kind::MP_REACH, Problem::Value, Treatment::Withdraw);
    }
    decoded.mp_reach = Some(MpReach { next_hop, link_local, nlri });
    Ok(())
}

fn mp_next_hop(family: Family, bytes: &[u8]) -> Option<(IpAddr, Option<Ipv6Addr>)> {
    let mut reader = Reader::new(bytes);
    match (family, bytes.len()) {
        (Family::Ipv4, 4) => Some((IpAddr::V4(reader.ipv4()?), None)),
        (Family::Ipv6, 16 | 32) => {
            let global = Ipv6Addr::from(reader.array::<16>()?);
            let link_local = reader.array::<16>().map(Ipv6Addr::from);
            // Some speakers name their IPv4 address in mapped form for IPv6 routes.
            let next_hop = global.to_ipv4_mapped().map_or(IpAddr::V6(global), IpAddr::V4);
            Some((next_hop, link_local.filter(Ipv6Addr::is_unicast_link_local)))
        }
        _ => None,
    }
}

fn mp_unreach(
    decoded: &mut Decoded,
    value: &[u8],
    raw: &[u8],
    context: Context,
) -> Result<(), Notification> {
    let malformed = || Notification::with(code::OPTIONAL_ATTRIBUTE, raw);
    let mut reader = Reader::new(value);
    let afi = reader.u16().ok_or_else(malformed)?;
    let safi = reader.u8().ok_or_else(malformed)?;
    let Some(family) = Family::from_wire(afi, safi) else {
        decoded.foreign_family = true;
        return Ok(());
    };
    let nlri = nlri::decode(reader, family, context.add_path_receive[family.index()])
        .ok_or_else(malformed)?;
    decoded.mp_unreach = Some((family, nlri));
    Ok(())
}

/// Puts together what a 2-octet peer split (RFC 6793 §4.2.3).
fn merge_as4(decoded: &mut Decoded, context: Context) {
    if context.four_byte_as {
        return;
    }
    let aggregator = decoded.attributes.aggregator;
    if let Some((asn, _)) = aggregator {
        if asn != u32::from(AS_TRANS) {
            // Somebody who knows no AS4 attributes has aggregated since: both are stale.
            return;
        }
        if decoded.as4_aggregator.is_some() {
            decoded.attributes.aggregator = decoded.as4_aggregator;
        }
    }
    let Some(as4_path) = decoded.as4_path.take() else { return };
    let path = &mut decoded.attributes.as_path;
    let Some(mut leading) = path.length().checked_sub(as4_path.length()) else { return };
    let mut merged = Vec::new();
    for segment in std::mem::take(&mut path.segments) {
        if leading == 0 {
            break;
        }
        let mut segment = segment;
        if segment.kind == SegmentKind::Sequence {
            segment.asns.truncate(leading);
            leading -= segment.asns.len();
        } else {
            leading -= 1;
        }
        merged.push(segment);
    }
    for segment in as4_path.segments {
        match (merged.last_mut(), segment.kind) {
            (Some(Segment { kind: SegmentKind::Sequence, asns }), SegmentKind::Sequence)
                if asns.len() + segment.asns.len() <= 255 =>
            {
                asns.extend(segment.asns);
            }
            _ => merged.push(segment),
        }
    }
    path.segments = merged;
}
