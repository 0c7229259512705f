//! What does the runtime get back, in the format of the version it speaks?

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A version of the CNI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: no `version` of addresses.
    V1_0_0,
    /// 1.1.0: GC, STATUS, interfaces' MTU.
    V1_1_0,
}

impl Version {
    /// All that are spoken, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// As written in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = CniError;

    fn from_str(text: &str) -> Result<Self, CniError> {
        // The specification: a configuration without the field is of version 0.1.0.
        let text = if text.is_empty() { "0.1.0" } else { text };
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|version| version.as_str()).collect();
            CniError::new(
                ErrorCode::IncompatibleVersion,
                format!("cniVersion {text} is not supported; supported are {}", known.join(", ")),
            )
        })
    }
}

/// What ADD made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddResult {
    /// Interfaces, on the host and in the pod.
    pub interfaces: Vec<Interface>,
    /// The pod's addresses.
    pub ips: Vec<IpConfig>,
    /// The pod's routes.
    pub routes: Vec<RouteConfig>,
    /// The pod's resolver, normally left to the runtime.
    pub dns: Dns,
}

/// An interface that was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its MTU in bytes (told from version 1.1.0 on).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The path of the network namespace it is in; absent: the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
}

/// An address that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// The address with its prefix length.
    pub address: IpNet,
    /// The default gateway of its subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Which of [`AddResult::interfaces`] has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route that was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteConfig {
    /// Where to.
    pub dst: IpNet,
    /// By which router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// A resolver's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Search domains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl AddResult {
    /// In the format of one version.
    pub fn to_json(&self, version: Version) -> Value {
        let interfaces = self.interfaces.iter().map(|interface| interface.to_json(version));
        let ips = self.ips.iter().map(|ip| ip.to_json(version));
        json!({
            "cniVersion": version.as_str(),
            "interfaces": interfaces.collect::<Vec<_>>(),
            "ips": ips.collect::<Vec<_>>(),
            "routes": self.routes,
            "dns": self.dns,
        })
    }
}

impl Interface {
    fn to_json(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("name".into(), json!(self.name));
        object.extend(self.mac.iter().map(|mac| ("mac".into(), json!(mac))));
        if version >= Version::V1_1_0 {
            object.extend(self.mtu.map(|mtu| ("mtu".into(), json!(mtu))));
        }
        object.extend(self.sandbox.iter().map(|path| ("sandbox".into(), json!(path))));
        object.into()
    }
}

impl IpConfig {
    fn to_json(&self, version: Version) -> Value {
        let mut object = Map::new();
        if version < Version::V1_0_0 {
            let family = if self.address.addr().is_ipv4() { "4" } else { "6" };
            object.insert("version".into(), json!(family));
        }
        object.insert("address".into(), json!(self.address));
        object.extend(self.gateway.map(|gateway| ("gateway".into(), json!(gateway))));
        object.extend(self.interface.map(|index| ("interface".into(), json!(index))));
        object.into()
    }
}

/// A failure as the runtime gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// One sentence.
    pub msg: String,
    /// More, where there is more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// The specification's error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u32", from = "u32")]
pub enum ErrorCode {
    /// 1: the version of the configuration is not spoken.
    IncompatibleVersion,
    /// 2: a field of the configuration is not supported; the message names it and its value.
    UnsupportedField,
    /// 3: the container is unknown or gone; the runtime need not clean up.
    UnknownContainer,
    /// 4: an environment variable is missing or wrong.
    InvalidEnvironment,
    /// 5: reading or writing failed.
    Io,
    /// 6: a message could not be decoded.
    Decode,
    /// 7: the configuration is invalid.
    InvalidNetworkConfig,
    /// 11: try again later.
    TryAgain,
    /// 50: no pod can be attached now (STATUS).
    NotAvailable,
    /// 51: pods can be attached, existing ones have limited connectivity (STATUS).
    LimitedConnectivity,
    /// 100 and above: anything of our own.
    Other(u32),
}

/// The code of failures the specification has none for.
pub const CODE_INTERNAL: u32 = 100;

impl From<ErrorCode> for u32 {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::IncompatibleVersion => 1,
            ErrorCode::UnsupportedField => 2,
            ErrorCode::UnknownContainer => 3,
            ErrorCode::InvalidEnvironment => 4,
            ErrorCode::Io => 5,
            ErrorCode::Decode => 6,
            ErrorCode::InvalidNetworkConfig => 7,
            ErrorCode::TryAgain => 11,
            ErrorCode::NotAvailable => 50,
            ErrorCode::LimitedConnectivity => 51,
            ErrorCode::Other(code) => code,
        }
    }
}

impl From<u32> for ErrorCode {
    fn from(code: u32) -> Self {
        match code {
            1 => Self::IncompatibleVersion,
            2 => Self::UnsupportedField,
            3 => Self::UnknownContainer,
            4 => Self::InvalidEnvironment,
            5 => Self::Io,
            6 => Self::Decode,
            7 => Self::InvalidNetworkConfig,
            11 => Self::TryAgain,
            50 => Self::NotAvailable,
            51 => Self::LimitedConnectivity,
            other => Self::Other(other),
        }
    }
}

impl CniError {
    /// A failure with a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, msg: message.into(), details: String::new() }
    }

    /// The same with more to say.
    #[must_use]
    pub fn with_details(mut self, details: impl fmt::Display) -> Self {
        self.details = details.to_string();
        self
    }

    /// A failure the specification has no code for.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Other(CODE_INTERNAL), message)
    }

    /// As printed for the runtime.
    pub fn to_json(&self, version: &str) -> Value {
        let mut object = Map::new();
        object.insert("cniVersion".into(), json!(version));
        object.insert("code".into(), json!(self.code));
        object.insert("msg".into(), json!(self.msg));
        if !self.details.is_empty() {
            object.insert("details".into(), json!(self.details));
        }
        object.into()
    }
}
