//! Who says what a setting is: a flag, a variable, the file, or nobody?

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::ConfigError;
use crate::api::{Faults, Metadata, Specification, ippool::IpPoolSpec, parse};

/// Who said what a setting is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag.
    Flag(&'static str),
    /// An environment variable.
    Variable(&'static str),
    /// A field of the configuration file.
    File(PathBuf, &'static str),
    /// Nobody.
    Default,
}

/// A setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name in the configuration file.
    pub field: &'static str,
    /// Its value, as it was written.
    pub value: String,
    /// Who said so.
    pub source: Source,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::File(path, field) => write!(f, "{}: {field}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

struct Known {
    field: &'static str,
    flag: &'static str,
    variable: &'static str,
    of: fn(&RunArgs) -> &Option<String>,
}

macro_rules! settings {
    ($($name:ident, $field:literal, $flag:literal, $variable:literal, $value:literal, $help:literal;)+) => {
        /// The flags of `vrouter run`. Every one has a field in the configuration file and an environment variable.
        #[derive(Clone, Debug, Default, clap::Args)]
        pub struct RunArgs {
            /// The configuration file (YAML).
            #[arg(long, value_name = "FILE", env = "VROUTER_CONFIG")]
            pub config: Option<PathBuf>,
            $(
                #[doc = $help]
                #[arg(long = $flag, value_name = $value, allow_hyphen_values = true,
                    help = concat!($help, " [", $variable, "; ", $field, "]"))]
                pub $name: Option<String>,
            )+
        }

        const KNOWN: &[Known] = &[
            $(Known { field: $field, flag: concat!("--", $flag), variable: $variable, of: |args| &args.$name },)+
        ];
    };
}

settings! {
    node_name, "nodeName", "node-name", "NODENAME", "NAME", "The node's name";
    ip, "ip", "ip", "IP", "ADDRESS", "The node's IPv4 address, with its subnet's prefix length; autodetect, or none";
    ip_autodetection_method, "ipAutodetectionMethod", "ip-autodetection-method", "IP_AUTODETECTION_METHOD", "METHOD",
        "first-found, kubernetes-internal-ip, can-reach=, interface=, skip-interface= or cidr=";
    as_number, "as", "as", "AS", "NUMBER", "The node's own AS number";
    router_id, "routerId", "router-id", "CALICO_ROUTER_ID", "ADDRESS", "The BGP identifier, or hash to make one of the node's name";
    networking_backend, "networkingBackend", "networking-backend", "CALICO_NETWORKING_BACKEND", "WHICH", "bird for BGP, none for no BGP";
    datastore_type, "datastoreType", "datastore-type", "DATASTORE_TYPE", "TYPE", "What keeps the resources: file";
    datastore_dir, "datastoreDir", "datastore-dir", "VROUTER_DATASTORE_DIR", "DIR", "The directory of the file datastore";
    run_dir, "runDir", "run-dir", "VROUTER_RUN_DIR", "DIR", "Where sockets and what survives a restart are kept";
    lib_dir, "libDir", "lib-dir", "VROUTER_LIB_DIR", "DIR", "Where what survives a reboot is kept";
    no_default_pools, "noDefaultPools", "no-default-pools", "NO_DEFAULT_POOLS", "BOOL", "Make no pool at the first start";
    ipv4_pool_cidr, "ipv4PoolCidr", "ipv4-pool-cidr", "CALICO_IPV4POOL_CIDR", "CIDR", "The range of the pool made at the first start";
    ipv4_pool_ipip, "ipv4PoolIpip", "ipv4-pool-ipip", "CALICO_IPV4POOL_IPIP", "MODE", "Its IPIP mode: `Always`, `CrossSubnet`, `Never` or `Off`";
    ipv4_pool_vxlan, "ipv4PoolVxlan", "ipv4-pool-vxlan", "CALICO_IPV4POOL_VXLAN", "MODE", "Its VXLAN mode: Never";
    ipv4_pool_block_size, "ipv4PoolBlockSize", "ipv4-pool-block-size", "CALICO_IPV4POOL_BLOCK_SIZE", "LENGTH", "The prefix length of its blocks";
    ipv4_pool_nat_outgoing, "ipv4PoolNatOutgoing", "ipv4-pool-nat-outgoing", "CALICO_IPV4POOL_NAT_OUTGOING", "BOOL", "Whether packets that leave the pools get the node's address";
    ipv4_pool_node_selector, "ipv4PoolNodeSelector", "ipv4-pool-node-selector", "CALICO_IPV4POOL_NODE_SELECTOR", "SELECTOR", "The nodes that may claim its blocks";
    ipv4_pool_disable_bgp_export, "ipv4PoolDisableBgpExport", "ipv4-pool-disable-bgp-export", "CALICO_IPV4POOL_DISABLE_BGP_EXPORT", "BOOL", "Whether its blocks are kept from BGP";
    ipip_mtu, "ipipMtu", "ipip-mtu", "FELIX_IPINIPMTU", "BYTES", "The MTU of tunnels and pods; 0 finds it";
    interface_prefix, "interfacePrefix", "interface-prefix", "FELIX_INTERFACEPREFIX", "PREFIX", "What the names of pods' interfaces begin with";
    log_severity_screen, "logSeverityScreen", "log-severity-screen", "FELIX_LOGSEVERITYSCREEN", "LEVEL", "Trace, Debug, Info, Warning, Error, Fatal or None";
    uplinks, "uplinks", "uplinks", "VROUTER_UPLINKS", "NAMES", "Interfaces that are uplinks whatever the routes say";
    uplink_io, "uplinkIo", "uplink-io", "VROUTER_UPLINK_IO", "HOW", "auto, xdp, xdp-generic or packet";
    workers, "workers", "workers", "VROUTER_WORKERS", "NUMBER", "How many workers move packets";
    cores, "cores", "cores", "VROUTER_CORES", "WHICH", "The cores the workers are pinned to: auto, none, or numbers (2,3)";
    pod_interface, "podInterface", "pod-interface", "VROUTER_POD_INTERFACE", "WHAT", "tun or veth";
}

/// Where sockets and what survives a restart are kept, unless somebody says otherwise.
pub(super) const RUN_DIR: &str = "/run/vrouter";
/// The directory of the file datastore, unless somebody says otherwise.
pub(super) const DATASTORE_DIR: &str = "/etc/vrouter/resources";

/// Flags of every command: where a node and its resources are found. `run` has flags of the same names, which
/// get the same values wherever on the command line they stand.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Directories {
    /// Where the node's sockets are
    #[arg(long, global = true, value_name = "DIR", env = "VROUTER_RUN_DIR")]
    run_dir: Option<String>,
    /// Where the file datastore's resources are
    #[arg(long, global = true, value_name = "DIR", env = "VROUTER_DATASTORE_DIR")]
    datastore_dir: Option<String>,
}

impl Directories {
    /// Where the node's sockets are.
    pub fn run_dir(&self) -> PathBuf {
        self.run_dir.as_deref().filter(|dir| !dir.is_empty()).unwrap_or(RUN_DIR).into()
    }

    /// Where the file datastore's resources are.
    pub fn datastore_dir(&self) -> PathBuf {
        self.datastore_dir.as_deref().filter(|dir| !dir.is_empty()).unwrap_or(DATASTORE_DIR).into()
    }
}

/// Reads settings, remembers who said what, and collects what is wrong.
pub(super) struct Reader<'a> {
    args: &'a RunArgs,
    environment: &'a BTreeMap<String, String>,
    file: BTreeMap<String, String>,
    path: PathBuf,
    settings: Vec<Setting>,
    notices: Vec<String>,
    errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        args: &'a RunArgs,
        environment: &'a BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let path = args.config.clone().unwrap_or_default();
        let file = if args.config.is_some() { read_file(&path)? } else { BTreeMap::new() };
        let mut reader = Self {
            args,
            environment,
            file,
            path,
            settings: Vec::new(),
            notices: Vec::new(),
            errors: Vec::new(),
        };
        reader.refuse_unknown_fields();
        Ok(reader)
    }

    fn refuse_unknown_fields(&mut self) {
        let known: Vec<&str> = KNOWN.iter().map(|known| known.field).collect();
        for (field, value) in &self.file {
            if !known.contains(&field.as_str()) {
                self.errors.push(ConfigError::Value {
                    source_name: format!("{}: {field}", self.path.display()),
                    value: value.clone(),
                    reason: format!("unknown field; known are {}", known.join(", ")),
                });
            }
        }
    }

    /// What was said about a setting; what was left empty was not said.
    pub(super) fn said(&self, field: &'static str) -> Option<Setting> {
        let known = KNOWN.iter().find(|known| known.field == field)?;
        let flag = (known.of)(self.args).clone().map(|value| (value, Source::Flag(known.flag)));
        let variable = || {
            Some((self.environment.get(known.variable)?.clone(), Source::Variable(known.variable)))
        };
        let file =
            || Some((self.file.get(field)?.clone(), Source::File(self.path.clone(), known.field)));
        let said = |(value, _): &(String, Source)| !value.trim().is_empty();
        let found =
            flag.filter(said).or_else(|| variable().filter(said)).or_else(|| file().filter(said));
        let (value, source) = found?;
        Some(Setting { field: known.field, value: value.trim().to_owned(), source })
    }

    /// A setting with a default. Where the value is wrong, the default goes on to find what else is wrong.
    pub(super) fn parsed<T>(
        &mut self,
        field: &'static str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, ConfigError>,
    ) -> T
    where
        T: Fallback,
    {
        let fallback = Setting { field, value: default.to_owned(), source: Source::Default };
        let setting = self.said(field).unwrap_or(fallback);
        let value = self.take(&setting, &parse).or_else(|| parse(default).ok());
        self.settings.push(setting);
        value.unwrap_or_else(T::fallback)
    }

    /// A setting without a default.
    pub(super) fn optional<T>(
        &mut self,
        field: &'static str,
        parse: impl Fn(&str) -> Result<T, ConfigError>,
    ) -> Option<T> {
        let setting = self.said(field)?;
        let value = self.take(&setting, &parse);
        self.settings.push(setting);
        value
    }

    fn take<T>(
        &mut self,
        setting: &Setting,
        parse: &impl Fn(&str) -> Result<T, ConfigError>,
    ) -> Option<T> {
        match parse(&setting.value) {
            Ok(value) => Some(value),
            Err(ConfigError::Value { reason, .. }) => {
                let source_name = match &setting.source {
                    Source::Default => setting.field.to_owned(),
                    source => source.to_string(),
                };
                self.errors.push(ConfigError::Value {
                    source_name,
                    value: setting.value.clone(),
                    reason,
                });
                None
            }
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    /// Says that something that was set has no effect.
    pub(super) fn notice(&mut self, text: String) {
        self.notices.push(text);
    }

    pub(super) fn environment(&self) -> &'a BTreeMap<String, String> {
        self.environment
    }

    /// Whether a variable is one of a setting.
    pub(super) fn is_known_variable(name: &str) -> bool {
        KNOWN.iter().any(|known| known.variable == name)
    }

    /// Checks the settings of the default pool together, by the API's own rules.
    pub(super) fn check_pool(&mut self, spec: &IpPoolSpec) {
        if !self.errors.is_empty() {
            return;
        }
        let mut faults = Faults::default();
        spec.validate(&Metadata::default(), &mut faults);
        for fault in faults.0 {
            let field = match fault.field.as_str() {
                "spec.blockSize" => "ipv4PoolBlockSize",
                "spec.ipipMode" => "ipv4PoolIpip",
                _ => "ipv4PoolCidr",
            };
            let source = self
                .said(field)
                .map_or_else(|| field.to_owned(), |setting| setting.source.to_string());
            self.errors.push(ConfigError::Value {
                source_name: source,
                value: fault.value,
                reason: fault.reason,
            });
        }
    }

    pub(super) fn finish(self) -> (Vec<Setting>, Vec<String>, Vec<ConfigError>) {
        (self.settings, self.notices, self.errors)
    }
}

/// What stands in for a value that could not be read, while the rest is looked at.
pub(super) trait Fallback {
    fn fallback() -> Self;
}

fn read_file(path: &std::path::Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let wrong = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let text =
        std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if parse::holds_nothing(&text) {
        return Ok(BTreeMap::new());
    }
    let yaml = serde_yaml_ng::Deserializer::from_str(&text);
    let value = serde_yaml_ng::Value::deserialize(yaml)
        .map_err(|error| wrong(format!("not YAML: {error}")))?;
    let value = serde_json::to_value(value).map_err(|error| wrong(format!("not YAML: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(wrong("must be fields with values, such as `nodeName: node-1`".to_owned()));
    };
    let plain = |(field, value): (String, Value)| match value {
        Value::String(text) => Ok(Some((field, text))),
        Value::Number(number) => Ok(Some((field, number.to_string()))),
        Value::Bool(on) => Ok(Some((field, on.to_string()))),
        Value::Null => Ok(None),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            Ok(Some((field, items.join(","))))
        }
        Value::Array(_) | Value::Object(_) => {
            Err(wrong(format!("{field}: must be a text, a number, true or false")))
        }
    };
    let read: Result<Vec<_>, _> = fields.into_iter().map(plain).collect();
    Ok(read?.into_iter().flatten().collect())
}
