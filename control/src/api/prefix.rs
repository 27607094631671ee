//! An address, or all of a network.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

/// Addresses that are asked for: `192.0.2.1`, or `192.0.2.0/24`. Bits behind the prefix are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix(IpNet);

/// A text that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address or a network, as 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32")]
pub struct NoPrefix;

impl Prefix {
    /// Whether an address is one of them.
    pub fn contains(&self, address: &IpAddr) -> bool {
        self.0.contains(address)
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self(address.into())
    }
}

impl FromStr for Prefix {
    type Err = NoPrefix;

    fn from_str(text: &str) -> Result<Self, NoPrefix> {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse().or_else(|_| address()).map(Self).map_err(|_| NoPrefix)
    }
}

/// One address without its length, as gateways of former versions read it.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| D::Error::custom(format!("{text}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks() {
        let prefix = |text: &str| text.parse::<Prefix>();
        let has = |network: &str, address: &str| {
            prefix(network).expect("a prefix").contains(&address.parse().expect("an address"))
        };
        assert!(has("192.0.2.1", "192.0.2.1") && !has("192.0.2.1", "192.0.2.2"));
        // As people type it: with a host's bits.
        assert!(has("192.0.2.77/24", "192.0.2.1") && !has("192.0.2.77/24", "192.0.3.1"));
        assert!(has("2001:db8::/32", "2001:db8:ff::1") && !has("2001:db8::/32", "2001:db9::1"));
        assert!(has("0.0.0.0/0", "198.51.100.1") && !has("0.0.0.0/0", "2001:db8::1"));
        for bad in ["", "nowhere", "192.0.2.1/33", "192.0.2", "192.0.2.0/24/7", "::/129"] {
            assert_eq!(prefix(bad), Err(NoPrefix), "{bad}");
        }
    }

    #[test]
    fn one_address_is_written_as_ever() {
        let again = |text: &str| text.parse::<Prefix>().map(|prefix| serde_json::json!(prefix));
        for text in ["192.0.2.1", "192.0.2.0/24", "2001:db8::1", "2001:db8::/32"] {
            assert_eq!(again(text), Ok(text.into()));
        }
        assert_eq!(again("192.0.2.1/32"), Ok("192.0.2.1".into()));
    }
}
