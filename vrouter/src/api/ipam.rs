//! How is address management written down: blocks, claims, handles, settings?

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Faults, Metadata, Object, Specification, is_default, metadata, scalar::Cidr};

/// A part of a pool, and who holds which of its addresses.
pub type IpamBlock = Object<IpamBlockSpec>;
/// A node's claim to a block.
pub type BlockAffinity = Object<BlockAffinitySpec>;
/// The blocks in which one owner holds addresses.
pub type IpamHandle = Object<IpamHandleSpec>;
/// How addresses are assigned.
pub type IpamConfiguration = Object<IpamConfigurationSpec>;
/// Addresses that are never assigned automatically.
pub type IpReservation = Object<IpReservationSpec>;

/// A block's content. An address is named by its ordinal: its distance from the block's first address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamBlockSpec {
    /// The block's range.
    pub cidr: Cidr,
    /// Who claims it: `host:<node>` or `virtual:<name>`; nobody when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// Since when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<String>,
    /// Whether only the claiming node may take addresses.
    #[serde(default)]
    pub strict_affinity: bool,
    /// By ordinal: the index into `attributes`, or `None` where the address is free.
    pub allocations: Vec<Option<usize>>,
    /// The free ordinals, the longest free first.
    pub unallocated: Vec<usize>,
    /// What is known about the owners of addresses.
    #[serde(default)]
    pub attributes: Vec<AllocationAttribute>,
    /// Counts changes of the block.
    #[serde(default)]
    pub sequence_number: u64,
    /// By ordinal, as text: the sequence number when it was last assigned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    /// Whether the block is about to be deleted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deleted: bool,
}

/// What is known about an owner of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AllocationAttribute {
    /// The owner's handle.
    #[serde(rename = "handle_id", skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// Pod, namespace, node, type, timestamp.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secondary: BTreeMap<String, String>,
    /// A second owner, while a machine moves between nodes.
    #[serde(rename = "alternateOwnerAttrs", skip_serializing_if = "BTreeMap::is_empty")]
    pub alternate_owner_attrs: BTreeMap<String, String>,
    /// When it was released, while it cools down.
    #[serde(rename = "releasedAt", skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
}

/// A node's claim to a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockAffinitySpec {
    /// The block.
    pub cidr: Cidr,
    /// The node.
    pub node: String,
    /// How far the claim has come.
    #[serde(default)]
    pub state: AffinityState,
    /// `host`, or `virtual` for load balancers; empty is `host`.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Whether the claim is about to be deleted.
    #[serde(default)]
    pub deleted: bool,
}

/// How far a claim has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AffinityState {
    /// The block may not exist yet, or be another node's.
    #[default]
    Pending,
    /// The block is the node's.
    Confirmed,
    /// The block is being given up.
    PendingDeletion,
}

/// The blocks in which one owner holds addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamHandleSpec {
    /// The owner, such as `k8s-pod-network.<container id>`.
    #[serde(rename = "handleID")]
    pub handle_id: String,
    /// By block: how many addresses.
    pub block: BTreeMap<String, u64>,
    /// Whether the handle is about to be deleted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deleted: bool,
}

/// How addresses are assigned; the object `default`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpamConfigurationSpec {
    /// Whether a node takes addresses of its own blocks only.
    pub strict_affinity: bool,
    /// Whether nodes claim blocks by themselves.
    pub auto_allocate_blocks: bool,
    /// How many blocks a node may claim; 0 is the built-in limit.
    pub max_blocks_per_host: u32,
    /// How long a released address is not given out again, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_cooldown_seconds: Option<u32>,
    /// Whether virtual machines keep their addresses.
    #[serde(rename = "kubeVirtVMAddressPersistence", skip_serializing_if = "Option::is_none")]
    pub kube_virt_vm_address_persistence: Option<super::bgp::Switch>,
}

impl Default for IpamConfigurationSpec {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            ip_cooldown_seconds: None,
            kube_virt_vm_address_persistence: None,
        }
    }
}

/// Addresses that are never assigned automatically.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpReservationSpec {
    /// The ranges.
    #[serde(rename = "reservedCIDRs")]
    pub reserved_cidrs: Vec<Cidr>,
}

impl IpamBlockSpec {
    /// How many addresses a block of this range has; at most 4096.
    pub fn size(cidr: &Cidr) -> usize {
        let bits = cidr.max_prefix_len() - cidr.prefix_len();
        1 << bits.min(12)
    }

    /// The address with this ordinal.
    pub fn address(&self, ordinal: usize) -> IpAddr {
        let ordinal = u16::try_from(ordinal).unwrap_or(u16::MAX);
        match self.cidr.network() {
            IpAddr::V4(first) => IpAddr::V4((u32::from(first) + u32::from(ordinal)).into()),
            IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(ordinal)).into()),
        }
    }

    /// The ordinal of an address of the block.
    pub fn ordinal(&self, address: IpAddr) -> Option<usize> {
        if !self.cidr.contains(&address) {
            return None;
        }
        match (self.cidr.network(), address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                usize::try_from(u32::from(address) - u32::from(first)).ok()
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                usize::try_from(u128::from(address) - u128::from(first)).ok()
            }
            _ => None,
        }
    }

    /// The node that claims the block.
    pub fn node(&self) -> Option<&str> {
        self.affinity.as_deref()?.strip_prefix("host:")
    }

    /// Who holds the address with this ordinal; `None` where it is free.
    pub fn holder(&self, ordinal: usize) -> Option<&AllocationAttribute> {
        self.attributes.get((*self.allocations.get(ordinal)?)?)
    }

    /// How many addresses are held.
    pub fn in_use(&self) -> usize {
        self.allocations.iter().flatten().count()
    }
}

impl Specification for IpamBlockSpec {
    fn validate(&self, metadata: &Metadata, faults: &mut Faults) {
        named_after(&self.cidr.to_name(), metadata, faults);
        validate_block_range(&self.cidr, faults);
        let size = Self::size(&self.cidr);
        if self.allocations.len() != size {
            let reason = format!("must have one entry per address of {}: {size}", self.cidr);
            faults.add("spec.allocations", format!("{} entries", self.allocations.len()), reason);
        }
        let dangling =
            self.allocations.iter().flatten().find(|index| **index >= self.attributes.len());
        if let Some(index) = dangling {
            faults.add("spec.allocations", index, "points behind the end of spec.attributes");
        }
        let mut free = vec![false; size];
        for ordinal in &self.unallocated {
            let taken = self.allocations.get(*ordinal).copied().flatten().is_some();
            let twice = free.get_mut(*ordinal).is_none_or(|seen| std::mem::replace(seen, true));
            faults.add_if(
                taken || twice,
                "spec.unallocated",
                ordinal,
                "must name every free address once, and no other",
            );
        }
        if let Some(affinity) = &self.affinity {
            let name = affinity.strip_prefix("host:").or_else(|| affinity.strip_prefix("virtual:"));
            faults.add_if(
                name.is_none_or(str::is_empty),
                "spec.affinity",
                affinity,
                "write host:<node>",
            );
        }
    }

    fn validate_update(&self, old: &Self, faults: &mut Faults) {
        faults.add_if(self.cidr != old.cidr, "spec.cidr", self.cidr, "cannot be changed");
    }
}

impl Specification for BlockAffinitySpec {
    fn validate(&self, _: &Metadata, faults: &mut Faults) {
        validate_block_range(&self.cidr, faults);
        faults.add_if(self.node.is_empty(), "spec.node", "", "is required");
        let known = matches!(self.kind.as_str(), "" | "host" | "virtual");
        faults.add_if(!known, "spec.type", &self.kind, "write host or virtual");
    }
}

impl Specification for IpamHandleSpec {
    fn validate(&self, metadata: &Metadata, faults: &mut Faults) {
        named_after(&handle_name(&self.handle_id), metadata, faults);
        for cidr in self.block.keys() {
            faults.add_if(cidr.parse::<Cidr>().is_err(), "spec.block", cidr, "not a prefix");
        }
    }
}

impl Specification for IpamConfigurationSpec {
    fn validate(&self, metadata: &Metadata, faults: &mut Faults) {
        named_after("default", metadata, faults);
        faults.add_if(
            self.max_blocks_per_host > 1_000_000,
            "spec.maxBlocksPerHost",
            self.max_blocks_per_host,
            "must be between 0 and 1000000",
        );
        faults.add_if(
            self.max_blocks_per_host > 0 && !self.strict_affinity,
            "spec.maxBlocksPerHost",
            self.max_blocks_per_host,
            "needs strictAffinity: true, or a node at its limit would take other nodes' addresses",
        );
        if let Some(seconds) = self.ip_cooldown_seconds.filter(|seconds| *seconds > 1200) {
            faults.add("spec.ipCooldownSeconds", seconds, "must be between 0 and 1200");
        }
    }
}

impl Specification for IpReservationSpec {
    fn validate(&self, _: &Metadata, faults: &mut Faults) {
        for (index, cidr) in self.reserved_cidrs.iter().enumerate() {
            if !cidr.is_masked() {
                let field = format!("spec.reservedCIDRs[{index}]");
                faults.add(field, cidr, format!("must be strictly masked; write {}", cidr.trunc()));
            }
        }
    }
}

fn named_after(expected: &str, metadata: &Metadata, faults: &mut Faults) {
    if metadata.name != expected {
        faults.add("metadata.name", &metadata.name, format!("must be {expected}"));
    }
}

fn validate_block_range(cidr: &Cidr, faults: &mut Faults) {
    let smallest = if cidr.addr().is_ipv4() { 20 } else { 116 };
    faults.add_if(!cidr.is_masked(), "spec.cidr", cidr, "must be strictly masked");
    if cidr.prefix_len() < smallest {
        faults.add("spec.cidr", cidr, format!("larger than a block may be: /{smallest}"));
    }
}

/// The name of the object for a handle: the handle in lower case, or where that is no name, a readable part of
/// it and its digest.
pub fn handle_name(handle: &str) -> String {
    let lower = handle.to_ascii_lowercase();
    if lower == handle && metadata::is_subdomain(&lower) {
        return lower;
    }
    let safe = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let readable: String = lower.chars().map(safe).take(180).collect();
    format!("{}-{}", readable.trim_matches('-'), digest(handle)).trim_matches('-').to_owned()
}

/// The name of a node's claim to a block.
pub fn affinity_name(node: &str, cidr: &Cidr) -> String {
    let name = format!("{node}-{}", cidr.to_name());
    if metadata::is_subdomain(&name) {
        name
    } else {
        format!("{}-{}", cidr.to_name(), digest(node))
    }
}

/// 16 hexadecimal digits of SHA-1: tells names apart, protects nothing.
pub(crate) fn digest(text: &str) -> String {
    use sha1::Digest;
    let full = sha1::Sha1::digest(text.as_bytes());
    let (high, _) = full.split_at(8);
    format!("{:016x}", high.iter().fold(0_u64, |number, byte| (number << 8) | u64::from(*byte)))
}
