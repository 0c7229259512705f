//! How do we speak BGP-4: one thread that owns every session and every route.
//!
//! | file | settles |
//! |---|---|
//! | `message`, `attribute`, `nlri`, `capability`, `notification`, `encode` | bytes ⇄ meaning, RFC 7606 verdicts |
//! | `fsm` | what a session does next (pure) |
//! | `session`, `sockopt` | one TCP connection |
//! | `peer`, `routing` | one peer's tables, and how routes move between peers |
//! | `speaker`, `door`, `converge`, `operate` | the thread: sockets, timers, slices of work; live configuration and answers |
//! | `handle`, `config`, `status` | what the rest of the process sees |

pub mod attribute;
mod bytes;
pub mod capability;
pub mod config;
mod converge;
mod door;
pub mod encode;
pub mod fsm;
mod handle;
pub mod message;
pub mod nlri;
pub mod notification;
mod operate;
mod peer;
mod routing;
mod session;
mod sockopt;
mod speaker;
pub mod status;

pub use crate::rib::adj_rib_out::NextHopMode;
pub use config::{OriginatedRoute, PeerConfig, PeerKind, SpeakerConfig};
pub use fsm::State;
pub use handle::{SpeakerHandle, spawn};
pub use status::{BestPath, PeerStatus, RouteChange, RouteEntry, RouteQuery, SpeakerEvent};
