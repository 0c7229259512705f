//! Does the laboratory itself do what tests rely on: make, wire, measure, and always clean up?

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{fs, panic};

use bench::lab::{Bird, Capture, Lab, Netns, link, tools, traffic, wait_until};

const PREFIX: &str = "selfcheck";

fn exists(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

/// Two namespaces with a wire between them: 10.9.0.1 and 10.9.0.2.
fn pair(lab: &Lab) -> (Netns, Netns) {
    let a = lab.netns("a").expect("a namespace");
    let b = lab.netns("b").expect("a namespace");
    link::veth((&a, "eth0"), (&b, "eth0")).expect("a wire");
    link::addr(&a, "eth0", "10.9.0.1/24").expect("an address");
    link::addr(&b, "eth0", "10.9.0.2/24").expect("an address");
    (a, b)
}

fn b_ip() -> IpAddr {
    IpAddr::from([10, 9, 0, 2])
}

fn b_addr(l4_port: u16) -> SocketAddr {
    SocketAddr::new(b_ip(), l4_port)
}

#[test]
fn what_a_lab_makes_goes_with_it() {
    let lab = Lab::new(PREFIX).expect("a lab");
    let netns = lab.netns("a").expect("a namespace");
    let sleeper = netns.spawn("sleep", &["sleep", "600"]).expect("a process");
    let (name, dir, pid) = (netns.name().to_owned(), lab.dir().to_owned(), sleeper.pid());
    assert!(exists(&name) && dir.is_dir());
    drop(lab);
    drop(sleeper);
    assert!(!exists(&name), "{name} is still there");
    assert!(!dir.exists(), "its folder is still there");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "its process still runs");
}

#[test]
fn also_on_a_panic() {
    let lab = Lab::new(PREFIX).expect("a lab");
    let name = format!("{}-a", lab.id());
    let result = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let lab = lab;
        let netns = lab.netns("a").expect("a namespace");
        assert!(exists(netns.name()));
        panic!("on purpose");
    }));
    assert!(result.is_err());
    assert!(!exists(&name), "{name} is still there");
}

#[test]
fn two_labs_do_not_meet() {
    let (one, two) = (Lab::new(PREFIX).expect("a lab"), Lab::new(PREFIX).expect("a lab"));
    let (in_one, in_two) = (one.netns("a").expect("a"), two.netns("a").expect("a"));
    assert_ne!(in_one.name(), in_two.name());
    drop(one);
    assert!(!exists(in_one.name()) && exists(in_two.name()));
}

#[test]
fn sweeping_takes_only_what_dead_processes_left() {
    let mut dead = Command::new("true").spawn().expect("a process");
    let pid = dead.id();
    dead.wait().expect("its end");
    let living = Lab::new(PREFIX).expect("a lab");
    let kept = living.netns("a").expect("a namespace");
    let stale = format!("{PREFIX}{pid}.0");
    fs::create_dir_all(Path::new("/run/vrouter-lab").join(&stale)).expect("a folder");
    let left = format!("{stale}-a");
    let made = Command::new("ip").args(["netns", "add", &left]).status().expect("ip runs");
    assert!(made.success() && exists(&left));
    // Another process of this suite may sweep it first; then it is gone just as well.
    bench::lab::sweep();
    wait_until(Duration::from_secs(5), "the sweep", || !exists(&left)).expect("it is swept");
    assert!(exists(kept.name()), "a living process's namespace was swept");
}

#[test]
fn a_failing_command_says_what_it_wrote() {
    let lab = Lab::new(PREFIX).expect("a lab");
    let netns = lab.netns("a").expect("a namespace");
    let error = netns.sh("ip link show nothing").expect_err("no such link").to_string();
    assert!(error.contains("nothing"), "{error}");
    assert_eq!(netns.sh("cat /sys/class/net/lo/ifindex").expect("its own /sys").trim(), "1");
}

#[test]
fn pings_are_counted_and_captured() {
    let lab = Lab::new(PREFIX).expect("a lab");
    let (a, b) = pair(&lab);
    let capture = Capture::start(&b, "eth0", "icmp").expect("a capture");
    let result = tools::ping(&a, b_ip()).expect("ping runs");
    assert!(result.is_complete(), "{}", result.text);
    let frames = capture.stop().expect("its frames");
    let between = |f: &&bench::lab::capture::Frame| f.is_between([10, 9, 0, 1].into(), b_ip());
    assert_eq!(frames.iter().filter(between).count(), 6, "three requests, three answers");
    assert!(frames.iter().all(|frame| !frame.is_ipip()));

    let silent =
        tools::Ping { count: 1, timeout: Duration::from_millis(100), ..tools::Ping::default() };
    let result = silent.run(&a, [10, 9, 0, 77].into()).expect("ping runs");
    assert_eq!((result.sent, result.received), (1, 0));
}

#[test]
fn streams_tell_loss_and_gaps() {
    let lab = Lab::new(PREFIX).expect("a lab");
    let (a, b) = pair(&lab);
    let _udp = traffic::UdpEcho::start(&b, b_addr(7)).expect("an echo");
    let _tcp = traffic::TcpEcho::start(&b, b_addr(7)).expect("an echo");
    let mut connection =
        traffic::connect(&a, b_addr(7), Duration::from_secs(2)).expect("a connection");
    connection.exchange(Duration::from_secs(2)).expect("an echo");
    let tcp =
        traffic::TcpStreamer::start(connection, Duration::from_millis(5), Duration::from_secs(10));
    let udp = traffic::UdpStreamer::start(&a, b_addr(7), 500).expect("a stream");
    std::thread::sleep(Duration::from_millis(200));
    b.ip("link set eth0 down").expect("down");
    std::thread::sleep(Duration::from_millis(300));
    b.ip("link set eth0 up").expect("up");
    std::thread::sleep(Duration::from_millis(200));
    let report = udp.stop().expect("a report");
    assert!(report.received > 0 && report.lost() > 0, "{report:?}");
    assert!(report.longest_gap >= Duration::from_millis(250), "{report:?}");
    let report = tcp.stop().expect("TCP survives");
    assert!(report.longest_gap >= Duration::from_millis(250), "{report:?}");
}

#[test]
fn throughput_is_measured() {
    let lab = Lab::new(PREFIX).expect("a lab");
    let (a, b) = pair(&lab);
    let result = tools::iperf3(&a, (&b, b_ip()), 1, &[]).expect("a result");
    assert!(result.bits_per_second > 0.0);
}

#[test]
fn bird_starts_answers_and_ends() {
    let lab = Lab::new(PREFIX).expect("a lab");
    let netns = lab.netns("tor").expect("a namespace");
    let config = "router id 10.0.0.1;\nprotocol device {}\n\
        protocol static { ipv4; route 203.0.113.0/24 blackhole; }\n";
    let bird = Bird::start(&netns, config).expect("BIRD");
    assert_eq!(bird.prefixes().expect("its routes"), ["203.0.113.0/24"]);
    drop(bird);
    assert!(Bird::start(&netns, "no such thing;").is_err(), "a bad configuration is refused");
}
