//! What is a BGP message on the wire, in both directions?
//!
//! [`frame`] finds the message boundaries in a byte stream, [`decode`] reads one whole message.
//! Neither panics, whatever the bytes; an error is the NOTIFICATION to answer with.

use super::attribute::{self, AttributeError, Problem, Treatment, kind};
use super::bytes::{self, Reader};
use super::capability::Open;
use super::nlri::{self, Nlri};
use super::notification::{Notification, code};
use crate::rib::route::{Family, PathAttributes};

/// Octets of the header: marker, length, type.
pub const HEADER: usize = 19;
/// The longest message (RFC 4271 §4.1; extended messages are not offered).
pub const MAX_MESSAGE: usize = 4096;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Opens a session.
    Open(Open),
    /// Announces and withdraws routes.
    Update(Update),
    /// Ends a session.
    Notification(Notification),
    /// Says "still here".
    Keepalive,
    /// Asks for all routes of a family again; `None` is a family or subtype we do not know.
    RouteRefresh(Option<Family>),
}

/// What an UPDATE says, after RFC 7606 was applied to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// Prefixes withdrawn, including those treated as withdrawn because of an error.
    pub withdrawn: Vec<Nlri>,
    /// Prefixes announced; up to two groups (IPv4 in the message's own field, and `MP_REACH`).
    pub announced: Vec<Announcement>,
    /// This UPDATE marks the end of the initial table of a family (RFC 4724 §2).
    pub end_of_rib: Option<Family>,
    /// What was wrong with the attributes.
    pub errors: Vec<AttributeError>,
}

/// Prefixes that share their attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The attributes, next hop included.
    pub attributes: PathAttributes,
    /// The prefixes.
    pub nlri: Vec<Nlri>,
}

/// What must be known of a session to read its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    /// AS numbers have 4 octets in `AS_PATH` and AGGREGATOR (RFC 6793).
    pub four_byte_as: bool,
    /// The peer is of our own AS.
    pub internal: bool,
    /// The peer sends path identifiers, by [`Family::index`] (RFC 7911).
    pub add_path_receive: [bool; 2],
}

pub(crate) mod kind_octet {
    pub(crate) const OPEN: u8 = 1;
    pub(crate) const UPDATE: u8 = 2;
    pub(crate) const NOTIFICATION: u8 = 3;
    pub(crate) const KEEPALIVE: u8 = 4;
    pub(crate) const ROUTE_REFRESH: u8 = 5;
}

/// The length of the first message in `stream`, once its header is there and in order
/// (RFC 4271 §6.1); `None` asks for more bytes.
pub fn frame(stream: &[u8]) -> Result<Option<usize>, Notification> {
    // A wrong marker is told at once: garbage need not fill a header first.
    let marker = &stream[..stream.len().min(16)];
    if marker.iter().any(|&byte| byte != 0xFF) {
        return Err(Notification::of(code::NOT_SYNCHRONIZED));
    }
    let Some((header, _)) = stream.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let kind = header[18];
    let bad_length = || Notification::with(code::BAD_LENGTH, [header[16], header[17]]);
    if !(HEADER..=MAX_MESSAGE).contains(&length) {
        return Err(bad_length());
    }
    let fits = match kind {
        kind_octet::OPEN => length >= 29,
        kind_octet::UPDATE | kind_octet::ROUTE_REFRESH => length >= 23,
        kind_octet::NOTIFICATION => length >= 21,
        kind_octet::KEEPALIVE => length == HEADER,
        _ => return Err(Notification::with(code::BAD_TYPE, [kind])),
    };
    if fits { Ok(Some(length)) } else { Err(bad_length()) }
}

/// Reads one whole message, header included.
///
/// An `Err` is the NOTIFICATION that RFC 4271 §6 and RFC 7606 demand; milder errors of an UPDATE
/// are in [`Update::errors`].
pub fn decode(message: &[u8], context: &Context) -> Result<Message, Notification> {
    let length = frame(message)?;
    if length != Some(message.len()) {
        return Err(Notification::with(code::BAD_LENGTH, bytes::len16(message.len())));
    }
    let body = &message[HEADER..];
    match message[18] {
        kind_octet::OPEN => Open::decode(body).map(Message::Open),
        kind_octet::UPDATE => decode_update(body, *context).map(Message::Update),
        kind_octet::NOTIFICATION => Ok(Message::Notification(Notification {
            code: body[0],
            subcode: body[1],
            data: body[2..].to_vec(),
        })),
        kind_octet::ROUTE_REFRESH => Ok(Message::RouteRefresh(decode_refresh(body))),
        _ => Ok(Message::Keepalive),
    }
}

fn decode_refresh(body: &[u8]) -> Option<Family> {
    let mut reader = Reader::new(body);
    let (afi, subtype, safi) = (reader.u16()?, reader.u8()?, reader.u8()?);
    // The subtype is 0 unless enhanced refresh was negotiated; others are ignored (RFC 7313 §5).
    if subtype == 0 && reader.is_empty() { Family::from_wire(afi, safi) } else { None }
}

fn decode_update(body: &[u8], context: Context) -> Result<Update, Notification> {
    let malformed = || Notification::of(code::MALFORMED_ATTRIBUTES);
    let bad_network = || Notification::of(code::BAD_NETWORK);
    let mut reader = Reader::new(body);
    let length = usize::from(reader.u16().ok_or_else(malformed)?);
    let withdrawn = reader.take(length).ok_or_else(malformed)?;
    let length = usize::from(reader.u16().ok_or_else(malformed)?);
    let block = reader.take(length).ok_or_else(malformed)?;
    let add_path = context.add_path_receive[Family::Ipv4.index()];
    // RFC 7606 §3 i, j: both fields must parse before anything milder than a reset is possible.
    let withdrawn =
        nlri::decode(Reader::new(withdrawn), Family::Ipv4, add_path).ok_or_else(bad_network)?;
    let reachable = !reader.is_empty();
    let nlri = nlri::decode(reader, Family::Ipv4, add_path).ok_or_else(bad_network)?;
    let mut update = Update { withdrawn, ..Update::default() };
    if block.is_empty() && !reachable {
        if update.withdrawn.is_empty() && body.len() == 4 {
            update.end_of_rib = Some(Family::Ipv4);
        }
        return Ok(update);
    }
    let mut decoded = attribute::decode(block, context)?;
    mandatory(&mut decoded, reachable);
    finish(update, decoded, nlri, reachable)
}

/// RFC 7606 §3 d: a missing well-known mandatory attribute withdraws the routes.
fn mandatory(decoded: &mut attribute::Decoded, reachable: bool) {
    let any = reachable || decoded.mp_reach.is_some();
    let required = [
        (kind::ORIGIN, any),
        (kind::AS_PATH, any),
        // MP_REACH carries its own next hop (RFC 4760 §3).
        (kind::NEXT_HOP, reachable),
    ];
    for (code, required) in required {
        if required && !decoded.has(code) {
            decoded.fail(code, Problem::Missing, Treatment::Withdraw);
        }
    }
}

fn finish(
    mut update: Update,
    decoded: attribute::Decoded,
    nlri: Vec<Nlri>,
    reachable: bool,
) -> Result<Update, Notification> {
    let withdraw = decoded.errors.iter().any(|error| error.treatment == Treatment::Withdraw);
    let has_reachable = reachable || decoded.has(kind::MP_REACH);
    if withdraw && !has_reachable {
        // RFC 7606 §5.2: with nothing to withdraw, perhaps the NLRI itself was lost: reset.
        return Err(Notification::of(code::MALFORMED_ATTRIBUTES));
    }
    let only_unreach = decoded.has(kind::MP_UNREACH) && !has_reachable;
    if let Some((family, unreachable)) = decoded.mp_unreach {
        if unreachable.is_empty() && only_unreach && update.withdrawn.is_empty() {
            update.end_of_rib = Some(family);
        }
        update.withdrawn.extend(unreachable);
    }
    update.errors = decoded.errors;
    let mut announce = |attributes: PathAttributes, nlri: Vec<Nlri>| {
        if withdraw {
            update.withdrawn.extend(nlri);
        } else if !nlri.is_empty() {
            update.announced.push(Announcement { attributes, nlri });
        }
    };
    if let Some(reach) = decoded.mp_reach {
        let attributes = PathAttributes {
            next_hop: reach.next_hop,
            link_local: reach.link_local,
            ..decoded.attributes.clone()
        };
        announce(attributes, reach.nlri);
    }
    announce(decoded.attributes, nlri);
    Ok(update)
}

/// Appends a message whose body `write` appends, with the header around it.
pub(crate) fn message(kind: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0xFF; 16]);
    out.extend_from_slice(&[0, 0, kind]);
    write(out);
    let length = bytes::len16(out.len() - start);
    out[start + 16..start + 18].copy_from_slice(&length);
}

/// Appends a whole OPEN.
pub fn encode_open(open: &Open, out: &mut Vec<u8>) {
    message(kind_octet::OPEN, out, |out| open.encode(out));
}

/// Appends a whole KEEPALIVE.
pub fn encode_keepalive(out: &mut Vec<u8>) {
    message(kind_octet::KEEPALIVE, out, |_| ());
}

/// Appends a whole NOTIFICATION; data that does not fit a message is cut.
pub fn encode_notification(notification: &Notification, out: &mut Vec<u8>) {
    message(kind_octet::NOTIFICATION, out, |out| {
        let room = MAX_MESSAGE - HEADER - 2;
        out.extend_from_slice(&[notification.code, notification.subcode]);
        out.extend_from_slice(&notification.data[..notification.data.len().min(room)]);
    });
}

/// Appends a whole ROUTE-REFRESH.
pub fn encode_route_refresh(family: Family, out: &mut Vec<u8>) {
    message(kind_octet::ROUTE_REFRESH, out, |out| {
        let [high, low] = family.afi().to_be_bytes();
        out.extend_from_slice(&[high, low, 0, 1]);
    });
}

#[cfg(test)]
mod tests;
