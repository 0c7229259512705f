//! Does our speaker get along with a real BIRD 2, over real links?

use bench::lab::{Bird, Lab, Netns, link, wait_until};
use slowpath::bgp::{
    self, OriginatedRoute, PeerConfig, PeerStatus, RouteQuery, SpeakerConfig, SpeakerHandle, State,
};
use slowpath::rib::filter::{FilterAction, FilterRule, Operation, RouteFilter, Rules};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_mins(1);
const BIRD: &str = "10.44.0.2";
const ROUTES: &str = "protocol static s4 { ipv4; route 198.51.100.0/24 blackhole; }
    protocol static s6 { ipv6; route fd99::/48 blackhole; }";

/// Our speaker (`10.44.0.1`, `fd44::1`) and a BIRD (`10.44.0.2`, `fd44::2`) on one link.
struct Pair {
    speaker: Option<SpeakerHandle>,
    bird: Option<Bird>,
    ours: Netns,
    theirs: Netns,
    _lab: Lab,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// BIRD's configuration: `session` stands in the BGP protocol, `channel` in both channels.
fn config(session: &str, channel: &str, routes: &str) -> String {
    format!(
        "router id 10.44.0.2; protocol device {{ }}
        {routes}
        protocol bgp vrouter {{
            {session}
            graceful restart on;
            connect retry time 1; connect delay time 1; error wait time 1,2;
            ipv4 {{ import all; export all; next hop self; {channel} }};
            ipv6 {{ import all; export all; next hop address fd44::2; {channel} }};
        }}"
    )
}

fn internal() -> String {
    let session = "local 10.44.0.2 as 64512; neighbor 10.44.0.1 as 64512; direct;";
    config(session, "add paths on;", ROUTES)
}

fn external(extra: &str) -> String {
    config(&format!("local 10.44.0.2 as 65001; neighbor 10.44.0.1 as 64512; {extra}"), "", ROUTES)
}

impl Pair {
    fn new(bird: &str, speaker: SpeakerConfig, peer: PeerConfig) -> Self {
        let lab = Lab::new("birdbgp").expect("a lab");
        let ours = lab.netns("ours").expect("a namespace");
        let theirs = lab.netns("theirs").expect("a namespace");
        link::veth((&ours, "eth0"), (&theirs, "eth0")).expect("a wire");
        for (netns, number) in [(&ours, 1), (&theirs, 2)] {
            link::addr(netns, "eth0", &format!("10.44.0.{number}/24")).expect("an address");
            netns.ip(&format!("addr add fd44::{number}/64 dev eth0 nodad")).expect("an address");
        }
        let bird = Bird::start(&theirs, bird).expect("a BIRD");
        let mut pair = Self { speaker: None, bird: Some(bird), ours, theirs, _lab: lab };
        pair.start_speaker(speaker, peer);
        pair
    }

    fn start_speaker(&mut self, config: SpeakerConfig, peer: PeerConfig) {
        let spawned = self.ours.enter(move || bgp::spawn(config, |_| ()));
        let speaker = spawned.expect("the namespace").expect("a listener");
        speaker.set_peers(vec![peer]);
        self.speaker = Some(speaker);
    }

    fn speaker(&self) -> &SpeakerHandle {
        self.speaker.as_ref().expect("running")
    }

    fn bird(&self) -> &Bird {
        self.bird.as_ref().expect("running")
    }

    fn peer(&self) -> PeerStatus {
        self.speaker().peers().into_iter().next().expect("one peer")
    }

    fn established(&self) {
        self.wait("the session", |pair| {
            pair.peer().state == State::Established && pair.bird().is_established("vrouter")
        });
    }

    /// Prefix, next hop of every path in use.
    fn routes(&self) -> Vec<(String, String)> {
        let routes = self.speaker().routes(RouteQuery::LocRib);
        let shown = |route: &bgp::RouteEntry| {
            (route.prefix.to_string(), route.attributes.next_hop.to_string())
        };
        routes.iter().filter(|route| route.peer.is_some()).map(shown).collect()
    }

    fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let result = wait_until(PATIENCE, what, || holds(self));
        assert!(
            result.is_ok(),
            "waited in vain for {what}: {:?} {:?}\n{:?}",
            self.speaker.as_ref().map(SpeakerHandle::peers),
            self.speaker.as_ref().map(|_| self.routes()),
            self.bird.as_ref().map(|bird| bird.birdc("show protocols all vrouter")),
        );
    }
}

fn speaker() -> SpeakerConfig {
    SpeakerConfig::new(64512, Ipv4Addr::new(10, 44, 0, 1))
}

fn peer(remote_as: u32) -> PeerConfig {
    PeerConfig {
        local_address: Some(ip("10.44.0.1")),
        next_hop_ipv6: Some("fd44::1".parse().expect("an address")),
        ..PeerConfig::new("bird", ip(BIRD), remote_as)
    }
}

fn route(prefix: &str) -> OriginatedRoute {
    OriginatedRoute::new(prefix.parse().expect("a prefix"))
}

#[test]
fn internal_routes_of_both_families_go_both_ways_and_are_withdrawn() {
    let pair = Pair::new(&internal(), speaker(), peer(64512));
    let mut block = route("192.168.7.64/26");
    block.local_pref = Some(2_147_483_647 - 1024);
    block.communities = vec![0xFC00_002A];
    pair.speaker().set_originated(vec![block, route("fd07::/64")]);
    pair.established();
    pair.wait("BIRD's routes", |pair| {
        let expected = [("198.51.100.0/24", BIRD), ("fd99::/48", "fd44::2")];
        pair.routes() == expected.map(|(prefix, hop)| (prefix.to_owned(), hop.to_owned()))
    });
    pair.wait("our routes at BIRD", |pair| {
        pair.bird().prefixes().is_ok_and(|list| {
            list.iter().any(|p| p == "192.168.7.64/26") && list.iter().any(|p| p == "fd07::/64")
        })
    });
    let seen = pair.bird().route("192.168.7.64/26").expect("birdc");
    for part in ["BGP.local_pref: 2147482623", "BGP.next_hop: 10.44.0.1", "(64512,42)"] {
        assert!(seen.contains(part), "no {part} in:\n{seen}");
    }
    let six = pair.bird().route("fd07::/64").expect("birdc");
    assert!(six.contains("BGP.next_hop: fd44::1"), "{six}");
    let capabilities = pair.peer().capabilities.join(", ");
    for part in ["IPv4 unicast", "IPv6 unicast", "4-byte AS", "ADD-PATH", "graceful restart"] {
        assert!(capabilities.contains(part), "no {part} in {capabilities}");
    }
    pair.speaker().set_originated(vec![route("fd07::/64")]);
    pair.wait("our withdrawal", |pair| {
        pair.bird().prefixes().is_ok_and(|list| !list.contains(&"192.168.7.64/26".to_owned()))
    });
    pair.bird().birdc("disable s4").expect("birdc");
    pair.wait("BIRD's withdrawal", |pair| {
        pair.routes() == [("fd99::/48".to_owned(), "fd44::2".to_owned())]
    });
    assert_eq!(pair.peer().flaps, 0);
}

#[test]
fn external_routes_carry_the_path_and_survive_a_restart_of_bird() {
    let mut pair = Pair::new(&external(""), speaker(), peer(65001));
    pair.speaker().set_originated(vec![route("192.168.7.64/26")]);
    pair.established();
    pair.wait("our route at BIRD", |pair| {
        let seen = pair.bird().route("192.168.7.64/26").unwrap_or_default();
        seen.contains("BGP.as_path: 64512") && seen.contains("BGP.next_hop: 10.44.0.1")
    });
    pair.wait("BIRD's route", |pair| pair.routes().len() == 2);
    let why = pair.speaker().routes(RouteQuery::Why("198.51.100.0/24".parse().expect("a prefix")));
    assert_eq!(why[0].attributes.as_path.to_string(), "65001");
    assert_eq!(why[0].reason(), "the only path");
    let mut bird = pair.bird.take().expect("running");
    bird.process().kill().expect("a process");
    drop(bird);
    pair.wait("the session to end", |pair| pair.peer().state != State::Established);
    assert!(pair.peer().stale, "BIRD has asked for that");
    assert_eq!(pair.routes().len(), 2, "kept while BIRD restarts");
    let other = external("").replace("198.51.100.0/24", "203.0.113.0/24");
    pair.bird = Some(Bird::start(&pair.theirs, &other).expect("a BIRD"));
    pair.established();
    pair.wait("the new table alone", |pair| {
        let prefixes: Vec<String> = pair.routes().into_iter().map(|(prefix, _)| prefix).collect();
        prefixes == ["203.0.113.0/24", "fd99::/48"]
    });
    pair.wait("our route again", |pair| {
        pair.bird().route("192.168.7.64/26").unwrap_or_default().contains("64512")
    });
}

#[test]
fn our_own_restart_keeps_our_routes_at_bird() {
    let mut pair = Pair::new(&internal(), speaker(), peer(64512));
    pair.speaker().set_originated(vec![route("192.168.7.64/26")]);
    pair.established();
    let at_bird = |pair: &Pair| {
        pair.bird().route("192.168.7.64/26").unwrap_or_default().contains("BGP.next_hop: 10.44.0.1")
    };
    pair.wait("our route at BIRD", at_bird);
    // Dropped without a farewell, as a killed process.
    drop(pair.speaker.take());
    pair.wait("BIRD to see us gone", |pair| !pair.bird().is_established("vrouter"));
    assert!(at_bird(&pair), "kept while we restart");
    pair.start_speaker(SpeakerConfig { restarting: true, ..speaker() }, peer(64512));
    pair.established();
    assert!(at_bird(&pair), "kept until our table is complete");
    pair.speaker().set_originated(vec![route("192.168.8.0/26")]);
    pair.wait("the old route to go and the new one to come", |pair| {
        let list = pair.bird().prefixes().unwrap_or_default();
        list.contains(&"192.168.8.0/26".to_owned()) && !list.contains(&"192.168.7.64/26".to_owned())
    });
}

#[test]
fn the_wrong_as_is_refused_with_the_right_words() {
    let pair = Pair::new(&external(""), speaker(), peer(65009));
    pair.wait("both to say why", |pair| {
        let ours = pair.peer().last_error.unwrap_or_default();
        let theirs = pair.bird().birdc("show protocols all vrouter").unwrap_or_default();
        ours.contains("bad peer AS (2/2)") && theirs.contains("Bad peer AS")
    });
    assert_ne!(pair.peer().state, State::Established);
    pair.speaker().set_peers(vec![peer(65001)]);
    pair.established();
}

#[test]
fn a_password_and_ttl_security_work_in_both_directions_of_connecting() {
    let guarded =
        PeerConfig { password: Some("swordfish".to_owned()), ttl_security: Some(1), ..peer(65001) };
    for (bird_passive, we_wait) in [("passive on;", false), ("", true)] {
        let session = format!("password \"swordfish\"; ttl security on; {bird_passive}");
        let peer = PeerConfig { passive: we_wait, ..guarded.clone() };
        let pair = Pair::new(&external(&session), speaker(), peer);
        pair.established();
        pair.wait("BIRD's routes", |pair| pair.routes().len() == 2);
    }
}

#[test]
fn a_peer_of_two_octet_as_numbers_still_learns_the_whole_path() {
    let mut rule = FilterRule::new(FilterAction::Accept);
    rule.operations = vec![Operation::PrependPath(vec![4_200_000_001])];
    let rules = Rules { rules: vec![rule], default: FilterAction::Reject };
    let peer = PeerConfig { export: RouteFilter::Rules(rules), ..peer(65001) };
    let pair = Pair::new(&external("enable as4 off;"), speaker(), peer);
    pair.speaker().set_originated(vec![route("192.168.7.64/26")]);
    pair.established();
    pair.wait("BIRD's routes", |pair| pair.routes().len() == 2);
    pair.wait("our route at BIRD", |pair| {
        let seen = pair.bird().route("192.168.7.64/26").unwrap_or_default();
        // BIRD has put AS_PATH (64512 23456) and AS4_PATH together.
        seen.contains("BGP.as_path: 64512 4200000001")
    });
    assert!(!pair.peer().capabilities.join(" ").contains("4-byte AS"));
}

#[test]
fn a_shutdown_tells_bird_the_reason_and_bird_tells_us_his() {
    let mut pair = Pair::new(&external(""), speaker(), peer(65001));
    pair.established();
    pair.bird().birdc("disable vrouter \"maintenance\"").expect("birdc");
    pair.wait("BIRD's reason", |pair| {
        pair.peer()
            .last_error
            .is_some_and(|e| e.contains("administrative shutdown") && e.contains("maintenance"))
    });
    pair.wait("its routes to go", |pair| pair.routes().is_empty());
    pair.bird().birdc("enable vrouter").expect("birdc");
    pair.established();
    pair.speaker.take().expect("running").shutdown("node is drained");
    pair.wait("our reason at BIRD", |pair| {
        let log = pair.bird().birdc("show protocols all vrouter").unwrap_or_default();
        log.contains("Received: Administrative shutdown")
    });
}

#[test]
fn bird_asks_for_our_routes_again_and_we_for_his() {
    let pair = Pair::new(&external(""), speaker(), peer(65001));
    pair.speaker().set_originated(vec![route("192.168.7.64/26")]);
    pair.established();
    let ours =
        |pair: &Pair| pair.bird().route("192.168.7.64/26").unwrap_or_default().contains("64512");
    pair.wait("our route at BIRD", ours);
    let before = pair.peer().messages_out;
    pair.bird().birdc("reload in vrouter").expect("birdc");
    pair.wait("our answer", |pair| pair.peer().messages_out > before);
    let before = pair.peer().messages_in;
    pair.speaker().clear(Some(ip(BIRD)), true);
    pair.wait("BIRD's answer", |pair| pair.peer().messages_in > before + 1);
    assert!(ours(&pair));
    assert_eq!(pair.peer().flaps, 0);
}

#[test]
fn a_session_over_ipv6_carries_both_families() {
    let session = "local fd44::2 as 65001; neighbor fd44::1 as 64512;";
    let bird = config(session, "", ROUTES).replace(
        "import all; export all; next hop self;",
        "import all; export all; next hop address 10.44.0.2;",
    );
    let peer = PeerConfig {
        address: ip("fd44::2"),
        local_address: Some(ip("fd44::1")),
        next_hop_ipv4: Some(Ipv4Addr::new(10, 44, 0, 1)),
        next_hop_ipv6: None,
        ..peer(65001)
    };
    let pair = Pair::new(&bird, speaker(), peer);
    pair.speaker().set_originated(vec![route("fd07::/64"), route("192.168.7.64/26")]);
    pair.established();
    pair.wait("BIRD's routes", |pair| {
        let expected = [("198.51.100.0/24", BIRD), ("fd99::/48", "fd44::2")];
        pair.routes() == expected.map(|(prefix, hop)| (prefix.to_owned(), hop.to_owned()))
    });
    for (prefix, next_hop) in [("fd07::/64", "fd44::1"), ("192.168.7.64/26", "10.44.0.1")] {
        pair.wait("our route at BIRD", |pair| {
            let seen = pair.bird().route(prefix).unwrap_or_default();
            seen.contains(&format!("BGP.next_hop: {next_hop}"))
        });
    }
}

#[test]
fn all_paths_that_bird_adds_are_used_together() {
    let session = "local 10.44.0.2 as 64512; neighbor 10.44.0.1 as 64512; direct;";
    let two = "protocol static a { ipv4; route 198.51.100.0/24 via 10.44.0.8; }
        protocol static b { ipv4; route 198.51.100.0/24 via 10.44.0.9; }";
    let bird = config(session, "add paths on;", two).replace("next hop self;", "");
    let pair = Pair::new(&bird, speaker(), peer(64512));
    pair.established();
    let both = ["10.44.0.8", "10.44.0.9"].map(|hop| ("198.51.100.0/24".to_owned(), hop.to_owned()));
    pair.wait("both paths", |pair| {
        let mut routes = pair.routes();
        routes.sort();
        routes == both
    });
    pair.bird().birdc("disable a").expect("birdc");
    pair.wait("one path to go", |pair| pair.routes() == both[1..]);
}
