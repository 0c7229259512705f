//! Which socket options does BGP need that no safe wrapper offers? TCP-MD5 keys (RFC 2385) and the
//! minimum TTL of GTSM (RFC 5082).
#![expect(unsafe_code, reason = "setsockopt with structures that no crate wraps")]

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The longest TCP-MD5 key the kernel takes.
pub(crate) const MAX_MD5_KEY: usize = 80;
/// `TCP_MD5SIG_FLAG_PREFIX`: the key is for a whole prefix.
const FLAG_PREFIX: u8 = 1;

/// `struct tcp_md5sig` of the kernel's interface.
#[repr(C)]
struct Md5Signature {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; MAX_MD5_KEY],
}

/// Sets (or with an empty key removes) the TCP-MD5 key for segments to and from `peer`.
pub(crate) fn set_md5_key(socket: BorrowedFd<'_>, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    if key.len() > MAX_MD5_KEY {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("TCP-MD5 password of {} octets, at most {MAX_MD5_KEY} are possible", key.len()),
        ));
    }
    let mut signature = Md5Signature {
        address: storage(peer),
        flags: FLAG_PREFIX,
        prefix_length: if peer.is_ipv4() { 32 } else { 128 },
        key_length: u16::try_from(key.len()).unwrap_or(0),
        interface: 0,
        key: [0; MAX_MD5_KEY],
    };
    signature.key[..key.len()].copy_from_slice(key);
    set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG_EXT, &signature)
}

/// Drops packets that arrive with a lower TTL or hop limit.
pub(crate) fn set_min_ttl(socket: BorrowedFd<'_>, ipv6: bool, ttl: u8) -> io::Result<()> {
    let value = libc::c_int::from(ttl);
    if ipv6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &value)
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &value)
    }
}

fn storage(address: IpAddr) -> libc::sockaddr_storage {
    let address = socket2::SockAddr::from(std::net::SocketAddr::new(address, 0));
    // SAFETY: sockaddr_storage is plain data for which all zero bytes are a valid value.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let length = usize::try_from(address.len()).unwrap_or(0).min(size_of_val(&storage));
    // SAFETY: both point to valid memory of at least `length` octets (the address says so itself,
    // the storage is checked above), and they do not overlap: one is a fresh local.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            (&raw mut storage).cast::<u8>(),
            length,
        );
    }
    storage
}

fn set<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the descriptor is open for the borrow's time, `value` points to `length` octets, and
    // the kernel only reads them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
