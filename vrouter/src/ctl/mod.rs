//! The operator's commands.

mod columns;
pub mod ipam;
pub mod output;
pub mod request;
pub mod resource;
pub mod show;
pub mod socket;
pub mod table;
#[cfg(test)]
mod tests;
pub mod watch;
