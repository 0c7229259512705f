//! Does an operator see what passes, and do pods get the ICMP that is due to them?

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::Duration;

use bench::lab::tools::Ping;
use bench::lab::traffic::connect;

use super::setup::{ANSWER, Site, assert_ping, assert_tcp};

#[test]
fn a_capture_is_read_by_tcpdump() {
    let site = Site::start(1, &[]);
    let (a, b) = (site.pod(0, "a"), site.pod(0, "b"));
    assert_ping(a.netns(), b.ip());
    let file = site.lab.dir().join("capture.pcapng");
    let words = [
        "capture",
        "--host",
        &b.ip().to_string(),
        "--protocol",
        "icmp",
        "-c",
        "8",
        "-w",
        &file.to_string_lossy(),
    ]
    .map(str::to_owned);
    thread::scope(|scope| {
        let capture = scope.spawn(|| site.nodes[0].ctl(&words));
        while !capture.is_finished() {
            assert_ping(a.netns(), b.ip());
        }
        capture.join().expect("it ends").expect("a capture");
    });
    let read = Command::new("tcpdump").arg("-nr").arg(&file).output().expect("tcpdump runs");
    let text = String::from_utf8_lossy(&read.stdout);
    let request = format!("IP {} > {}: ICMP echo request", a.ip(), b.ip());
    assert!(text.contains(&request) && text.contains("ICMP echo reply"), "{text}");
    assert_eq!(text.lines().count(), 8, "{text}");
}

#[test]
fn errors_come_back() {
    let site = Site::start(2, &[]);
    let (a, b) = (site.pod(0, "a"), site.pod(1, "b"));
    assert_ping(a.netns(), b.ip());
    // A hop limit that runs out at this node, and at the next.
    for (ttl, hop) in [("1", "169.254.1.1"), ("2", "10.77.0.12")] {
        let words =
            ["ping", "-n", "-c", "1", "-W", "1", "-t", ttl, &b.ip().to_string()].map(str::to_owned);
        let output = a.netns().try_exec(&words).expect("ping runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("Time to live exceeded"), "ttl {ttl}: {text}");
        assert!(text.contains("From "), "from {hop}: {text}");
    }
    // Nobody listens: the pod's own refusal arrives, not a time-out.
    let refused = connect(a.netns(), SocketAddr::new(b.ip(), 1), ANSWER).expect_err("refused");
    assert!(format!("{refused:#}").contains("refused"), "{refused:#}");
    let socket = a
        .netns()
        .enter(|| std::net::UdpSocket::bind("0.0.0.0:0"))
        .expect("inside")
        .expect("a socket");
    socket.connect(SocketAddr::new(b.ip(), 1)).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("set");
    socket.send(b"anybody?").expect("sent");
    let answer = socket.recv(&mut [0; 16]).expect_err("an error");
    assert_eq!(answer.kind(), std::io::ErrorKind::ConnectionRefused, "{answer}");
    // An address of the pool that no pod has.
    let own: std::net::Ipv4Addr = a.ip().to_string().parse().expect("an IPv4 address");
    let unused = IpAddr::from((own.to_bits() | 0x3f).to_be_bytes());
    let ping = Ping { count: 1, ..Ping::default() };
    assert_eq!(ping.run(a.netns(), unused).expect("ping runs").received, 0);
}

#[test]
fn more_pods_than_a_block_holds() {
    let mut site = Site::prepare(2, &[]);
    site.apply(&super::setup::POOL.replace("blockSize: 26", "blockSize: 30"));
    for node in &mut site.nodes {
        node.restart().expect("it starts");
    }
    let pods: Vec<_> = (0..10).map(|i| site.pod(0, &format!("a{i}"))).collect();
    let far = site.pod(1, "far");
    for pod in &pods {
        assert_ping(far.netns(), pod.ip());
        assert_ping(&site.hosts[0], pod.ip());
    }
    assert_tcp(pods[9].netns(), pods[0].netns(), pods[0].ip());
    let mut addresses: Vec<_> = pods.iter().map(bench::lab::Pod::ip).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), pods.len(), "an address was given twice");
    for pod in &pods {
        pod.detach().expect("DEL");
    }
    let usage = site.nodes[0].ctl(&["ipam", "show"]).expect("usage");
    assert!(usage.contains("172.31.0.0/16"), "{usage}");
}
