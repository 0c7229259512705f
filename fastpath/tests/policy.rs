//! Who may talk? Verdicts, replies, and what becomes of connections when the rules change.

#[expect(dead_code, reason = "other test binaries use the rest")]
mod lab;

use fastpath::acl::{RuleId, Verdict};
use fastpath::batch::Batch;
use fastpath::counters::Counters;
use fastpath::outcome::{DropReason, Outcome};
use fastpath::packet::{Packet, PortId};
use fastpath::pipeline::{Pipeline, Shared};
use fastpath::publish::Generation;
use fastpath::punt::{self, Commons};
use fastpath::stage::Entry;
use fastpath::tables::nexthop::NextHop;
use fastpath::tables::{EndpointId, Guard, NextHopId};
use fastpath::trace::{Filter, Step};
use lab::*;
use std::sync::Arc;
use std::time::Duration;

const POD_0: EndpointId = EndpointId(0);
const POD_1: EndpointId = EndpointId(1);
const TCP: u8 = 6;
const UDP: u8 = 17;
const EGRESS: Outcome = Outcome::Dropped(DropReason::PolicyEgress);
const INGRESS: Outcome = Outcome::Dropped(DropReason::PolicyIngress);

/// A world where 0 allows only TCP to port 80 and 1 denies all TCP.
fn world() -> World {
    let mut world = World::new();
    world.programs(vec![
        program(Verdict::Allow, TCP, Some(80), 10, 100),
        program(Verdict::Deny, TCP, None, 20, 200),
    ]);
    world
}

fn handshake(world: &mut World) {
    for (port, packet) in [
        (POD_A, tcp(A, B, (1000, 80), SYN)),
        (POD_B, tcp(B, A, (80, 1000), SYN_ACK)),
        (POD_A, tcp(A, B, (1000, 80), ACK)),
    ] {
        assert_eq!(world.send(port, &packet).outcome(), Outcome::Forwarded);
    }
}

/// Sends a packet of the open connection both ways.
fn data(world: &mut World) -> [Outcome; 2] {
    let there = world.send(POD_A, &tcp(A, B, (1000, 80), ACK)).outcome();
    [there, world.send(POD_B, &tcp(B, A, (80, 1000), ACK)).outcome()]
}

#[test]
fn rules_decide_and_count() {
    let mut world = world();
    world.guard(POD_1, Guard::Open, guarded(0));
    let allowed = world.send(POD_A, &tcp(A, B, (1000, 80), SYN));
    assert_eq!(allowed.outcome(), Outcome::Forwarded);
    let hits = allowed.counters.rules[&RuleId(10)];
    assert_eq!((hits.traffic.packets, hits.traffic.bytes, hits.connections), (1, 40, 1));
    let again = world.send(POD_A, &tcp(A, B, (1000, 80), SYN));
    let hits = again.counters.rules[&RuleId(10)];
    assert_eq!((hits.traffic.packets, hits.connections), (1, 0));
    let denied = world.send(POD_A, &tcp(A, B, (1000, 81), SYN));
    assert_eq!(denied.outcome(), INGRESS);
    assert_eq!(denied.counters.rules[&RuleId(11)].traffic.packets, 1);
    assert_eq!(denied.counters.opened, 0);
    world.guard(POD_0, guarded(1), Guard::Open);
    assert_eq!(world.send(POD_A, &tcp(A, NEAR, (1, 80), SYN)).outcome(), EGRESS);
    assert_eq!(world.send(POD_A, &udp(A, NEAR, (1, 80))).outcome(), Outcome::Forwarded);
}

#[test]
fn egress_is_asked_before_ingress_and_a_closed_door_before_both() {
    let mut world = world();
    world.guard(POD_0, guarded(1), Guard::Open);
    world.guard(POD_1, Guard::Open, guarded(1));
    assert_eq!(world.send(POD_A, &tcp(A, B, (1, 80), SYN)).outcome(), EGRESS);
    world.guard(POD_1, Guard::Open, Guard::Closed);
    let closed = Outcome::Dropped(DropReason::NoPolicyYet);
    assert_eq!(world.send(POD_A, &tcp(A, B, (1, 80), SYN)).outcome(), closed);
    assert_eq!(world.send(POD_A, &udp(A, B, (1, 80))).outcome(), closed);
    world.guard(POD_1, Guard::Open, guarded(77));
    let unknown_program = world.send(POD_A, &udp(A, B, (1, 80)));
    assert_eq!(unknown_program.outcome(), closed);
}

#[test]
fn replies_of_allowed_connections_pass_whatever_the_rules_say_of_them() {
    let mut world = world();
    world.guard(POD_0, Guard::Open, guarded(1));
    world.guard(POD_1, guarded(1), Guard::Open);
    handshake(&mut world);
    assert_eq!(data(&mut world), [Outcome::Forwarded; 2]);
    assert_eq!(world.send(POD_B, &tcp(B, A, (81, 1000), SYN)).outcome(), EGRESS);
}

#[test]
fn an_open_connection_obeys_a_new_deny_at_once_in_both_directions() {
    let mut world = world();
    handshake(&mut world);
    assert_eq!(data(&mut world), [Outcome::Forwarded; 2]);
    world.guard(POD_1, Guard::Open, guarded(1));
    assert_eq!(data(&mut world), [INGRESS; 2]);
    // B may reach A: that does not turn what was A's connection into one of B's.
    world.publish(|_| {});
    assert_eq!(data(&mut world), [INGRESS; 2]);
    let own = world.send(POD_B, &tcp(B, A, (4000, 90), SYN));
    assert_eq!(own.outcome(), Outcome::Forwarded);
    world.guard(POD_1, Guard::Open, Guard::Open);
    assert_eq!(data(&mut world), [Outcome::Forwarded; 2]);
    assert_eq!(world.pipeline.conns().len(), 2, "it was one connection all the time");
}

#[test]
fn every_kind_of_guard_is_obeyed_by_an_open_connection() {
    for side in [POD_0, POD_1] {
        for (guard, outcome) in [
            (Guard::Closed, Outcome::Dropped(DropReason::NoPolicyYet)),
            (guarded(1), if side == POD_0 { EGRESS } else { INGRESS }),
            (guarded(0), Outcome::Forwarded),
        ] {
            let mut world = world();
            handshake(&mut world);
            // What stands in the connection's way is 0's egress and 1's ingress only.
            world.guard(POD_0, Guard::Open, Guard::Closed);
            world.guard(POD_1, Guard::Closed, Guard::Open);
            assert_eq!(data(&mut world), [Outcome::Forwarded; 2]);
            if side == POD_0 {
                world.guard(side, guard, Guard::Closed);
            } else {
                world.guard(side, Guard::Closed, guard);
            }
            assert_eq!(data(&mut world), [outcome; 2], "{side:?} {guard:?}");
        }
    }
}

#[test]
fn equal_stamps_are_believed_and_others_are_not() {
    let mut world = world();
    world.guard(POD_1, Guard::Open, guarded(0));
    handshake(&mut world);
    // The same stamp promises the same content, so nothing is asked again.
    world.programs(vec![program(Verdict::Deny, TCP, None, 10, 100)]);
    assert_eq!(data(&mut world), [Outcome::Forwarded; 2]);
    assert_eq!(world.send(POD_A, &tcp(A, B, (1001, 80), SYN)).outcome(), INGRESS);
    world.programs(vec![program(Verdict::Deny, TCP, None, 10, 101)]);
    assert_eq!(data(&mut world), [INGRESS; 2]);
}

#[test]
fn any_new_generation_decides_anew_where_a_flow_goes() {
    let mut world = World::new();
    handshake(&mut world);
    for generation in 0..5 {
        let moved = generation % 2 == 0;
        world.publish(|tables| {
            // 10.65.0.3 moves to another node, and back.
            let mut hops = tables.next_hops.to_vec();
            hops[2] = if moved { hops[11] } else { NextHop::Endpoint(POD_1) };
            tables.next_hops = hops.into();
        });
        let happened = world.send(POD_A, &tcp(A, B, (1000, 80), ACK));
        assert_eq!(happened.only().0, if moved { UPLINK } else { POD_B });
        assert_eq!((happened.counters.hits, happened.counters.misses), (0, 1));
        let again = world.send(POD_A, &tcp(A, B, (1000, 80), ACK));
        assert_eq!((again.counters.hits, again.counters.misses), (1, 0));
    }
    world.publish(|tables| {
        let mut hops = tables.next_hops.to_vec();
        hops[2] = NextHop::NoRoute;
        tables.next_hops = hops.into();
    });
    assert_eq!(world.send(POD_A, &tcp(A, B, (1000, 80), ACK)).counters.punted(), 1);
    let answer = world.send(POD_B, &tcp(B, A, (80, 1000), ACK));
    assert_eq!(answer.only().0, POD_A, "what it sends itself goes on");
}

#[test]
fn what_the_node_originates_reaches_its_pods_and_what_it_forwards_is_judged() {
    let mut world = world();
    world.guard(POD_0, Guard::Open, guarded(1));
    assert_eq!(world.send(TUNL0, &tcp(NODE, A, (1, 80), SYN)).only().0, POD_A);
    assert_eq!(world.send(POD_A, &tcp(A, NODE, (80, 1), SYN_ACK)).only().0, TUNL0);
    assert_eq!(world.send(FORWARD, &tcp(NODE, A, (2, 80), SYN)).outcome(), INGRESS);
    world.guard(POD_0, guarded(1), Guard::Open);
    assert_eq!(world.send(POD_A, &tcp(A, NODE, (3, 80), SYN)).outcome(), EGRESS);
}

#[test]
fn a_pod_that_talks_to_itself_is_not_judged() {
    let mut world = world();
    world.guard(POD_0, guarded(1), guarded(1));
    world.publish(|tables| {
        // Its second address leads through the host's port, as a service's does.
        let mut endpoints = tables.endpoints.to_vec();
        endpoints[0].sources.push("10.65.0.9/32".parse().expect("a prefix"));
        tables.endpoints = endpoints.into();
        let mut fib = (*tables.fib).clone();
        fib.insert("10.65.0.9/32".parse().expect("a prefix"), NextHopId(1));
        tables.fib = Arc::new(fib);
    });
    // It is not denied, but its own port is no way out.
    let packet = tcp(A, [10, 65, 0, 9], (1, 80), SYN);
    let outcome = world.send(POD_A, &packet).outcome();
    assert_eq!(outcome, Outcome::Dropped(DropReason::Hairpin));
}

#[test]
fn a_connection_met_in_mid_stream_is_taken_up_if_either_side_may_begin_it() {
    let mut world = world();
    // Only A may begin, to port 80.
    world.guard(POD_1, guarded(1), guarded(0));
    let answer = world.send(POD_B, &tcp(B, A, (80, 1000), ACK));
    assert_eq!((answer.outcome(), answer.counters.opened), (Outcome::Forwarded, 1));
    let flows = world.pipeline.conns().flows(world.now);
    assert_eq!((flows[0].source_port, flows[0].destination_port), (1000, 80));
    assert_eq!(flows[0].phase.name(), "established");
    assert_eq!(data(&mut world), [Outcome::Forwarded; 2]);
    // A SYN is no middle, and what neither may begin is not taken up.
    assert_eq!(world.send(POD_B, &tcp(B, A, (80, 1001), SYN)).outcome(), EGRESS);
    assert_eq!(world.send(POD_B, &tcp(B, A, (81, 1000), ACK)).outcome(), EGRESS);
}

#[test]
fn a_responder_cannot_use_an_old_connection_to_begin_a_new_one() {
    let mut world = world();
    world.guard(POD_1, guarded(1), Guard::Open);
    handshake(&mut world);
    let reversed = tcp(B, A, (80, 1000), SYN);
    assert_eq!(world.send(POD_B, &reversed).outcome(), EGRESS);
    assert_eq!(data(&mut world), [Outcome::Forwarded; 2], "the old one goes on");
    world.guard(POD_1, Guard::Open, Guard::Open);
    let anew = world.send(POD_B, &reversed);
    assert_eq!((anew.outcome(), anew.counters.opened), (Outcome::Forwarded, 1));
    let flows = world.pipeline.conns().flows(world.now);
    assert_eq!((flows.len(), flows[0].source_port), (1, 80));
}

#[test]
fn echoes_are_told_apart_by_their_identifier() {
    let mut world = world();
    world.programs(vec![program(Verdict::Deny, 1, None, 10, 1)]);
    world.guard(POD_0, Guard::Open, guarded(0));
    assert_eq!(world.send(POD_A, &echo(A, B, 7, false)).outcome(), Outcome::Forwarded);
    assert_eq!(world.send(POD_B, &echo(B, A, 7, true)).outcome(), Outcome::Forwarded);
    assert_eq!(world.send(POD_B, &echo(B, A, 8, true)).outcome(), INGRESS);
    world.advance(Duration::from_secs(6));
    assert_eq!(world.send(POD_B, &echo(B, A, 7, true)).outcome(), INGRESS);
}

#[test]
fn errors_about_an_allowed_connection_pass_and_others_are_judged() {
    let mut world = world();
    world.programs(vec![program(Verdict::Deny, 1, None, 10, 1)]);
    world.guard(POD_0, Guard::Open, guarded(0));
    let asked = udp(A, B, (1000, 53));
    let about = icmp_error(B, A, &asked);
    assert_eq!(world.send(POD_B, &about).outcome(), INGRESS);
    world.send(POD_A, &asked);
    let happened = world.send(POD_B, &about);
    assert_eq!((happened.only().0, happened.counters.hits), (POD_A, 1));
    // A router on the way may say so too; but only to who sent the packet.
    let from_far = wired(&ipip(FAR_NODE, NODE, &icmp_error(FAR, A, &asked)));
    assert_eq!(world.send(UPLINK, &from_far).outcome(), Outcome::Forwarded);
    let misled = icmp_error(B, A, &udp(C, B, (1000, 53)));
    assert_eq!(world.send(POD_B, &misled).outcome(), INGRESS);
    // A denied connection's errors are denied.
    world.guard(POD_1, Guard::Open, Guard::Closed);
    let outcome = world.send(POD_B, &about).outcome();
    assert_eq!(outcome, Outcome::Dropped(DropReason::NoPolicyYet));
}

#[test]
fn a_trace_names_the_rule() {
    let mut world = world();
    world.guard(POD_1, Guard::Open, guarded(0));
    let filter = Filter { l4_port: Some(81), protocol: Some(TCP), ..Filter::default() };
    let traces = world.pipeline.traces().open(filter, 0, 10);
    world.send(POD_A, &tcp(A, B, (1, 80), SYN));
    world.send(POD_A, &udp(A, B, (1, 81)));
    world.send(POD_A, &tcp(A, B, (1, 81), SYN));
    let trace = traces.try_recv().expect("the one that matches");
    assert!(traces.try_recv().is_none());
    let judged = trace.steps.iter().find(|step| matches!(step, Step::Judged { .. }));
    let expected = Step::Judged {
        egress_rule: RuleId(0),
        ingress_rule: RuleId(11),
        denied: Some(DropReason::PolicyIngress),
    };
    assert_eq!(judged, Some(&expected));
}

/// One more worker on the same connections.
fn second_worker(world: &World) -> (Pipeline, punt::PuntReceiver) {
    let receiver = punt::ring(8, Arc::new(|| {}));
    let commons = Arc::new(Commons::new(8));
    let shared = Shared {
        conns: Arc::clone(world.pipeline.conns()),
        counters: Arc::default(),
        punts: receiver.sender(Arc::clone(&commons), 8),
        commons,
        traces: Arc::default(),
        captures: Arc::default(),
    };
    (Pipeline::new(shared), receiver)
}

fn send_by(other: &mut Pipeline, world: &mut World, port: PortId, bytes: &[u8]) -> Counters {
    let mut batch = Batch::new();
    let mut packet = Packet::from_bytes(bytes);
    packet.set_in_port(port);
    batch.push(packet);
    let mut before = Counters::default();
    before.add(other.counters());
    let current = (&world.tables, Generation(world.generation));
    other.run(current, &mut batch, Entry::Device, &mut world.ports, world.now);
    let (pool, counters) = other.parts();
    world.ports.flush(pool, counters);
    world.devices.iter().for_each(|device| drop(device.take()));
    let mut after = Counters::default();
    after.add(other.counters());
    difference(&after, &before)
}

#[test]
fn both_directions_of_a_connection_may_hit_different_workers() {
    let mut world = world();
    world.guard(POD_1, guarded(1), guarded(0));
    let (mut other, _punts) = second_worker(&world);
    assert_eq!(world.send(POD_A, &tcp(A, B, (1000, 80), SYN)).counters.opened, 1);
    let answer = send_by(&mut other, &mut world, POD_B, &tcp(B, A, (80, 1000), SYN_ACK));
    assert_eq!((answer.forwarded, answer.opened), (1, 0), "the reply is no new connection");
    world.send(POD_A, &tcp(A, B, (1000, 80), ACK));
    for _ in 0..30 {
        world.advance(Duration::from_secs(3));
        world.pipeline.housekeep(world.now);
        world.send(POD_A, &tcp(A, B, (1000, 80), ACK));
    }
    let flows = world.pipeline.conns().flows(world.now);
    assert_eq!(flows[0].phase.name(), "established", "each learns what the other saw");
    // A deny that one worker meets first is not undone by one that is still behind.
    world.guard(POD_1, guarded(1), Guard::Closed);
    let denied = world.send(POD_A, &tcp(A, B, (1000, 80), ACK));
    assert_eq!(denied.outcome(), Outcome::Dropped(DropReason::NoPolicyYet));
    world.generation -= 1;
    let behind = send_by(&mut other, &mut world, POD_B, &tcp(B, A, (80, 1000), FIN));
    assert_eq!((behind.forwarded, behind.dropped()), (0, 1));
}

#[test]
fn udp_is_judged_by_who_spoke_first() {
    let mut world = World::new();
    world.programs(vec![program(Verdict::Deny, UDP, None, 10, 1)]);
    world.guard(POD_0, Guard::Open, guarded(0));
    let answer = udp(B, A, (53, 1000));
    assert_eq!(world.send(POD_B, &answer).outcome(), INGRESS);
    world.send(POD_A, &udp(A, B, (1000, 53)));
    assert_eq!(world.send(POD_B, &answer).outcome(), Outcome::Forwarded);
    world.advance(Duration::from_mins(5));
    assert_eq!(world.send(POD_B, &answer).outcome(), INGRESS);
}
