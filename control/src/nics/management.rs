//! By which interfaces this machine is reached, and what else interfaces are used for: what must not be taken from the
//! kernel.

use std::collections::VecDeque;
use std::net::IpAddr;

use serde_json::Value;

use super::Nic;
use crate::host::Host;

/// How far up the processes an SSH session is looked for: shells, sudo, tmux.
const ANCESTORS: usize = 32;

/// Interfaces without which the machine may not be reached any more, each with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Management {
    interfaces: Vec<(String, String)>,
}

impl Management {
    /// By routes and by the SSH session that this process belongs to.
    ///
    /// # Errors
    /// When that can't be told. Then no NIC may be taken.
    pub fn read(host: &Host<'_>) -> Result<Self, String> {
        let mut found = Self::default();
        let routes = |family| json(host, &["ip", "-j", family, "route", "show", "table", "all"]);
        let mut all = routes("-4")?;
        if host.has("proc/net/if_inet6") {
            all.extend(routes("-6")?);
        }
        for route in all.iter().filter(|route| text(route, "dst") == Some("default")) {
            let hops = route.get("nexthops").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for device in std::iter::once(route).chain(hops).filter_map(|hop| text(hop, "dev")) {
                found.add(device, "the default route");
            }
        }
        found.add_session(host)?;
        found.follow(host)?;
        Ok(found)
    }

    /// The interface that the client of the SSH session is reached by, and the one that has the address it came to.
    fn add_session(&mut self, host: &Host<'_>) -> Result<(), String> {
        let Some((client, server)) = session(host) else { return Ok(()) };
        let route = json(host, &["ip", "-j", "route", "get", &client.to_string()])?;
        for device in route.iter().filter_map(|route| text(route, "dev")) {
            self.add(device, &format!("the SSH session from {client}"));
        }
        for (interface, address) in addresses(host)? {
            if address.split('/').next().and_then(|address| address.parse().ok()) == Some(server) {
                self.add(&interface, &format!("the SSH session from {client}"));
            }
        }
        Ok(())
    }

    /// Adds what these interfaces stand on: a bond's, a bridge's and a VRF's members, a VLAN's parent, the interface below
    /// a PPPoE session.
    fn follow(&mut self, host: &Host<'_>) -> Result<(), String> {
        let mut next: VecDeque<(String, String)> = self.interfaces.clone().into();
        while let Some((interface, why)) = next.pop_front() {
            // sysfs shows the network namespace that it was mounted in.
            if interface != "lo" && !host.has(&format!("sys/class/net/{interface}")) {
                return Err(format!("/sys/class/net has no {interface}: it shows another network namespace"));
            }
            let parts = host.names(&format!("sys/class/net/{interface}"));
            let mut lower: Vec<String> =
                parts.iter().filter_map(|part| part.strip_prefix("lower_")).map(str::to_owned).collect();
            if interface.starts_with("ppp") {
                lower.extend(pppoe(host));
            }
            for below in lower {
                // Each once, for a loop's sake.
                if self.why(&below).is_none() {
                    let why = format!("{} (below {interface})", why.split(" (below").next().unwrap_or(&why));
                    self.add(&below, &why);
                    next.push_back((below, why));
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, interface: &str, why: &str) {
        if self.why(interface).is_none() {
            self.interfaces.push((interface.to_owned(), why.to_owned()));
        }
    }

    fn why(&self, interface: &str) -> Option<&str> {
        self.interfaces.iter().find(|(name, _)| name == interface).map(|(_, why)| why.as_str())
    }

    /// The interface of a NIC that the machine is reached by, and what it carries.
    pub fn of(&self, nic: &Nic) -> Option<(&str, &str)> {
        let found = self.interfaces.iter().find(|(name, _)| nic.interfaces.contains(name));
        found.map(|(name, why)| (name.as_str(), why.as_str()))
    }
}

/// What interfaces are used for, beside reaching the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    addresses: Vec<(String, String)>,
}

impl Uses {
    /// Addresses of interfaces.
    ///
    /// # Errors
    /// When that can't be told.
    pub fn read(host: &Host<'_>) -> Result<Self, String> {
        Ok(Self { addresses: addresses(host)? })
    }

    /// What a NIC is used for.
    pub fn of(&self, host: &Host<'_>, nic: &Nic) -> Option<String> {
        for name in &nic.interfaces {
            if let Some((_, address)) = self.addresses.iter().find(|(interface, _)| interface == name) {
                return Some(format!("{name} has the address {address}"));
            }
            if let Some(master) = host.link(&format!("sys/class/net/{name}/master")) {
                return Some(format!("{name} is part of {master}"));
            }
            let parts = host.names(&format!("sys/class/net/{name}"));
            if let Some(upper) = parts.iter().find_map(|part| part.strip_prefix("upper_")) {
                return Some(format!("{upper} stands on {name}"));
            }
        }
        let functions = host.number(&format!("{}/{}/sriov_numvfs", super::DEVICES, nic.address));
        functions.filter(|count| *count > 0).map(|count| format!("it has {count} virtual functions"))
    }
}

/// Interfaces with their addresses, without those that each interface gets by itself.
fn addresses(host: &Host<'_>) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    for link in json(host, &["ip", "-j", "address", "show"])? {
        let Some(name) = text(&link, "ifname") else { continue };
        for address in link.get("addr_info").and_then(Value::as_array).into_iter().flatten() {
            let length = address.get("prefixlen").and_then(Value::as_u64).unwrap_or_default();
            if let (Some(local), true) = (text(address, "local"), text(address, "scope") != Some("link")) {
                found.push((name.to_owned(), format!("{local}/{length}")));
            }
        }
    }
    Ok(found)
}

/// Client's and server's address of the SSH session that this process, or one that it descends from, belongs to: sudo
/// takes SSH_CONNECTION away.
fn session(host: &Host<'_>) -> Option<(IpAddr, IpAddr)> {
    let mut process = "self".to_owned();
    for _ in 0..ANCESTORS {
        let environment = host.bytes(&format!("proc/{process}/environ")).unwrap_or_default();
        let variables = environment.split(|byte| *byte == 0);
        let words = variables.filter_map(|line| line.strip_prefix(b"SSH_CONNECTION=")).next();
        if let Some(words) = words.and_then(|words| std::str::from_utf8(words).ok()) {
            let mut words = words.split_ascii_whitespace();
            let address = |word: &str| word.split('%').next()?.parse().ok();
            if let (Some(client), Some(server)) =
                (words.next().and_then(address), words.nth(1).and_then(address))
            {
                return Some((client, server));
            }
        }
        let status = host.read(&format!("proc/{process}/status"))?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned();
        if parent == "0" {
            return None;
        }
        process = parent;
    }
    None
}

/// The interfaces below PPPoE sessions: the third column of the kernel's list.
fn pppoe(host: &Host<'_>) -> Vec<String> {
    let list = host.read("proc/net/pppoe").unwrap_or_default();
    list.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned).collect()
}

/// What `ip -j` lists; it prints nothing for an empty list.
fn json(host: &Host<'_>, words: &[&str]) -> Result<Vec<Value>, String> {
    let line = words.join(" ");
    let printed = host.run(words).map_err(|error| format!("{line}: {error}"))?;
    if printed.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&printed).map_err(|error| format!("{line}: {error}"))
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}
