//! The slow path: talks routing.

pub mod neighbour;
pub mod punt;
pub mod rib;
