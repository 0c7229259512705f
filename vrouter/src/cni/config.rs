//! What does the network configuration say, and what do the runtime's arguments?

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::result::{CniError, ErrorCode};

/// The plugin's network configuration: the options of Calico's plugin are accepted, and kept for
/// those who honour them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetConf {
    /// The version the runtime speaks.
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    /// The network's name; part of address handles.
    pub name: String,
    /// The plugin's name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where the node listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vrouter_socket: Option<PathBuf>,
    /// MTU of pods' interfaces in bytes; 0 or absent: the node decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Address management.
    pub ipam: Ipam,
    /// What pods may do.
    pub container_settings: ContainerSettings,
    /// Features that must be asked for.
    pub feature_control: FeatureControl,
    /// How long ADD waits for the pod's policy, in seconds; absent: the node decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_setup_timeout_seconds: Option<u64>,
    /// What the plugins before this one did.
    #[serde(rename = "prevResult", skip_serializing_if = "Option::is_none")]
    pub prev_result: Option<Value>,
    /// The attachments that still exist (GC).
    #[serde(rename = "cni.dev/valid-attachments", skip_serializing_if = "Option::is_none")]
    pub valid_attachments: Option<Vec<Attachment>>,
    /// Everything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// How addresses are chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ipam {
    /// `calico-ipam`, `vrouter-ipam` or absent: all mean the node's own.
    #[serde(rename = "type")]
    pub kind: String,
    /// `"true"` (default) or `"false"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assign_ipv4: Option<String>,
    /// `"true"` or `"false"` (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assign_ipv6: Option<String>,
    /// Names or CIDRs of the IPv4 pools to take addresses from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_pools: Option<Vec<String>>,
    /// Names or CIDRs of the IPv6 pools to take addresses from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_pools: Option<Vec<String>>,
}

/// What pods may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSettings {
    /// Whether a pod may forward packets.
    pub allow_ip_forwarding: bool,
}

/// Features that must be asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeatureControl {
    /// The annotation `cni.projectcalico.org/ipAddrsNoIpam`.
    pub ip_addrs_no_ipam: bool,
    /// The annotation `cni.projectcalico.org/floatingIPs`.
    pub floating_ips: bool,
}

/// One interface of one container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface's name in it.
    pub ifname: String,
}

/// What the runtime says of the pod in `CNI_ARGS`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodArgs {
    /// The pod's name; absent outside Kubernetes.
    pub pod: Option<String>,
    /// The pod's namespace.
    pub namespace: Option<String>,
    /// The pod's sandbox container.
    pub infra_container: Option<String>,
    /// The pod's UID.
    pub uid: Option<String>,
}

impl NetConf {
    /// Reads and checks the configuration from the plugin's standard input.
    pub fn parse(bytes: &[u8]) -> Result<Self, CniError> {
        let config: Self = parse_json(bytes)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), CniError> {
        let invalid = |message| CniError::new(ErrorCode::InvalidNetworkConfig, message);
        if !is_name(&self.name) {
            return Err(invalid(format!(
                "network configuration: name '{}' must start with a letter or digit and consist of \
                 letters, digits, '_', '.' and '-'",
                self.name
            )));
        }
        if !matches!(self.ipam.kind.as_str(), "" | "calico-ipam" | "vrouter-ipam") {
            return Err(CniError::new(
                ErrorCode::UnsupportedField,
                format!(
                    "network configuration {}: ipam.type '{}' is not supported; right is \
                     calico-ipam",
                    self.name, self.ipam.kind
                ),
            ));
        }
        for (field, value) in
            [("assign_ipv4", &self.ipam.assign_ipv4), ("assign_ipv6", &self.ipam.assign_ipv6)]
        {
            if value.as_deref().is_some_and(|v| !matches!(v, "true" | "false")) {
                return Err(invalid(format!(
                    "network configuration {}: ipam.{field} must be \"true\" or \"false\"",
                    self.name
                )));
            }
        }
        if self.other.contains_key("dataplane_options") {
            return Err(CniError::new(
                ErrorCode::UnsupportedField,
                format!("network configuration {}: dataplane_options is not supported", self.name),
            ));
        }
        Ok(())
    }

    /// Whether pods get an IPv4 address.
    pub fn assigns_ipv4(&self) -> bool {
        self.ipam.assign_ipv4.as_deref() != Some("false")
    }

    /// Whether pods get an IPv6 address.
    pub fn assigns_ipv6(&self) -> bool {
        self.ipam.assign_ipv6.as_deref() == Some("true")
    }
}

impl PodArgs {
    /// Reads `CNI_ARGS`: `KEY=VALUE;…`. Unknown keys are refused unless `IgnoreUnknown` is set.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let invalid = |message| CniError::new(ErrorCode::InvalidEnvironment, message);
        let mut args = Self::default();
        let (mut unknown, mut ignore_unknown) = (Vec::new(), false);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                invalid(format!("CNI_ARGS: '{pair}' must have the form KEY=VALUE"))
            })?;
            let value = Some(value.to_owned()).filter(|value| !value.is_empty());
            match key {
                "K8S_POD_NAME" => args.pod = value,
                "K8S_POD_NAMESPACE" => args.namespace = value,
                "K8S_POD_INFRA_CONTAINER_ID" => args.infra_container = value,
                "K8S_POD_UID" => args.uid = value,
                "IgnoreUnknown" => {
                    ignore_unknown =
                        value.is_some_and(|v| v == "1" || v.eq_ignore_ascii_case("true"));
                }
                other => unknown.push(other),
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            return Err(invalid(format!(
                "CNI_ARGS: unknown keys {} (IgnoreUnknown=1 would accept them)",
                unknown.join(", ")
            )));
        }
        Ok(args)
    }
}

/// Reads JSON; the error names the field.
pub(super) fn parse_json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, CniError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        CniError::new(
            ErrorCode::Decode,
            format!("network configuration: field {field}: {}", error.inner()),
        )
    })
}

/// Whether it is a name as the specification wants them for networks and containers.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}
