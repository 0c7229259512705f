//! Which network policies are refused, and what do they mean where they are silent?

use super::*;

/// Specification, refused field, words of the reason.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "{podSelector: {}, ingress: [{ports: [{endPort: 90}]}]}",
        "spec.ingress[0].ports[0].endPort",
        "together with port",
    ),
    (
        "{podSelector: {}, ingress: [{ports: [{port: http, endPort: 90}]}]}",
        "spec.ingress[0].ports[0].endPort",
        "is a number",
    ),
    (
        "{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 79}]}]}",
        "spec.ingress[0].ports[0].endPort",
        "80 or more",
    ),
    (
        "{podSelector: {}, ingress: [{ports: [{port: 0}]}]}",
        "spec.ingress[0].ports[0].port",
        "between 1 and 65535",
    ),
    (
        "{podSelector: {}, ingress: [{ports: [{port: 65536}]}]}",
        "spec.ingress[0].ports[0].port",
        "between 1 and 65535",
    ),
    (
        "{podSelector: {}, ingress: [{ports: [{port: Web}]}]}",
        "spec.ingress[0].ports[0].port",
        "not a port name",
    ),
    (
        "{podSelector: {}, ingress: [{ports: [{protocol: ICMP}]}]}",
        "spec.ingress[0].ports[0].protocol",
        "`SCTP`",
    ),
    ("{podSelector: {}, egress: [{to: [{}]}]}", "spec.egress[0].to[0]", "must have a podSelector"),
    (
        "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
        "spec.egress[0].to[0].ipBlock",
        "entry of its own",
    ),
    (
        "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
        "spec.egress[0].to[0].ipBlock.except[0]",
        "inside 10.0.0.0/8",
    ),
    (
        "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
        "spec.egress[0].to[0].ipBlock.except[0]",
        "inside 10.0.0.0/8",
    ),
    (
        "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: nowhere}}]}]}",
        "spec.egress[0].to[0].ipBlock.cidr",
        "not a prefix",
    ),
    (
        "{podSelector: {}, egress: [{to: [{ipBlock: {}}]}]}",
        "spec.egress[0].to[0].ipBlock.cidr",
        "is required",
    ),
    ("{podSelector: {}, policyTypes: [Both]}", "spec.policyTypes[0]", "`Egress`"),
    ("{podSelector: {}, policyTypes: [Egress, Ingress, Egress]}", "spec.policyTypes", "once each"),
    ("{podSelector: {matchLabels: {'-a': b}}}", "spec.podSelector.matchLabels", "not a label key"),
    (
        "{podSelector: {matchLabels: {a: '-b'}}}",
        "spec.podSelector.matchLabels.a",
        "not a label value",
    ),
    ("{podSelector: {matchLabels: {a: 1}}}", "spec.podSelector.matchLabels.a", "expected a string"),
    (
        "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
        "spec.podSelector.matchExpressions[0].values",
        "is required",
    ),
    (
        "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
        "spec.podSelector.matchExpressions[0].values",
        "left out",
    ),
    (
        "{podSelector: {matchExpressions: [{key: a, operator: Is, values: [b]}]}}",
        "spec.podSelector.matchExpressions[0].operator",
        "`NotIn`",
    ),
    ("{podSelector: {}, ingress: [{form: []}]}", "spec.ingress[0].form", "unknown field"),
    ("{podSelector: {}, ingress: {}}", "spec.ingress", "expected a sequence"),
];

#[test]
fn policy_rules() {
    all_refused("NetworkPolicy", REFUSED);
    all_accepted(
        "NetworkPolicy",
        &[
            "{podSelector: {}}",
            "{podSelector: {}, ingress: [{}], egress: []}",
            "{podSelector: {matchLabels: {role: db}}, policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}}, {namespaceSelector: {matchLabels: {project: myproject}}}, {podSelector: {matchLabels: {role: frontend}}}], ports: [{protocol: TCP, port: 6379}]}], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24}}], ports: [{protocol: TCP, port: 32000, endPort: 32768}]}]}",
            "{podSelector: {matchExpressions: [{key: a.b/c, operator: NotIn, values: [x, '']}, {key: d, operator: DoesNotExist}]}, ingress: [{ports: [{port: http-alt}, {protocol: UDP}, {port: 80, endPort: 80}]}]}",
        ],
    );
}

#[test]
fn policy_defaults() {
    use network_policy::{PolicyType, PortRef, Protocol};
    let types = |spec: &str| {
        let Resource::NetworkPolicy(policy) = valid(&policy(spec)) else { unreachable!() };
        policy.spec.policy_types
    };
    assert_eq!(types("{podSelector: {}}"), [PolicyType::Ingress]);
    assert_eq!(types("{podSelector: {}, egress: []}"), [PolicyType::Ingress]);
    assert_eq!(types("{podSelector: {}, egress: [{}]}"), [PolicyType::Ingress, PolicyType::Egress]);
    assert_eq!(
        types("{podSelector: {}, egress: [{}], policyTypes: [Egress]}"),
        [PolicyType::Egress]
    );
    let Resource::NetworkPolicy(ports) =
        valid(&policy("{ingress: [{from: null, ports: [{port: 53}]}]}"))
    else {
        unreachable!()
    };
    assert_eq!(ports.spec.ingress[0].ports[0].protocol, Protocol::TCP);
    assert_eq!(ports.spec.ingress[0].ports[0].port, Some(PortRef::Number(53)));
    assert!(ports.spec.ingress[0].from.is_empty(), "a field without a value was not written");
}
