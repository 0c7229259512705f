//! Policy: decides who may talk and touches nothing. No I/O, no clock, no Kubernetes client.
//!
//! ```text
//! Change ─► engine ─► index (policies that select a workload) ─► resolve (tiers, in order)
//!              │                                                     │
//!              └─► world ─► sets (selector → addresses) ◄── lower ◄──┘ ─► fastpath::acl::RuleList
//! ```
//! * [`model`] is what comes in: namespaces, workloads, policies, already validated.
//! * [`kubernetes`] turns a policy of its kind into the neutral [`rule`]s; from there on no kind
//!   of policy is known.
//! * [`engine`] takes changes in any order and gives what the fast path needs that is new.
//! * [`explain`] says which rule decides, by the same lowered rules.
//! * [`oracle`] judges by the API texts directly and shares no step with the above: the engine's
//!   output through the compiled classifier must say the same.
//!
//! *Invariant: the output depends on what is there, never on the order in which it came.*

pub mod engine;
pub mod explain;
mod ids;
mod index;
pub mod kubernetes;
pub mod limits;
mod lower;
pub mod model;
mod names;
pub mod oracle;
mod resolve;
pub mod rule;
pub mod selector;
mod sets;
#[cfg(test)]
mod tests;
mod world;

pub use engine::{Change, Direction, EndpointRules, Flush, PolicyEngine};
pub use names::RuleName;
