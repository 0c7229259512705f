//! With which ports is a fragment judged? A first is remembered, a later one takes over what its
//! first said.

use super::{Entry, State, View};
use crate::flow::fragment::{DatagramKey, FirstFacts, Piece};
use crate::outcome::DropReason;
use crate::wire::headers::{Family, Fragment, Headers};

/// Completes the headers of a fragment; whole packets pass.
///
/// # Errors
/// The fragment overlaps another, has no first, or there are too many.
pub fn settle(
    view: &View<'_>,
    state: &mut State,
    headers: &mut Headers,
    entry: Entry,
) -> Result<(), DropReason> {
    let payload = headers.total_len as usize - usize::from(headers.l3_len);
    match headers.fragment {
        Fragment::None => Ok(()),
        // It was remembered when it came first.
        Fragment::First { .. } if entry != Entry::Device => Ok(()),
        Fragment::First { id } => {
            let facts = FirstFacts {
                protocol: headers.protocol,
                source_port: headers.source_port,
                destination_port: headers.destination_port,
                icmp_id: headers.icmp_id,
                tcp_flags: headers.tcp_flags,
            };
            let piece = Piece { offset: 0, len: payload, more: true };
            state.fragments.first(key(headers, id), facts, piece, view.now)
        }
        Fragment::Later { id, offset, more } => {
            let key = key(headers, id);
            let facts = if entry == Entry::Device {
                let piece = Piece { offset: usize::from(offset), len: payload, more };
                state.fragments.later(key, piece, view.now)?
            } else {
                state.fragments.facts(&key).ok_or(DropReason::FragmentNoFirst)?
            };
            headers.protocol = facts.protocol;
            headers.source_port = facts.source_port;
            headers.destination_port = facts.destination_port;
            headers.icmp_id = facts.icmp_id;
            headers.tcp_flags = facts.tcp_flags;
            Ok(())
        }
    }
}

fn key(headers: &Headers, id: u32) -> DatagramKey {
    let protocol = if headers.family == Family::V4 { headers.protocol } else { 0 };
    DatagramKey { source: headers.source, destination: headers.destination, protocol, id }
}
