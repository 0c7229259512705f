//! How does the node read and set the kernel's networking?
//!
//! Everything here is synchronous and works on one network namespace at a time: the one in which a
//! [`netlink::Netlink`] socket was opened, or the one a [`netns::run_in`] closure runs in.

pub mod autodetect;
mod forward;
pub mod links;
pub mod monitor;
pub mod netlink;
pub mod netns;
pub mod pod;
pub mod state;
mod sysctl;

pub use forward::ForwardError;
pub use sysctl::SysctlError;
