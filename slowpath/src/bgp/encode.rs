//! How are routes written into UPDATE messages of at most 4096 octets?

use super::attribute::{EXTENDED_LENGTH, OPTIONAL, PARTIAL, TRANSITIVE, kind};
use super::bytes;
use super::capability::AS_TRANS;
use super::message::{self, HEADER, MAX_MESSAGE, kind_octet};
use super::nlri::{self, Nlri};
use crate::rib::route::{AsPath, Family, PathAttributes, SegmentKind};
use std::net::{IpAddr, Ipv6Addr};

/// What must be known of a session to write its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeContext {
    /// AS numbers have 4 octets.
    pub four_byte_as: bool,
    /// We send path identifiers.
    pub add_path: bool,
}

/// Routes that cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The attributes leave no room for a prefix in a message.
    #[error("attributes of {0} octets leave no room for a prefix in a 4096-octet UPDATE")]
    AttributesTooLong(usize),
    /// A next hop of the other family needs a capability nobody offered (RFC 8950).
    #[error("an IPv4 route with an IPv6 next hop needs the extended next hop capability")]
    NextHopFamily,
}

/// Appends UPDATEs that announce `nlri` (all of `family`) with `attributes`; returns how many.
pub fn announce(
    attributes: &PathAttributes,
    family: Family,
    nlri: &[Nlri],
    context: EncodeContext,
    out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    if family == Family::Ipv4 && attributes.next_hop.is_ipv6() {
        return Err(EncodeError::NextHopFamily);
    }
    let mut common = Vec::with_capacity(128);
    write_attributes(attributes, family, context, &mut common);
    let mut header = Vec::with_capacity(40);
    if family == Family::Ipv6 {
        mp_reach_header(attributes, &mut header);
    }
    // Two length fields of the UPDATE, and 4 octets of MP_REACH's own header where it is used.
    let fixed = HEADER + 4 + common.len() + if header.is_empty() { 0 } else { header.len() + 4 };
    let longest = nlri.iter().map(|nlri| nlri::encoded_len(&nlri.prefix, context.add_path)).max();
    if fixed + longest.unwrap_or(0) > MAX_MESSAGE {
        return Err(EncodeError::AttributesTooLong(common.len()));
    }
    let mut messages = 0;
    let mut rest = nlri;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest, MAX_MESSAGE - fixed, context));
        message::message(kind_octet::UPDATE, out, |out| {
            out.extend_from_slice(&[0, 0]);
            if family == Family::Ipv4 {
                out.extend_from_slice(&bytes::len16(common.len()));
                out.extend_from_slice(&common);
                write_nlri(now, context, out);
            } else {
                let mut value = header.clone();
                write_nlri(now, context, &mut value);
                out.extend_from_slice(&bytes::len16(4 + value.len() + common.len()));
                // First in the list, so that a receiver finds the NLRI (RFC 7606 §5.1).
                out.extend_from_slice(&[OPTIONAL | EXTENDED_LENGTH, kind::MP_REACH]);
                out.extend_from_slice(&bytes::len16(value.len()));
                out.extend_from_slice(&value);
                out.extend_from_slice(&common);
            }
        });
        messages += 1;
        rest = later;
    }
    Ok(messages)
}

/// Appends UPDATEs that withdraw `nlri` (all of `family`); returns how many.
pub fn withdraw(family: Family, nlri: &[Nlri], context: EncodeContext, out: &mut Vec<u8>) -> usize {
    let fixed = HEADER + 4 + if family == Family::Ipv6 { 7 } else { 0 };
    let mut messages = 0;
    let mut rest = nlri;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest, MAX_MESSAGE - fixed, context));
        let mut prefixes = Vec::new();
        write_nlri(now, context, &mut prefixes);
        message::message(kind_octet::UPDATE, out, |out| {
            if family == Family::Ipv4 {
                out.extend_from_slice(&bytes::len16(prefixes.len()));
                out.extend_from_slice(&prefixes);
                out.extend_from_slice(&[0, 0]);
            } else {
                mp_unreach(&prefixes, out);
            }
        });
        messages += 1;
        rest = later;
    }
    messages
}

/// Appends the end-of-RIB marker of a family (RFC 4724 §2).
pub fn end_of_rib(family: Family, out: &mut Vec<u8>) {
    message::message(kind_octet::UPDATE, out, |out| match family {
        Family::Ipv4 => out.extend_from_slice(&[0; 4]),
        Family::Ipv6 => mp_unreach(&[], out),
    });
}

fn mp_unreach(prefixes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&bytes::len16(prefixes.len() + 7));
    out.extend_from_slice(&[OPTIONAL | EXTENDED_LENGTH, kind::MP_UNREACH]);
    out.extend_from_slice(&bytes::len16(prefixes.len() + 3));
    out.extend_from_slice(&[0, 2, 1]);
    out.extend_from_slice(prefixes);
}

/// How many of `nlri` fit `room` octets; the caller has made sure that one does.
fn fitting(nlri: &[Nlri], room: usize, context: EncodeContext) -> usize {
    let mut used = 0;
    let fits = nlri.iter().take_while(|nlri| {
        used += nlri::encoded_len(&nlri.prefix, context.add_path);
        used <= room
    });
    fits.count().max(1)
}

fn write_nlri(list: &[Nlri], context: EncodeContext, out: &mut Vec<u8>) {
    for nlri in list {
        nlri::encode(nlri, context.add_path, out);
    }
}

fn mp_reach_header(attributes: &PathAttributes, out: &mut Vec<u8>) {
    let global = match attributes.next_hop {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let addresses: Vec<Ipv6Addr> = std::iter::once(global).chain(attributes.link_local).collect();
    out.extend_from_slice(&[0, 2, 1, bytes::len8(16 * addresses.len())]);
    for address in addresses {
        out.extend_from_slice(&address.octets());
    }
    out.push(0);
}

/// Everything but `MP_REACH`, in order of type code (RFC 4271 §5).
fn write_attributes(
    attributes: &PathAttributes,
    family: Family,
    context: EncodeContext,
    out: &mut Vec<u8>,
) {
    let optional = OPTIONAL | TRANSITIVE;
    write(TRANSITIVE, kind::ORIGIN, &[attributes.origin as u8], out);
    write(TRANSITIVE, kind::AS_PATH, &path_value(&attributes.as_path, context.four_byte_as), out);
    if let (Family::Ipv4, IpAddr::V4(next_hop)) = (family, attributes.next_hop) {
        write(TRANSITIVE, kind::NEXT_HOP, &next_hop.octets(), out);
    }
    if let Some(med) = attributes.med {
        write(OPTIONAL, kind::MED, &med.to_be_bytes(), out);
    }
    if let Some(preference) = attributes.local_pref {
        write(TRANSITIVE, kind::LOCAL_PREF, &preference.to_be_bytes(), out);
    }
    if attributes.atomic_aggregate {
        write(TRANSITIVE, kind::ATOMIC_AGGREGATE, &[], out);
    }
    if let Some((asn, id)) = attributes.aggregator {
        let mut value = as_octets(asn, context.four_byte_as);
        value.extend_from_slice(&id.octets());
        write(optional, kind::AGGREGATOR, &value, out);
    }
    let communities = flat(attributes.communities.iter().map(|value| value.to_be_bytes()));
    write_list(optional, kind::COMMUNITIES, &communities, out);
    if let Some(originator) = attributes.originator_id {
        write(OPTIONAL, kind::ORIGINATOR_ID, &originator.octets(), out);
    }
    let clusters = flat(attributes.cluster_list.iter().map(std::net::Ipv4Addr::octets));
    write_list(OPTIONAL, kind::CLUSTER_LIST, &clusters, out);
    let extended = flat(attributes.extended_communities.iter().copied());
    write_list(optional, kind::EXTENDED_COMMUNITIES, &extended, out);
    if !context.four_byte_as {
        write_as4(attributes, out);
    }
    let large = attributes.large_communities.iter().flatten().map(|value| value.to_be_bytes());
    write_list(optional, kind::LARGE_COMMUNITIES, &flat(large), out);
    for unknown in &attributes.unknown {
        // RFC 4271 §5: passed on unrecognized, the Partial bit is set and never cleared again.
        write(unknown.flags | PARTIAL, unknown.code, &unknown.value, out);
    }
}

/// What a 2-octet peer could not hold (RFC 6793 §4.2.2).
fn write_as4(attributes: &PathAttributes, out: &mut Vec<u8>) {
    let long = |asn: u32| u16::try_from(asn).is_err();
    if attributes.as_path.asns().any(long) {
        let value = path_value(&attributes.as_path, true);
        write(OPTIONAL | TRANSITIVE, kind::AS4_PATH, &value, out);
    }
    if let Some((asn, id)) = attributes.aggregator
        && long(asn)
    {
        let mut value = as_octets(asn, true);
        value.extend_from_slice(&id.octets());
        write(OPTIONAL | TRANSITIVE, kind::AS4_AGGREGATOR, &value, out);
    }
}

fn flat<const N: usize>(items: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    items.flatten().collect()
}

fn write_list(flags: u8, kind: u8, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        write(flags, kind, value, out);
    }
}

fn write(flags: u8, kind: u8, value: &[u8], out: &mut Vec<u8>) {
    if let Ok(length) = u8::try_from(value.len()) {
        out.extend_from_slice(&[flags, kind, length]);
    } else {
        out.extend_from_slice(&[flags | EXTENDED_LENGTH, kind]);
        out.extend_from_slice(&bytes::len16(value.len()));
    }
    out.extend_from_slice(value);
}

fn path_value(path: &AsPath, four_byte_as: bool) -> Vec<u8> {
    let mut value = Vec::new();
    for segment in &path.segments {
        let kind = match segment.kind {
            SegmentKind::Set => 1,
            SegmentKind::Sequence => 2,
        };
        for asns in segment.asns.chunks(255) {
            value.extend_from_slice(&[kind, bytes::len8(asns.len())]);
            for &asn in asns {
                value.extend_from_slice(&as_octets(asn, four_byte_as));
            }
        }
    }
    value
}

fn as_octets(asn: u32, four_byte_as: bool) -> Vec<u8> {
    if four_byte_as {
        asn.to_be_bytes().to_vec()
    } else {
        u16::try_from(asn).unwrap_or(AS_TRANS).to_be_bytes().to_vec()
    }
}
