//! What is this network interface, and what does its driver offer?
#![expect(unsafe_code, reason = "interface and ethtool requests are ioctls")]

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::ffi::c_char;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const GET_DRIVER: u32 = 0x03;
const GET_FLAGS: u32 = 0x25;
const SET_FLAGS: u32 = 0x26;
const GET_GRO: u32 = 0x2b;
const SET_GRO: u32 = 0x2c;
const GET_CHANNELS: u32 = 0x3c;
const FLAG_LRO: u32 = 1 << 15;

mod ioctl {
    nix::ioctl_readwrite_bad!(ethtool, libc::SIOCETHTOOL, libc::ifreq);
    nix::ioctl_readwrite_bad!(get_mtu, libc::SIOCGIFMTU, libc::ifreq);
    nix::ioctl_readwrite_bad!(get_hardware_address, libc::SIOCGIFHWADDR, libc::ifreq);
}

/// One interface of the network namespace it was opened in, from whatever thread it is asked.
#[derive(Debug)]
pub struct Netdev {
    name: String,
    index: u32,
    socket: OwnedFd,
}

impl Netdev {
    /// Opens the interface `name` of the calling thread's network namespace.
    ///
    /// # Errors
    /// The name and what the kernel said (`ENODEV`: there is no such interface).
    pub fn open(name: &str) -> io::Result<Self> {
        let explain = |e: Errno| {
            let error = io::Error::from(e);
            io::Error::new(error.kind(), format!("interface {name}: {error}"))
        };
        let index = if_nametoindex(name).map_err(explain)?;
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .map_err(explain)?;
        Ok(Self { name: name.to_owned(), index, socket })
    }

    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's number for it.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The largest IP packet it takes, in bytes.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn mtu(&self) -> io::Result<u32> {
        let mut request = self.request();
        // SAFETY: the argument is an ifreq with the interface's name.
        unsafe { ioctl::get_mtu(self.socket.as_raw_fd(), &raw mut request) }?;
        // SAFETY: the kernel filled in this member.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(mtu.unsigned_abs())
    }

    /// Its MAC address; `None` when it is no Ethernet device.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn mac(&self) -> io::Result<Option<[u8; 6]>> {
        let mut request = self.request();
        // SAFETY: the argument is an ifreq with the interface's name.
        unsafe { ioctl::get_hardware_address(self.socket.as_raw_fd(), &raw mut request) }?;
        // SAFETY: the kernel filled in this member.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            *to = from.to_ne_bytes()[0];
        }
        Ok((address.sa_family == libc::ARPHRD_ETHER).then_some(mac))
    }

    /// The driver's name (`veth`, `bridge`, `virtio_net` …); empty when it doesn't say.
    pub fn driver(&self) -> String {
        let mut buffer = [0; 49];
        buffer[0] = GET_DRIVER;
        if self.ethtool(&mut buffer).is_err() {
            return String::new();
        }
        let name = buffer[1..9].iter().flat_map(|word| word.to_ne_bytes());
        String::from_utf8_lossy(&name.take_while(|b| *b != 0).collect::<Vec<_>>()).into_owned()
    }

    /// Receive queues in use (1 when the driver doesn't say).
    pub fn rx_queues(&self) -> u32 {
        let mut buffer = [0; 9];
        buffer[0] = GET_CHANNELS;
        match self.ethtool(&mut buffer) {
            Ok(()) => (buffer[5] + buffer[8]).max(1),
            Err(_) => 1,
        }
    }

    /// Switches the kernel's and the driver's receive coalescing (GRO, LRO) on or off; answers
    /// whether GRO was on. LRO is only ever switched off.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn set_coalescing(&self, on: bool) -> io::Result<bool> {
        let mut gro = [GET_GRO, 0];
        self.ethtool(&mut gro)?;
        let was = gro[1] != 0;
        if was != on {
            self.ethtool(&mut [SET_GRO, u32::from(on)])?;
        }
        let mut flags = [GET_FLAGS, 0];
        if !on && self.ethtool(&mut flags).is_ok() && flags[1] & FLAG_LRO != 0 {
            self.ethtool(&mut [SET_FLAGS, flags[1] & !FLAG_LRO])?;
        }
        Ok(was)
    }

    fn ethtool<const N: usize>(&self, buffer: &mut [u32; N]) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_data = buffer.as_mut_ptr().cast::<c_char>();
        // SAFETY: every command used here fills in a structure of exactly the buffer's words.
        unsafe { ioctl::ethtool(self.socket.as_raw_fd(), &raw mut request) }?;
        Ok(())
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: an ifreq is plain data, all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The kernel knows the interface, so its name fits with a terminating zero.
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = c_char::from_ne_bytes([from]);
        }
        request
    }
}
