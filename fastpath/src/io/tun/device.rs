//! How is a TUN device made, or taken over, so that super-packets pass through it whole?
#![expect(unsafe_code, reason = "TUN's header size, offloads and identity are set by ioctl only")]

use nix::errno::Errno;
use nix::fcntl::{self, FcntlArg, OFlag};
use nix::sys::stat::Mode;
use std::ffi::{CStr, c_char, c_int, c_short, c_ulong};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use tun::{AbstractDevice, Configuration};

/// Bytes of the virtio network header in front of every packet of our TUN devices.
pub const VNET_HEADER: usize = 10;
/// The same, as the ioctl wants it.
const VNET_HEADER_SIZE: c_int = 10;

/// Checksum, TCP over IPv4 and IPv6, and both kinds of UDP segmentation (the kernel takes the two
/// UDP flags only together, and none of them without the checksum flag).
const OFFLOADS: c_ulong = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;

/// A user that no process runs as: nobody in a pod's namespace can attach to a device it owns.
pub const UNUSED_OWNER: u32 = 2_147_483_646;

/// What a TUN device shall be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunOptions {
    /// The user who may attach to it beside those with `CAP_NET_ADMIN` ([`UNUSED_OWNER`]).
    pub owner: Option<u32>,
    /// Several queues: every further [`open`] of the same name adds one.
    pub multi_queue: bool,
    /// The device outlives its descriptors.
    pub persist: bool,
}

mod ioctl {
    use std::ffi::c_int;
    nix::ioctl_write_ptr!(set_interface, b'T', 202, c_int);
    nix::ioctl_write_int!(set_offloads, b'T', 208);
    nix::ioctl_write_ptr!(set_header_size, b'T', 216, c_int);
    nix::ioctl_read!(get_interface, b'T', 210, std::ffi::c_uint);
    nix::ioctl_none!(get_netns, b'T', 227);
    nix::ioctl_write_ptr!(set_carrier, b'T', 226, c_int);
}

/// Opens the TUN device `name` in the calling thread's network namespace: makes it, or attaches
/// to a persistent one (with `multi_queue`: adds a queue to it). `name` may hold one `%d`.
/// The descriptor does not block and is closed on exec; header size, offloads and owner are set.
///
/// # Errors
/// What the kernel said, with the device and the step in the message. `EBUSY`: another process
/// holds it. `EINVAL`: a device of that name exists and is of another kind.
pub fn open(name: &str, options: TunOptions) -> io::Result<OwnedFd> {
    let mut device = if options.multi_queue {
        // The crate refuses more than one queue, so such a descriptor is made here and lent to it.
        borrow_device(open_multi_queue(name)?.into_raw_fd(), name)?
    } else {
        let mut config = Configuration::default();
        config.tun_name(name).platform_config(|platform| {
            platform.vnet_hdr(true).ensure_root_privileges(false);
        });
        tun::create(&config).map_err(|e| explain(name, "open", tun_error(e)))?
    };
    if let Some(owner) = options.owner {
        let owner = i32::try_from(owner)
            .map_err(|_| explain(name, "owner (at most 2147483647)", Errno::EINVAL.into()))?;
        device.user(owner).map_err(|e| explain(name, "set the owner", tun_error(e)))?;
    }
    if options.persist {
        device.persist().map_err(|e| explain(name, "persist", tun_error(e)))?;
    }
    let actual = device.tun_name().unwrap_or_else(|_| name.to_owned());
    // SAFETY: the device gave its descriptor up; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) };
    prepare(fd.as_fd()).map_err(|e| explain(&actual, "set header size and offloads", e))?;
    Ok(fd)
}

/// Makes a descriptor of one of our TUN devices (opened here, or received from the process that
/// kept it) ready for a [`super::TunQueue`]: not blocking, our header size, our offloads.
///
/// # Errors
/// `EINVAL` when it is no TUN device with a virtio header, else what the kernel said.
pub fn prepare(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl::fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl::fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let wanted = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as c_short;
    let request = interface(fd)?;
    // SAFETY: the kernel filled in the flags member of the union.
    let actual = unsafe { request.ifr_ifru.ifru_flags };
    if actual & wanted != wanted {
        return Err(Errno::EINVAL.into());
    }
    let size = VNET_HEADER_SIZE;
    // SAFETY: the argument points to an int that lives during the call.
    unsafe { ioctl::set_header_size(fd.as_raw_fd(), &raw const size) }?;
    // SAFETY: the argument is a value, not a pointer.
    unsafe { ioctl::set_offloads(fd.as_raw_fd(), OFFLOADS) }?;
    Ok(())
}

/// The device's name now: it changes when the link is renamed.
///
/// # Errors
/// `EBADFD` when the device is gone.
pub fn current_name(fd: BorrowedFd<'_>) -> io::Result<String> {
    let request = interface(fd)?;
    let bytes = request.ifr_name.map(|c| c.to_ne_bytes()[0]);
    let name = CStr::from_bytes_until_nul(&bytes).map_err(|_| Errno::EINVAL)?;
    Ok(name.to_string_lossy().into_owned())
}

/// The network namespace the device is in now.
///
/// # Errors
/// `EBADFD` when the device is gone, `EPERM` without `CAP_NET_ADMIN` in that namespace.
pub fn current_netns(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: takes no argument and returns a new descriptor.
    let netns = unsafe { ioctl::get_netns(fd.as_raw_fd()) }?;
    // SAFETY: the kernel made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(netns) })
}

/// Raises or drops the device's carrier ("not ready" for whoever looks at the link).
///
/// # Errors
/// `EBADFD` when the device is gone.
pub fn set_carrier(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let value = c_int::from(on);
    // SAFETY: the argument points to an int that lives during the call.
    unsafe { ioctl::set_carrier(fd.as_raw_fd(), &raw const value) }?;
    Ok(())
}

fn interface(fd: BorrowedFd<'_>) -> io::Result<libc::ifreq> {
    let mut request = empty_request();
    // SAFETY: TUNGETIFF fills in an ifreq, which is what the argument points to.
    unsafe { ioctl::get_interface(fd.as_raw_fd(), (&raw mut request).cast()) }?;
    Ok(request)
}

fn open_multi_queue(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let fd = fcntl::open("/dev/net/tun", flags, Mode::empty())
        .map_err(|e| explain("/dev/net/tun", "open", e.into()))?;
    let mut request = empty_request();
    if name.len() >= request.ifr_name.len() {
        return Err(explain(name, "name (at most 15 bytes)", Errno::EINVAL.into()));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    let kind = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    request.ifr_ifru.ifru_flags = kind as c_short;
    // SAFETY: TUNSETIFF reads an ifreq, which is what the argument points to.
    unsafe { ioctl::set_interface(fd.as_raw_fd(), (&raw const request).cast()) }
        .map_err(|e| explain(name, "open a queue of", e.into()))?;
    Ok(fd)
}

fn borrow_device(raw: c_int, name: &str) -> io::Result<tun::Device> {
    let mut config = Configuration::default();
    config.raw_fd(raw).tun_name(name).close_fd_on_drop(true);
    tun::create(&config).map_err(|e| explain(name, "take over", tun_error(e)))
}

fn empty_request() -> libc::ifreq {
    // SAFETY: an ifreq is plain data, all zeroes is a valid value.
    unsafe { std::mem::zeroed() }
}

fn tun_error(error: tun::Error) -> io::Error {
    match error {
        tun::Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidInput, other),
    }
}

/// The kernel's error number stays readable behind the message.
fn explain(name: &str, step: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), TunError { name: name.to_owned(), step: step.to_owned(), error })
}

/// A TUN device that could not be had; the inner error is the kernel's.
#[derive(Debug, thiserror::Error)]
#[error("TUN device {name}: {step}: {error}")]
pub struct TunError {
    name: String,
    step: String,
    #[source]
    error: io::Error,
}

impl TunError {
    /// The system's error number, if the kernel was asked.
    pub fn errno(&self) -> Option<i32> {
        self.error.raw_os_error()
    }
}
