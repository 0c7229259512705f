//! Talks routing: learns routes from BGP peers and tells them ours.
//!
//! ```text
//!  peers ◄──TCP──► bgp (sessions, one thread) ◄──► rib (tables, pure)
//!                     │
//!                     └──► SpeakerEvent::Routes: the paths in use, to whoever builds the FIB
//! ```
//! * [`bgp`]: the speaker. [`bgp::spawn`] starts it; [`bgp::SpeakerHandle`] tells it what to be.
//! * [`rib`]: what was heard, what is used, what is told. No sockets, no time, no wire formats.
//!
//! Invariants: no bytes from a peer make it panic; one peer's work is cut into slices, so that it
//! never delays another's timers; the paths in use depend on the routes present, not on their order.

pub mod bgp;
pub mod rib;
