//! How is a TUN device opened so that offloaded packets pass through it whole?
#![expect(unsafe_code, reason = "TUN devices are set up by ioctl")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// How to open it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TunOptions {
    /// Who else may attach to it; an unused uid shuts everybody out.
    pub(super) owner: Option<u32>,
    /// Whether more queues can be added.
    pub(super) multi_queue: bool,
    /// Whether the device outlives its last descriptor.
    pub(super) persist: bool,
}

/// Bytes of `virtio_net_hdr` before each packet.
const VNET_HEADER: libc::c_int = 10;
/// `TUN_F_CSUM | TSO4 | TSO6 | USO4 | USO6`: the two USO bits are accepted only together.
const OFFLOADS: libc::c_int = 0x67;

mod ioctls {
    nix::ioctl_write_ptr_bad!(set_interface, 0x4004_54ca, libc::ifreq);
    nix::ioctl_write_int_bad!(set_persist, 0x4004_54cb);
    nix::ioctl_write_int_bad!(set_owner, 0x4004_54cc);
    nix::ioctl_write_int_bad!(set_offload, 0x4004_54d0);
    nix::ioctl_write_ptr_bad!(set_vnet_header, 0x4004_54d8, libc::c_int);
}

/// Opens the device `name` in the calling thread's namespace, making it if there is none.
pub(super) fn open(name: &str, options: TunOptions) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let fd = file.as_raw_fd();
    let request = interface_request(name, options.multi_queue)?;
    // SAFETY: `request` is a whole ifreq that lives through the call; `fd` is open.
    unsafe { ioctls::set_interface(fd, &raw const request) }?;
    // SAFETY: the kernel reads one int behind the pointer.
    unsafe { ioctls::set_vnet_header(fd, &VNET_HEADER) }?;
    // SAFETY: the argument is a value.
    unsafe { ioctls::set_offload(fd, OFFLOADS) }?;
    if let Some(owner) = options.owner {
        let owner = libc::c_int::try_from(owner).map_err(io::Error::other)?;
        // SAFETY: the argument is a value.
        unsafe { ioctls::set_owner(fd, owner) }?;
    }
    if options.persist {
        // SAFETY: the argument is a value.
        unsafe { ioctls::set_persist(fd, 1) }?;
    }
    Ok(file.into())
}

fn interface_request(name: &str, multi_queue: bool) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("interface name '{name}' has {} bytes, 1 to 15 are possible", name.len()),
        ));
    }
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::c_short::try_from(flags).map_err(io::Error::other)?,
        },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}
