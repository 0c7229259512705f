//! Which kinds of object the node knows, and what do they have in common?
//!
//! Every object a user or a node writes is one [`Resource`]: Calico's `projectcalico.org/v3` kinds with
//! Calico's names, fields and defaults, and the three Kubernetes kinds that policy needs.
//! [`parse_documents`] is the only way text becomes a resource, so whatever is in force has been
//! validated; what is refused says which file, object, field and value, and what would be right.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

pub mod bgp;
pub mod endpoint;
pub mod ipam;
pub mod ippool;
pub mod kubernetes;
pub mod metadata;
pub mod network_policy;
pub mod node;
pub mod parse;
pub mod refusal;
pub mod scalar;
mod support;
#[cfg(test)]
mod tests;

pub use bgp::{BgpConfiguration, BgpConfigurationSpec, BgpPeer, BgpPeerSpec};
pub use endpoint::{WorkloadEndpoint, WorkloadEndpointSpec};
pub use ipam::{
    BlockAffinity, BlockAffinitySpec, IpReservation, IpamBlock, IpamBlockSpec, IpamConfiguration,
    IpamConfigurationSpec, IpamHandle, IpamHandleSpec,
};
pub use ippool::{EncapMode, IpPool, IpPoolSpec};
pub use kubernetes::{Namespace, Pod};
pub use metadata::Metadata;
pub use network_policy::{NetworkPolicy, NetworkPolicySpec};
pub use node::{Node, NodeSpec};
pub use parse::{Located, Parsed, Position, parse_documents};
pub use refusal::{Faults, Refusal, Warning};

/// The API group and version of Calico's kinds.
pub const PROJECT_CALICO: &str = "projectcalico.org/v3";
/// The API group and version of Kubernetes' network policies.
pub const KUBERNETES_NETWORKING: &str = "networking.k8s.io/v1";
/// The API version of Kubernetes' core kinds.
pub const KUBERNETES_CORE: &str = "v1";

/// An object of one kind: what it is called, what is wanted, and what was observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "S: Serialize, T: Serialize + Default + PartialEq",
    deserialize = "S: Deserialize<'de>, T: Deserialize<'de> + Default"
))]
pub struct Object<S, T = Value> {
    /// Name, labels, revision.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: S,
    /// What was observed; kept as it was read where the node has no use for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: T,
}

impl<S, T: Default> Object<S, T> {
    /// An object that has only a name yet.
    pub fn named(name: impl Into<String>, spec: S) -> Self {
        let metadata = Metadata { name: name.into(), ..Metadata::default() };
        Self { metadata, spec, status: T::default() }
    }
}

/// What a specification can say about itself beyond its types.
pub(crate) trait Specification {
    /// Sets what the API defines for fields that were not written.
    fn fill_defaults(&mut self) {}

    /// Adds a fault for every rule of the API that the object breaks.
    fn validate(&self, metadata: &Metadata, faults: &mut Faults);

    /// Adds a fault for every change from `old` that the API forbids.
    fn validate_update(&self, _old: &Self, _faults: &mut Faults) {}
}

/// A kind's own type, to go from a [`Resource`] to it and back.
pub trait ApiObject: Sized + Into<Resource> {
    /// The kind.
    const KIND: Kind;
    /// The object, if the resource is of this kind.
    fn from_resource(resource: Resource) -> Option<Self>;
    /// A view of the object, if the resource is of this kind.
    fn from_resource_ref(resource: &Resource) -> Option<&Self>;
}

macro_rules! kinds {
    ($($kind:ident: $name:literal, $plural:literal, $api:expr, $namespaced:literal, [$($alias:literal),*], $doc:literal;)+) => {
        /// The kinds of object the node knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $(#[doc = $doc] $kind,)+ }

        impl Kind {
            /// Every kind, in the order in which they are listed.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// The name a manifest's `kind` field carries.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// The plural, lower case, as in `get ippools`.
            pub const fn plural(self) -> &'static str {
                match self { $(Self::$kind => $plural,)+ }
            }

            /// The manifest's `apiVersion`.
            pub const fn api_version(self) -> &'static str {
                match self { $(Self::$kind => $api,)+ }
            }

            /// Whether objects of the kind live in a namespace.
            pub const fn namespaced(self) -> bool {
                match self { $(Self::$kind => $namespaced,)+ }
            }

            /// Other words an operator may use for the kind.
            pub const fn aliases(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($alias),*],)+ }
            }
        }

        /// An object of any kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Resource { $(#[doc = $doc] $kind(Box<$kind>),)+ }

        impl Resource {
            /// The object's kind.
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)+ }
            }

            /// Name, labels, revision.
            pub fn metadata(&self) -> &Metadata {
                match self { $(Self::$kind(object) => &object.metadata,)+ }
            }

            /// Name, labels, revision, to be changed.
            pub fn metadata_mut(&mut self) -> &mut Metadata {
                match self { $(Self::$kind(object) => &mut object.metadata,)+ }
            }

            /// Sets what the API defines for fields that were not written.
            pub fn fill_defaults(&mut self) {
                match self { $(Self::$kind(object) => object.spec.fill_defaults(),)+ }
                if self.kind().namespaced() && self.metadata().namespace.is_none() {
                    self.metadata_mut().namespace = Some("default".to_owned());
                }
            }

            /// Every rule of the API that the object breaks.
            pub fn validate(&self) -> Faults {
                let mut faults = Faults::default();
                self.metadata().validate(self.kind(), &mut faults);
                match self { $(Self::$kind(object) => object.spec.validate(&object.metadata, &mut faults),)+ }
                faults
            }

            /// Every change from `old` that the API forbids.
            pub fn validate_update(&self, old: &Self) -> Faults {
                let mut faults = Faults::default();
                match (self, old) {
                    $((Self::$kind(new), Self::$kind(old)) => {
                        new.spec.validate_update(&old.spec, &mut faults);
                    })+
                    _ => {}
                }
                faults
            }

            fn body(&self) -> serde_json::Result<Value> {
                match self { $(Self::$kind(object) => serde_json::to_value(object),)+ }
            }

            /// Reads an object's body, without defaults or validation.
            pub(crate) fn decode(kind: Kind, body: &Value) -> Result<(Self, Vec<String>), parse::DecodeError> {
                match kind {
                    $(Kind::$kind => parse::decode::<$kind>(body)
                        .map(|(object, unknown)| (Self::from(object), unknown)),)+
                }
            }
        }

        $(impl From<$kind> for Resource {
            fn from(object: $kind) -> Self { Self::$kind(Box::new(object)) }
        }

        impl ApiObject for $kind {
            const KIND: Kind = Kind::$kind;
            fn from_resource(resource: Resource) -> Option<Self> {
                if let Resource::$kind(object) = resource { Some(*object) } else { None }
            }
            fn from_resource_ref(resource: &Resource) -> Option<&Self> {
                if let Resource::$kind(object) = resource { Some(object) } else { None }
            }
        })+
    };
}

kinds! {
    Node: "Node", "nodes", PROJECT_CALICO, false, ["no"], "A node of the network and its BGP settings.";
    IpPool: "IPPool", "ippools", PROJECT_CALICO, false, ["pool"], "A range pods get their addresses from.";
    BgpConfiguration: "BGPConfiguration", "bgpconfigurations", PROJECT_CALICO, false, ["bgpconfig", "bgpconfigs"],
        "BGP settings of all nodes (`default`) or of one (`node.<name>`).";
    BgpPeer: "BGPPeer", "bgppeers", PROJECT_CALICO, false, [], "BGP speakers that some nodes peer with.";
    WorkloadEndpoint: "WorkloadEndpoint", "workloadendpoints", PROJECT_CALICO, true, ["wep", "weps"],
        "A pod's interface.";
    IpamBlock: "IPAMBlock", "ipamblocks", PROJECT_CALICO, false, ["block", "blocks"],
        "A part of a pool, and who holds which of its addresses.";
    BlockAffinity: "BlockAffinity", "blockaffinities", PROJECT_CALICO, false, ["affinity", "affinities"],
        "A node's claim to a block.";
    IpamHandle: "IPAMHandle", "ipamhandles", PROJECT_CALICO, false, ["handle", "handles"],
        "The blocks in which one owner holds addresses.";
    IpamConfiguration: "IPAMConfiguration", "ipamconfigurations", PROJECT_CALICO, false,
        ["ipamconfig", "ipamconfigs"], "How addresses are assigned.";
    IpReservation: "IPReservation", "ipreservations", PROJECT_CALICO, false, [],
        "Addresses that are never assigned automatically.";
    NetworkPolicy: "NetworkPolicy", "networkpolicies", KUBERNETES_NETWORKING, true, ["netpol", "np", "policy"],
        "Kubernetes' network policy.";
    Namespace: "Namespace", "namespaces", KUBERNETES_CORE, false, ["ns"], "A namespace and its labels.";
    Pod: "Pod", "pods", KUBERNETES_CORE, true, ["po"], "What policy needs of a pod.";
}

impl Kind {
    /// The kind of a manifest's two words, if the node knows it.
    pub fn from_manifest(api_version: &str, kind: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|known| known.as_str() == kind && known.api_version() == api_version)
    }

    /// The kind an operator names: any case, singular, plural or short.
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Self::ALL.iter().copied().find(|kind| {
            kind.as_str().eq_ignore_ascii_case(&word)
                || kind.plural() == word
                || kind.aliases().contains(&word.as_str())
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What identifies an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The namespace, of kinds that have one.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl Key {
    /// The key of an object outside namespaces.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, namespace: None, name: name.into() }
    }

    /// The key of an object in a namespace.
    pub fn namespaced(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: Some(namespace.into()), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl Resource {
    /// What identifies the object.
    pub fn key(&self) -> Key {
        let metadata = self.metadata();
        Key {
            kind: self.kind(),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
        }
    }

    /// The datastore's revision of the object as it was read; empty for one that was never stored.
    pub fn revision(&self) -> &str {
        self.metadata().resource_version.as_deref().unwrap_or_default()
    }

    /// The whole object as a manifest: `apiVersion`, `kind`, `metadata`, `spec`, `status`.
    pub fn to_value(&self) -> Value {
        let mut manifest = serde_json::Map::new();
        manifest.insert("apiVersion".to_owned(), self.kind().api_version().into());
        manifest.insert("kind".to_owned(), self.kind().as_str().into());
        // Our own types have string keys only, which is all that can fail.
        if let Ok(Value::Object(body)) = self.body() {
            manifest.extend(body);
        }
        Value::Object(manifest)
    }

    /// The whole object as YAML.
    pub fn to_yaml(&self) -> String {
        serde_yaml_ng::to_string(&self.to_value()).unwrap_or_default()
    }
}

/// Reads one typed object's body; used by the macro above.
pub(crate) trait Body: DeserializeOwned {}
impl<T: DeserializeOwned> Body for T {}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
