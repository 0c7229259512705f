//! What is the node told to do, by whom, and what does it do where nobody says anything?
//!
//! A flag beats an environment variable, that beats the configuration file, that beats the default. The variables
//! are those of Calico's node where they apply, and `VROUTER_…` for what only this router has.

use std::{
    collections::BTreeMap,
    fmt,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use fastpath::io::uplink::UplinkIo;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;

use crate::{
    api::{EncapMode, ippool::IpPoolSpec, scalar::AsNumber},
    host::autodetect::Method,
};

mod sources;
#[cfg(test)]
mod tests;
mod values;

pub use sources::{Directories, RunArgs, Setting, Source};

/// Everything the node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The node's name.
    pub node_name: String,
    /// The node's IPv4 address.
    pub ip: AddressSource,
    /// How the address is found where it is to be found.
    pub autodetection: Method,
    /// The node's own AS number.
    pub as_number: Option<u32>,
    /// The BGP identifier; `None` is the node's address.
    pub router_id: Option<Ipv4Addr>,
    /// Whether the node speaks BGP.
    pub bgp: bool,
    /// The pool made at the first start of a cluster without any.
    pub default_pool: Option<DefaultPool>,
    /// The MTU of tunnels and pods; `None` is what the uplink takes, less the tunnel's header.
    pub ipip_mtu: Option<u32>,
    /// What the names of pods' interfaces begin with.
    pub interface_prefix: String,
    /// What is logged.
    pub log_level: LevelFilter,
    /// The directory of the file datastore.
    pub datastore_dir: PathBuf,
    /// Where sockets and what must survive a restart are kept.
    pub run_dir: PathBuf,
    /// Where what must survive a reboot is kept.
    pub lib_dir: PathBuf,
    /// Interfaces that are uplinks whatever the routes say.
    pub uplinks: Vec<String>,
    /// How uplinks are opened.
    pub uplink_io: UplinkIo,
    /// How many workers move packets.
    pub workers: usize,
    /// What pods' interfaces are made of.
    pub pod_port: PodPort,
    /// Where the workers run.
    pub cores: Cores,
    /// What was set and has no effect, in sentences.
    pub notices: Vec<String>,
    settings: Vec<Setting>,
}

/// Where the node's address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// The node has none: it carries no traffic of other nodes.
    None,
    /// It was given; a /32 takes the prefix length it has on its interface.
    Fixed(IpNet),
    /// It is found; see [`NodeConfig::autodetection`].
    Autodetect,
}

/// Where the workers run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cores {
    /// On the last of the cores this process may use, one each, as long as one is left for the rest.
    #[default]
    Auto,
    /// Where the scheduler puts them.
    Unpinned,
    /// On these, one each.
    These(Vec<usize>),
}

/// What pods' interfaces are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PodPort {
    /// A TUN device in the pod.
    #[default]
    Tun,
    /// A veth pair whose host end carries `AF_XDP`.
    Veth,
}

/// The pool made at the first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultPool {
    /// Its range.
    pub cidr: IpNet,
    /// When packets between nodes are encapsulated.
    pub ipip_mode: EncapMode,
    /// The prefix length of its blocks; `None` is the API's default.
    pub block_size: Option<u8>,
    /// Whether packets that leave the pools get the node's address.
    pub nat_outgoing: bool,
    /// The nodes that may claim blocks.
    pub node_selector: Option<String>,
    /// Whether its blocks are kept from BGP.
    pub disable_bgp_export: bool,
}

/// Why the configuration can't be used; every fault at once.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors(pub Vec<ConfigError>);

/// One fault of the configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that makes no sense.
    #[error("{source_name}: {value:?}: {reason}")]
    Value {
        /// The flag, variable, or file and field.
        source_name: String,
        /// The value.
        value: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A file that can't be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl NodeConfig {
    /// Works out the configuration from flags, this process's environment and the file the flags name.
    pub fn load(args: &RunArgs) -> Result<Self, ConfigErrors> {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .map(|(name, value)| {
                (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
            })
            .collect();
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Self::resolve(args, &environment, hostname.as_deref())
    }

    /// The same from a given environment and host name.
    pub fn resolve(
        args: &RunArgs,
        environment: &BTreeMap<String, String>,
        hostname: Option<&str>,
    ) -> Result<Self, ConfigErrors> {
        let mut read =
            sources::Reader::new(args, environment).map_err(|error| ConfigErrors(vec![error]))?;
        let lib_dir: PathBuf = read.parsed("libDir", "/var/lib/vrouter", values::directory);
        let fallback = name_fallback(&lib_dir, environment, hostname);
        values::refuse_what_is_later(&mut read);
        let config = Self {
            node_name: read.parsed("nodeName", &fallback, values::node_name),
            ip: read.parsed("ip", "autodetect", values::address_source),
            autodetection: read.parsed("ipAutodetectionMethod", "first-found", values::displayed),
            as_number: read.optional("as", values::displayed::<AsNumber>).map(|number| number.0),
            router_id: None,
            bgp: read.parsed("networkingBackend", "bird", values::backend),
            default_pool: None,
            ipip_mtu: read.parsed("ipipMtu", "0", values::mtu),
            interface_prefix: read.parsed("interfacePrefix", "cali", values::interface_prefix),
            log_level: read.parsed("logSeverityScreen", "Info", values::log_level),
            datastore_dir: read.parsed("datastoreDir", sources::DATASTORE_DIR, values::directory),
            run_dir: read.parsed("runDir", sources::RUN_DIR, values::directory),
            uplinks: read.parsed("uplinks", "", values::interface_names),
            uplink_io: read.parsed("uplinkIo", "auto", values::uplink_io),
            workers: read.parsed("workers", "1", values::workers),
            pod_port: read.parsed("podInterface", "tun", values::pod_port),
            cores: read.parsed("cores", "auto", values::cores),
            notices: Vec::new(),
            settings: Vec::new(),
            lib_dir,
        };
        let router_id =
            read.optional("routerId", |text| values::router_id(text, &config.node_name));
        let default_pool = default_pool(&mut read);
        let (settings, notices, errors) = read.finish();
        if errors.is_empty() {
            Ok(Self { router_id: router_id.flatten(), default_pool, settings, notices, ..config })
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// What is in force and who said so, for the log.
    pub fn effective(&self) -> impl fmt::Display {
        let shown = self.settings.iter().map(|setting| match &setting.source {
            Source::Default => format!("{}={}", setting.field, setting.value),
            source => format!("{}={} ({source})", setting.field, setting.value),
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Every setting with its value and who said so.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }
}

/// The node's name where it was not given, in Calico's order.
fn name_fallback(
    lib_dir: &Path,
    environment: &BTreeMap<String, String>,
    hostname: Option<&str>,
) -> String {
    let kept = std::fs::read_to_string(lib_dir.join("nodename")).ok();
    let kept = kept.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    let from_environment =
        || environment.get("HOSTNAME").filter(|name| !name.trim().is_empty()).cloned();
    kept.or_else(from_environment).or_else(|| hostname.map(str::to_owned)).unwrap_or_default()
}

fn default_pool(read: &mut sources::Reader<'_>) -> Option<DefaultPool> {
    let none = read.parsed("noDefaultPools", "false", values::boolean);
    let pool = DefaultPool {
        cidr: read.parsed("ipv4PoolCidr", "192.168.0.0/16", values::pool_cidr),
        ipip_mode: read.parsed("ipv4PoolIpip", "Always", values::ipip_mode),
        block_size: read.optional("ipv4PoolBlockSize", values::block_size),
        nat_outgoing: read.parsed("ipv4PoolNatOutgoing", "true", values::boolean),
        node_selector: read.optional("ipv4PoolNodeSelector", |text| Ok(text.to_owned())),
        disable_bgp_export: read.parsed("ipv4PoolDisableBgpExport", "false", values::boolean),
    };
    let mut spec = IpPoolSpec::new(pool.cidr);
    spec.ipip_mode = pool.ipip_mode;
    spec.block_size = pool.block_size.or(spec.block_size);
    read.check_pool(&spec);
    (!none).then_some(pool)
}
