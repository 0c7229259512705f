//! The state machine against RFC 4271 §8, and against any sequence of events.

use super::*;
use crate::bgp::capability::{Capabilities, GracefulRestart};
use proptest::prelude::*;
use std::net::Ipv4Addr;

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

fn open(asn: u32, last: u8, hold_time: u16) -> Open {
    Open {
        asn,
        hold_time,
        router_id: Ipv4Addr::new(10, 0, 0, last),
        capabilities: Capabilities { four_byte_as: true, ..Capabilities::default() },
    }
}

fn settings(passive: bool) -> Settings {
    Settings {
        local: Open { router_id: LOCAL, ..open(65000, 5, 90) },
        remote_as: 65001,
        passive,
        keepalive: None,
    }
}

/// A machine and its clock.
struct Bench {
    fsm: Fsm,
    now: Instant,
}

impl Bench {
    fn new(passive: bool) -> Self {
        let mut bench = Self { fsm: Fsm::new(settings(passive), 7), now: Instant::now() };
        bench.feed(Event::Start);
        bench
    }

    fn feed(&mut self, event: Event) -> Vec<Action> {
        self.fsm.handle(event, self.now)
    }

    /// Moves the clock to the next deadline and reports it.
    fn tick(&mut self) -> Vec<Action> {
        self.now = self.fsm.deadline().expect("a timer");
        self.feed(Event::Timer)
    }

    fn open_sent(slot: Slot) -> Self {
        let mut bench = Self::new(slot == Slot::In);
        let actions = match slot {
            Slot::Out => bench.feed(Event::Connected),
            Slot::In => bench.feed(Event::Accepted),
        };
        assert_eq!(actions.last(), Some(&Action::SendOpen(slot)));
        bench
    }

    fn open_confirm(slot: Slot) -> Self {
        let mut bench = Self::open_sent(slot);
        let actions = bench.feed(Event::Open(slot, open(65001, 9, 30)));
        assert_eq!(actions, [Action::SendKeepalive(slot)]);
        bench
    }

    fn established(slot: Slot) -> Self {
        let mut bench = Self::open_confirm(slot);
        assert_eq!(bench.feed(Event::Keepalive(slot)), [Action::Up(slot)]);
        assert_eq!(bench.fsm.state(), State::Established);
        bench
    }
}

fn sent(actions: &[Action]) -> Option<(u8, u8)> {
    actions.iter().find_map(|action| match action {
        Action::SendNotification(_, n) | Action::Refuse(n) => Some((n.code, n.subcode)),
        _ => None,
    })
}

#[test]
fn a_session_comes_up_by_the_book() {
    let mut bench = Bench { fsm: Fsm::new(settings(false), 7), now: Instant::now() };
    assert_eq!(bench.fsm.state(), State::Idle);
    assert_eq!(bench.feed(Event::Start), [Action::Connect]);
    assert_eq!(bench.fsm.state(), State::Connect);
    assert_eq!(bench.feed(Event::Connected), [Action::SendOpen(Slot::Out)]);
    assert_eq!(bench.fsm.state(), State::OpenSent);
    bench.feed(Event::Open(Slot::Out, open(65001, 9, 30)));
    assert_eq!(bench.fsm.state(), State::OpenConfirm);
    let terms = bench.fsm.negotiated(Slot::Out).expect("agreed").clone();
    assert_eq!(terms.hold_time, Duration::from_secs(30), "the smaller of both");
    assert_eq!(bench.feed(Event::Keepalive(Slot::Out)), [Action::Up(Slot::Out)]);
}

#[test]
fn a_passive_peer_waits() {
    let mut bench = Bench::new(true);
    assert_eq!((bench.fsm.state(), bench.fsm.deadline()), (State::Active, None));
    let actions = bench.feed(Event::Accepted);
    assert_eq!(actions, [Action::Adopt, Action::SendOpen(Slot::In)]);
}

#[test]
fn failed_attempts_are_repeated_soon_and_not_faster_than_the_jitter_allows() {
    let mut bench = Bench::new(false);
    for longest in [2, 4, 5, 5, 5] {
        let failed = bench.now;
        let actions = bench.feed(Event::ConnectFailed);
        assert_eq!(actions, [Action::Failed(Cause::ConnectFailed)]);
        assert_eq!(bench.tick(), [Action::Connect]);
        let pause = bench.now - failed;
        let longest = Duration::from_secs(longest);
        assert!(pause >= longest * 3 / 4 && pause <= longest, "{pause:?} of {longest:?}");
    }
}

#[test]
fn an_attempt_nobody_answers_is_given_up() {
    let mut bench = Bench::new(false);
    let actions = bench.tick();
    assert_eq!(actions, [Action::Close(Slot::Out), Action::Failed(Cause::ConnectFailed)]);
    assert_eq!(bench.fsm.state(), State::Active);
}

#[test]
fn the_pause_after_errors_doubles_to_half_a_minute_and_a_good_session_resets_it() {
    let mut bench = Bench::new(false);
    for longest in [2, 4, 8, 16, 30, 30] {
        bench.feed(Event::Connected);
        bench.feed(Event::Open(Slot::Out, open(65009, 9, 30)));
        let ended = bench.now;
        assert_eq!(bench.tick(), [Action::Connect]);
        assert!(bench.now - ended <= Duration::from_secs(longest));
        assert!(bench.now - ended >= Duration::from_secs(longest) * 3 / 4);
    }
    bench.feed(Event::Connected);
    bench.feed(Event::Open(Slot::Out, open(65001, 9, 0)));
    bench.feed(Event::Keepalive(Slot::Out));
    bench.now += GOOD_SESSION;
    bench.feed(Event::Closed(Slot::Out));
    let ended = bench.now;
    bench.tick();
    assert!(bench.now - ended <= FIRST_RETRY);
}

#[test]
fn keepalives_go_out_three_times_per_hold_time_and_silence_ends_the_session() {
    let mut bench = Bench::established(Slot::Out);
    let start = bench.now;
    let mut keepalives = 0;
    let last = loop {
        let actions = bench.tick();
        if actions != [Action::SendKeepalive(Slot::Out)] {
            break actions;
        }
        keepalives += 1;
    };
    assert!((3..=4).contains(&keepalives), "{keepalives} in one hold time");
    assert_eq!(bench.now - start, Duration::from_secs(30));
    assert_eq!(sent(&last), Some(code::HOLD_TIMER));
    let down = last.iter().find_map(|action| match action {
        Action::Down(down) => Some(down.graceful),
        _ => None,
    });
    assert_eq!(down, Some(false), "a NOTIFICATION ends graceful restart");
}

#[test]
fn whatever_the_peer_says_keeps_the_session_alive() {
    for event in [Event::Keepalive(Slot::Out), Event::Update(Slot::Out), Event::Refresh(Slot::Out)]
    {
        let mut bench = Bench::established(Slot::Out);
        let start = bench.now;
        for _ in 0..12 {
            bench.now += Duration::from_secs(29);
            assert_eq!(sent(&bench.feed(event.clone())), None);
            bench.feed(Event::Timer);
        }
        assert_eq!(bench.fsm.state(), State::Established, "after {:?}", bench.now - start);
    }
}

#[test]
fn a_hold_time_of_zero_means_no_timers() {
    let mut bench = Bench::open_sent(Slot::Out);
    bench.feed(Event::Open(Slot::Out, open(65001, 9, 0)));
    bench.feed(Event::Keepalive(Slot::Out));
    assert_eq!(bench.fsm.deadline(), None);
}

#[test]
fn opens_are_checked() {
    let mut bench = Bench::open_sent(Slot::Out);
    let wrong_as = bench.feed(Event::Open(Slot::Out, open(65002, 9, 30)));
    assert_eq!(sent(&wrong_as), Some(code::BAD_PEER_AS));
    let internal = Settings { remote_as: 65000, ..settings(false) };
    let mut fsm = Fsm::new(internal, 7);
    let now = Instant::now();
    fsm.handle(Event::Start, now);
    fsm.handle(Event::Connected, now);
    let same_id = fsm.handle(Event::Open(Slot::Out, open(65000, 5, 30)), now);
    assert_eq!(sent(&same_id), Some(code::BAD_IDENTIFIER));
    let mut bench = Bench::open_sent(Slot::Out);
    let fine = bench.feed(Event::Open(Slot::Out, open(65001, 5, 30)));
    assert_eq!(sent(&fine), None, "the same id in another AS is allowed (RFC 6286)");
}

#[test]
fn messages_out_of_place_are_told_so_by_state() {
    let update = Event::Update(Slot::Out);
    let expect = [
        (Bench::open_sent(Slot::Out), code::UNEXPECTED_OPEN_SENT),
        (Bench::open_confirm(Slot::Out), code::UNEXPECTED_OPEN_CONFIRM),
    ];
    for (mut bench, expected) in expect {
        assert_eq!(sent(&bench.feed(update.clone())), Some(expected));
    }
    let mut bench = Bench::established(Slot::Out);
    let second_open = bench.feed(Event::Open(Slot::Out, open(65001, 9, 30)));
    assert_eq!(sent(&second_open), Some(code::UNEXPECTED_ESTABLISHED));
}

/// Both connections in `OpenConfirm` on the first, the second's OPEN arriving.
fn collide(first: Slot, remote: u8) -> (Bench, Vec<Action>) {
    let mut bench = Bench::new(false);
    match first {
        Slot::Out => {
            bench.feed(Event::Connected);
            bench.feed(Event::Accepted);
        }
        Slot::In => {
            bench.feed(Event::Accepted);
            bench.feed(Event::Connected);
        }
    }
    bench.feed(Event::Open(first, open(65001, remote, 30)));
    let actions = bench.feed(Event::Open(first.other(), open(65001, remote, 30)));
    (bench, actions)
}

#[test]
fn of_two_connections_the_one_of_the_higher_identifier_stays() {
    for first in Slot::ALL {
        // Ours is 5: the peer's connection stays with 9, ours with 2; the AS decides a draw.
        for (remote, winner) in [(9, Slot::In), (2, Slot::Out), (5, Slot::In)] {
            let (mut bench, actions) = collide(first, remote);
            assert_eq!(sent(&actions), Some(code::COLLISION));
            assert!(actions.contains(&Action::Close(winner.other())), "{first:?} {remote}");
            assert_eq!(bench.fsm.slot_state(winner), State::OpenConfirm);
            assert_eq!(bench.fsm.slot_state(winner.other()), State::Idle);
            assert_eq!(bench.feed(Event::Keepalive(winner)), [Action::Up(winner)]);
        }
    }
}

#[test]
fn an_established_session_wins_every_collision() {
    let mut bench = Bench::established(Slot::Out);
    let actions = bench.feed(Event::Accepted);
    let probe = [Action::SendKeepalive(Slot::Out), Action::Adopt, Action::SendOpen(Slot::In)];
    assert_eq!(actions, probe);
    let actions = bench.feed(Event::Open(Slot::In, open(65001, 9, 30)));
    assert_eq!(sent(&actions), Some(code::COLLISION));
    assert_eq!(bench.fsm.slot_state(Slot::Out), State::Established);
    let mut bench = Bench::established(Slot::In);
    assert_eq!(sent(&bench.feed(Event::Accepted)), Some(code::REJECTED));
    assert_eq!(bench.fsm.state(), State::Established);
}

#[test]
fn a_new_connection_of_a_peer_with_graceful_restart_replaces_the_old_one() {
    let restart = GracefulRestart { restarting: false, restart_time: 120, families: [None; 2] };
    let with = |mut open: Open| {
        open.capabilities.graceful_restart = Some(restart);
        open
    };
    let mut fsm = Fsm::new(Settings { local: with(settings(false).local), ..settings(false) }, 7);
    let now = Instant::now();
    fsm.handle(Event::Start, now);
    fsm.handle(Event::Connected, now);
    fsm.handle(Event::Open(Slot::Out, with(open(65001, 9, 30))), now);
    fsm.handle(Event::Keepalive(Slot::Out), now);
    let actions = fsm.handle(Event::Accepted, now);
    assert_eq!(actions[0], Action::Close(Slot::Out));
    let replaced = Down { cause: Cause::Replaced, graceful: true };
    assert_eq!(actions[1], Action::Down(replaced));
    assert_eq!(actions[2..], [Action::Adopt, Action::SendOpen(Slot::In)]);
}

#[test]
fn the_first_session_up_ends_the_other_attempt() {
    let mut bench = Bench::new(false);
    bench.feed(Event::Accepted);
    bench.feed(Event::Open(Slot::In, open(65001, 9, 30)));
    let actions = bench.feed(Event::Keepalive(Slot::In));
    assert_eq!(actions, [Action::Close(Slot::Out), Action::Up(Slot::In)]);
}

#[test]
fn stopping_says_why_and_stays_stopped() {
    let mut bench = Bench::established(Slot::Out);
    let actions = bench.feed(Event::Stop(Notification::of(code::SHUTDOWN)));
    assert_eq!(sent(&actions), Some(code::SHUTDOWN));
    assert_eq!((bench.fsm.state(), bench.fsm.deadline()), (State::Idle, None));
    assert_eq!(sent(&bench.feed(Event::Accepted)), Some(code::REJECTED));
}

#[test]
fn a_peer_held_down_is_neither_called_nor_answered_until_the_time_is_over() {
    let mut bench = Bench::established(Slot::Out);
    let time = Duration::from_mins(1);
    bench.feed(Event::Reset(Notification::of(code::MAX_PREFIXES), Some(time)));
    assert_eq!(bench.fsm.state(), State::Idle);
    assert_eq!(sent(&bench.feed(Event::Accepted)), Some(code::REJECTED));
    let start = bench.now;
    assert_eq!(bench.tick(), [Action::Connect]);
    assert_eq!(bench.now - start, time);
}

fn event() -> impl Strategy<Value = Event> {
    let slot = prop::sample::select(vec![Slot::Out, Slot::In]);
    let opens = prop::sample::select(vec![
        open(65001, 9, 30),
        open(65001, 2, 0),
        open(65001, 5, 3),
        open(65009, 9, 30),
    ]);
    let notification = Notification::of(code::SHUTDOWN);
    (slot, opens, 0..16_u8).prop_map(move |(slot, open, number)| match number {
        0 => Event::Start,
        1 => Event::Stop(notification.clone()),
        2 => Event::Reset(notification.clone(), None),
        3 => Event::Reset(notification.clone(), Some(Duration::from_mins(1))),
        4 => Event::Connected,
        5 => Event::ConnectFailed,
        6 | 7 => Event::Accepted,
        8 => Event::Closed(slot),
        9 => Event::Bad(slot, notification.clone()),
        10 => Event::Open(slot, open),
        11 => Event::Keepalive(slot),
        12 => Event::Update(slot),
        13 => Event::Refresh(slot),
        14 => Event::Notification(slot, notification.clone()),
        _ => Event::Timer,
    })
}

/// What the outside world holds, driven by the machine's actions alone.
#[derive(Default)]
struct Mirror {
    open: [bool; 2],
    up: Option<Slot>,
}

impl Mirror {
    fn apply(&mut self, action: &Action) {
        match action {
            Action::Connect => {
                assert!(!self.open[0], "a second connection of ours");
                self.open[0] = true;
            }
            Action::Adopt => {
                assert!(!self.open[1], "an accepted connection was forgotten");
                self.open[1] = true;
            }
            Action::SendOpen(slot)
            | Action::SendKeepalive(slot)
            | Action::SendNotification(slot, _) => {
                assert!(self.open[slot.index()], "sent into a closed connection: {action:?}");
            }
            Action::Close(slot) => {
                self.open[slot.index()] = false;
            }
            Action::Up(slot) => {
                assert_eq!(self.up, None, "two sessions at once");
                assert!(self.open[slot.index()]);
                self.up = Some(*slot);
            }
            Action::Down(_) => assert!(self.up.take().is_some(), "down without up"),
            Action::Refuse(_) | Action::Failed(_) => {}
        }
    }
}

proptest! {
    #[test]
    fn any_sequence_of_events_keeps_the_world_consistent(
        events in prop::collection::vec((event(), 0..40_u64), 0..80),
        seed: u64,
        passive: bool,
    ) {
        let mut fsm = Fsm::new(settings(passive), seed);
        let mut now = Instant::now();
        let mut mirror = Mirror::default();
        for (event, seconds) in events {
            now += Duration::from_secs(seconds);
            // Events that only an open connection can bring.
            match &event {
                Event::Closed(slot) | Event::Notification(slot, _) => {
                    mirror.open[slot.index()] = false;
                }
                Event::ConnectFailed if fsm.slot_state(Slot::Out) == State::Connect => {
                    mirror.open[0] = false;
                }
                _ => {}
            }
            for action in fsm.handle(event, now) {
                mirror.apply(&action);
            }
            for slot in Slot::ALL {
                let held = fsm.slot_state(slot) != State::Idle;
                prop_assert_eq!(held, mirror.open[slot.index()], "{:?}", slot);
            }
            prop_assert_eq!(mirror.up.is_some(), fsm.state() == State::Established);
            // After the timers were looked at, none is overdue: the caller never spins.
            for action in fsm.handle(Event::Timer, now) {
                mirror.apply(&action);
            }
            prop_assert!(fsm.deadline().is_none_or(|deadline| deadline > now));
        }
    }
}
