//! The fast path: moves packets and decides nothing new.
//!
//! ```text
//! port ─► ingress ─► lookup ──hit, same generation──────────────────► rewrite ─► egress ─► port
//!                      │miss                                             ▲          ├─► Punt ring
//!                      └─► route ─► acl ─► remember ─────────────────────┘          └─► DropReason++
//! ```
//!
//! Batches flow through stages that read tables. A [`worker`] is one thread that receives a batch
//! from each queue that is ready, takes the current [`tables`] once, runs the [`stage`]s in the
//! order that [`pipeline`] alone knows, and transmits. [`router`] is the handle that the control
//! side holds: tables go down by [`publish`], packets come up by [`punt`].
//!
//! Invariants: no stage allocates, logs or makes a system call; a flow hit takes no lock; every
//! packet has exactly one [`outcome`]; a policy change flushes nothing and is obeyed at once.

pub mod acl;
pub mod batch;
pub mod capture;
pub mod counters;
pub mod flow;
pub mod io;
pub mod limits;
pub mod lpm;
pub mod outcome;
pub mod packet;
pub mod pipeline;
pub mod ports;
pub mod publish;
pub mod punt;
pub mod router;
pub mod stage;
pub mod tables;
pub mod trace;
pub mod wire;
pub mod worker;
