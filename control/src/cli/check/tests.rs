use super::*;
use crate::config::Machine;

/// A machine that lacks nothing: one twin of an earlier run, one NIC bound to vfio-pci.
struct Fake {
    directory: tempfile::TempDir,
}

impl Fake {
    fn new() -> Self {
        let fake = Self { directory: tempfile::tempdir().expect("temporary directory") };
        fake.write("dev/net/tun", "");
        fake.write("proc/self/status", "Name:\tflyover\nCapEff:\t000001ffffffffff\n");
        fake.write("proc/sys/net/netfilter/nf_conntrack_events", "1\n");
        fake.write("proc/sys/net/netfilter/nf_conntrack_max", "262144\n");
        fake.write("proc/sys/net/ipv4/ip_forward", "1\n");
        fake.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "64\n");
        fake.interface("wan0", Some("0x5102"));
        fake.nic("vfio-pci");
        fake
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, text).expect("file");
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.directory.path().join(path)).expect("removed");
    }

    fn interface(&self, name: &str, tun_flags: Option<&str>) {
        self.write(&format!("sys/class/net/{name}/ifindex"), "7\n");
        if let Some(flags) = tun_flags {
            self.write(&format!("sys/class/net/{name}/tun_flags"), flags);
        }
    }

    fn nic(&self, driver: &str) {
        let nic = self.directory.path().join("sys/bus/pci/devices/0000:3b:00.0");
        fs::create_dir_all(&nic).expect("directories");
        let _ = fs::remove_file(nic.join("driver"));
        std::os::unix::fs::symlink(format!("../../drivers/{driver}"), nic.join("driver")).expect("symlink");
    }

    fn findings(&self, ports: &[&str]) -> Vec<Finding> {
        let machine = Machine { cores: vec![0], netns: PathBuf::new() };
        let config = Config::from_ports(ports, &machine).expect("valid");
        let root = self.directory.path().to_owned();
        let exists = |name: &str| root.join(format!("sys/class/net/{name}")).exists().then_some(7);
        Host { root: root.clone(), index_of: &exists, run: &|_| None }.findings(&config)
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
