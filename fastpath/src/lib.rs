//! The fast path: moves packets and decides nothing new.
//!
//! ```text
//! port ─► ingress ─► lookup ──hit, same generation──────────────────► rewrite ─► egress ─► port
//!                      │miss                                             ▲          ├─► Punt ring
//!                      └─► route ─► acl ─► (remember) ───────────────────┘          └─► DropReason++
//! ```

pub mod acl;
pub mod batch;
pub mod io;
pub mod limits;
pub mod lpm;
pub mod outcome;
pub mod packet;
pub mod publish;
pub mod tables;
pub mod wire;
