//! What is an address pool, and which pools make no sense?

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Faults, Metadata, Object, Specification, is_default, scalar::Cidr};

/// A range pods get their addresses from.
pub type IpPool = Object<IpPoolSpec>;

/// What is wanted of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolSpec {
    /// The range; it can't be changed.
    pub cidr: Cidr,
    /// The prefix length of the blocks nodes claim; it can't be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u8>,
    /// When packets between nodes are carried in IPIP.
    #[serde(default)]
    pub ipip_mode: EncapMode,
    /// When packets between nodes are carried in VXLAN.
    #[serde(default)]
    pub vxlan_mode: EncapMode,
    /// Whether packets that leave the pools get the node's address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nat_outgoing: bool,
    /// Whether nothing new is assigned from it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disabled: bool,
    /// Whether its blocks are kept from BGP.
    #[serde(rename = "disableBGPExport", default, skip_serializing_if = "is_default")]
    pub disable_bgp_export: bool,
    /// The nodes that may claim blocks.
    #[serde(default)]
    pub node_selector: String,
    /// The namespaces whose pods may have addresses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub namespace_selector: String,
    /// What its addresses are for; empty is workload and tunnel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_uses: Vec<AllowedUse>,
    /// Whether addresses are taken only where the pool is asked for by name.
    #[serde(default)]
    pub assignment_mode: AssignmentMode,
}

/// When packets between nodes are encapsulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EncapMode {
    /// Never.
    #[default]
    Never,
    /// Always.
    Always,
    /// Where the other node's address is in another subnet.
    CrossSubnet,
}

impl fmt::Display for EncapMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Never => "Never",
            Self::Always => "Always",
            Self::CrossSubnet => "CrossSubnet",
        })
    }
}

/// What an address of a pool may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllowedUse {
    /// Pods.
    Workload,
    /// The nodes' tunnel devices.
    Tunnel,
    /// Services of type `LoadBalancer`.
    LoadBalancer,
}

/// Whether a pool is used without being asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssignmentMode {
    /// For every pod its selectors allow.
    #[default]
    Automatic,
    /// Only where it is named.
    Manual,
}

impl IpPoolSpec {
    /// A pool with every default, as if only its range had been written.
    pub fn new(cidr: IpNet) -> Self {
        let mut spec = Self {
            cidr: cidr.into(),
            block_size: None,
            ipip_mode: EncapMode::Never,
            vxlan_mode: EncapMode::Never,
            nat_outgoing: false,
            disabled: false,
            disable_bgp_export: false,
            node_selector: String::new(),
            namespace_selector: String::new(),
            allowed_uses: Vec::new(),
            assignment_mode: AssignmentMode::Automatic,
        };
        spec.fill_defaults();
        spec
    }

    /// The prefix length of its blocks.
    pub fn block_prefix_len(&self) -> u8 {
        self.block_size.unwrap_or(if self.is_ipv4() { 26 } else { 122 })
    }

    /// Whether its addresses may be used for `what`.
    pub fn allows(&self, what: AllowedUse) -> bool {
        match self.allowed_uses.as_slice() {
            [] => what != AllowedUse::LoadBalancer,
            uses => uses.contains(&what),
        }
    }

    /// Whether it holds IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.cidr.addr().is_ipv4()
    }
}

impl Specification for IpPoolSpec {
    fn fill_defaults(&mut self) {
        if self.block_size.is_none() {
            self.block_size = Some(self.block_prefix_len());
        }
        if self.node_selector.is_empty() {
            "all()".clone_into(&mut self.node_selector);
        }
    }

    fn validate(&self, _: &Metadata, faults: &mut Faults) {
        self.validate_range(faults);
        self.validate_uses(faults);
        let encapsulated = |mode| mode != EncapMode::Never;
        faults.add_if(
            encapsulated(self.ipip_mode) && encapsulated(self.vxlan_mode),
            "spec.vxlanMode",
            self.vxlan_mode,
            "ipipMode and vxlanMode cannot both be enabled; set one of them to Never",
        );
        faults.add_if(
            encapsulated(self.ipip_mode) && !self.is_ipv4(),
            "spec.ipipMode",
            self.ipip_mode,
            "IPIP is not supported on IPv6 pools; write Never",
        );
        for (field, selector) in [
            ("spec.nodeSelector", &self.node_selector),
            ("spec.namespaceSelector", &self.namespace_selector),
        ] {
            super::scalar::check_selector(field, selector, faults);
            faults.add_if(
                selector.contains("global()"),
                field,
                selector,
                "global() is not valid here; select by labels, or all() for everything",
            );
        }
    }

    fn validate_update(&self, old: &Self, faults: &mut Faults) {
        let advice = "cannot be changed while addresses may be in use; make a second pool, disable this one, move the pods, delete this one";
        if self.cidr != old.cidr {
            faults.add("spec.cidr", self.cidr, format!("was {}; it {advice}", old.cidr));
        }
        let (new, before) = (self.block_prefix_len(), old.block_prefix_len());
        if new != before {
            faults.add("spec.blockSize", new, format!("was {before}; it {advice}"));
        }
    }
}

impl IpPoolSpec {
    fn validate_range(&self, faults: &mut Faults) {
        let cidr = &self.cidr;
        if !cidr.is_masked() {
            faults.add(
                "spec.cidr",
                cidr,
                format!("must be strictly masked; write {}", cidr.trunc()),
            );
        }
        let link_local: IpNet = if self.is_ipv4() { V4_LINK_LOCAL } else { V6_LINK_LOCAL };
        if overlap(cidr, &link_local) {
            faults.add(
                "spec.cidr",
                cidr,
                format!("overlaps with the link-local range {link_local}"),
            );
        }
        let size = self.block_prefix_len();
        let allowed = if self.is_ipv4() { 20..=32 } else { 116..=128 };
        if !allowed.contains(&size) {
            let family = if self.is_ipv4() { "IPv4" } else { "IPv6" };
            faults.add(
                "spec.blockSize",
                size,
                format!(
                    "must be between {} and {} for {family} pools",
                    allowed.start(),
                    allowed.end()
                ),
            );
        } else if cidr.prefix_len() > size {
            faults.add(
                "spec.cidr",
                cidr,
                format!(
                    "smaller than one block; widen it to /{size}, or set blockSize to {}",
                    cidr.prefix_len()
                ),
            );
        }
    }

    fn validate_uses(&self, faults: &mut Faults) {
        let has = |what| self.allowed_uses.contains(&what);
        let encapsulated =
            self.ipip_mode != EncapMode::Never || self.vxlan_mode != EncapMode::Never;
        if has(AllowedUse::LoadBalancer) {
            let field = "spec.allowedUses";
            faults.add_if(
                encapsulated,
                field,
                "LoadBalancer",
                "a load-balancer pool cannot have IPIP or VXLAN enabled; write Never for both",
            );
            faults.add_if(
                has(AllowedUse::Workload) || has(AllowedUse::Tunnel),
                field,
                "LoadBalancer",
                "cannot be combined with Workload or Tunnel; make two pools",
            );
            faults.add_if(
                self.disable_bgp_export,
                "spec.disableBGPExport",
                true,
                "a load-balancer pool cannot disable BGP export",
            );
            faults.add_if(
                self.node_selector != "all()",
                "spec.nodeSelector",
                &self.node_selector,
                "a load-balancer pool must have nodeSelector all()",
            );
        }
        // Only where Tunnel was written: the default of both uses goes with a namespace selector.
        faults.add_if(
            has(AllowedUse::Tunnel) && !self.namespace_selector.is_empty(),
            "spec.namespaceSelector",
            &self.namespace_selector,
            "a pool for tunnels cannot have a namespaceSelector",
        );
    }
}

const V4_LINK_LOCAL: IpNet =
    IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(169, 254, 0, 0), 16));
const V6_LINK_LOCAL: IpNet =
    IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10));

/// Whether two prefixes share an address.
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// Refuses a pool that shares addresses with another one.
pub fn validate_no_overlap<'a>(
    name: &str,
    pool: &IpPoolSpec,
    existing: impl IntoIterator<Item = &'a IpPool>,
    faults: &mut Faults,
) {
    let others = existing.into_iter().filter(|other| other.metadata.name != name);
    for other in others.filter(|other| overlap(&pool.cidr, &other.spec.cidr)) {
        faults.add(
            "spec.cidr",
            pool.cidr,
            format!(
                "overlaps with pool {} ({}); choose a range of its own",
                other.metadata.name, other.spec.cidr
            ),
        );
    }
}
