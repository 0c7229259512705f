//! Talks routing: learns routes from BGP peers, tells them ours, and finds out where packets go.
//!
//! ```text
//!  peers ◄──TCP──► bgp (sessions, one thread) ◄──► rib (tables, pure) ──► next hops ──► FIB
//!                     │                              ▲
//!                     └──► SpeakerEvent::Routes ─────┘ (through the node's control loop)
//!  punt, neighbour: answers to packets that the fast path hands up
//! ```
//! * [`bgp`]: the speaker. [`bgp::spawn`] starts it; [`bgp::SpeakerHandle`] tells it what to be.
//! * [`rib`]: what was heard, what is used, what is told, and where it leads. No sockets, no time,
//!   no wire formats.
//! * [`punt`], [`neighbour`]: ICMP and ARP/ND.
//!
//! Invariants: no bytes from a peer make it panic; one peer's work is cut into slices, so that it
//! never delays another's timers; the paths in use depend on the routes present, not on their order.

pub mod bgp;
pub mod neighbour;
pub mod punt;
pub mod rib;
