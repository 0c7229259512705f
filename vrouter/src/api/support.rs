//! What of the API does this node not do yet, and is that harmless enough to go on?
//!
//! Nothing is ignored in silence: a field either works, or is refused because going on without it would do
//! something else than was asked for, or is accepted with a warning.

use serde_json::Value;

use super::{KUBERNETES_CORE, KUBERNETES_NETWORKING, Kind, PROJECT_CALICO, parse::DecodeError};

/// A field that was written and does not work yet.
pub(crate) struct Notice {
    pub(crate) field: &'static str,
    pub(crate) value: String,
    pub(crate) reason: &'static str,
    pub(crate) refused: bool,
}

struct Gap {
    kind: Kind,
    field: &'static str,
    refused: bool,
    reason: &'static str,
}

const fn refuse(kind: Kind, field: &'static str, reason: &'static str) -> Gap {
    Gap { kind, field, refused: true, reason }
}

const fn warn(kind: Kind, field: &'static str, reason: &'static str) -> Gap {
    Gap { kind, field, refused: false, reason }
}

const LATER: &str = "accepted, not in force yet";

const GAPS: &[Gap] = &[
    refuse(
        Kind::IpPool,
        "spec.vxlanMode",
        "not supported yet; write Never, and ipipMode Always or CrossSubnet for a tunnel",
    ),
    warn(
        Kind::IpPool,
        "spec.natOutgoing",
        "accepted, not in force yet: pods leave the pools with their own address",
    ),
    refuse(
        Kind::BgpConfiguration,
        "spec.nodeMeshPassword",
        "TCP-MD5 is not supported yet; the sessions would be unprotected",
    ),
    warn(Kind::BgpConfiguration, "spec.nodeMeshMaxRestartTime", LATER),
    warn(Kind::BgpConfiguration, "spec.communities", LATER),
    warn(Kind::BgpConfiguration, "spec.prefixAdvertisements", LATER),
    warn(Kind::BgpConfiguration, "spec.serviceClusterIPs", LATER),
    warn(Kind::BgpConfiguration, "spec.serviceExternalIPs", LATER),
    warn(Kind::BgpConfiguration, "spec.serviceLoadBalancerIPs", LATER),
    warn(Kind::BgpConfiguration, "spec.ignoredInterfaces", LATER),
    warn(Kind::BgpConfiguration, "spec.localWorkloadPeeringIPV4", LATER),
    warn(Kind::BgpConfiguration, "spec.localWorkloadPeeringIPV6", LATER),
    warn(
        Kind::BgpConfiguration,
        "spec.programClusterRoutes",
        "accepted, without effect: the router always carries the pools' traffic itself",
    ),
    warn(Kind::BgpConfiguration, "spec.ipv6NormalRoutePriority", LATER),
    refuse(
        Kind::BgpPeer,
        "spec.password",
        "TCP-MD5 is not supported yet; the session would be unprotected",
    ),
    refuse(
        Kind::BgpPeer,
        "spec.filters",
        "BGPFilter is not supported yet; routes would pass unfiltered",
    ),
    refuse(
        Kind::BgpPeer,
        "spec.localWorkloadSelector",
        "peering with workloads is not supported yet",
    ),
    warn(Kind::BgpPeer, "spec.reachableBy", LATER),
    warn(Kind::BgpPeer, "spec.reversePeering", LATER),
    warn(Kind::Node, "spec.wireguard", LATER),
    warn(Kind::WorkloadEndpoint, "spec.ipNATs", LATER),
    warn(Kind::WorkloadEndpoint, "spec.qosControls", LATER),
    warn(Kind::IpamConfiguration, "spec.ipCooldownSeconds", LATER),
    warn(Kind::IpamConfiguration, "spec.kubeVirtVMAddressPersistence", LATER),
];

/// The fields of `manifest` that don't work yet.
pub(crate) fn check(kind: Kind, manifest: &Value) -> Vec<Notice> {
    let gaps = GAPS.iter().filter(|gap| gap.kind == kind);
    gaps.filter_map(|gap| {
        let value = gap.field.split('.').try_fold(manifest, |value, field| value.get(field))?;
        let shown = match value {
            Value::Array(_) | Value::Object(_) => String::new(),
            Value::String(text) => text.clone(),
            scalar => scalar.to_string(),
        };
        let asked = !is_harmless(value);
        asked.then_some(Notice {
            field: gap.field,
            value: shown,
            reason: gap.reason,
            refused: gap.refused,
        })
    })
    .collect()
}

/// What means the same as leaving the field out.
fn is_harmless(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => {
            matches!(text.as_str(), "" | "Never" | "None" | "Auto" | "UseNodeIP" | "Disabled")
        }
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Kinds of the same groups that a later version will know.
const NOT_YET: &[(&str, &str)] = &[
    (PROJECT_CALICO, "BGPFilter"),
    (PROJECT_CALICO, "NetworkPolicy"),
    (PROJECT_CALICO, "GlobalNetworkPolicy"),
    (PROJECT_CALICO, "StagedNetworkPolicy"),
    (PROJECT_CALICO, "StagedGlobalNetworkPolicy"),
    (PROJECT_CALICO, "StagedKubernetesNetworkPolicy"),
    (PROJECT_CALICO, "Tier"),
    (PROJECT_CALICO, "NetworkSet"),
    (PROJECT_CALICO, "GlobalNetworkSet"),
    (PROJECT_CALICO, "HostEndpoint"),
    (PROJECT_CALICO, "Profile"),
    (PROJECT_CALICO, "CalicoNodeStatus"),
    (PROJECT_CALICO, "ClusterInformation"),
    (PROJECT_CALICO, "KubeControllersConfiguration"),
    (PROJECT_CALICO, "FelixConfiguration"),
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
];

/// Says what is wrong with a manifest whose kind is not known.
pub(crate) fn unknown_kind(manifest: &Value, api_version: &str, kind: &str) -> DecodeError {
    if !manifest.is_object() {
        return DecodeError::whole("not a manifest; write apiVersion, kind, metadata and spec");
    }
    let about = |field: &str, value: &str, reason: String| DecodeError {
        field: field.to_owned(),
        value: super::refusal::shorten(value),
        reason,
    };
    for (field, value) in [("apiVersion", api_version), ("kind", kind)] {
        if value.is_empty() {
            return about(
                field,
                "",
                format!(
                    "is required, such as {}",
                    if field == "kind" { "IPPool" } else { PROJECT_CALICO }
                ),
            );
        }
    }
    if NOT_YET.contains(&(api_version, kind)) {
        return about("kind", kind, "not supported yet; nothing of it is in force".to_owned());
    }
    let namesake = Kind::ALL.iter().find(|known| known.as_str().eq_ignore_ascii_case(kind));
    if let Some(known) = namesake {
        let (field, value) =
            if known.as_str() == kind { ("apiVersion", api_version) } else { ("kind", kind) };
        return about(
            field,
            value,
            format!("write apiVersion: {} and kind: {known}", known.api_version()),
        );
    }
    let kinds = |group: &str| {
        let names = Kind::ALL
            .iter()
            .filter(|known| known.api_version() == group)
            .map(|known| known.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    if [PROJECT_CALICO, KUBERNETES_NETWORKING, KUBERNETES_CORE].contains(&api_version) {
        return about(
            "kind",
            kind,
            format!("unknown kind of {api_version}; known are {}", kinds(api_version)),
        );
    }
    let reason = format!(
        "unknown apiVersion; known are {PROJECT_CALICO}, {KUBERNETES_NETWORKING} and {KUBERNETES_CORE}"
    );
    about("apiVersion", api_version, reason)
}
