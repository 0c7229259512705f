//! The operator's commands.

pub mod request;
pub mod socket;
pub mod watch;
