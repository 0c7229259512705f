//! What do the forwarder and the holder say to each other, byte by byte?
//!
//! One request, one reply, each one datagram. Integers are little-endian.
//! Request: operation (1), length of the name (1), name, metadata. Reply: status (1), payload.

use std::fmt;
use std::os::fd::OwnedFd;

use super::wire::Message;
use super::{Held, HoldError};

/// The version of this protocol. A holder outlives forwarders, so an old one must stay understood.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest name in bytes.
pub const MAX_NAME: usize = 255;
/// Most metadata in bytes.
pub const MAX_METADATA: usize = 4096;
/// A reply that lists stays below this, in bytes; at least one entry fits.
const PAGE: usize = 32 * 1024;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Keep the descriptor that comes along.
    Put,
    /// Give a copy of the descriptor.
    Get,
    /// Names and metadata after a name, in order, as many as fit.
    List,
    /// Forget.
    Drop,
    /// Who are you?
    Version,
}

/// A request.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) operation: Operation,
    pub(super) name: &'a str,
    pub(super) metadata: &'a [u8],
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the request is shorter than its two bytes of header")]
    TooShort,
    #[error("operation {0} is unknown")]
    UnknownOperation(u8),
    #[error("the name is cut off")]
    NameCutOff,
    #[error("the name is not UTF-8")]
    NameNotText,
    #[error("the metadata has {0} bytes, at most 4096 are kept")]
    MetadataTooLarge(usize),
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Done,
    Missing,
    Refused,
}

/// A reply.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: Status,
    pub(super) payload: Vec<u8>,
    pub(super) fd: Option<OwnedFd>,
}

impl<'a> Request<'a> {
    pub(super) fn encode(&self) -> Result<Vec<u8>, HoldError> {
        let invalid = |reason| HoldError::Invalid { name: self.name.into(), reason };
        let needs_name =
            matches!(self.operation, Operation::Put | Operation::Get | Operation::Drop);
        if needs_name && self.name.is_empty() {
            return Err(invalid("the name is empty"));
        }
        let length = u8::try_from(self.name.len())
            .map_err(|_| invalid("the name is longer than 255 bytes"))?;
        if self.metadata.len() > MAX_METADATA {
            return Err(invalid("the metadata is larger than 4096 bytes"));
        }
        let mut bytes = vec![self.operation.code(), length];
        bytes.extend(self.name.as_bytes());
        bytes.extend(self.metadata);
        Ok(bytes)
    }

    /// Reads a request.
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let [code, length, rest @ ..] = bytes else { return Err(Malformed::TooShort) };
        let operation = Operation::from_code(*code).ok_or(Malformed::UnknownOperation(*code))?;
        let (name, metadata) =
            rest.split_at_checked(usize::from(*length)).ok_or(Malformed::NameCutOff)?;
        let name = str::from_utf8(name).map_err(|_| Malformed::NameNotText)?;
        if metadata.len() > MAX_METADATA {
            return Err(Malformed::MetadataTooLarge(metadata.len()));
        }
        Ok(Self { operation, name, metadata })
    }

    pub(super) fn describe(&self) -> String {
        format!("{:?} {}", self.operation, self.name).trim_end().to_lowercase()
    }
}

impl Operation {
    fn code(self) -> u8 {
        match self {
            Self::Put => 1,
            Self::Get => 2,
            Self::List => 3,
            Self::Drop => 4,
            Self::Version => 5,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        let all = [Self::Put, Self::Get, Self::List, Self::Drop, Self::Version];
        all.into_iter().find(|operation| operation.code() == code)
    }
}

impl Reply {
    pub(super) fn done(payload: Vec<u8>) -> Self {
        Self { status: Status::Done, payload, fd: None }
    }

    pub(super) fn missing() -> Self {
        Self { status: Status::Missing, payload: Vec::new(), fd: None }
    }

    pub(super) fn refused(reason: impl fmt::Display) -> Self {
        Self { status: Status::Refused, payload: reason.to_string().into_bytes(), fd: None }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let status = match self.status {
            Status::Done => 0,
            Status::Missing => 1,
            Status::Refused => 2,
        };
        [&[status], self.payload.as_slice()].concat()
    }

    pub(super) fn decode(message: Message) -> Option<Self> {
        let (status, payload) = message.bytes.split_first()?;
        let status = match status {
            0 => Status::Done,
            1 => Status::Missing,
            2 => Status::Refused,
            _ => return None,
        };
        Some(Self { status, payload: payload.to_vec(), fd: message.fds.into_iter().next() })
    }
}

/// As many entries as fit: length of the name (1), name, length of the metadata (2), metadata.
pub(super) fn write_page<'a>(entries: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut page = Vec::new();
    for (name, metadata) in entries {
        if page.len() + name.len() + metadata.len() + 3 > PAGE {
            break;
        }
        page.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        page.extend(name.as_bytes());
        page.extend(u16::try_from(metadata.len()).unwrap_or(u16::MAX).to_le_bytes());
        page.extend(metadata);
    }
    page
}

/// Reads what [`write_page`] wrote.
pub(super) fn read_page(mut bytes: &[u8]) -> Option<Vec<Held>> {
    let mut entries = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (metadata, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let name = str::from_utf8(name).ok()?.to_owned();
        entries.push(Held { name, metadata: metadata.to_vec() });
        bytes = rest;
    }
    Some(entries)
}
