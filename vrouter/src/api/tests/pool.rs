//! Which pools are refused?

use super::*;

/// Specification, refused field, words of the reason.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "{cidr: 10.0.0.0/16, ipipMode: Always, vxlanMode: Always}",
        "spec.vxlanMode",
        "cannot both be enabled",
    ),
    (
        "{cidr: 10.0.0.0/16, ipipMode: Always, allowedUses: [LoadBalancer]}",
        "spec.allowedUses",
        "cannot have IPIP",
    ),
    ("{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer, Workload]}", "spec.allowedUses", "two pools"),
    ("{cidr: 'fd00::/64', ipipMode: CrossSubnet}", "spec.ipipMode", "not supported on IPv6"),
    (
        "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], disableBGPExport: true}",
        "spec.disableBGPExport",
        "cannot disable",
    ),
    (
        "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], nodeSelector: has(a)}",
        "spec.nodeSelector",
        "must have nodeSelector all()",
    ),
    (
        "{cidr: 10.0.0.0/16, allowedUses: [Tunnel], namespaceSelector: all()}",
        "spec.namespaceSelector",
        "tunnels",
    ),
    ("{cidr: 10.0.0.0/16, nodeSelector: global()}", "spec.nodeSelector", "global() is not valid"),
    (
        "{cidr: 10.0.0.0/16, namespaceSelector: global()}",
        "spec.namespaceSelector",
        "global() is not valid",
    ),
    ("{cidr: 10.0.0.1/16}", "spec.cidr", "write 10.0.0.0/16"),
    ("{cidr: 169.254.4.0/24}", "spec.cidr", "link-local range 169.254.0.0/16"),
    ("{cidr: 'fe80::/64'}", "spec.cidr", "link-local range fe80::/10"),
    ("{cidr: 10.0.0.0/16, blockSize: 19}", "spec.blockSize", "between 20 and 32"),
    ("{cidr: 10.0.0.0/16, blockSize: 33}", "spec.blockSize", "between 20 and 32"),
    ("{cidr: 'fd00::/64', blockSize: 115}", "spec.blockSize", "between 116 and 128"),
    ("{cidr: 10.0.0.0/27}", "spec.cidr", "smaller than one block"),
    ("{cidr: 10.0.0.0/99}", "spec.cidr", "such as 10.244.0.0/16"),
    ("{}", "spec.cidr", "is required"),
    ("{cidr: 10.0.0.0/16, ipipMode: always}", "spec.ipipMode", "`Always`"),
    ("{cidr: 10.0.0.0/16, vxlanMode: CrossSubnet}", "spec.vxlanMode", "not supported yet"),
    ("{cidr: 10.0.0.0/16, natOutgoing: 'yes'}", "spec.natOutgoing", "expected a boolean"),
    ("{cidr: 10.0.0.0/16, blocksize: 26}", "spec.blocksize", "unknown field"),
];

#[test]
fn pool_rules() {
    all_refused("IPPool", REFUSED);
    all_accepted(
        "IPPool",
        &[
            "{cidr: 10.0.0.0/16}",
            "{cidr: 10.0.0.0/26, blockSize: 26}",
            "{cidr: 10.0.0.0/16, blockSize: 20, ipipMode: Always, vxlanMode: Never}",
            "{cidr: 'fd00::/64', blockSize: 128}",
            "{cidr: 'fd00::/116', blockSize: 116, nodeSelector: 'zone == \"a\"'}",
            "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], nodeSelector: all()}",
            "{cidr: 10.0.0.0/16, allowedUses: [Workload], namespaceSelector: 'team == \"a\"'}",
            "{cidr: 10.0.0.0/16, disabled: true, disableBGPExport: true, assignmentMode: Manual}",
        ],
    );
}

#[test]
fn pool_defaults() {
    let Resource::IpPool(v4) = valid(&manifest("IPPool", "{cidr: 10.0.0.0/16}")) else {
        unreachable!()
    };
    assert_eq!(v4.spec, IpPoolSpec::new("10.0.0.0/16".parse().unwrap()));
    assert_eq!((v4.spec.block_size, v4.spec.node_selector.as_str()), (Some(26), "all()"));
    assert_eq!(
        (v4.spec.ipip_mode, v4.spec.vxlan_mode, v4.spec.nat_outgoing),
        (EncapMode::Never, EncapMode::Never, false)
    );
    assert!(
        v4.spec.allows(ippool::AllowedUse::Workload) && v4.spec.allows(ippool::AllowedUse::Tunnel)
    );
    assert!(!v4.spec.allows(ippool::AllowedUse::LoadBalancer));
    let Resource::IpPool(v6) = valid(&manifest("IPPool", "{cidr: 'fd00::/48'}")) else {
        unreachable!()
    };
    assert_eq!(v6.spec.block_size, Some(122));
}

#[test]
fn pool_changes_and_overlaps() {
    let one = valid(&manifest("IPPool", "{cidr: 10.0.0.0/16}"));
    let wider = valid(&manifest("IPPool", "{cidr: 10.0.0.0/15}"));
    let smaller_blocks = valid(&manifest("IPPool", "{cidr: 10.0.0.0/16, blockSize: 28}"));
    let disabled = valid(&manifest("IPPool", "{cidr: 10.0.0.0/16, disabled: true}"));
    assert_eq!(wider.validate_update(&one).0[0].field, "spec.cidr");
    assert_eq!(smaller_blocks.validate_update(&one).0[0].field, "spec.blockSize");
    assert!(disabled.validate_update(&one).is_empty());

    let Resource::IpPool(one) = one else { unreachable!() };
    let overlaps = |name: &str, cidr: &str| {
        let mut faults = Faults::default();
        let spec = IpPoolSpec::new(cidr.parse().unwrap());
        ippool::validate_no_overlap(name, &spec, [&*one], &mut faults);
        !faults.is_empty()
    };
    assert!(overlaps("two", "10.0.0.0/8") && overlaps("two", "10.0.255.0/24"));
    assert!(
        !overlaps("two", "10.1.0.0/16")
            && !overlaps("two", "fd00::/64")
            && !overlaps("one", "10.0.0.0/16")
    );
}
