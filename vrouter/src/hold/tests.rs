//! Do descriptors outlive the process that put them, and only for those they belong to?

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::*;

/// A holder in a process of its own, ended with the test.
struct Fixture {
    directory: TempDir,
}

/// This test program started again acts as holder or client when these are set.
const HOLD_AT: &str = "VROUTER_TEST_HOLD_AT";
const PUT_AT: &str = "VROUTER_TEST_PUT_AT";

impl Fixture {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        // Stands for the vrouter program: `hold --socket PATH` runs the test below.
        let script = format!(
            "#!/bin/sh\n{HOLD_AT}=\"$3\" exec {} --exact hold::tests::acts_as_holder\n",
            std::env::current_exe().unwrap().display()
        );
        let exe = directory.path().join("vrouter");
        fs::write(&exe, script).unwrap();
        fs::set_permissions(&exe, fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("hold.sock")
    }

    fn exe(&self) -> PathBuf {
        self.directory.path().join("vrouter")
    }

    fn holder(&self) -> Holder {
        Holder::connect_or_spawn(&self.socket(), &self.exe()).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let holder = Holder::connect(&self.socket()).and_then(|mut holder| holder.version());
        if let Ok(version) = holder {
            end(version.process, Signal::SIGTERM);
        }
    }
}

fn end(process: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(process).unwrap()), signal).unwrap();
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn acts_as_holder() {
    if let Some(path) = std::env::var_os(HOLD_AT) {
        // As main would: an error (another holder is faster) ends the process.
        run(Path::new(&path)).unwrap();
    }
}

#[test]
fn acts_as_client() {
    let Some(path) = std::env::var_os(PUT_AT) else { return };
    let (mut near, far) = UnixStream::pair().unwrap();
    near.write_all(b"from the dead").unwrap();
    Holder::connect(Path::new(&path)).unwrap().put("tun/cali1", &far, b"netns=7").unwrap();
    loop {
        thread::sleep(Duration::from_mins(1));
    }
}

fn client(fixture: &Fixture) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold::tests::acts_as_client"])
        .env(PUT_AT, fixture.socket())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_descriptor_outlives_the_killed_process_that_put_it() {
    let fixture = Fixture::new();
    let mut holder = fixture.holder();
    let mut putter = client(&fixture);
    wait_until("the client puts its descriptor", || {
        let mut own = Holder::connect(&fixture.socket()).unwrap();
        !own.list().unwrap().is_empty()
    });
    putter.kill().unwrap();
    putter.wait().unwrap();
    let (fd, metadata) = holder.get("tun/cali1").unwrap().unwrap();
    assert_eq!(metadata, b"netns=7");
    let mut text = String::new();
    UnixStream::from(fd).read_to_string(&mut text).unwrap();
    assert_eq!(text, "from the dead");
}

#[test]
fn what_a_pod_sends_waits_while_no_forwarder_runs() {
    use crate::host::netlink::Netlink;
    use crate::host::netns::{NetNs, run_in};
    use crate::host::pod::{PodInterface, attach_tun};

    let fixture = Fixture::new();
    let namespace = NetNs::new_anonymous().unwrap();
    let pod = PodInterface {
        name: "eth0".into(),
        port: "cali00000000001".into(),
        addresses: vec!["10.244.1.5".parse().unwrap()],
        mtu: 1480,
        tx_queue_length: 5000,
        mac: None,
        ip_forwarding: false,
    };
    let tun = attach_tun(&namespace, &pod).unwrap();
    fixture.holder().put("tun/cali00000000001", &tun, &[]).unwrap();
    drop(tun);
    // No forwarder now, and more packets than the device's usual queue of 500 would keep.
    let send_all = || {
        let socket = std::net::UdpSocket::bind("10.244.1.5:0").unwrap();
        for n in 0..2000u16 {
            socket.send_to(&n.to_be_bytes(), "10.99.0.1:9").unwrap();
        }
    };
    run_in(&namespace, send_all).unwrap();
    let link = Netlink::open_in(&namespace).unwrap().link("eth0").unwrap().unwrap();
    assert!(link.carrier, "the pod does not notice");
    let (tun, _) = fixture.holder().get("tun/cali00000000001").unwrap().unwrap();
    let mut buffer = [0; 2000];
    let numbers = (0..2000u16).map(|_| {
        let length = nix::unistd::read(&tun, &mut buffer).unwrap();
        u16::from_be_bytes(buffer[length - 2..length].try_into().unwrap())
    });
    assert!(numbers.eq(0..2000), "all are there, in order");
}

#[test]
fn put_replaces_list_tells_and_release_closes() {
    let fixture = Fixture::new();
    let mut holder = fixture.holder();
    assert!(holder.get("a").unwrap().is_none());
    let (near, far) = UnixStream::pair().unwrap();
    holder.put("a", File::open("/dev/null").unwrap(), b"first").unwrap();
    holder.put("a", &far, b"second").unwrap();
    drop(far);
    let held = Held { name: "a".into(), metadata: b"second".to_vec() };
    assert_eq!(holder.list().unwrap(), [held]);
    near.set_nonblocking(true).unwrap();
    let open = (&near).read(&mut [0; 1]).unwrap_err();
    assert_eq!(open.kind(), io::ErrorKind::WouldBlock, "the holder keeps the far end open");
    assert!(holder.release("a").unwrap());
    assert!(!holder.release("a").unwrap());
    assert_eq!((&near).read(&mut [0; 1]).unwrap(), 0, "now it is closed");
    assert_eq!(holder.version().unwrap().protocol, PROTOCOL_VERSION);
}

#[test]
fn long_lists_come_whole_and_limits_are_named() {
    let fixture = Fixture::new();
    let mut holder = fixture.holder();
    let file = File::open("/dev/null").unwrap();
    let metadata = vec![7; MAX_METADATA];
    for n in 0..40 {
        holder.put(&format!("{n:0255}"), &file, &metadata).unwrap();
    }
    let all = holder.list().unwrap();
    assert_eq!(all.len(), 40);
    assert!(all.iter().all(|held| held.metadata == metadata));
    let error = holder.put("b", &file, &vec![0; MAX_METADATA + 1]).unwrap_err();
    assert!(error.to_string().contains("'b': the metadata is larger than 4096"), "{error}");
    let error = holder.put("", &file, &[]).unwrap_err();
    assert!(error.to_string().contains("the name is empty"), "{error}");
    assert!(holder.put(&"n".repeat(MAX_NAME + 1), &file, &[]).is_err());
}

#[test]
fn nonsense_is_refused_and_the_holder_lives_on() {
    let fixture = Fixture::new();
    let mut holder = fixture.holder();
    let other = Holder::connect(&fixture.socket()).unwrap();
    for nonsense in [&[9, 0][..], &[1], &[2, 200, b'x'], &[1, 2, 0xff, 0xfe], &[1, 1, b'a']] {
        wire::send(&other.socket, nonsense, None).unwrap();
        let reply = Reply::decode(wire::receive(&other.socket).unwrap()).unwrap();
        assert_eq!(reply.status, Status::Refused, "{nonsense:?}");
    }
    drop(other);
    assert_eq!(holder.list().unwrap(), []);
}

#[test]
fn the_holder_stands_alone_and_ignores_terminals() {
    let fixture = Fixture::new();
    let process = fixture.holder().version().unwrap().process;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!(
        (fields[2], fields[3]),
        (process.to_string().as_str(), process.to_string().as_str())
    );
    assert_eq!(fs::read_link(format!("/proc/{process}/cwd")).unwrap(), Path::new("/"));
    end(process, Signal::SIGHUP);
    end(process, Signal::SIGINT);
    assert_eq!(fixture.holder().version().unwrap().process, process);
    end(process, Signal::SIGTERM);
    wait_until("it ends by SIGTERM", || Holder::connect(&fixture.socket()).is_err());
    assert_ne!(
        fixture.holder().version().unwrap().process,
        process,
        "the stale socket is replaced"
    );
}

#[test]
fn only_one_holder_serves_a_socket() {
    let fixture = Fixture::new();
    let process = fixture.holder().version().unwrap().process;
    let second = Command::new(fixture.exe())
        .args(["hold", "--socket"])
        .arg(fixture.socket())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!second.success());
    assert_eq!(fixture.holder().version().unwrap().process, process);
}

#[test]
fn many_at_once_get_the_same_holder() {
    let fixture = Fixture::new();
    let mut processes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| fixture.holder().version().unwrap().process)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    processes.dedup();
    assert_eq!(processes.len(), 1, "{processes:?}");
}
