//! How does a test send what no socket would let it send? Raw, past the kernel's own checks.
#![expect(unsafe_code, reason = "nix offers no safe way to build a link-layer address")]

use std::mem::size_of;
use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Netns;

/// `ETH_P_IP`.
const IPV4: u16 = 0x0800;
/// `ETH_P_IPV6`.
const IPV6: u16 = 0x86dd;

/// Sends `bytes` out of `interface` as they are: a frame from its Ethernet header on, or, on an
/// interface without link-layer header (a TUN), an IP packet.
pub fn send(netns: &Netns, interface: &str, bytes: &[u8]) -> anyhow::Result<()> {
    netns
        .enter(|| send_here(interface, bytes))?
        .with_context(|| format!("{}: sending {} bytes by {interface}", netns.short(), bytes.len()))
}

fn send_here(interface: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let index = if_nametoindex(interface)?;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let protocol = if bytes.first().is_some_and(|byte| byte >> 4 == 6) { IPV6 } else { IPV4 };
    // SAFETY: a sockaddr_ll is plain old data, for which all zeros is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = i32::try_from(index)?;
    // SAFETY: the descriptor is open, and both pointers cover as many bytes as their lengths say.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    let sent = Errno::result(sent)?;
    anyhow::ensure!(usize::try_from(sent)? == bytes.len(), "only {sent} bytes were taken");
    Ok(())
}
