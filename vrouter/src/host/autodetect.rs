//! Which of the node's addresses is the one the other nodes reach it by?
//!
//! The methods of `IP_AUTODETECTION_METHOD`, as a function of what the kernel shows; what has to be
//! asked outside (names, the kernel's route to an address) comes in as [`Lookups`].

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use regex::Regex;

use super::netlink::{Address, Family, Link};
use super::state::KernelState;

/// How to find the node's address.
#[derive(Debug, Clone)]
pub enum Method {
    /// `first-found`: the first suitable address of the first suitable interface.
    FirstFound,
    /// `can-reach=ADDRESS|NAME`: the address the kernel uses towards a destination.
    CanReach(String),
    /// `interface=REGEX,…`: the first suitable address of an interface whose name matches.
    Interface(Vec<Regex>),
    /// `skip-interface=REGEX,…`: as `first-found`, without interfaces whose name matches.
    SkipInterface(Vec<Regex>),
    /// `cidr=CIDR,…`: the first address inside one of these.
    Cidr(Vec<IpNet>),
    /// `kubernetes-internal-ip`: the Kubernetes node's `InternalIP`.
    KubernetesInternalIp,
}

/// A method that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// No such method.
    #[error(
        "IP autodetection method '{0}' is unknown; right are first-found, kubernetes-internal-ip, \
         can-reach=ADDRESS, interface=REGEX,…, skip-interface=REGEX,… and cidr=CIDR,…"
    )]
    Unknown(String),
    /// A method that needs a value came without.
    #[error("IP autodetection method '{0}' needs a value after the equals sign")]
    Empty(String),
    /// A regular expression does not parse.
    #[error(
        "IP autodetection method '{method}': '{pattern}' is not a regular expression: {reason}"
    )]
    Pattern {
        /// The method.
        method: String,
        /// The expression.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A CIDR does not parse.
    #[error(
        "IP autodetection method 'cidr': '{0}' is not a CIDR; right is for example 10.1.0.0/16"
    )]
    Cidr(String),
}

/// What detection has to ask outside of the kernel's tables.
pub struct Lookups<'a> {
    /// The addresses of a name.
    pub resolve: &'a dyn Fn(&str) -> io::Result<Vec<IpAddr>>,
    /// The source address the kernel itself uses towards an address, if it has a route there.
    pub source: &'a dyn Fn(IpAddr) -> Option<IpAddr>,
    /// The `InternalIP` of this node's Kubernetes object of the wanted family, where there is one.
    pub internal_ip: Option<IpAddr>,
}

/// A node address as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// The address with its subnet's prefix length.
    pub net: IpNet,
    /// The interface that has it.
    pub interface: String,
    /// One sentence that explains the choice.
    pub reason: String,
}

/// Why no address was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {family} address for this node by {method}: {cause}")]
pub struct NotDetected {
    family: &'static str,
    method: String,
    cause: Cause,
}

/// What stood in the way of a method.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// No interface suits; each with its reason.
    #[error("every interface was passed over: {0}")]
    PassedOver(String),
    /// No interface's name matches.
    #[error("no interface matches; there are {0}")]
    NoMatch(String),
    /// Interfaces match, none suits; each with its reason.
    #[error("{0}")]
    NoneSuits(String),
    /// No address is inside the CIDRs.
    #[error("no interface that is up has an address inside")]
    NoneInside,
    /// The name is not known.
    #[error("the name cannot be resolved: {0}")]
    Unresolved(String),
    /// The name has addresses, but not of this family.
    #[error("the name has no address of this family")]
    NoAddressOfFamily,
    /// The address is of the wrong family.
    #[error("{0} is of the other family")]
    OtherFamily(IpAddr),
    /// The kernel cannot reach it.
    #[error("the kernel has no route to {0}")]
    NoRoute(IpAddr),
    /// There is no Kubernetes object to read it from.
    #[error("the Kubernetes node's InternalIP is not known (no Kubernetes datastore?)")]
    NoInternalIp,
    /// The address is not here.
    #[error("{0} is on no interface of this node")]
    NotHere(IpAddr),
}

/// Names of interfaces that never carry the node's address: bridges of container runtimes, pods'
/// interfaces, tunnels, dummies. Matched from the start of the name.
const NEVER: [&str; 19] = [
    "docker",
    "cbr",
    "dummy",
    "virbr",
    "lxcbr",
    "veth",
    "lo$",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "nodelocaldns",
    "vrouter-",
    "podman",
];

/// Finds the node's address of one family.
pub fn detect(
    method: &Method,
    family: Family,
    state: &KernelState,
    lookups: &Lookups<'_>,
) -> Result<Detected, NotDetected> {
    let world = World { family, state, lookups };
    let found = match method {
        Method::FirstFound => world.first_found(&[]),
        Method::SkipInterface(patterns) => world.first_found(patterns),
        Method::Interface(patterns) => world.by_interface(patterns),
        Method::Cidr(nets) => world.by_cidr(nets),
        Method::CanReach(target) => world.by_reach(target),
        Method::KubernetesInternalIp => world.by_internal_ip(),
    };
    let family = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    found.map_err(|cause| NotDetected { family, method: method.to_string(), cause })
}

struct World<'a> {
    family: Family,
    state: &'a KernelState,
    lookups: &'a Lookups<'a>,
}

impl World<'_> {
    fn first_found(&self, skip: &[Regex]) -> Result<Detected, Cause> {
        let mut passed_over = Vec::new();
        for link in self.state.links.values() {
            if let Some(why) = unsuitable(link, skip) {
                passed_over.push(format!("{} ({why})", link.name));
            } else if let Some(address) = self.best_address(link) {
                let passed = match passed_over.as_slice() {
                    [] => String::new(),
                    names => format!("; passed over: {}", names.join(", ")),
                };
                let reason = format!(
                    "{} is the first interface that is up and has a global address{passed}",
                    link.name
                );
                return Ok(detected(address, link, reason));
            } else {
                passed_over.push(format!("{} (no global address)", link.name));
            }
        }
        Err(Cause::PassedOver(passed_over.join(", ")))
    }

    fn by_interface(&self, patterns: &[Regex]) -> Result<Detected, Cause> {
        let mut seen = Vec::new();
        for pattern in patterns {
            for link in self.state.links.values().filter(|link| pattern.is_match(&link.name)) {
                match self.best_address(link) {
                    Some(address) if link.up => {
                        let reason = format!("{} matches '{pattern}'", link.name);
                        return Ok(detected(address, link, reason));
                    }
                    Some(_) => seen.push(format!("{} is down", link.name)),
                    None => seen.push(format!("{} has no global address", link.name)),
                }
            }
        }
        Err(match seen.as_slice() {
            [] => Cause::NoMatch(self.names()),
            seen => Cause::NoneSuits(seen.join(", ")),
        })
    }

    fn by_cidr(&self, nets: &[IpNet]) -> Result<Detected, Cause> {
        for net in nets {
            let inside = self
                .suitable_addresses()
                .find(|(address, link)| link.up && net.contains(&address.net.addr()));
            if let Some((address, link)) = inside {
                let reason = format!("{} is inside {net}", address.net.addr());
                return Ok(detected(address, link, reason));
            }
        }
        Err(Cause::NoneInside)
    }

    fn by_reach(&self, target: &str) -> Result<Detected, Cause> {
        let destination = match target.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => (self.lookups.resolve)(target)
                .map_err(|error| Cause::Unresolved(error.to_string()))?
                .into_iter()
                .find(|address| Family::of(*address) == self.family)
                .ok_or(Cause::NoAddressOfFamily)?,
        };
        if Family::of(destination) != self.family {
            return Err(Cause::OtherFamily(destination));
        }
        let source = (self.lookups.source)(destination).ok_or(Cause::NoRoute(destination))?;
        self.owner(source, &format!("the kernel sends from it to {destination}"))
    }

    fn by_internal_ip(&self) -> Result<Detected, Cause> {
        let address = self
            .lookups
            .internal_ip
            .filter(|address| Family::of(*address) == self.family)
            .ok_or(Cause::NoInternalIp)?;
        self.owner(address, "it is the Kubernetes node's InternalIP")
    }

    fn owner(&self, wanted: IpAddr, reason: &str) -> Result<Detected, Cause> {
        let address = self.state.addresses.iter().find(|address| address.net.addr() == wanted);
        let owner = address.and_then(|a| Some((a, self.state.links.get(&a.link)?)));
        owner
            .map(|(address, link)| detected(address, link, reason.into()))
            .ok_or(Cause::NotHere(wanted))
    }

    /// An address the other nodes can reach; of several a primary, not deprecated one.
    fn best_address(&self, link: &Link) -> Option<&Address> {
        self.suitable_addresses()
            .filter(|(_, owner)| owner.index == link.index)
            .map(|(address, _)| address)
            .min_by_key(|address| (address.deprecated, address.secondary))
    }

    fn suitable_addresses(&self) -> impl Iterator<Item = (&Address, &Link)> {
        self.state
            .addresses
            .iter()
            .filter(|address| {
                let ip = address.net.addr();
                Family::of(ip) == self.family && !address.tentative && is_global(ip)
            })
            .filter_map(|address| Some((address, self.state.links.get(&address.link)?)))
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.state.links.values().map(|link| link.name.as_str()).collect();
        names.join(", ")
    }
}

/// Why an interface cannot carry the node's address.
fn unsuitable(link: &Link, skip: &[Regex]) -> Option<String> {
    let excluded = |name: &str| {
        NEVER.iter().any(|pattern| match pattern.strip_suffix('$') {
            Some(exact) => name == exact,
            None => name.starts_with(pattern),
        })
    };
    if !link.up {
        Some("down".into())
    } else if excluded(&link.name) {
        Some("never a node's uplink by its name".into())
    } else {
        skip.iter()
            .find(|pattern| pattern.is_match(&link.name))
            .map(|pattern| format!("skipped by '{pattern}'"))
    }
}

fn detected(address: &Address, link: &Link, reason: String) -> Detected {
    Detected { net: address.net, interface: link.name.clone(), reason }
}

/// Whether an address means the same on other nodes.
fn is_global(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v)));
        let values = || -> Result<Vec<&str>, MethodError> {
            let all: Vec<_> = value
                .unwrap_or_default()
                .split(',')
                .map(str::trim)
                .filter(|v| !v.is_empty())
                .collect();
            if all.is_empty() { Err(MethodError::Empty(name.into())) } else { Ok(all) }
        };
        let patterns = || -> Result<Vec<Regex>, MethodError> {
            let parse = |pattern: &str| {
                Regex::new(pattern).map_err(|error| MethodError::Pattern {
                    method: name.into(),
                    pattern: pattern.into(),
                    reason: error.to_string(),
                })
            };
            values()?.into_iter().map(parse).collect()
        };
        match (name, value) {
            ("first-found" | "", None) => Ok(Self::FirstFound),
            ("kubernetes-internal-ip", None) => Ok(Self::KubernetesInternalIp),
            ("can-reach", _) => Ok(Self::CanReach(values()?.join(","))),
            ("interface", _) => Ok(Self::Interface(patterns()?)),
            ("skip-interface", _) => Ok(Self::SkipInterface(patterns()?)),
            ("cidr", _) => {
                let parse = |v: &str| v.parse().map_err(|_| MethodError::Cidr(v.into()));
                Ok(Self::Cidr(values()?.into_iter().map(parse).collect::<Result<_, _>>()?))
            }
            _ => Err(MethodError::Unknown(text.into())),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(items: &[T]) -> String {
            items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        }
        match self {
            Self::FirstFound => f.write_str("first-found"),
            Self::CanReach(target) => write!(f, "can-reach={target}"),
            Self::Interface(patterns) => write!(f, "interface={}", list(patterns)),
            Self::SkipInterface(patterns) => write!(f, "skip-interface={}", list(patterns)),
            Self::Cidr(nets) => write!(f, "cidr={}", list(nets)),
            Self::KubernetesInternalIp => f.write_str("kubernetes-internal-ip"),
        }
    }
}
