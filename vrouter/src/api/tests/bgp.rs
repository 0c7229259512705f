//! Which BGP settings and peers are refused?

use super::*;

#[test]
fn bgp_configuration_rules() {
    all_refused(
        "BGPConfiguration",
        &[
            (
                "{nodeToNodeMeshEnabled: false, nodeMeshMaxRestartTime: 90s}",
                "spec.nodeMeshMaxRestartTime",
                "cannot be set",
            ),
            (
                "{communities: [{name: a, value: '1:2'}]}",
                "spec.communities",
                "not used in prefixAdvertisements",
            ),
            (
                "{nodeMeshPassword: {secretKeyRef: {name: a, key: b}}}",
                "spec.nodeMeshPassword",
                "not supported yet",
            ),
            (
                "{nodeMeshPassword: {secretKeyRef: {name: a}}}",
                "spec.nodeMeshPassword.secretKeyRef.key",
                "is required",
            ),
            ("{asNumber: 0}", "spec.asNumber", "1 to 4294967295"),
            ("{asNumber: 4294967296}", "spec.asNumber", "1 to 4294967295"),
            ("{asNumber: -1}", "spec.asNumber", "1 to 4294967295"),
            ("{listenPort: 0}", "spec.listenPort", "between 1 and 65535"),
            ("{listenPort: 65536}", "spec.listenPort", "expected u16"),
            ("{logSeverityScreen: loud}", "spec.logSeverityScreen", "Trace, Debug"),
            ("{bindMode: All}", "spec.bindMode", "`NodeIP`"),
            ("{ipv4NormalRoutePriority: 0}", "spec.ipv4NormalRoutePriority", "between 1 and"),
            ("{serviceClusterIPs: [{cidr: x}]}", "spec.serviceClusterIPs[0].cidr", "not a prefix"),
            (
                "{prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: ['1:2:3:4']}]}",
                "spec.prefixAdvertisements[0].communities",
                "not a community",
            ),
        ],
    );
    let both = parse(&manifest(
        "BGPConfiguration",
        "{nodeToNodeMeshEnabled: false, nodeMeshPassword: {}}",
    ));
    assert_eq!(both.refusals.len(), 1, "{both:?}");
    all_accepted(
        "BGPConfiguration",
        &[
            "{}",
            "{asNumber: 64512, nodeToNodeMeshEnabled: true, listenPort: 178, logSeverityScreen: Info}",
            "{asNumber: '1.10', nodeToNodeMeshEnabled: false}",
            "{nodeMeshMaxRestartTime: 1m30s}",
            "{communities: [{name: a, value: '1:2'}], prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [a, '1:2:3']}]}",
            "{serviceClusterIPs: [{cidr: 10.96.0.0/12}], serviceLoadBalancerAggregation: Disabled}",
        ],
    );
    let Resource::BgpConfiguration(plain) = valid(&manifest("BGPConfiguration", "{}")) else {
        unreachable!()
    };
    assert!(plain.spec.mesh_enabled() && plain.spec.as_number.is_none());
    let named =
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: other}\n";
    assert_eq!(refused(named).field, "metadata.name");
}

#[test]
fn bgp_peer_rules() {
    all_refused(
        "BGPPeer",
        &[
            (
                "{node: a, nodeSelector: all(), peerIP: 1.2.3.4, asNumber: 1}",
                "spec.nodeSelector",
                "cannot both be set",
            ),
            ("{peerIP: 1.2.3.4, peerSelector: all()}", "spec.peerSelector", "cannot both be set"),
            (
                "{peerSelector: all(), asNumber: 1}",
                "spec.asNumber",
                "must be empty when peerSelector",
            ),
            (
                "{localWorkloadSelector: all(), peerIP: 1.2.3.4, asNumber: 1}",
                "spec.peerIP",
                "must be empty",
            ),
            (
                "{localWorkloadSelector: all(), asNumber: 1}",
                "spec.localWorkloadSelector",
                "not supported yet",
            ),
            (
                "{peerSelector: all(), reachableBy: 10.0.0.1}",
                "spec.reachableBy",
                "must be empty when peerIP",
            ),
            (
                "{peerIP: 1.2.3.4, asNumber: 1, keepOriginalNextHop: true, nextHopMode: Keep}",
                "spec.keepOriginalNextHop",
                "cannot both be set",
            ),
            ("{peerIP: 1.2.3.400, asNumber: 1}", "spec.peerIP", "not a peer address"),
            ("{peerIP: '1.2.3.4:0', asNumber: 1}", "spec.peerIP", "not a peer address"),
            ("{asNumber: 1}", "spec.peerIP", "is required"),
            (
                "{peerIP: 1.2.3.4, asNumber: 1, password: {secretKeyRef: {name: a, key: b}}}",
                "spec.password",
                "not supported yet",
            ),
            ("{peerIP: 1.2.3.4, asNumber: 1, filters: [a]}", "spec.filters", "not supported yet"),
            ("{peerIP: 1.2.3.4, asNumber: 1, ttlSecurity: 256}", "spec.ttlSecurity", "expected u8"),
            (
                "{peerIP: 1.2.3.4, asNumber: 1, keepaliveTime: 1x}",
                "spec.keepaliveTime",
                "not a duration",
            ),
            ("{peerIP: 1.2.3.4, asNumber: 1, nextHopMode: Mine}", "spec.nextHopMode", "`Self`"),
        ],
    );
    all_accepted(
        "BGPPeer",
        &[
            "{peerIP: 192.20.30.40, asNumber: 64567}",
            "{peerIP: 192.20.30.40, ttlSecurity: 1}",
            "{node: one, peerIP: '192.20.30.40:1790', asNumber: 64567}",
            "{nodeSelector: 'rack == \"1\"', peerIP: '[2001:db8::1]:179', asNumber: '0.64567'}",
            "{nodeSelector: all(), peerSelector: 'route-reflector == \"true\"'}",
            "{peerIP: 1.2.3.4, asNumber: 1, nextHopMode: Self, keepaliveTime: 30s, sourceAddress: None, reachableBy: 10.0.0.1}",
            "{peerIP: 1.2.3.4, asNumber: 1, keepOriginalNextHop: true}",
        ],
    );
}
