//! What the process may do beyond an ordinary one: no more than its configuration asks for, from before DPDK starts until
//! it ends. Threads that carry packets, or that clients talk to, may do nothing of it.

use std::collections::HashSet;
use std::fmt::Write as _;

use caps::errors::CapsError;
use caps::{CapSet, Capability};

use crate::config::{Config, Device};
use crate::host::Host;

/// Why the process still has powers that it does not need.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The kernel refused.
    #[error("capabilities that are not needed could not be given up")]
    Capabilities(#[from] CapsError),
    /// The same.
    #[error("no_new_privs could not be set")]
    NoNewPrivileges(#[source] nix::Error),
}

/// A capability, and what asks for it.
struct Power {
    capability: Capability,
    /// In the words of docs/security.md.
    when: &'static str,
    what_for: &'static str,
    needed: fn(&Config, &Host<'_>) -> bool,
}

const POWERS: [Power; 6] = [
    Power {
        capability: Capability::CAP_NET_ADMIN,
        when: "always",
        what_for: "twins, also those that are made again; conntrack, neighbours, the table `inet flyover`, `net.netfilter.*`",
        needed: |_, _| true,
    },
    Power {
        capability: Capability::CAP_NET_RAW,
        when: "a port is a NIC, or a vdev on an existing interface (net_af_packet, net_af_xdp, net_pcap)",
        what_for: "packet sockets; the verbs of mlx4 and mlx5",
        needed: |config, _| has_nic(config) || has_vdev(config, &["net_af_packet", "net_af_xdp", "net_pcap"]),
    },
    Power {
        capability: Capability::CAP_SYS_ADMIN,
        when: "a port has `netns`, or is a NIC on a machine without an IOMMU",
        what_for: "setns; physical addresses for DMA",
        needed: |config, host| {
            config.ports.iter().any(|port| port.netns.is_some())
                || (has_nic(config) && host.names("sys/kernel/iommu_groups").is_empty())
        },
    },
    Power {
        capability: Capability::CAP_BPF,
        when: "a port is net_tap and there are several workers, or is net_af_xdp",
        what_for: "the program that keeps the packets of a flow on one queue; that of AF_XDP",
        needed: |config, _| {
            (has_vdev(config, &["net_tap"]) && config.workers.cores.len() > 1)
                || has_vdev(config, &["net_af_xdp"])
        },
    },
    Power {
        capability: Capability::CAP_IPC_LOCK,
        when: "a port is a NIC or net_af_xdp",
        what_for: "memory for DMA that stays where it is",
        needed: |config, _| has_nic(config) || has_vdev(config, &["net_af_xdp"]),
    },
    Power {
        capability: Capability::CAP_SYS_RAWIO,
        when: "a port is a NIC",
        what_for: "legacy virtio NICs, by I/O ports; VFIO without an IOMMU",
        needed: |config, _| has_nic(config),
    },
];

fn has_nic(config: &Config) -> bool {
    config.ports.iter().any(|port| matches!(port.device, Device::Pci { .. }))
}

fn has_vdev(config: &Config, drivers: &[&str]) -> bool {
    let is_one = |device: &Device| matches!(device, Device::Vdev { driver, .. } if drivers.contains(driver));
    config.ports.iter().any(|port| is_one(&port.device))
}

/// What a gateway with this configuration needs, from its start to its end.
fn needed(config: &Config, host: &Host<'_>) -> HashSet<Capability> {
    let needed = POWERS.iter().filter(|power| (power.needed)(config, host));
    needed.map(|power| power.capability).collect()
}

/// Leaves the calling thread, and all that it starts from now on, no capability but those that the configuration needs.
/// Capabilities are a thread's: to be called before there are others.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn confine(config: &Config, host: &Host<'_>) -> Result<(), PrivilegeError> {
    nix::sys::prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivileges)?;
    let needed = needed(config, host);
    let had = caps::read(None, CapSet::Permitted)?;
    let keep: HashSet<_> = needed.intersection(&had).copied().collect();
    // Whoever may not shrink it (the unit, which has done so itself) gains nothing by what is left in it: there are no new
    // privileges any more.
    if had.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all() {
            // One that this kernel does not know reads as an error.
            let bound = caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false);
            if bound && !keep.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    keep_only(&keep)?;
    let mut names = keep.iter().map(ToString::to_string).collect::<Vec<_>>();
    names.sort();
    tracing::debug!(kept = names.join(" "), "capabilities are given up");
    Ok(())
}

/// Leaves the calling thread no capability at all.
pub(crate) fn give_up() {
    if let Err(error) = keep_only(&HashSet::new()) {
        tracing::warn!(%error, "a thread keeps capabilities that it does not need");
    }
}

fn keep_only(keep: &HashSet<Capability>) -> Result<(), CapsError> {
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, keep)?;
    caps::set(None, CapSet::Permitted, keep)
}

/// The table of docs/security.md.
pub fn table() -> String {
    let mut text = "| capability | kept when | for |\n|---|---|---|\n".to_owned();
    for Power { capability, when, what_for, .. } in &POWERS {
        // Writing to a string can't fail.
        let _ = writeln!(text, "| `{capability}` | {when} | {what_for} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Machine;

    fn kept(ports: &[&str], workers: &str, host: &Host<'_>) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("wires"), "").expect("a namespace");
        let ports: String = ports
            .iter()
            .zip(0..)
            .map(|(port, n)| format!("[[port]]\nname = \"p{n}\"\ndevice = {port}\n"))
            .collect();
        let machine = Machine { cores: vec![0, 1, 2], netns: directory.path().to_owned() };
        let text = format!("{ports}[workers]\ncores = {workers}\n");
        let config = Config::parse(Path::new("gw.toml"), &text, &machine).expect("a configuration");
        let mut names: Vec<_> = needed(&config, host).iter().map(ToString::to_string).collect();
        names.sort();
        names.join(" ").replace("CAP_", "")
    }

    #[test]
    fn each_is_kept_for_what_the_configuration_has_and_for_nothing_else() {
        let machine = crate::host::testing::Machine::new();
        let host = machine.host();
        let tap = r#""net_tap0""#;
        assert_eq!(kept(&[tap], "[1]", &host), "NET_ADMIN");
        assert_eq!(kept(&[tap], "[1, 2]", &host), "BPF NET_ADMIN");
        assert_eq!(kept(&[r#""net_null0""#], "[1, 2]", &host), "NET_ADMIN");
        assert_eq!(kept(&["\"net_tap0\"\nnetns = \"wires\""], "[1]", &host), "NET_ADMIN SYS_ADMIN");
        assert_eq!(kept(&[r#""net_pcap0,iface=eth0""#], "[1]", &host), "NET_ADMIN NET_RAW");
        assert_eq!(
            kept(&[tap, r#""net_af_xdp0,iface=eth0""#], "[1]", &host),
            "BPF IPC_LOCK NET_ADMIN NET_RAW"
        );
        let nic = r#""0000:3b:00.0""#;
        assert_eq!(kept(&[nic], "[1]", &host), "IPC_LOCK NET_ADMIN NET_RAW SYS_ADMIN SYS_RAWIO", "no IOMMU");
        machine.directory("sys/kernel/iommu_groups/9");
        assert_eq!(kept(&[nic], "[1]", &host), "IPC_LOCK NET_ADMIN NET_RAW SYS_RAWIO");
    }

    fn read(path: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).expect(path)
    }

    #[test]
    fn the_page_says_what_is_kept_and_why() {
        assert!(read("docs/security.md").contains(&table()), "docs/security.md is to have:\n\n{}", table());
    }

    /// What the unit does not let in can't be kept.
    #[test]
    fn the_unit_has_those_that_may_be_needed_and_no_others() {
        let unit = read("configs/systemd/flyover.service");
        let set = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a set");
        let mut set: Vec<_> = set.split(' ').map(str::to_owned).collect();
        let mut may: Vec<_> = POWERS.iter().map(|power| power.capability.to_string()).collect();
        set.sort();
        may.sort();
        assert_eq!(set, may);
    }

    /// Each test has a thread of its own, whose capabilities nobody else has.
    #[test]
    fn a_thread_that_gives_up_has_nothing_left() {
        give_up();
        for set in [CapSet::Permitted, CapSet::Effective, CapSet::Inheritable, CapSet::Ambient] {
            assert_eq!(caps::read(None, set).expect("readable"), HashSet::new(), "{set:?}");
        }
    }
}
