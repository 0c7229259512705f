//! Routes: where they come from, which wins, where they lead.

pub mod fib;
pub mod next_hop;
pub mod table;
