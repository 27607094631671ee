use std::path::PathBuf;

use super::*;
use crate::config::{Bind, Machine};
use crate::host::testing;

/// A machine that lacks nothing: one twin of an earlier run, one NIC bound to vfio-pci.
struct Fake {
    machine: testing::Machine,
}

impl Fake {
    fn new() -> Self {
        let fake = Self { machine: testing::Machine::new() };
        fake.write("dev/net/tun", "");
        fake.write("proc/self/status", "Name:\tflyover\nCapEff:\t000001ffffffffff\n");
        fake.write("proc/sys/net/netfilter/nf_conntrack_events", "1\n");
        fake.write("proc/sys/net/netfilter/nf_conntrack_max", "262144\n");
        fake.write("proc/sys/net/ipv4/ip_forward", "1\n");
        fake.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512\n");
        fake.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "512\n");
        fake.interface("wan0", Some("0x5102"));
        fake.nic("vfio-pci");
        fake
    }

    fn write(&self, path: &str, text: &str) {
        self.machine.file(path, text);
    }

    fn remove(&self, path: &str) {
        self.machine.remove(path);
    }

    fn interface(&self, name: &str, tun_flags: Option<&str>) {
        self.write(&format!("sys/class/net/{name}/ifindex"), "7\n");
        if let Some(flags) = tun_flags {
            self.write(&format!("sys/class/net/{name}/tun_flags"), flags);
        }
    }

    fn nic(&self, driver: &str) {
        const NIC: &str = "sys/bus/pci/devices/0000:3b:00.0";
        for (file, text) in [("class", "0x020000\n"), ("vendor", "0x8086\n"), ("device", "0x10fb\n")] {
            self.write(&format!("{NIC}/{file}"), text);
        }
        self.machine.link(&format!("{NIC}/driver"), &format!("../../drivers/{driver}"));
    }

    fn findings(&self, ports: &[&str]) -> Vec<Finding> {
        let machine = Machine { cores: vec![0], netns: PathBuf::new() };
        let config = Config::from_ports(ports, &machine).expect("valid");
        Checks { host: self.machine.host(), running: None }.findings(&config)
    }

    /// The one finding, as severity, check and text.
    fn only(&self, ports: &[&str]) -> (Severity, &'static str, String) {
        let findings = self.findings(ports);
        let [finding] = findings.as_slice() else { panic!("{findings:?}") };
        assert!(!finding.why.is_empty());
        (finding.severity, finding.check, finding.what.clone())
    }
}

const PORTS: &[&str] = &["wan0=net_tap0,iface=up0", "lan0=0000:3b:00.0"];

#[test]
fn a_machine_that_lacks_nothing_has_no_findings() {
    assert_eq!(Fake::new().findings(PORTS), []);
}

#[test]
fn without_tun_or_privileges_nothing_runs() {
    let fake = Fake::new();
    fake.remove("dev/net/tun");
    let (severity, check, what) = fake.only(PORTS);
    assert_eq!((severity, check), (Severity::Error, "tun"));
    assert!(what.contains("/dev/net/tun can't be opened"), "{what}");
    let fake = Fake::new();
    fake.write("proc/self/status", "CapEff:\t0000000000000000\n");
    assert_eq!(fake.only(PORTS), (Severity::Error, "privileges", "CAP_NET_ADMIN is missing".to_owned()));
}

#[test]
fn names_in_use_are_found() {
    let fake = Fake::new();
    fake.interface("lan0", None);
    let message = "the name lan0 is in use by an interface that is not a tap".to_owned();
    assert_eq!(fake.only(PORTS), (Severity::Error, "twin", message));
    fake.interface("lan0", Some("0x1002"));
    assert_eq!(fake.only(PORTS).2, "the tap lan0 has a single queue");
    fake.interface("lan0", Some("0x1101"));
    assert!(fake.only(PORTS).2.contains("not a tap"), "a tun device is no tap");
    let fake = Fake::new();
    fake.interface("up0", None);
    assert_eq!(fake.only(PORTS).1, "device");
}

#[test]
fn a_name_seen_in_another_namespace_proves_nothing() {
    let fake = Fake::new();
    fake.interface("lan0", None);
    fake.write("sys/class/net/lan0/ifindex", "8\n");
    assert_eq!(fake.findings(PORTS), []);
}

#[test]
fn nics_must_exist_and_be_bound() {
    let fake = Fake::new();
    fake.nic("ixgbe");
    assert_eq!(fake.only(PORTS).2, "lan0: 0000:3b:00.0 is bound to the kernel driver ixgbe");
    assert_eq!(fake.only(&["lan0=0000:3b:00.1"]).2, "lan0: there is no PCI device 0000:3b:00.1");
    fake.write("sys/bus/pci/devices/0000:3b:00.0/class", "0x010802\n");
    assert!(fake.only(PORTS).2.starts_with("lan0: 0000:3b:00.0 is no network device"));
}

#[test]
fn a_nic_that_the_gateway_takes_itself_must_be_free() {
    let fake = Fake::new();
    fake.nic("ixgbe");
    fake.machine.link("sys/bus/pci/devices/0000:3b:00.0/iommu_group", "../../../kernel/iommu_groups/9");
    fake.machine.directory("sys/bus/pci/devices/0000:3b:00.0/net/eth0");
    fake.machine.directory("sys/class/net/eth0");
    fake.machine.prints("ip -j -4 route show table all", "[]");
    fake.machine.prints("ip -j address show", "[]");
    let machine = Machine { cores: vec![0], netns: PathBuf::new() };
    let mut config = Config::from_ports(PORTS, &machine).expect("valid");
    config.ports.iter_mut().for_each(|port| port.bind = Bind::Auto);
    let checks = Checks { host: fake.machine.host(), running: None };
    assert_eq!(checks.findings(&config), []);
    fake.machine.prints("ip -j -4 route show table all", r#"[{"dst":"default","dev":"eth0"}]"#);
    let findings = checks.findings(&config);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert!(finding.what.starts_with("lan0: bind = \"auto\", but 0000:3b:00.0 (eth0) stays"), "{finding:?}");
}

#[test]
fn settings_of_the_kernel_are_looked_at() {
    let fake = Fake::new();
    fake.write("proc/sys/net/netfilter/nf_conntrack_events", "2\n");
    assert_eq!(fake.only(PORTS).0, Severity::Note);
    fake.remove("proc/sys/net/netfilter/nf_conntrack_events");
    assert_eq!(fake.only(PORTS).0, Severity::Error, "conntrack without events");
    fake.remove("proc/sys/net/netfilter/nf_conntrack_max");
    assert_eq!(fake.only(PORTS).0, Severity::Warning, "conntrack not loaded");

    let fake = Fake::new();
    fake.write("proc/sys/net/ipv4/ip_forward", "0\n");
    assert_eq!(fake.only(PORTS), (Severity::Warning, "forwarding", "net.ipv4.ip_forward is 0".to_owned()));

    let fake = Fake::new();
    fake.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0\n");
    assert_eq!(fake.only(PORTS).0, Severity::Warning, "a NIC");
    assert_eq!(fake.only(&["wan0=net_null0"]).0, Severity::Note, "a vdev");
}

#[test]
fn the_worst_comes_first() {
    let fake = Fake::new();
    fake.write("proc/sys/net/ipv4/ip_forward", "0\n");
    fake.remove("dev/net/tun");
    let severities: Vec<_> = fake.findings(PORTS).iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warning]);
}
