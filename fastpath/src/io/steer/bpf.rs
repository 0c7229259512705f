//! How is the embedded BPF object loaded, attached, found again, and how are its maps changed?
#![expect(unsafe_code, reason = "libbpf is a C library")]

use bytemuck::{AnyBitPattern, NoUninit};
use libbpf_sys as sys;
use nix::errno::Errno;
use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// The compiled program, aligned as an ELF file wants to be read.
static OBJECT: &Aligned<[u8]> =
    &Aligned { _align: [], bytes: *include_bytes!(concat!(env!("OUT_DIR"), "/steer.bpf.o")) };

#[repr(C)]
struct Aligned<T: ?Sized> {
    _align: [u64; 0],
    bytes: T,
}

/// Bytes of the verifier's log that an error message may hold.
const LOG: usize = 64 << 10;

/// The loaded object; closing it leaves programs and maps alive that somebody holds.
pub(super) struct Object(*mut sys::bpf_object);

impl Object {
    /// Loads the named programs and every map.
    pub(super) fn load(programs: &[&CStr]) -> Result<Self, (io::Error, String)> {
        Self::load_with(programs, true)
    }

    /// As [`Object::load`]; without maps only programs that use none can be loaded.
    pub(super) fn load_with(programs: &[&CStr], maps: bool) -> Result<Self, (io::Error, String)> {
        let mut log = vec![0_u8; LOG];
        let options = sys::bpf_object_open_opts {
            sz: size_of::<sys::bpf_object_open_opts>() as u64,
            kernel_log_buf: log.as_mut_ptr().cast(),
            kernel_log_size: LOG as u64,
            ..Default::default()
        };
        // Errors come back as values; libbpf would print them to standard error as well.
        // SAFETY: takes any function pointer or none.
        unsafe { sys::libbpf_set_print(None) };
        let bytes = &OBJECT.bytes;
        // SAFETY: the bytes live forever; the options live during the call, the log until load.
        let raw = unsafe {
            sys::bpf_object__open_mem(bytes.as_ptr().cast(), bytes.len() as u64, &raw const options)
        };
        if raw.is_null() {
            return Err((io::Error::last_os_error(), String::new()));
        }
        let object = Self(raw);
        object.each_program(|name, program| {
            // SAFETY: the program belongs to the open object.
            unsafe { sys::bpf_program__set_autoload(program, programs.contains(&name)) };
            None::<()>
        });
        if !maps {
            object.forgo_maps();
        }
        // SAFETY: the object is open and not loaded yet.
        let code = unsafe { sys::bpf_object__load(object.0) };
        check(code).map_err(|error| (error, last_lines(&log)))?;
        Ok(object)
    }

    /// A descriptor of a loaded program.
    pub(super) fn program(&self, wanted: &CStr) -> io::Result<OwnedFd> {
        let raw = self.each_program(|name, program| {
            // SAFETY: the program belongs to the loaded object.
            (name == wanted).then(|| unsafe { sys::bpf_program__fd(program) })
        });
        duplicate(raw.unwrap_or(-libc::ENOENT))
    }

    /// A descriptor of a map.
    pub(super) fn map(&self, name: &CStr) -> io::Result<OwnedFd> {
        // SAFETY: the object is loaded and the name a C string.
        duplicate(unsafe { sys::bpf_object__find_map_fd_by_name(self.0, name.as_ptr()) })
    }

    /// Leaves the maps out when the object is loaded.
    fn forgo_maps(&self) {
        let mut map = ptr::null_mut();
        loop {
            // SAFETY: the object is open; null asks for the first map.
            map = unsafe { sys::bpf_object__next_map(self.0, map) };
            if map.is_null() {
                return;
            }
            // SAFETY: the map belongs to the object. It fails only for objects loaded already.
            unsafe { sys::bpf_map__set_autocreate(map, false) };
        }
    }

    fn each_program<T>(
        &self,
        mut visit: impl FnMut(&CStr, *mut sys::bpf_program) -> Option<T>,
    ) -> Option<T> {
        let mut program = ptr::null_mut();
        loop {
            // SAFETY: the object is open; null asks for the first program.
            program = unsafe { sys::bpf_object__next_program(self.0, program) };
            if program.is_null() {
                return None;
            }
            // SAFETY: the program belongs to the object.
            let name = unsafe { sys::bpf_program__name(program) };
            // SAFETY: names are C strings that live as long as the object.
            let name = unsafe { CStr::from_ptr(name) };
            let found = visit(name, program);
            if found.is_some() {
                return found;
            }
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: opened by us and closed once; descriptors handed out are copies.
        unsafe { sys::bpf_object__close(self.0) };
    }
}

/// A map whose key and value sizes were compared with the kernel's.
pub(super) struct Map<K, V> {
    fd: OwnedFd,
    kind: PhantomData<(K, V)>,
}

impl<K: NoUninit + AnyBitPattern, V: NoUninit> Map<K, V> {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let info = map_info(fd.as_fd())?;
        let sizes = (info.key_size as usize, info.value_size as usize);
        if sizes != (size_of::<K>(), size_of::<V>()) {
            return Err(Errno::EINVAL.into());
        }
        Ok(Self { fd, kind: PhantomData })
    }

    pub(super) fn insert(&self, key: K, value: V) -> io::Result<()> {
        let (key, value) = (ptr::from_ref(&key).cast(), ptr::from_ref(&value).cast());
        // SAFETY: both point to as many bytes as the map's key and value have.
        check(unsafe { sys::bpf_map_update_elem(self.fd.as_raw_fd(), key, value, 0) })
    }

    /// Removes a key; a missing one is no error.
    pub(super) fn remove(&self, key: K) -> io::Result<()> {
        // SAFETY: the pointer is to as many bytes as the map's key has.
        let code =
            unsafe { sys::bpf_map_delete_elem(self.fd.as_raw_fd(), ptr::from_ref(&key).cast()) };
        if code == -libc::ENOENT { Ok(()) } else { check(code) }
    }

    pub(super) fn keys(&self) -> io::Result<Vec<K>> {
        let mut keys: Vec<K> = Vec::new();
        loop {
            let mut next = K::zeroed();
            let last = keys.last().map_or(ptr::null(), |key| ptr::from_ref(key).cast());
            // SAFETY: null or a key of the map's size; the next one fits where it goes.
            let code = unsafe {
                sys::bpf_map_get_next_key(self.fd.as_raw_fd(), last, (&raw mut next).cast())
            };
            if code == -libc::ENOENT {
                return Ok(keys);
            }
            check(code)?;
            keys.push(next);
        }
    }
}

/// The sum over all CPUs of one slot of a per-CPU array of `u64`.
pub(super) fn sum_per_cpu(map: BorrowedFd<'_>, slot: u32) -> io::Result<u64> {
    // SAFETY: takes no argument.
    let cpus = unsafe { sys::libbpf_num_possible_cpus() };
    check(cpus.min(0))?;
    if map_info(map)?.value_size as usize != size_of::<u64>() {
        return Err(Errno::EINVAL.into());
    }
    let mut values = vec![0_u64; cpus.unsigned_abs() as usize];
    // SAFETY: the kernel writes eight bytes for every possible CPU.
    check(unsafe {
        sys::bpf_map_lookup_elem(
            map.as_raw_fd(),
            (&raw const slot).cast(),
            values.as_mut_ptr().cast(),
        )
    })?;
    Ok(values.iter().sum())
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    XdpNative,
    XdpGeneric,
    Ingress,
    Egress,
}

/// Attaches a program; it stays as long as the link's descriptor lives in some process.
pub(super) fn attach(program: BorrowedFd<'_>, index: u32, place: Place) -> io::Result<OwnedFd> {
    let (kind, flags) = match place {
        Place::XdpNative => (sys::BPF_XDP, sys::XDP_FLAGS_DRV_MODE),
        Place::XdpGeneric => (sys::BPF_XDP, sys::XDP_FLAGS_SKB_MODE),
        Place::Ingress => (sys::BPF_TCX_INGRESS, 0),
        Place::Egress => (sys::BPF_TCX_EGRESS, 0),
    };
    let options = sys::bpf_link_create_opts {
        sz: size_of::<sys::bpf_link_create_opts>() as u64,
        flags,
        ..Default::default()
    };
    let index = c_int::try_from(index).map_err(|_| Errno::ENODEV)?;
    // SAFETY: the options live during the call.
    let raw = unsafe { sys::bpf_link_create(program.as_raw_fd(), index, kind, &raw const options) };
    own(raw)
}

/// Takes the program off, whoever else holds the link.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: works on any descriptor; one that is no link is an error.
    check(unsafe { sys::bpf_link_detach(link.as_raw_fd()) })
}

/// What hangs on an XDP link.
pub(super) struct LinkInfo {
    /// The interface (0: it is gone).
    pub(super) index: u32,
    pub(super) program: String,
    pub(super) maps: Vec<(String, OwnedFd)>,
    pub(super) native: bool,
}

/// Looks behind an XDP link that another process kept.
pub(super) fn inspect(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = sys::bpf_link_info::default();
    let mut len = size_of::<sys::bpf_link_info>() as u32;
    // SAFETY: the kernel writes at most `len` bytes.
    check(unsafe { sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &raw mut info, &raw mut len) })?;
    if info.type_ != sys::BPF_LINK_TYPE_XDP {
        return Err(Errno::EINVAL.into());
    }
    // SAFETY: an XDP link fills in this member.
    let index = unsafe { info.__bindgen_anon_1.xdp.ifindex };
    // SAFETY: takes a number.
    let program = own(unsafe { sys::bpf_prog_get_fd_by_id(info.prog_id) })?;
    let (name, ids) = program_info(program.as_fd())?;
    let mut maps = Vec::new();
    for id in ids {
        // SAFETY: takes a number.
        let map = own(unsafe { sys::bpf_map_get_fd_by_id(id) })?;
        maps.push((text(&map_info(map.as_fd())?.name), map));
    }
    Ok(LinkInfo { index, program: name, maps, native: is_native(index)? })
}

fn is_native(index: u32) -> io::Result<bool> {
    let mut query = sys::bpf_xdp_query_opts {
        sz: size_of::<sys::bpf_xdp_query_opts>() as u64,
        ..Default::default()
    };
    let index = c_int::try_from(index).map_err(|_| Errno::ENODEV)?;
    // SAFETY: the kernel fills in the structure, whose size it holds itself.
    check(unsafe { sys::bpf_xdp_query(index, 0, &raw mut query) })?;
    Ok(u32::from(query.attach_mode) == sys::XDP_ATTACHED_DRV)
}

/// A program's name and the ids of its maps.
fn program_info(program: BorrowedFd<'_>) -> io::Result<(String, Vec<u32>)> {
    let mut ids = vec![0_u32; 16];
    let mut info = sys::bpf_prog_info {
        nr_map_ids: ids.len() as u32,
        map_ids: ids.as_mut_ptr() as u64,
        ..Default::default()
    };
    let mut len = size_of::<sys::bpf_prog_info>() as u32;
    // SAFETY: the kernel writes at most `len` bytes, and at most as many ids as there is room for.
    check(unsafe {
        sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut len)
    })?;
    ids.truncate(info.nr_map_ids as usize);
    Ok((text(&info.name), ids))
}

fn map_info(map: BorrowedFd<'_>) -> io::Result<sys::bpf_map_info> {
    let mut info = sys::bpf_map_info::default();
    let mut len = size_of::<sys::bpf_map_info>() as u32;
    // SAFETY: the kernel writes at most `len` bytes.
    check(unsafe { sys::bpf_map_get_info_by_fd(map.as_raw_fd(), &raw mut info, &raw mut len) })?;
    Ok(info)
}

fn text(name: &[c_char]) -> String {
    let bytes: Vec<u8> =
        name.iter().map(|c| c.to_ne_bytes()[0]).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// libbpf answers with a negative error number.
fn check(code: c_int) -> io::Result<()> {
    if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) }
}

fn own(raw: c_int) -> io::Result<OwnedFd> {
    check(raw)?;
    // SAFETY: the kernel made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn duplicate(raw: c_int) -> io::Result<OwnedFd> {
    check(raw)?;
    // SAFETY: the object that owns the descriptor is open during this call.
    unsafe { BorrowedFd::borrow_raw(raw) }.try_clone_to_owned()
}

fn last_lines(log: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(log).map(CStr::to_string_lossy).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}
