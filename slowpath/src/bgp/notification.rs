//! Which NOTIFICATION says what: every code and subcode, and its words for the operator.

use super::bytes;
use std::fmt;

/// A NOTIFICATION: why a session ends (RFC 4271 §4.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Subcode; 0 is unspecific.
    pub subcode: u8,
    /// Data, whose meaning depends on code and subcode.
    pub data: Vec<u8>,
}

/// Code and subcode pairs that this speaker sends.
pub mod code {
    /// Message header: the marker is not all ones.
    pub const NOT_SYNCHRONIZED: (u8, u8) = (1, 1);
    /// Message header: length out of range for its type; data: the length.
    pub const BAD_LENGTH: (u8, u8) = (1, 2);
    /// Message header: unknown type; data: the type.
    pub const BAD_TYPE: (u8, u8) = (1, 3);
    /// OPEN: malformed in a way no subcode names.
    pub const OPEN_UNSPECIFIC: (u8, u8) = (2, 0);
    /// OPEN: version other than 4; data: the highest version we speak.
    pub const BAD_VERSION: (u8, u8) = (2, 1);
    /// OPEN: not the AS configured for this peer.
    pub const BAD_PEER_AS: (u8, u8) = (2, 2);
    /// OPEN: identifier 0, or our own on an internal session (RFC 6286).
    pub const BAD_IDENTIFIER: (u8, u8) = (2, 3);
    /// OPEN: optional parameter that is not a capability list.
    pub const BAD_PARAMETER: (u8, u8) = (2, 4);
    /// OPEN: hold time of 1 or 2 seconds.
    pub const BAD_HOLD_TIME: (u8, u8) = (2, 6);
    /// UPDATE: lengths do not fit, or `MP_REACH`/`MP_UNREACH` twice.
    pub const MALFORMED_ATTRIBUTES: (u8, u8) = (3, 1);
    /// UPDATE: a well-known attribute nobody knows; data: the attribute.
    pub const UNKNOWN_WELL_KNOWN: (u8, u8) = (3, 2);
    /// UPDATE: an optional attribute that cannot be skipped safely; data: the attribute.
    pub const OPTIONAL_ATTRIBUTE: (u8, u8) = (3, 9);
    /// UPDATE: a prefix that cannot be parsed.
    pub const BAD_NETWORK: (u8, u8) = (3, 10);
    /// Nothing was heard for the hold time.
    pub const HOLD_TIMER: (u8, u8) = (4, 0);
    /// A message that does not belong in `OpenSent` (RFC 6608).
    pub const UNEXPECTED_OPEN_SENT: (u8, u8) = (5, 1);
    /// A message that does not belong in `OpenConfirm` (RFC 6608).
    pub const UNEXPECTED_OPEN_CONFIRM: (u8, u8) = (5, 2);
    /// A message that does not belong in Established (RFC 6608).
    pub const UNEXPECTED_ESTABLISHED: (u8, u8) = (5, 3);
    /// Cease: too many prefixes; data: AFI, SAFI, limit.
    pub const MAX_PREFIXES: (u8, u8) = (6, 1);
    /// Cease: shut down; data: text (RFC 9003).
    pub const SHUTDOWN: (u8, u8) = (6, 2);
    /// Cease: the peer is no longer configured.
    pub const DECONFIGURED: (u8, u8) = (6, 3);
    /// Cease: cleared by the operator; data: text (RFC 9003).
    pub const RESET: (u8, u8) = (6, 4);
    /// Cease: connection not wanted.
    pub const REJECTED: (u8, u8) = (6, 5);
    /// Cease: the configuration changed.
    pub const CONFIGURATION: (u8, u8) = (6, 6);
    /// Cease: the other one of two connections was kept.
    pub const COLLISION: (u8, u8) = (6, 7);
    /// Cease: out of resources.
    pub const RESOURCES: (u8, u8) = (6, 8);
}

/// The longest shutdown text: what its length octet can count (RFC 9003 §2).
const MAX_TEXT: usize = 255;

impl Notification {
    /// Without data.
    pub fn of((code, subcode): (u8, u8)) -> Self {
        Self { code, subcode, data: Vec::new() }
    }

    /// With data.
    pub fn with(code: (u8, u8), data: impl Into<Vec<u8>>) -> Self {
        Self { data: data.into(), ..Self::of(code) }
    }

    /// A Cease with a text for the operator on the other side (RFC 9003), cut at a character.
    pub fn with_text(code: (u8, u8), text: &str) -> Self {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut data = vec![bytes::len8(end)];
        data.extend_from_slice(&text.as_bytes()[..end]);
        Self::with(code, data)
    }

    /// The operator's text of a shutdown or reset, if there is one.
    pub fn text(&self) -> Option<String> {
        if !matches!((self.code, self.subcode), code::SHUTDOWN | code::RESET) {
            return None;
        }
        let (length, text) = self.data.split_first()?;
        let text = text.get(..usize::from(*length))?;
        if text.is_empty() { None } else { Some(String::from_utf8_lossy(text).into_owned()) }
    }

    /// What code and subcode mean.
    pub fn words(&self) -> (&'static str, &'static str) {
        let code = match self.code {
            1 => "message header error",
            2 => "OPEN message error",
            3 => "UPDATE message error",
            4 => "hold timer expired",
            5 => "state machine error",
            6 => "cease",
            7 => "ROUTE-REFRESH message error",
            8 => "send hold timer expired",
            _ => "unknown error",
        };
        (code, subcode_words(self.code, self.subcode))
    }
}

fn subcode_words(code: u8, subcode: u8) -> &'static str {
    match (code, subcode) {
        (1, 1) => "connection not synchronized",
        (1, 2) => "bad message length",
        (1, 3) => "bad message type",
        (2, 1) => "unsupported version number",
        (2, 2) => "bad peer AS",
        (2, 3) => "bad BGP identifier",
        (2, 4) => "unsupported optional parameter",
        (2, 5) => "authentication failure",
        (2, 6) => "unacceptable hold time",
        (2, 7) => "unsupported capability",
        (2, 11) => "role mismatch",
        (3, 1) => "malformed attribute list",
        (3, 2) => "unrecognized well-known attribute",
        (3, 3) => "missing well-known attribute",
        (3, 4) => "attribute flags error",
        (3, 5) => "attribute length error",
        (3, 6) => "invalid ORIGIN attribute",
        (3, 7) => "AS routing loop",
        (3, 8) => "invalid NEXT_HOP attribute",
        (3, 9) => "optional attribute error",
        (3, 10) => "invalid network field",
        (3, 11) => "malformed AS_PATH",
        (5, 1) => "unexpected message in OpenSent",
        (5, 2) => "unexpected message in OpenConfirm",
        (5, 3) => "unexpected message in Established",
        (6, 1) => "maximum number of prefixes reached",
        (6, 2) => "administrative shutdown",
        (6, 3) => "peer de-configured",
        (6, 4) => "administrative reset",
        (6, 5) => "connection rejected",
        (6, 6) => "other configuration change",
        (6, 7) => "connection collision resolution",
        (6, 8) => "out of resources",
        (6, 9) => "hard reset",
        (6, 10) => "BFD down",
        (7, 1) => "invalid message length",
        (_, 0) => "unspecific",
        _ => "unknown subcode",
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, subcode) = self.words();
        write!(f, "{code}")?;
        if self.subcode != 0 {
            write!(f, ": {subcode}")?;
        }
        write!(f, " ({}/{})", self.code, self.subcode)?;
        if let Some(text) = self.text() {
            write!(f, " \"{}\"", text.escape_debug())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_text_survives_and_is_cut_at_a_character() {
        let notification = Notification::with_text(code::SHUTDOWN, "upgrade to v3");
        assert_eq!(notification.text().as_deref(), Some("upgrade to v3"));
        assert_eq!(
            notification.to_string(),
            "cease: administrative shutdown (6/2) \"upgrade to v3\""
        );
        let long = "ä".repeat(200);
        let cut = Notification::with_text(code::SHUTDOWN, &long).text().expect("a text");
        assert_eq!(cut.len(), 254);
    }

    #[test]
    fn a_text_whose_length_lies_is_no_text() {
        let notification = Notification::with(code::SHUTDOWN, vec![9, b'a']);
        assert_eq!(notification.text(), None);
        assert_eq!(Notification::of(code::HOLD_TIMER).to_string(), "hold timer expired (4/0)");
    }
}
