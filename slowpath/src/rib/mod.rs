//! Routes: where they come from, which wins, where they lead.
//!
//! ```text
//! peer ─► adj_rib_in ─► filter ─► loc_rib ─► filter ─► adj_rib_out ─► peer
//!         (as heard)   (import)     │ best_path        (as told)
//!                                   └─► the paths in use ─► table ─► next_hop ─► fib
//! ```
//! Nothing here knows sockets, time or wire formats. The BGP half is called from the speaker's one
//! thread, the forwarding half (`table`, `next_hop`, `fib`) from the node's control loop.

pub mod adj_rib_in;
pub mod adj_rib_out;
pub mod best_path;
pub mod fib;
pub mod filter;
pub mod loc_rib;
pub mod next_hop;
pub mod route;
pub mod table;
