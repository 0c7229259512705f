//! How is each setting's value written?

use std::{fmt, net::Ipv4Addr, path::PathBuf, str::FromStr};

use fastpath::io::uplink::UplinkIo;
use ipnet::IpNet;
use tracing::level_filters::LevelFilter;

use super::{
    AddressSource, ConfigError, Cores, PodPort,
    sources::{Fallback, Reader},
};
use crate::{
    api::{EncapMode, ipam::digest, metadata::is_subdomain, scalar::Cidr},
    host::autodetect::Method,
};

/// More cores than this no node has.
const MOST_WORKERS: usize = 256;

type Parsed<T> = Result<T, ConfigError>;

/// The reader knows the rest.
fn wrong(reason: impl fmt::Display) -> ConfigError {
    ConfigError::Value {
        source_name: String::new(),
        value: String::new(),
        reason: reason.to_string(),
    }
}

pub(super) fn displayed<T>(text: &str) -> Parsed<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    text.parse().map_err(wrong)
}

pub(super) fn directory(text: &str) -> Parsed<PathBuf> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(wrong("must be an absolute path, such as /etc/vrouter/resources"))
    }
}

pub(super) fn node_name(text: &str) -> Parsed<String> {
    let name = text.trim().to_ascii_lowercase();
    if is_subdomain(&name) {
        return Ok(name);
    }
    Err(wrong(
        "not a node's name; write lower-case letters, digits, `-` and `.`, as Kubernetes calls the node",
    ))
}

pub(super) fn address_source(text: &str) -> Parsed<AddressSource> {
    match text {
        "autodetect" => return Ok(AddressSource::Autodetect),
        "none" => return Ok(AddressSource::None),
        _ => {}
    }
    let right = "write an IPv4 address, optionally with its subnet's prefix length (10.1.5.11/24), autodetect or none";
    let net = text.parse::<Cidr>().map_err(|_| wrong(right))?;
    let address = net.addr();
    if !address.is_ipv4()
        || address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
    {
        return Err(wrong(format!("not an address other nodes can reach; {right}")));
    }
    Ok(AddressSource::Fixed(net.0))
}

pub(super) fn router_id(text: &str, node_name: &str) -> Parsed<Option<Ipv4Addr>> {
    if text == "hash" {
        let hashed = u64::from_str_radix(&digest(node_name), 16).unwrap_or(1);
        // Zero is no BGP identifier (RFC 4271 §4.2).
        let low = u32::try_from(hashed & 0xffff_ffff).unwrap_or(1).max(1);
        return Ok(Some(low.into()));
    }
    let id: Ipv4Addr = text
        .parse()
        .map_err(|_| wrong("write an identifier in the form of an IPv4 address, or hash"))?;
    if id.is_unspecified() {
        Err(wrong("0.0.0.0 is no BGP identifier; write another address"))
    } else {
        Ok(Some(id))
    }
}

pub(super) fn backend(text: &str) -> Parsed<bool> {
    match text {
        "bird" => Ok(true),
        "none" => Ok(false),
        "vxlan" => Err(wrong("not supported yet; write bird for BGP, or none for no BGP")),
        _ => Err(wrong("write bird for BGP, or none for no BGP")),
    }
}

pub(super) fn boolean(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(wrong("write true or false")),
    }
}

pub(super) fn pool_cidr(text: &str) -> Parsed<IpNet> {
    let net = text
        .parse::<IpNet>()
        .map_err(|_| wrong("not a prefix; write a range such as 10.244.0.0/16"))?;
    if net.addr().is_ipv4() {
        Ok(net)
    } else {
        Err(wrong("not IPv4; write a range such as 10.244.0.0/16"))
    }
}

pub(super) fn ipip_mode(text: &str) -> Parsed<EncapMode> {
    match text.to_ascii_lowercase().as_str() {
        "always" => Ok(EncapMode::Always),
        "crosssubnet" | "cross-subnet" => Ok(EncapMode::CrossSubnet),
        "never" | "off" => Ok(EncapMode::Never),
        _ => Err(wrong("write Always, CrossSubnet, Never or Off")),
    }
}

pub(super) fn block_size(text: &str) -> Parsed<u8> {
    let size = text.parse().ok().filter(|size| (20..=32).contains(size));
    size.ok_or_else(|| wrong("must be a prefix length between 20 and 32"))
}

pub(super) fn mtu(text: &str) -> Parsed<Option<u32>> {
    match text.parse() {
        Ok(0) => Ok(None),
        Ok(mtu @ 576..=65_515) => Ok(Some(mtu)),
        _ => Err(wrong("write a number of bytes between 576 and 65515, or 0 to have it found")),
    }
}

pub(super) fn interface_prefix(text: &str) -> Parsed<String> {
    let first = text.split(',').next().unwrap_or_default().trim();
    let plain = first.bytes().all(|b| b.is_ascii_alphanumeric());
    // The kernel takes names of 15 bytes, and 11 digits follow.
    if (1..=4).contains(&first.len()) && plain {
        return Ok(first.to_owned());
    }
    Err(wrong("must begin with at most 4 letters and digits, such as cali"))
}

pub(super) fn log_level(text: &str) -> Parsed<LevelFilter> {
    match text.to_ascii_lowercase().as_str() {
        "trace" => Ok(LevelFilter::TRACE),
        "debug" => Ok(LevelFilter::DEBUG),
        "info" => Ok(LevelFilter::INFO),
        "warning" | "warn" => Ok(LevelFilter::WARN),
        "error" | "fatal" => Ok(LevelFilter::ERROR),
        "none" => Ok(LevelFilter::OFF),
        _ => Err(wrong("write Trace, Debug, Info, Warning, Error, Fatal or None")),
    }
}

pub(super) fn interface_names(text: &str) -> Parsed<Vec<String>> {
    let names: Vec<String> =
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let strange = |name: &&String| name.len() > 15 || name.contains(['/', ' ', ':']);
    match names.iter().find(strange) {
        Some(name) => {
            Err(wrong(format!("{name} is no interface's name; write names such as eth0,eth1")))
        }
        None => Ok(names),
    }
}

pub(super) fn uplink_io(text: &str) -> Parsed<UplinkIo> {
    match text {
        "auto" => Ok(UplinkIo::Auto),
        "xdp" => Ok(UplinkIo::Xdp),
        "xdp-generic" => Ok(UplinkIo::XdpGeneric),
        "packet" => Ok(UplinkIo::Packet),
        _ => Err(wrong("write auto, xdp, xdp-generic or packet")),
    }
}

pub(super) fn workers(text: &str) -> Parsed<usize> {
    let number = text.parse().ok().filter(|number| (1..=MOST_WORKERS).contains(number));
    number.ok_or_else(|| wrong(format!("write a number between 1 and {MOST_WORKERS}")))
}

pub(super) fn cores(text: &str) -> Parsed<Cores> {
    match text {
        "auto" => return Ok(Cores::Auto),
        "none" => return Ok(Cores::Unpinned),
        _ => {}
    }
    let numbers = text.split(',').map(|number| number.trim().parse().ok());
    match numbers.collect::<Option<Vec<usize>>>() {
        Some(list) if !list.is_empty() => Ok(Cores::These(list)),
        _ => Err(wrong("write auto, none, or core numbers with commas between them (2,3)")),
    }
}

pub(super) fn pod_port(text: &str) -> Parsed<PodPort> {
    match text {
        "tun" => Ok(PodPort::Tun),
        "veth" => Ok(PodPort::Veth),
        _ => Err(wrong("write tun or veth")),
    }
}

/// Refuses what would do something else than was asked for, and says what has no effect.
pub(super) fn refuse_what_is_later(read: &mut Reader<'_>) {
    let file_only = |text: &str| match text {
        "file" => Ok(()),
        "etcdv3" | "kubernetes" => Err(wrong("not supported yet; write file")),
        _ => Err(wrong("write file")),
    };
    read.parsed("datastoreType", "file", file_only);
    let never = |text: &str| match text.to_ascii_lowercase().as_str() {
        "never" | "off" => Ok(()),
        _ => Err(wrong("not supported yet; write Never, and Always or CrossSubnet for IPIP")),
    };
    read.parsed("ipv4PoolVxlan", "Never", never);
    for (name, value) in read.environment() {
        let calico = ["FELIX_", "CALICO_", "IP6", "ETCD_", "USE_POD_CIDR", "BGP_"];
        let ours = name.starts_with("VROUTER_")
            && name != "VROUTER_CONFIG"
            && !name.starts_with("VROUTER_TEST_");
        let concerns = ours || calico.iter().any(|prefix| name.starts_with(prefix));
        let empty = matches!(
            value.to_ascii_lowercase().as_str(),
            "" | "none" | "false" | "never" | "off" | "0"
        );
        if concerns && !empty && !Reader::is_known_variable(name) {
            read.notice(format!("{name}={value} has no effect: it is not supported yet"));
        }
    }
}

macro_rules! fallbacks {
    ($($type:ty => $value:expr),+ $(,)?) => { $(impl Fallback for $type { fn fallback() -> Self { $value } })+ };
}

fallbacks! {
    () => (),
    Cores => Cores::Auto,
    bool => false,
    usize => 1,
    String => String::new(),
    PathBuf => Self::new(),
    Vec<String> => Self::new(),
    Option<u32> => None,
    IpNet => IpNet::V4(ipnet::Ipv4Net::from(Ipv4Addr::UNSPECIFIED)),
    AddressSource => Self::Autodetect,
    Method => Self::FirstFound,
    EncapMode => Self::Never,
    LevelFilter => Self::INFO,
    UplinkIo => Self::Auto,
    PodPort => Self::Tun,
}
