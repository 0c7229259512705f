//! Does the handle work with real threads? Ports come and go, tables, punts, and two workers.

#[expect(dead_code, reason = "other test binaries use the rest")]
mod lab;

use fastpath::batch::Batch;
use fastpath::capture::Way;
use fastpath::io::memory::{self, MemoryConfig, MemoryDevice};
use fastpath::io::{Abilities, Framing, Queue, QueueError, Sent};
use fastpath::outcome::{DropReason, Outcome, PuntReason};
use fastpath::packet::{Offload, Packet, Pool, PortId};
use fastpath::publish::Generation;
use fastpath::punt::Inject;
use fastpath::router::{Router, RouterConfig};
use fastpath::tables::EndpointId;
use fastpath::trace::{Filter, Step};
use lab::*;
use std::io::PipeWriter;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn memory_port(port: PortId) -> (MemoryDevice, Box<dyn Queue>) {
    let ethernet = port == UPLINK || port == POD_C;
    let framing = if ethernet { Framing::Ethernet } else { Framing::Ip };
    let whole = Abilities {
        checksum: true,
        tcp_segmentation: true,
        udp_segmentation: true,
        tunnel_segmentation: false,
    };
    let abilities = if ethernet { Abilities::default() } else { whole };
    let config = MemoryConfig { port, framing, abilities, ..MemoryConfig::default() };
    let (device, queue) = memory::pair(config);
    (device, Box::new(queue))
}

/// Waits until something holds.
fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn next(device: &MemoryDevice) -> Vec<u8> {
    let mut taken = wait_for("a packet", || Some(device.take()).filter(|taken| !taken.is_empty()));
    assert_eq!(taken.len(), 1);
    taken.remove(0).0
}

fn start(workers: usize, wake: fastpath::punt::Wake) -> (Router, Vec<MemoryDevice>) {
    let config = RouterConfig { workers, connections: 1_000, wake, ..RouterConfig::default() };
    let mut router = Router::start(config, tables()).expect("threads");
    let devices = PORTS
        .iter()
        .map(|port| {
            let (device, queue) = memory_port(*port);
            router.attach(*port, vec![queue]);
            device
        })
        .collect();
    (router, devices)
}

fn at(devices: &[MemoryDevice], port: PortId) -> &MemoryDevice {
    &devices[usize::from(port.0)]
}

fn push(devices: &[MemoryDevice], port: PortId, bytes: &[u8]) {
    assert!(at(devices, port).push(bytes, Offload::default()));
}

#[test]
fn packets_flow_between_ports_of_any_number_of_workers() {
    for workers in [1, 2, 3] {
        let (router, devices) = start(workers, Arc::new(|| {}));
        for flow in 0..20 {
            push(&devices, POD_A, &udp(A, B, (flow, 53)));
            assert_eq!(ttl(&next(at(&devices, POD_B))), 63);
            push(&devices, POD_B, &udp(B, A, (53, flow)));
            assert_eq!(ttl(&next(at(&devices, POD_A))), 63);
            push(&devices, POD_A, &udp(A, FAR, (flow, 53)));
            assert_eq!(next(at(&devices, UPLINK)).len(), 14 + 20 + 33);
        }
        assert_eq!(router.flows().len(), 40, "replies made no connections of their own");
        let counters = wait_for("the counters", || {
            let counters = router.counters();
            (counters.forwarded == 60).then_some(counters)
        });
        assert_eq!(counters.balance(), (60, 60));
        assert_eq!(counters.workers.len(), workers);
    }
}

#[test]
fn new_tables_are_live_when_it_is_said_so() {
    let (mut router, devices) = start(2, Arc::new(|| {}));
    for n in 1..=20 {
        let mut next_tables = (*router.tables()).clone();
        let hop = next_tables.next_hops[2];
        let mut hops = next_tables.next_hops.to_vec();
        hops[1] = if n % 2 == 1 { hop } else { fastpath::tables::nexthop::NextHop::Blackhole };
        next_tables.next_hops = hops.into();
        let generation = router.publish(next_tables);
        assert_eq!(generation, Generation(n));
        assert!(router.wait_live(generation, PATIENCE));
        assert!(router.live() >= generation);
        push(&devices, TUNL0, &udp(NODE, A, (n as u16, 53)));
        if n % 2 == 1 {
            next(at(&devices, POD_B));
        } else {
            wait_for("a drop", || {
                (router.counters().drops_for(DropReason::Blackhole) == n / 2).then_some(())
            });
        }
    }
    assert!(!router.wait_live(Generation(99), Duration::from_millis(5)));
}

#[test]
fn punts_wake_the_control_side_and_come_back() {
    let wakes = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&wakes);
    let wake = Arc::new(move || {
        seen.fetch_add(1, Ordering::SeqCst);
    });
    let (mut router, devices) = start(1, wake);
    assert!(router.punts().try_recv().is_none());
    push(&devices, POD_A, &udp(A, UNRESOLVED, (1, 2)));
    wait_for("a wake", || (wakes.load(Ordering::SeqCst) > 0).then_some(()));
    let punt = router.punts().try_recv().expect("what we were woken for");
    assert_eq!((punt.reason, punt.in_port), (PuntReason::UnresolvedNeighbour, POD_A));
    assert_eq!(punt.source_endpoint, Some(EndpointId(0)));
    let mut resolved = (*router.tables()).clone();
    let mut adjacencies = resolved.adjacencies.to_vec();
    adjacencies[3].destination_mac = Some([9; 6]);
    resolved.adjacencies = adjacencies.into();
    let generation = router.publish(resolved);
    assert!(router.wait_live(generation, PATIENCE));
    let (packet, in_port) = (punt.packet.detach(), punt.in_port);
    assert!(router.inject(Inject::Resume { packet, in_port }));
    assert_eq!(next(at(&devices, UPLINK))[..6], [9; 6]);
    let reply = Packet::from_bytes(&echo(ROUTER, A, 1, true));
    assert!(router.inject(Inject::Route { packet: reply }));
    assert_eq!(ttl(&next(at(&devices, POD_A))), 64);
    let frame = Packet::from_bytes(&[7; 20]);
    assert!(router.inject(Inject::ToPort { port: POD_C, packet: frame }));
    assert_eq!(next(at(&devices, POD_C)), [7; 20]);
}

#[test]
fn ports_come_and_go_while_packets_flow() {
    let (mut router, mut devices) = start(2, Arc::new(|| {}));
    for round in 0..5 {
        push(&devices, POD_A, &udp(A, B, (round, 53)));
        next(at(&devices, POD_B));
        assert!(router.detach(POD_A, PATIENCE));
        assert!(router.detach(POD_A, PATIENCE), "once more does no harm");
        push(&devices, POD_B, &udp(B, A, (53, round)));
        wait_for("a drop", || {
            let drops = router.counters().drops_for(DropReason::PortGone);
            (drops == u64::from(round) + 1).then_some(())
        });
        let (device, queue) = memory_port(POD_A);
        router.attach(POD_A, vec![queue]);
        push(&devices, POD_B, &udp(B, A, (53, round)));
        next(&device);
        assert!(at(&devices, POD_A).take().is_empty(), "the old device gets nothing");
        devices[usize::from(POD_A.0)] = device;
    }
}

#[test]
fn a_device_that_goes_away_is_reported_and_closed() {
    let wakes = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&wakes);
    let wake = Arc::new(move || {
        seen.fetch_add(1, Ordering::SeqCst);
    });
    let (router, devices) = start(2, wake);
    assert!(router.closed_ports().is_empty());
    at(&devices, POD_A).remove();
    let closed = wait_for("a report", || Some(router.closed_ports()).filter(|c| !c.is_empty()));
    assert_eq!(closed, [(POD_A, QueueError::Gone)]);
    assert!(wakes.load(Ordering::SeqCst) > 0);
    push(&devices, POD_B, &udp(B, A, (1, 2)));
    wait_for("a drop", || (router.counters().dropped() == 1).then_some(()));
    assert!(router.closed_ports().is_empty(), "it is told once");
    assert!(router.is_running());
}

#[test]
fn a_running_router_can_be_watched() {
    let (router, devices) = start(1, Arc::new(|| {}));
    let filter = Filter { protocol: Some(17), ..Filter::default() };
    let trace = router.trace(filter.clone(), 1);
    let capture = router.capture(filter, 100, 2);
    push(&devices, POD_A, &udp(A, B, (1, 2)));
    let steps = trace.recv_timeout(PATIENCE).expect("a trace").steps;
    assert_eq!(steps.last(), Some(&Step::Ended(Outcome::Forwarded)));
    let ways = [(); 2].map(|()| capture.recv_timeout(PATIENCE).expect("a packet").way);
    assert_eq!(ways, [Way::Sent, Way::Received]);
    wait_for("the end", || (trace.is_finished() && capture.is_finished()).then_some(()));
    assert_eq!((trace.lost(), capture.lost()), (0, 0));
}

#[test]
fn a_full_inject_ring_is_counted_and_nothing_else_is_lost() {
    let (router, devices) = start(1, Arc::new(|| {}));
    let mut accepted = 0u64;
    for _ in 0..3_000 {
        let packet = Packet::from_bytes(&[1; 20]);
        accepted += u64::from(router.inject(Inject::ToPort { port: POD_A, packet }));
    }
    let counters = wait_for("the ring to be emptied", || {
        let counters = router.counters();
        (counters.balance() == (3_000, 3_000)).then_some(counters)
    });
    assert_eq!(counters.drops_for(DropReason::InjectRing), 3_000 - accepted);
    assert_eq!(at(&devices, POD_A).take().len() as u64, counters.forwarded);
}

/// A queue on a descriptor: what a datagram socket receives.
struct SocketQueue {
    port: PortId,
    socket: UnixDatagram,
}

impl Queue for SocketQueue {
    fn port(&self) -> PortId {
        self.port
    }

    fn framing(&self) -> Framing {
        Framing::Ip
    }

    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn readable_fd(&self) -> Option<RawFd> {
        Some(self.socket.as_raw_fd())
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> Result<usize, QueueError> {
        let mut came = 0;
        while came < budget {
            let mut packet = pool.take().expect("a slot");
            let Ok(len) = self.socket.recv(packet.space(0)) else {
                pool.give(packet);
                break;
            };
            packet.set_filled(len);
            packet.set_in_port(self.port);
            batch.push(packet);
            came += 1;
        }
        Ok(came)
    }

    fn transmit(&mut self, pool: &mut Pool, batch: &mut Batch) -> Sent {
        let mut sent = Sent::default();
        for packet in batch.drain(..) {
            if self.socket.send(packet.bytes()).is_ok() {
                sent.packets += 1;
                sent.bytes += packet.len();
            }
            pool.give(packet);
        }
        sent
    }
}

fn socket_port(router: &mut Router, port: PortId) -> UnixDatagram {
    let (device, socket) = UnixDatagram::pair().expect("sockets");
    socket.set_nonblocking(true).expect("a socket");
    device.set_read_timeout(Some(PATIENCE)).expect("a socket");
    // What waits before the queue is attached must be seen as well.
    router.attach(port, vec![Box::new(SocketQueue { port, socket })]);
    device
}

#[test]
fn sleeping_workers_wake_for_descriptors() {
    for workers in [1, 2] {
        let config = RouterConfig { workers, spin: Duration::ZERO, ..RouterConfig::default() };
        let mut router = Router::start(config, tables()).expect("threads");
        let (a, b) = (socket_port(&mut router, POD_A), socket_port(&mut router, POD_B));
        let mut bytes = [0; 100];
        for n in 0..50u16 {
            let burst = if n % 10 == 0 { 200 } else { 1 };
            for i in 0..burst {
                a.send(&udp(A, B, (n, i))).expect("room");
                // As many as the other socket's buffer surely holds.
                if i % 8 == 7 || i + 1 == burst {
                    for _ in 0..=i % 8 {
                        let len = b.recv(&mut bytes).expect("in time");
                        assert_eq!((len, ttl(&bytes)), (33, 63));
                    }
                }
            }
        }
        assert!(router.detach(POD_A, PATIENCE));
        let closed = a.send(&[0; 20]).expect_err("the router's end is closed");
        assert_eq!(closed.kind(), std::io::ErrorKind::ConnectionRefused);
        drop(router);
        assert!(b.send(&[0; 20]).is_err(), "a router that is dropped closes its queues");
    }
}

/// A queue of a device on its way out: its descriptor tells of an error once, its reads only later.
struct DyingQueue {
    descriptor: PipeWriter,
    asked: u32,
}

impl Queue for DyingQueue {
    fn port(&self) -> PortId {
        POD_A
    }

    fn framing(&self) -> Framing {
        Framing::Ip
    }

    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn readable_fd(&self) -> Option<RawFd> {
        Some(self.descriptor.as_raw_fd())
    }

    fn receive(&mut self, _: &mut Pool, _: &mut Batch, _: usize) -> Result<usize, QueueError> {
        self.asked += 1;
        if self.asked < 10 { Ok(0) } else { Err(QueueError::Gone) }
    }

    fn transmit(&mut self, _: &mut Pool, _: &mut Batch) -> Sent {
        Sent::default()
    }
}

#[test]
fn a_device_that_ends_a_moment_after_it_told_is_reported() {
    let config = RouterConfig { workers: 1, spin: Duration::ZERO, ..RouterConfig::default() };
    let mut router = Router::start(config, tables()).expect("threads");
    let (reader, descriptor) = std::io::pipe().expect("a pipe");
    // Nobody reads any more: that is an error at the writing end, told by one edge.
    drop(reader);
    router.attach(POD_A, vec![Box::new(DyingQueue { descriptor, asked: 0 })]);
    let closed = wait_for("a report", || Some(router.closed_ports()).filter(|c| !c.is_empty()));
    assert_eq!(closed, [(POD_A, QueueError::Gone)]);
}
