//! How is the kernel's rtnetlink asked and told, one request at a time?
//!
//! A [`Netlink`] socket belongs for ever to the namespace it was opened in, so a handle for a pod's
//! namespace can be used from any thread.

mod address;
mod link;
mod neighbour;
mod route;
mod rule;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlaBuffer, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::netns::{NetNs, NetNsError, run_in};

pub use address::Address;
pub use link::{Link, LinkChange, LinkLayer, MacAddress, VethPair};
pub use neighbour::{Neighbour, NeighbourState};
pub use route::{NextHop, Route, RouteKind, RouteScope, TABLE_LOCAL, TABLE_MAIN};
pub use rule::{Family, Rule};

/// Dumps answer in pieces of up to 32 KiB when the reader offers that much.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// The kernel answers in the calling thread; this only bounds a fault.
const ANSWER_TIMEOUT_SECONDS: i64 = 10;
/// A table that changes while it is dumped is read again, this often at most.
const DUMP_ATTEMPTS: usize = 8;
/// `NLMSGERR_ATTR_MSG` of linux/netlink.h: the extended acknowledgement's text.
const ERROR_TEXT_ATTRIBUTE: u16 = 1;
const MESSAGE_HEADER: usize = 16;
/// `NLMSG_ERROR` and `NLMSG_DONE` of linux/netlink.h.
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;

/// A request socket for one namespace's links, addresses, routes, rules and neighbours.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// Why the kernel could not be asked or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket failed.
    #[error("netlink: {operation}: {source}")]
    Socket {
        /// What was being done.
        operation: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("{operation}: {}{}", errno.desc(), detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Refused {
        /// What was asked for, with its object.
        operation: String,
        /// The kernel's error number.
        errno: Errno,
        /// The kernel's own sentence (extended acknowledgement), where it gave one.
        detail: Option<String>,
    },
    /// The answer could not be read.
    #[error("{operation}: the kernel's answer cannot be read: {reason}")]
    Answer {
        /// What was asked for.
        operation: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The namespace could not be entered to open the socket.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
}

impl NetlinkError {
    /// The kernel's error number, where it refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether the object does not exist: deleting it is done already.
    pub fn is_missing(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL)
        )
    }

    /// Whether the object exists already.
    pub fn is_existing(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = open_socket()?;
        let failed = |source: io::Error| NetlinkError::Socket {
            operation: "prepare the request socket".into(),
            source,
        };
        let timeout = TimeVal::new(ANSWER_TIMEOUT_SECONDS, 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).map_err(|e| failed(e.into()))?;
        // Answers then carry the kernel's sentence instead of a copy of the request.
        socket.set_cap_ack(true).map_err(failed)?;
        socket.set_ext_ack(true).map_err(failed)?;
        // Without it the kernel ignores the filter fields of a dump.
        socket.set_netlink_get_strict_chk(true).map_err(failed)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Opens a socket in another namespace.
    pub fn open_in(namespace: &NetNs) -> Result<Self, NetlinkError> {
        run_in(namespace, Self::open)?
    }

    /// Sends one request and waits for its acknowledgement; `operation` names it in errors.
    pub(super) fn execute(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: impl Fn() -> String,
    ) -> Result<(), NetlinkError> {
        self.talk(message, NLM_F_REQUEST | NLM_F_ACK | flags, &operation).map(drop)
    }

    /// Sends one question that has one answer.
    pub(super) fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        operation: impl Fn() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.talk(message, NLM_F_REQUEST | NLM_F_ACK, &operation).map(|(answers, _)| answers)
    }

    /// Reads a whole table, again if it changed meanwhile.
    pub(super) fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
        operation: impl Fn() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let (answers, interrupted) =
                self.talk(message.clone(), NLM_F_REQUEST | NLM_F_DUMP, &operation)?;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Answer {
            operation: operation(),
            reason: format!("the table changed during each of {DUMP_ATTEMPTS} reads"),
        })
    }

    /// One exchange: the answers, and whether the kernel marked them as interrupted by a change.
    fn talk(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &impl Fn() -> String,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let failed = |source: io::Error| NetlinkError::Socket { operation: operation(), source };
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(failed)?;

        let mut answers = Vec::new();
        let mut interrupted = false;
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            receive(&self.socket, &mut buffer).map_err(failed)?;
            for piece in split(&buffer) {
                let piece = piece.map_err(|e| answer_error(operation, &e))?;
                // What an earlier request that timed out left behind is not ours.
                if piece.sequence_number() != self.sequence {
                    continue;
                }
                interrupted |= piece.flags() & NLM_F_DUMP_INTR != 0;
                match Answer::read(&piece) {
                    Answer::Message(message) => answers.push(*message),
                    Answer::Finished => return Ok((answers, interrupted)),
                    Answer::Refused { errno, detail } => {
                        return Err(NetlinkError::Refused {
                            operation: operation(),
                            errno,
                            detail,
                        });
                    }
                    Answer::Unknown => {}
                }
            }
        }
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What one message of an answer means.
enum Answer {
    Message(Box<RouteNetlinkMessage>),
    Finished,
    Refused {
        errno: Errno,
        detail: Option<String>,
    },
    /// A kind of object this version does not know: skipped, the rest of the answer is good.
    Unknown,
}

impl Answer {
    fn read(piece: &NetlinkBuffer<&[u8]>) -> Self {
        if piece.message_type() != TYPE_ERROR && piece.message_type() != TYPE_DONE {
            return decode(piece).map_or(Self::Unknown, |m| Self::Message(Box::new(m)));
        }
        let payload = piece.payload();
        let code = payload.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
        if code >= 0 {
            return Self::Finished;
        }
        // RFC 3549 §2.3.2.2: the code, then the request's header (capped to just that), then
        // the extended acknowledgement's attributes. A dump's end has no request header.
        let skip = if piece.message_type() == TYPE_ERROR { 4 + MESSAGE_HEADER } else { 4 };
        let detail = payload.get(skip..).and_then(error_text);
        Self::Refused { errno: Errno::from_raw(-code), detail }
    }
}

fn error_text(attributes: &[u8]) -> Option<String> {
    NlasIterator::new(attributes).filter_map(Result::ok).find_map(|nla: NlaBuffer<&[u8]>| {
        (nla.kind() == ERROR_TEXT_ATTRIBUTE).then(|| {
            let text = String::from_utf8_lossy(nla.value());
            text.trim_end_matches('\0').to_owned()
        })
    })
}

fn answer_error(operation: &impl Fn() -> String, error: &DecodeError) -> NetlinkError {
    NetlinkError::Answer { operation: operation(), reason: error.to_string() }
}

/// Opens a netlink socket with a kernel-chosen address.
pub(super) fn open_socket() -> Result<Socket, NetlinkError> {
    let failed = |source| NetlinkError::Socket { operation: "open the socket".into(), source };
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
    socket.bind_auto().map_err(failed)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
    Ok(socket)
}

/// Receives one datagram into `buffer`: the kernel cuts its answers to what the reader offers.
pub(super) fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    buffer.reserve(RECEIVE_BUFFER);
    loop {
        match socket.recv(buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// The netlink messages of one datagram.
pub(super) fn split(
    datagram: &[u8],
) -> impl Iterator<Item = Result<NetlinkBuffer<&[u8]>, DecodeError>> {
    let mut pending: VecDeque<_> = VecDeque::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        match NetlinkBuffer::new_checked(rest) {
            Ok(piece) => {
                let length = piece.length() as usize;
                pending.push_back(Ok(NetlinkBuffer::new(&rest[..length])));
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
            Err(error) => {
                pending.push_back(Err(error));
                break;
            }
        }
    }
    pending.into_iter()
}

/// The object a message carries; `None` for what this version of the decoder does not know.
pub(super) fn decode(piece: &NetlinkBuffer<&[u8]>) -> Option<RouteNetlinkMessage> {
    let bytes: &[u8] = piece.clone().into_inner();
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?.payload {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    }
}
