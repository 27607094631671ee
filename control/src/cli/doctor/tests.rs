use super::*;
use crate::cli::mend;
use crate::config::{Machine, TwinIo};
use crate::host::testing;

const NIC: &str = "sys/bus/pci/devices/0000:3b:00.0";
const CPU: &str = "sys/devices/system/cpu";
const CONNTRACK: &str = "proc/sys/net/netfilter/nf_conntrack";

/// A machine that lacks nothing, for a vdev and a NIC on node 1 with workers on its cores 2 and 3.
struct Patient {
    machine: testing::Machine,
    config: Config,
    running: Option<Running>,
}

impl Patient {
    fn new() -> Self {
        let machine = testing::Machine::new();
        for (path, text) in [
            ("dev/net/tun", ""),
            ("dev/vhost-net", ""),
            ("proc/self/status", "CapEff:\t000001ffffffffff\nPPid:\t0\n"),
            ("proc/self/uid_map", "         0          0 4294967295\n"),
            ("proc/sys/vm/nr_hugepages", "1024\n"),
            ("proc/sys/net/netfilter/nf_conntrack_events", "1\n"),
            ("proc/sys/net/netfilter/nf_conntrack_max", "262144\n"),
            ("proc/sys/net/netfilter/nf_conntrack_buckets", "262144\n"),
            ("proc/sys/net/netfilter/nf_conntrack_count", "5\n"),
            ("proc/sys/net/ipv4/ip_forward", "1\n"),
            ("proc/sys/net/ipv6/conf/all/forwarding", "1\n"),
            ("proc/sys/net/core/rmem_max", "212992\n"),
            ("proc/cmdline", "quiet isolcpus=2,3 nohz_full=2-3\n"),
            ("proc/cpuinfo", "vendor_id\t: GenuineIntel\n"),
            ("sys/devices/system/cpu/isolated", "2-3\n"),
            ("sys/devices/system/cpu/nohz_full", "2-3\n"),
            ("sys/devices/system/node/node1/cpulist", "2-3\n"),
        ] {
            machine.file(path, text);
        }
        for path in ["sys/kernel/mm/hugepages", "sys/devices/system/node/node1/hugepages"] {
            for (file, text) in
                [("nr_hugepages", "1024"), ("free_hugepages", "1024"), ("resv_hugepages", "0")]
            {
                machine.file(&format!("{path}/hugepages-2048kB/{file}"), text);
            }
        }
        machine.directory("sys/devices/system/node/node0");
        for core in [2, 3] {
            machine.directory(&format!("{CPU}/cpu{core}/node1"));
            machine.file(&format!("{CPU}/cpu{core}/cpufreq/scaling_governor"), "performance\n");
            machine.file(
                &format!("{CPU}/cpu{core}/cpufreq/scaling_available_governors"),
                "performance powersave\n",
            );
            let state = format!("{CPU}/cpu{core}/cpuidle/state1");
            for (file, text) in [("name", "C1E"), ("latency", "10"), ("disable", "0")] {
                machine.file(&format!("{state}/{file}"), text);
            }
        }
        for (file, text) in [
            ("class", "0x020000"),
            ("vendor", "0x8086"),
            ("device", "0x10fb"),
            ("numa_node", "1"),
            ("current_link_width", "8"),
            ("max_link_width", "8"),
        ] {
            machine.file(&format!("{NIC}/{file}"), text);
        }
        machine.link(&format!("{NIC}/driver"), "../../drivers/vfio-pci");
        machine.link(&format!("{NIC}/iommu_group"), "../../../kernel/iommu_groups/9");
        machine.directory("sys/bus/pci/drivers/vfio-pci");
        let cores = Machine { cores: vec![0, 2, 3], netns: std::path::PathBuf::new() };
        let config = Config::from_ports(&["wan0=net_null0", "lan0=0000:3b:00.0"], &cores).expect("valid");
        Self { machine, config, running: None }
    }

    /// The same without a NIC.
    fn of_vdevs() -> Self {
        let mut patient = Self::new();
        patient.config.ports.pop();
        patient
    }

    fn findings(&self) -> Vec<Finding> {
        findings(self.machine.host(), &self.config, self.running.as_ref())
    }

    /// The one finding.
    fn only(&self) -> Finding {
        let mut findings = self.findings();
        let finding = findings.pop().expect("a finding");
        assert_eq!(findings, [], "one finding alone, beside {finding:?}");
        finding
    }

    /// The one finding, as severity, check and text.
    fn told(&self) -> (Severity, &'static str, String) {
        let finding = self.only();
        assert!(!finding.why.is_empty());
        (finding.severity, finding.check, finding.what)
    }

    /// Mends the one finding, and sees that it is gone: what was set, and how it went.
    fn mended(&self) -> String {
        let found = self.findings();
        assert!(found.iter().any(|finding| finding.fixable), "{found:?}");
        let fixes = mend::mend(&self.machine.host(), &found, false);
        let mut out = Vec::new();
        mend::write(&mut out, &fixes, false).expect("memory");
        assert_eq!(self.findings(), []);
        let text = String::from_utf8(out).expect("text");
        text.lines().filter(|line| !line.starts_with("until ")).map(|line| format!("{line}\n")).collect()
    }
}

#[test]
fn a_machine_that_lacks_nothing_has_no_findings() {
    assert_eq!(Patient::new().findings(), []);
    assert_eq!(Patient::of_vdevs().findings(), []);
}

/// A virtual machine without anything that a NIC needs, and vdevs alone.
#[test]
fn what_does_not_concern_the_configuration_is_no_finding() {
    let patient = Patient::of_vdevs();
    for path in [
        "sys/bus/pci",
        "sys/devices/system/node",
        "sys/devices/system/cpu/isolated",
        "sys/devices/system/cpu/nohz_full",
        "sys/devices/system/cpu/cpu2/cpufreq",
        "sys/devices/system/cpu/cpu3/cpufreq",
    ] {
        patient.machine.remove(path);
    }
    patient.machine.file(&format!("{CPU}/cpu2/cpuidle/state1/latency"), "900");
    assert_eq!(patient.findings(), []);
}

#[test]
fn hugepages_that_do_not_suffice_are_reserved_where_the_nic_is() {
    let patient = Patient::new();
    let node = "sys/devices/system/node/node1/hugepages/hugepages-2048kB";
    patient.machine.file(&format!("{node}/free_hugepages"), "10");
    let (severity, check, what) = patient.told();
    assert_eq!((severity, check), (Severity::Warning, "hugepages"));
    assert!(
        what.starts_with("20 MB of hugepages are free on NUMA node 1, the NIC's, and packet memory takes "),
        "{what}"
    );
    let needed = u64::from(crate::gateway::packet_memory_mb(&patient.config));
    let wanted = 1024 + (needed - 20).div_ceil(2);
    assert_eq!(patient.only().fix, Some(format!("echo {wanted} > /{node}/nr_hugepages")));
    let kernel = move |machine: &testing::Machine, path: &str, text: &str| {
        if path.ends_with("hugepages-2048kB/nr_hugepages") {
            let free = text.parse::<u64>().expect("a number") - 1014;
            machine.file(&path.replace("nr_", "free_"), &free.to_string());
        }
    };
    patient.machine.reacts(kernel);
    assert_eq!(patient.mended(), format!("set: hugepages of NUMA node 1: 1024 -> {wanted}\n"));

    // On a machine with one node.
    patient.machine.remove("sys/devices/system/node/node0");
    patient.machine.file("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "1024");
    let (_, _, what) = patient.told();
    assert!(what.starts_with("0 MB of hugepages are free, and packet memory takes "), "{what}");
    patient.machine.file("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0");
    assert_eq!(patient.told().2, "no hugepages; Flyover runs without them");
    let fixes = mend::mend(&patient.machine.host(), &patient.findings(), true);
    let mut out = Vec::new();
    mend::write(&mut out, &fixes, true).expect("memory");
    assert_eq!(String::from_utf8_lossy(&out), "would set: vm.nr_hugepages: 1024 -> 512\n");
    assert_eq!(patient.machine.host().number("proc/sys/vm/nr_hugepages"), Some(1024), "a dry run");
}

#[test]
fn a_gateway_that_runs_has_its_hugepages_or_not() {
    let mut patient = Patient::new();
    patient.machine.file("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "0");
    patient.running = Some(Running { hugepages: true, overruns: 0 });
    assert_eq!(patient.findings(), [], "it has taken them");
    patient.running = Some(Running { hugepages: false, overruns: 0 });
    assert!(patient.told().2.starts_with("packet memory is not in hugepages"));
}

#[test]
fn without_an_iommu_vfio_is_of_no_use() {
    let patient = Patient::new();
    patient.machine.remove(&format!("{NIC}/iommu_group"));
    let finding = patient.only();
    assert_eq!((finding.severity, finding.check), (Severity::Error, "iommu"));
    let fix = finding.fix.expect("a fix");
    assert!(fix.contains("intel_iommu=on") && fix.contains("enable_unsafe_noiommu_mode"), "{fix}");
    patient.machine.file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    assert_eq!(
        patient.told(),
        (Severity::Warning, "iommu", "lan0: 0000:3b:00.0 works without an IOMMU".to_owned())
    );
    patient.machine.link(&format!("{NIC}/driver"), "../../drivers/mlx5_core");
    assert_eq!(patient.findings(), [], "mlx5 needs none");
}

#[test]
fn the_module_is_loaded() {
    let patient = Patient::new();
    patient.machine.remove("sys/bus/pci/drivers/vfio-pci");
    assert_eq!(patient.told(), (Severity::Warning, "vfio", "the kernel has no driver vfio-pci".to_owned()));
    patient.machine.prints("modprobe vfio-pci", "");
    patient.machine.reacts(|machine, what, line| {
        if what == "run" && line == "modprobe vfio-pci" {
            machine.directory("sys/bus/pci/drivers/vfio-pci");
            machine.directory("sys/module/vfio_pci");
        }
    });
    assert_eq!(patient.mended(), "set: module vfio-pci: not loaded -> loaded\n");
}

#[test]
fn a_group_goes_whole_or_not_at_all() {
    let patient = Patient::new();
    patient.machine.directory("sys/kernel/iommu_groups/9/devices/0000:3b:00.1");
    assert_eq!(patient.findings(), [], "nobody has the other");
    patient.machine.link("sys/bus/pci/devices/0000:3b:00.1/driver", "../../drivers/ixgbe");
    let (severity, check, what) = patient.told();
    assert_eq!((severity, check), (Severity::Error, "vfio"));
    assert!(what.starts_with("lan0: its IOMMU group 9 also has 0000:3b:00.1 (ixgbe)"), "{what}");
}

#[test]
fn nics_are_told_of() {
    let patient = Patient::new();
    patient.machine.file(&format!("{NIC}/current_link_width"), "4");
    let what = "lan0: 0000:3b:00.0 has 4 PCIe lanes, and could use 8".to_owned();
    assert_eq!(patient.told(), (Severity::Warning, "nic", what));
    let patient = Patient::new();
    patient.machine.link(&format!("{NIC}/driver"), "../../drivers/mlx5_core");
    patient.machine.directory(&format!("{NIC}/net/ens1"));
    assert_eq!(patient.findings(), [], "ethtool is not there");
    let printed =
        "driver: mlx5_core\nversion: 6.1.0\nfirmware-version: 16.35.2000 (MT_0000000012)\nbus-info: x\n";
    patient.machine.prints("ethtool -i ens1", printed);
    let what =
        "lan0: 0000:3b:00.0 is a 8086:10fb, driver mlx5_core 6.1.0, firmware 16.35.2000 (MT_0000000012)"
            .to_owned();
    assert_eq!(patient.told(), (Severity::Note, "nic", what));
}

#[test]
fn workers_far_from_the_nic_are_told_of() {
    let patient = Patient::new();
    patient.machine.file(&format!("{NIC}/numa_node"), "0");
    patient.machine.file("sys/devices/system/node/node0/cpulist", "0-1");
    let free = "sys/devices/system/node/node0/hugepages/hugepages-2048kB";
    patient.machine.file(&format!("{free}/nr_hugepages"), "1024");
    patient.machine.file(&format!("{free}/free_hugepages"), "1024");
    let finding = patient.only();
    assert_eq!((finding.severity, finding.check), (Severity::Warning, "numa"));
    assert_eq!(finding.what, "lan0: 0000:3b:00.0 is on NUMA node 0, and the workers' cores 2-3 are not");
    assert_eq!(finding.fix.as_deref(), Some("[workers] cores = [1], or some of them"));
    patient.machine.file(&format!("{NIC}/numa_node"), "-1");
    assert_eq!(patient.findings(), [], "a machine that does not tell");
}

#[test]
fn cores_that_others_run_on_are_told_of() {
    let patient = Patient::new();
    patient.machine.file(&format!("{CPU}/isolated"), "3\n");
    let finding = patient.only();
    assert_eq!((finding.severity, finding.check), (Severity::Warning, "isolation"));
    assert_eq!(finding.what, "the scheduler puts other tasks on the workers' cores 2");
    assert!(finding.fix.expect("a fix").contains("isolcpus=managed_irq,domain,2-3"));
    patient.machine.file("sys/fs/cgroup/cpuset.cpus.isolated", "2\n");
    assert_eq!(patient.findings(), []);

    patient.machine.file(&format!("{CPU}/nohz_full"), "(null)\n");
    patient.machine.file("proc/cmdline", "quiet\n");
    let what = "the timer ticks, and RCU's callbacks run, on the workers' cores 2-3".to_owned();
    assert_eq!(patient.told(), (Severity::Note, "nohz", what));
    patient.machine.file("proc/cmdline", "rcu_nocbs=0-7\n");
    assert_eq!(patient.told().2, "the timer ticks on the workers' cores 2-3");
}

#[test]
fn the_clock_of_workers_stays_high() {
    let patient = Patient::of_vdevs();
    for core in [2, 3] {
        patient.machine.file(&format!("{CPU}/cpu{core}/cpufreq/scaling_governor"), "powersave\n");
    }
    let finding = patient.only();
    assert_eq!((finding.severity, finding.check), (Severity::Warning, "governor"));
    assert_eq!(finding.what, "the frequency governor of the workers' cores 2-3 is powersave");
    assert_eq!(finding.fix.as_deref(), Some("cpupower -c 2-3 frequency-set -g performance"));
    let told = "set: governor of core 2: powersave -> performance\nset: governor of core 3: powersave -> performance\n";
    assert_eq!(patient.mended(), told);
    patient.machine.file(&format!("{CPU}/cpu2/cpufreq/scaling_governor"), "powersave\n");
    patient.machine.file(&format!("{CPU}/cpu2/cpufreq/scaling_available_governors"), "powersave\n");
    assert_eq!(patient.findings(), [], "there is no other");
}

#[test]
fn deep_sleep_is_told_of_where_workers_sleep() {
    let mut patient = Patient::new();
    patient.machine.file(&format!("{CPU}/cpu3/cpuidle/state1/latency"), "170");
    let what = "the workers' cores 3 may sleep as deep as C1E, from which they wake in 170 us".to_owned();
    assert_eq!(patient.told(), (Severity::Note, "cstates", what));
    patient.config.workers.idle_sleep = std::time::Duration::ZERO;
    assert_eq!(patient.findings(), []);
    patient.config.workers.idle_sleep = std::time::Duration::from_millis(2);
    patient.machine.file(&format!("{CPU}/cpu3/cpuidle/state1/disable"), "1");
    assert_eq!(patient.findings(), []);
}

#[test]
fn conntrack_must_have_room() {
    let patient = Patient::of_vdevs();
    patient.machine.file(&format!("{CONNTRACK}_count"), "209714\n");
    assert_eq!(patient.findings(), [], "just below four fifths");
    patient.machine.file(&format!("{CONNTRACK}_count"), "209716\n");
    let what = "the kernel tracks 209716 connections, of 262144 at most".to_owned();
    assert_eq!(patient.told(), (Severity::Warning, "conntrack", what));
    assert_eq!(patient.mended(), "set: net.netfilter.nf_conntrack_max: 262144 -> 524288\n");
    patient.machine.file(&format!("{CONNTRACK}_buckets"), "65536\n");
    let what = "conntrack's table has 65536 buckets for 524288 connections".to_owned();
    assert_eq!(patient.told(), (Severity::Warning, "conntrack", what));
    assert_eq!(patient.mended(), "set: net.netfilter.nf_conntrack_buckets: 65536 -> 262144\n");
}

#[test]
fn events_that_are_off_while_a_gateway_runs_are_turned_on() {
    let mut patient = Patient::of_vdevs();
    patient.machine.file(&format!("{CONNTRACK}_events"), "0\n");
    let note = patient.only();
    assert_eq!((note.severity, note.fixable), (Severity::Note, false), "the gateway does it when it starts");
    patient.running = Some(Running::default());
    patient.machine.file("proc/self/status", "CapEff:\t0000000000000000\nPPid:\t0\n");
    assert_eq!(patient.told().0, Severity::Warning);
    assert_eq!(patient.mended(), "set: net.netfilter.nf_conntrack_events: 0 -> 1\n");
}

#[test]
fn what_can_t_be_mended_is_left_with_the_reason() {
    let mut patient = Patient::of_vdevs();
    patient.running = Some(Running::default());
    patient.machine.file(&format!("{CONNTRACK}_events"), "0\n");
    patient.machine.file("proc/sys/net/ipv4/ip_forward", "0\n");
    patient.machine.refuses(&format!("{CONNTRACK}_events"));
    let host = patient.machine.host();
    let mut found = patient.findings();
    let fixes = mend::mend(&host, &found, false);
    let json = serde_json::to_value(&fixes).expect("JSON");
    let fix = json.get(0).expect("a fix");
    for (key, value) in [
        ("check", "conntrack"),
        ("setting", "net.netfilter.nf_conntrack_events"),
        ("before", "0"),
        ("after", "0"),
    ] {
        assert_eq!(fix.get(key).and_then(serde_json::Value::as_str), Some(value), "{fix}");
    }
    assert_eq!(fix.get("done").and_then(serde_json::Value::as_bool), Some(false));
    mend::explain(&mut found, &fixes);
    let left = |check: &str| {
        let finding = found.iter().find(|finding| finding.check == check).expect("found");
        finding.left.clone().expect("a reason")
    };
    assert!(left("conntrack").contains("permission denied; run as root"), "{}", left("conntrack"));
    assert_eq!(left("forwarding"), "it decides what the kernel lets through: that is policy, and yours");
    assert_eq!(host.read("proc/sys/net/ipv4/ip_forward").as_deref(), Some("0"), "told, not changed");
}

#[test]
fn a_value_that_the_kernel_cuts_is_no_success() {
    let patient = Patient::new();
    patient.machine.remove("sys/devices/system/node/node0");
    patient.machine.file("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0");
    patient.machine.reacts(|machine, path, _| {
        if path == "proc/sys/vm/nr_hugepages" {
            machine.file(path, "1030\n");
        }
    });
    let fixes = mend::mend(&patient.machine.host(), &patient.findings(), false);
    let mut out = Vec::new();
    mend::write(&mut out, &fixes, false).expect("memory");
    let text = String::from_utf8(out).expect("text");
    assert!(
        text.starts_with("failed: vm.nr_hugepages: 1024 -> 1030; the kernel made it less than "),
        "{text}"
    );
}

#[test]
fn small_buffers_matter_in_a_user_namespace() {
    let mut patient = Patient::of_vdevs();
    patient.machine.file("proc/self/uid_map", "0 1000 1\n");
    let (severity, check, what) = patient.told();
    assert_eq!((severity, check), (Severity::Note, "buffers"));
    assert!(what.contains("212992 bytes"), "{what}");
    patient.running = Some(Running { hugepages: false, overruns: 3 });
    let (severity, _, what) = patient.told();
    assert!(severity == Severity::Warning && what.ends_with("events were lost 3 times"), "{what}");
    patient.machine.file("proc/sys/net/core/rmem_max", "67108864\n");
    assert_eq!(patient.findings(), []);
}

#[test]
fn strict_reverse_path_filtering_matters_with_several_uplinks() {
    let mut patient = Patient::of_vdevs();
    let cores = Machine { cores: vec![0, 2, 3], netns: std::path::PathBuf::new() };
    for (name, value) in [("all", "0\n"), ("wan0", "1\n"), ("wan1", "2\n"), ("lan0", "1\n")] {
        patient.machine.file(&format!("proc/sys/net/ipv4/conf/{name}/rp_filter"), value);
    }
    assert_eq!(patient.findings(), [], "one port");
    let ports = ["wan0=net_null0", "wan1=net_null1", "lan0=net_null2"];
    patient.config = Config::from_ports(&ports, &cores).expect("valid");
    let what = "rp_filter is strict on wan0, lan0".to_owned();
    assert_eq!(patient.told(), (Severity::Note, "rp_filter", what));
    patient.machine.file("proc/sys/net/ipv4/conf/all/rp_filter", "2\n");
    assert_eq!(patient.findings(), [], "the larger number is the looser");
}

#[test]
fn ipv6_on_a_twin_wants_forwarding() {
    let patient = Patient::of_vdevs();
    patient.machine.file("proc/sys/net/ipv6/conf/all/forwarding", "0\n");
    patient.machine.file("proc/net/if_inet6", "fe800000000000000000000000000001 07 40 20 80     wan0\n");
    assert_eq!(patient.findings(), [], "a link-local address");
    patient.machine.file("proc/net/if_inet6", "20010db8000000000000000000000001 03 40 00 80     eth0\n");
    assert_eq!(patient.findings(), [], "no twin's");
    patient.machine.file("proc/net/if_inet6", "20010db8000000000000000000000001 07 40 00 80     wan0\n");
    let what = "net.ipv6.conf.all.forwarding is 0, and wan0 has an IPv6 address".to_owned();
    assert_eq!(patient.told(), (Severity::Warning, "forwarding", what));
}

#[test]
fn vhost_net_must_be_there_where_it_is_asked_for() {
    let mut patient = Patient::of_vdevs();
    patient.machine.remove("dev/vhost-net");
    let finding = patient.only();
    assert_eq!((finding.severity, finding.check, finding.fixable), (Severity::Note, "vhost", false));
    patient.config.ports.iter_mut().for_each(|port| port.twin_io = TwinIo::Tap);
    assert_eq!(patient.findings(), []);
    patient.config.ports.iter_mut().for_each(|port| port.twin_io = TwinIo::VhostNet);
    let what = "there is no /dev/vhost-net, and twin_io of wan0 is \"vhost-net\"".to_owned();
    assert_eq!(patient.told(), (Severity::Error, "vhost", what));
    patient.machine.prints("modprobe vhost_net", "");
    patient.machine.reacts(|machine, what, line| {
        if what == "run" && line == "modprobe vhost_net" {
            machine.file("dev/vhost-net", "");
            machine.directory("sys/module/vhost_net");
        }
    });
    assert_eq!(patient.mended(), "set: module vhost_net: not loaded -> loaded\n");
}

#[test]
fn without_a_configuration_what_every_gateway_needs_is_looked_at() {
    let mut patient = Patient::new();
    patient.config.ports.clear();
    patient.machine.remove("dev/vhost-net");
    assert_eq!(patient.findings(), []);
    patient.machine.remove("dev/net/tun");
    assert_eq!(patient.told().1, "tun");
    assert!(no_configuration("/etc/x").what.contains("there is no /etc/x"));
}

#[test]
fn lists_are_read_and_written_as_the_kernel_does() {
    assert_eq!(list(&[1, 2, 3, 6, 8, 9]), "1-3,6,8-9");
    assert_eq!(list(&[]), "");
    assert_eq!(numbers("1-3,6\n"), [1, 2, 3, 6]);
    assert_eq!(numbers("managed_irq,domain,2-3"), [2, 3]);
    assert!(numbers("").is_empty() && numbers("(null)").is_empty());
}
