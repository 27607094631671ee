//! What differs between the configuration that runs and one that is to take its place.

use super::keys::{KEYS, PORT_KEYS, TAKEN, When};
use super::{Bind, Config, Offload, PortConfig};

/// A key whose value differs; a whole port where it comes or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// As in `flows.capacity`, `port.wan0` or `port.wan0.device`.
    pub key: String,
    /// As it runs; none: not set, or no such port.
    pub old: Option<String>,
    /// As it is to be.
    pub new: Option<String>,
    /// Why it takes a restart, if it does.
    pub restart: Option<String>,
}

/// What was settled when the gateway started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The longest packet that buffers hold, as an MTU.
    pub most_mtu: u16,
    /// NICs can be added: DPDK looks at the PCI bus, and has hugepages.
    pub nics: bool,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys of sections and of ports that stay, what can change first, then what can't.
    pub changes: Vec<Change>,
    /// Ports to be added, those that are taken away to be added again included.
    pub added: Vec<PortConfig>,
    /// Names of ports to be taken away, likewise.
    pub removed: Vec<String>,
    /// Ports that stay, and whose twins get this MTU.
    pub mtus: Vec<(String, u16)>,
}

impl Difference {
    /// Compares.
    pub fn between(old: &Config, new: &Config, fixed: Fixed) -> Self {
        let mut found = Self::default();
        for key in KEYS {
            let (was, is) = ((key.value)(old), (key.value)(new));
            if was != is {
                found.add(key.name.to_owned(), was, is, why(key.when));
            }
        }
        for port in old.ports.iter().filter(|port| !new.ports.iter().any(|other| other.name == port.name)) {
            found.removed.push(port.name.clone());
            let no = fixed_ports(old).map(str::to_owned);
            found.add(format!("port.{}", port.name), Some(port.device.to_string()), None, no);
        }
        for port in &new.ports {
            match old.ports.iter().find(|other| other.name == port.name) {
                Some(was) => found.compare(was, port, old, fixed),
                None => {
                    found.added.push(port.clone());
                    let no = fixed_ports(old).map(str::to_owned).or_else(|| unfit(port, old, fixed));
                    found.add(format!("port.{}", port.name), None, Some(port.device.to_string()), no);
                }
            }
        }
        found.changes.sort_by_key(|change| change.restart.is_some());
        found
    }

    fn add(&mut self, key: String, old: Option<String>, new: Option<String>, restart: Option<String>) {
        self.changes.push(Change { key, old, new, restart });
    }

    fn compare(&mut self, was: &PortConfig, is: &PortConfig, old: &Config, fixed: Fixed) {
        let mut anew = false;
        for key in PORT_KEYS {
            let values = ((key.value)(was), (key.value)(is));
            if values.0 == values.1 {
                continue;
            }
            let is_anew = matches!(key.when, When::PortAnew);
            anew |= is_anew;
            let no = why(key.when)
                .or_else(|| fixed_ports(old).filter(|_| is_anew).map(str::to_owned))
                .or_else(|| unfit(is, old, fixed));
            self.add(format!("port.{}.{}", is.name, key.name), values.0, values.1, no);
        }
        if anew {
            self.removed.push(was.name.clone());
            self.added.push(is.clone());
        } else if let Some(mtu) = is.mtu.filter(|_| is.mtu != was.mtu) {
            self.mtus.push((is.name.clone(), mtu));
        }
    }

    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// What takes a restart.
    pub fn restarts(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.restart.is_some())
    }

    /// The new configuration without what takes a restart, which stays as it is in the old one.
    pub fn partial(old: &Config, new: &Config, fixed: Fixed) -> Config {
        let mut config = new.clone();
        for key in KEYS {
            if let When::Restart(_, keep) = key.when {
                keep(&mut config, old);
            }
        }
        let stays = |port: &PortConfig| old.ports.iter().find(|other| other.name == port.name);
        if fixed_ports(old).is_some() {
            config.ports.clone_from(&old.ports);
            for port in &mut config.ports {
                let is = new.ports.iter().find(|other| other.name == port.name);
                port.mtu = is.map_or(port.mtu, |is| is.mtu);
            }
        }
        for port in &mut config.ports {
            port.bind = stays(port).map_or(port.bind, |was| was.bind);
        }
        config.ports = std::mem::take(&mut config.ports)
            .into_iter()
            .filter_map(
                |port| if unfit(&port, old, fixed).is_some() { stays(&port).cloned() } else { Some(port) },
            )
            .collect();
        config
    }
}

fn why(when: When) -> Option<String> {
    match when {
        When::AtRunTime | When::PortAnew => None,
        When::Restart(why, _) | When::PortRestart(why) => Some(why.to_owned()),
    }
}

/// Why ports can't come and go, where they can't.
fn fixed_ports(running: &Config) -> Option<&'static str> {
    (running.hardware.offload == Offload::Model).then_some("the model NIC has a hand on every port's queues")
}

/// Why a port can't be added, where it can't.
fn unfit(port: &PortConfig, running: &Config, fixed: Fixed) -> Option<String> {
    if let Some(mtu) = port.mtu.filter(|mtu| *mtu > fixed.most_mtu) {
        let most = fixed.most_mtu;
        return Some(format!(
            "packet buffers were made at the start for an MTU of {most} at the most, not {mtu}"
        ));
    }
    let is_ours =
        |other: &PortConfig| other.bind != Bind::Manual && other.device.name() == port.device.name();
    if port.bind != Bind::Manual && !running.ports.iter().any(is_ours) {
        return Some(format!("{TAKEN}: or have flyover bind take it, with bind = \"manual\""));
    }
    (!fixed.nics && !port.device.is_vdev())
        .then(|| "the gateway was started without a NIC, and so without hugepages and the PCI bus".to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Machine;

    const FIXED: Fixed = Fixed { most_mtu: 1984, nics: false };

    fn config(text: &str) -> Config {
        let machine = Machine { cores: vec![0, 1, 2], netns: "/".into() };
        Config::parse(Path::new("x"), text, &machine).expect("good")
    }

    fn port(name: &str, device: &str, more: &str) -> String {
        format!("[[port]]\nname = \"{name}\"\ndevice = \"{device}\"\n{more}\n")
    }

    fn two() -> String {
        port("wan0", "net_tap0,iface=a", "") + &port("lan0", "net_tap1,iface=b", "")
    }

    fn keys(found: &Difference) -> Vec<(&str, bool)> {
        found.changes.iter().map(|change| (change.key.as_str(), change.restart.is_some())).collect()
    }

    #[test]
    fn what_is_the_same_is_no_difference() {
        let (old, new) =
            (config(&two()), config(&format!("{}[flows]\nreprove_every = \"30000ms\"\n", two())));
        assert!(Difference::between(&old, &new, FIXED).is_empty());
        // Nor is the order of ports.
        let turned = port("lan0", "net_tap1,iface=b", "") + &port("wan0", "net_tap0,iface=a", "");
        assert!(Difference::between(&old, &config(&turned), FIXED).is_empty());
    }

    #[test]
    fn keys_are_told_with_both_values_and_what_takes_a_restart_comes_last() {
        let text = "[workers]\ncores = [1]\n[policy]\naccelerate = \"marked\"\n[flows]\ncapacity = 5\n";
        let (old, new) = (config(&two()), config(&(two() + text)));
        let found = Difference::between(&old, &new, FIXED);
        assert_eq!(
            keys(&found),
            [("policy.accelerate", false), ("workers.cores", true), ("flows.capacity", true)]
        );
        let accelerate = &found.changes[0];
        assert_eq!(
            (accelerate.old.as_deref(), accelerate.new.as_deref()),
            (Some("\"auto\""), Some("\"marked\""))
        );
        let partial = Difference::partial(&old, &new, FIXED);
        assert_eq!(keys(&Difference::between(&old, &partial, FIXED)), [("policy.accelerate", false)]);
    }

    #[test]
    fn ports_come_go_and_are_had_anew() {
        let old = config(&two());
        let new =
            config(&(port("wan0", "net_tap0,iface=c", "mtu = 1400") + &port("opt0", "net_tap1,iface=b", "")));
        let found = Difference::between(&old, &new, FIXED);
        assert_eq!(
            keys(&found),
            [
                ("port.lan0", false),
                ("port.wan0.device", false),
                ("port.wan0.mtu", false),
                ("port.opt0", false)
            ]
        );
        assert_eq!(found.removed, ["lan0", "wan0"]);
        assert_eq!(found.added, new.ports);
        assert_eq!(found.mtus, []);
    }

    #[test]
    fn an_mtu_changes_in_place_as_far_as_buffers_hold_it() {
        let old = config(&two());
        let with = |mtu: u16| {
            config(
                &(port("wan0", "net_tap0,iface=a", &format!("mtu = {mtu}"))
                    + &port("lan0", "net_tap1,iface=b", "")),
            )
        };
        let found = Difference::between(&old, &with(1400), FIXED);
        assert_eq!(
            (keys(&found), &found.mtus),
            (vec![("port.wan0.mtu", false)], &vec![("wan0".to_owned(), 1400)])
        );
        assert!(found.added.is_empty() && found.removed.is_empty());
        let jumbo = Difference::between(&old, &with(9000), FIXED);
        assert_eq!(keys(&jumbo), [("port.wan0.mtu", true)]);
        assert_eq!(Difference::partial(&old, &with(9000), FIXED), old);
    }

    #[test]
    fn what_the_start_has_settled_takes_a_restart() {
        let old = config(&two());
        let nic = config(&(two() + &port("opt0", "0000:3b:00.0", "")));
        assert_eq!(keys(&Difference::between(&old, &nic, FIXED)), [("port.opt0", true)]);
        assert_eq!(
            keys(&Difference::between(&old, &nic, Fixed { nics: true, ..FIXED })),
            [("port.opt0", false)]
        );
        assert_eq!(Difference::partial(&old, &nic, FIXED), old);
        let model = "[hardware]\noffload = \"model\"\n";
        let (old, new) = (config(&(two() + model)), config(&(port("wan0", "net_tap0,iface=a", "") + model)));
        assert_eq!(keys(&Difference::between(&old, &new, FIXED)), [("port.lan0", true)]);
        assert_eq!(Difference::partial(&old, &new, FIXED), old);
    }

    #[test]
    fn a_nic_that_the_start_would_take_from_its_driver_takes_a_restart() {
        let fixed = Fixed { nics: true, ..FIXED };
        let nic = |address, more: &str| config(&(two() + &port("opt0", address, more)));
        let (manual, auto) = (nic("0000:3b:00.0", ""), nic("0000:3b:00.0", "bind = \"auto\""));
        let other = nic("0000:3b:00.1", "bind = \"auto\"");
        for (old, new, key) in [
            (&config(&two()), &auto, "port.opt0"),
            (&manual, &auto, "port.opt0.bind"),
            (&auto, &other, "port.opt0.device"),
        ] {
            assert_eq!(keys(&Difference::between(old, new, fixed)), [(key, true)]);
            assert_eq!(Difference::partial(old, new, fixed), *old);
        }
        // It was taken already.
        let fewer = nic("0000:3b:00.0", "bind = \"auto\"\ndescriptors = 512");
        assert_eq!(keys(&Difference::between(&auto, &fewer, fixed)), [("port.opt0.descriptors", false)]);
    }
}
