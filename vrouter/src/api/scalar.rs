//! How are the API's small values written: prefixes, AS numbers, peer addresses, durations?

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Faults;

/// A value that is written in a form the API does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScalarError {
    /// Not a prefix.
    #[error(
        "not a prefix; write an address, a slash and a length, such as 10.244.0.0/16 or fd00:10::/64"
    )]
    Cidr,
    /// Not an AS number.
    #[error("not an AS number; write 1 to 4294967295, as a number or as \"high.low\"")]
    AsNumber,
    /// Not the address of a peer.
    #[error(
        "not a peer address; write an address, optionally with a port: 192.0.2.1, 192.0.2.1:179, [2001:db8::1]:179"
    )]
    PeerAddress,
    /// Not a duration.
    #[error("not a duration; write numbers with units, such as 90s, 1m30s or 500ms")]
    Duration,
}

/// A prefix as it was written: the address may have bits set behind the prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(pub IpNet);

impl Cidr {
    /// Whether no bit behind the prefix length is set.
    pub fn is_masked(&self) -> bool {
        self.0.trunc() == self.0
    }

    /// The name Calico gives to objects about this prefix: `10-244-0-0-26`.
    pub fn to_name(&self) -> String {
        self.to_string().replace(['.', ':', '/'], "-")
    }
}

impl Deref for Cidr {
    type Target = IpNet;
    fn deref(&self) -> &IpNet {
        &self.0
    }
}

impl From<IpNet> for Cidr {
    fn from(net: IpNet) -> Self {
        Self(net)
    }
}

impl From<IpAddr> for Cidr {
    fn from(address: IpAddr) -> Self {
        Self(address.into())
    }
}

impl FromStr for Cidr {
    type Err = ScalarError;
    /// A prefix, or an address, which stands for the prefix of that address alone.
    fn from_str(text: &str) -> Result<Self, ScalarError> {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(Self).map_err(|_| ScalarError::Cidr)
    }
}

/// A BGP autonomous system number; 0 is reserved (RFC 7607).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsNumber(pub u32);

impl FromStr for AsNumber {
    type Err = ScalarError;
    /// Plain, or in the dotted form of RFC 5396.
    fn from_str(text: &str) -> Result<Self, ScalarError> {
        let number = match text.split_once('.') {
            Some((high, low)) => high.parse::<u16>().and_then(|high| {
                low.parse::<u16>().map(|low| (u32::from(high) << 16) | u32::from(low))
            }),
            None => text.parse::<u32>(),
        };
        number.ok().filter(|number| *number != 0).map(Self).ok_or(ScalarError::AsNumber)
    }
}

/// A peer's address, with a port where it is not BGP's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddress {
    /// The address.
    pub ip: IpAddr,
    /// The TCP port; `None` is 179.
    pub l4_port: Option<u16>,
}

impl FromStr for PeerAddress {
    type Err = ScalarError;
    fn from_str(text: &str) -> Result<Self, ScalarError> {
        let plain = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = plain.parse() {
            return Ok(Self { ip, l4_port: None });
        }
        let socket = text.parse::<SocketAddr>().map_err(|_| ScalarError::PeerAddress)?;
        if socket.port() == 0 {
            return Err(ScalarError::PeerAddress);
        }
        Ok(Self { ip: socket.ip(), l4_port: Some(socket.port()) })
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.l4_port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// A span of time in Go's notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = ScalarError;
    fn from_str(text: &str) -> Result<Self, ScalarError> {
        let mut rest = text;
        let mut total = Duration::ZERO;
        if rest.is_empty() {
            return Err(ScalarError::Duration);
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(ScalarError::Duration)?;
            let (number, tail) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| ScalarError::Duration)?;
            let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let millis = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return Err(ScalarError::Duration),
            };
            let part = number.checked_mul(millis).ok_or(ScalarError::Duration)?;
            total = total.checked_add(Duration::from_millis(part)).ok_or(ScalarError::Duration)?;
            rest = tail;
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_millis() {
            0 => write!(f, "{}s", self.0.as_secs()),
            _ => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for AsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! as_text {
    ($($type:ident),+) => {
        $(impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        })+
    };
}

as_text!(Cidr, PeerAddress, Span);

impl Serialize for AsNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u32),
            Text(String),
        }
        let wrong = |_| de::Error::custom(ScalarError::AsNumber);
        match Written::deserialize(deserializer).map_err(wrong)? {
            Written::Number(0) => Err(de::Error::custom(ScalarError::AsNumber)),
            Written::Number(number) => Ok(Self(number)),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// No selector may be longer.
pub(crate) const MAX_SELECTOR: usize = 1024;

/// Checks what can be said about a selector without knowing whom it selects.
pub(crate) fn check_selector(field: &str, selector: &str, faults: &mut Faults) {
    if selector.len() > MAX_SELECTOR {
        let reason =
            format!("has {} characters; at most {MAX_SELECTOR} are allowed", selector.len());
        faults.add(field, selector, reason);
    } else if !selector.is_empty()
        && let Err(error) = selector.parse::<policy::selector::Selector>()
    {
        faults.add(field, selector, error.to_string());
    }
}
