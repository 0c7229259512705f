//! What do we know, what do we use, and what do we tell: the routing information bases.
//!
//! ```text
//! peer ─► adj_rib_in ─► filter ─► loc_rib ─► filter ─► adj_rib_out ─► peer
//!         (as heard)   (import)     │ best_path        (as told)
//!                                   └─► the paths in use, as changes
//! ```
//! Nothing here knows sockets, time or wire formats; the BGP speaker calls it from its one thread.

pub mod adj_rib_in;
pub mod adj_rib_out;
pub mod best_path;
pub mod filter;
pub mod loc_rib;
pub mod route;
