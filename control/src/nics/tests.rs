use super::*;
use crate::config::{Bind, Config};
use crate::host::testing::Machine;

const ETH0: &str = "0000:3b:00.0";
const ETH1: &str = "0000:3b:00.1";

/// Two NICs with ixgbe, in IOMMU groups 10 and 11; eth0 has the default route. The kernel binds as it is told.
fn machine() -> Machine {
    let machine = Machine::new();
    for (number, address) in [ETH0, ETH1].iter().enumerate() {
        nic(&machine, address, &format!("eth{number}"), "ixgbe", &format!("1{number}"));
    }
    machine.directory("sys/bus/pci/drivers/vfio-pci");
    for driver in ["ixgbe", "vfio-pci"] {
        for file in ["bind", "unbind"] {
            machine.file(&format!("sys/bus/pci/drivers/{driver}/{file}"), "");
        }
    }
    machine.file("sys/bus/pci/drivers_probe", "");
    machine.file("proc/self/status", "PPid:\t7\n");
    machine.file("proc/7/status", "PPid:\t0\n");
    machine.prints(
        "ip -j -4 route show table all",
        r#"[{"dst":"default","gateway":"192.0.2.254","dev":"eth0"}]"#,
    );
    machine.prints("ip -j address show", "[]");
    machine.reacts(kernel);
    machine
}

fn nic(machine: &Machine, address: &str, interface: &str, driver: &str, group: &str) {
    let device = format!("sys/bus/pci/devices/{address}");
    machine.file(&format!("{device}/class"), "0x020000\n");
    machine.file(&format!("{device}/vendor"), "0x8086\n");
    machine.file(&format!("{device}/device"), "0x10fb\n");
    machine.file(&format!("{device}/numa_node"), "-1\n");
    machine.file(&format!("{device}/driver_override"), "(null)\n");
    machine.link(&format!("{device}/driver"), &format!("../../drivers/{driver}"));
    machine.link(&format!("{device}/iommu_group"), &format!("../../../kernel/iommu_groups/{group}"));
    machine.directory(&format!("{device}/net/{interface}"));
    machine.directory(&format!("sys/class/net/{interface}"));
    machine
        .link(&format!("sys/class/net/{interface}/device"), &format!("../../../bus/pci/devices/{address}"));
}

/// drivers/base/bus.c, as far as it matters here.
fn kernel(machine: &Machine, path: &str, text: &str) {
    let device = format!("sys/bus/pci/devices/{text}");
    let overridden = machine.host().read(&format!("{device}/driver_override")).unwrap_or_default();
    let driver = match (path.rsplit('/').next(), overridden.as_str()) {
        (Some("unbind"), _) => return machine.remove(&format!("{device}/driver")),
        (Some("bind"), _) => path.rsplit('/').nth(1).unwrap_or_default().to_owned(),
        (Some("drivers_probe"), "" | "(null)") => "ixgbe".to_owned(),
        (Some("drivers_probe"), driver) => driver.to_owned(),
        _ => return,
    };
    if driver == "broken" {
        return;
    }
    machine.link(&format!("{device}/driver"), &format!("../../drivers/{driver}"));
}

fn take(machine: &Machine, text: &str, wish: &Wish<'_>) -> Result<Bound, BindError> {
    let host = machine.host();
    bind(&host, Nic::named(&host, text)?, wish, &Situation::read(&host))
}

fn refused(machine: &Machine, text: &str, wish: &Wish<'_>) -> String {
    let error = take(machine, text, wish).expect_err("refused").to_string();
    assert!(machine.writes.borrow().is_empty(), "nothing is written: {:?}", machine.writes.borrow());
    error
}

fn driver(machine: &Machine, address: &str) -> Option<String> {
    machine.host().link(&format!("sys/bus/pci/devices/{address}/driver"))
}

#[test]
fn a_nic_is_taken_and_given_back() {
    let machine = machine();
    let bound = take(&machine, "eth1", &Wish::default()).expect("bound");
    assert_eq!(bound.to_string(), "0000:3b:00.1 (eth1): ixgbe -> vfio-pci");
    let device = "sys/bus/pci/devices/0000:3b:00.1";
    assert_eq!(
        *machine.writes.borrow(),
        [
            (format!("{device}/driver_override"), "vfio-pci".to_owned()),
            ("sys/bus/pci/drivers/ixgbe/unbind".to_owned(), ETH1.to_owned()),
            ("sys/bus/pci/drivers_probe".to_owned(), ETH1.to_owned()),
        ]
    );
    assert_eq!(driver(&machine, ETH1).as_deref(), Some("vfio-pci"));
    machine.writes.borrow_mut().clear();

    let again = take(&machine, ETH1, &Wish::default()).expect("bound");
    assert!(!again.changed() && machine.writes.borrow().is_empty(), "{again}");

    let host = machine.host();
    let nic = Nic::named(&host, ETH1).expect("a NIC");
    assert_eq!(nic.former.as_deref(), Some("ixgbe"));
    let back = give_back(&host, nic, None).expect("given back");
    assert_eq!(back.to_string(), "0000:3b:00.1 (eth1): vfio-pci -> ixgbe; its interface is eth1");
    assert_eq!(
        *machine.writes.borrow(),
        [
            (format!("{device}/driver_override"), "\n".to_owned()),
            ("sys/bus/pci/drivers/vfio-pci/unbind".to_owned(), ETH1.to_owned()),
            ("sys/bus/pci/drivers/ixgbe/bind".to_owned(), ETH1.to_owned()),
        ]
    );
    let nic = Nic::named(&host, ETH1).expect("a NIC");
    assert_eq!((nic.driver.as_deref(), nic.former), (Some("ixgbe"), None));
}

#[test]
fn without_a_memory_the_bus_finds_the_driver() {
    let machine = machine();
    nic(&machine, ETH1, "eth1", "vfio-pci", "11");
    machine.file("sys/bus/pci/devices/0000:3b:00.1/driver_override", "vfio-pci\n");
    let host = machine.host();
    let back = give_back(&host, Nic::named(&host, ETH1).expect("a NIC"), None).expect("given back");
    assert_eq!(back.after.as_deref(), Some("ixgbe"));
    assert!(machine.writes.borrow().contains(&("sys/bus/pci/drivers_probe".to_owned(), ETH1.to_owned())));
}

#[test]
fn the_nic_of_the_default_route_stays_unless_its_interface_is_named() {
    let machine = machine();
    let text = refused(&machine, ETH0, &Wish::default());
    assert!(text.contains("eth0 carries the default route") && text.ends_with("--lose eth0"), "{text}");
    refused(&machine, ETH0, &Wish { force: true, ..Wish::default() });
    refused(&machine, ETH0, &Wish { lose: &["eth1".to_owned()], ..Wish::default() });
    let wish = Wish { lose: &["eth0".to_owned()], ..Wish::default() };
    assert_eq!(take(&machine, "eth0", &wish).expect("bound").after.as_deref(), Some("vfio-pci"));
}

#[test]
fn so_do_those_below_bonds_bridges_vlans_and_pppoe() {
    let below = |route: &str, links: &[&str]| {
        let machine = machine();
        machine.prints("ip -j -4 route show table all", &format!(r#"[{{"dst":"default","dev":"{route}"}}]"#));
        links.iter().for_each(|link| machine.directory(&format!("sys/class/net/{link}")));
        machine.file("proc/net/pppoe", "Id       Address              Device\n1 00:01 eth1\n");
        assert!(take(&machine, ETH0, &Wish::default()).is_ok(), "eth0 carries nothing");
        machine.writes.borrow_mut().clear();
        refused(&machine, ETH1, &Wish::default())
    };
    let text = below("br0", &["br0/lower_bond0.10", "bond0.10/lower_bond0", "bond0/lower_eth1"]);
    assert!(text.contains("eth1 carries the default route (below bond0)"), "{text}");
    let text = below("ppp0", &["ppp0"]);
    assert!(text.contains("(below ppp0)"), "{text}");
}

#[test]
fn every_default_route_counts() {
    let machine = machine();
    machine.file("proc/net/if_inet6", "");
    machine.prints("ip -j -4 route show table all", "");
    machine.prints("ip -j -6 route show table all", r#"[{"dst":"default","table":"5","dev":"eth1"}]"#);
    assert!(refused(&machine, ETH1, &Wish::default()).contains("the default route"));
    let hops = r#"[{"dst":"default","nexthops":[{"dev":"eth0"},{"dev":"eth1"}]}]"#;
    machine.prints("ip -j -4 route show table all", hops);
    machine.prints("ip -j -6 route show table all", "[]");
    assert!(refused(&machine, ETH1, &Wish::default()).contains("the default route"));
    machine.prints("ip -j -4 route show table all", r#"[{"dst":"10.0.0.0/8","dev":"eth1"}]"#);
    assert!(take(&machine, ETH1, &Wish::default()).is_ok());
}

#[test]
fn the_nic_of_an_ssh_session_stays() {
    let machine = machine();
    let link = r#"[{"ifname":"eth1","addr_info":[{"local":"198.51.100.2","prefixlen":24,"scope":"link"}]}]"#;
    machine.prints("ip -j address show", link);
    machine.prints("ip -j route get 198.51.100.9", r#"[{"dst":"198.51.100.9","dev":"eth1"}]"#);
    assert!(take(&machine, ETH1, &Wish::default()).is_ok(), "no session");
    let machine = self::machine();
    machine.prints("ip -j address show", link);
    machine.prints("ip -j route get 198.51.100.9", r#"[{"dst":"198.51.100.9","dev":"eth1"}]"#);
    // sudo has taken it out of this process's environment.
    machine.file("proc/self/environ", "TERM=xterm\0");
    machine.file("proc/7/environ", "A=b\0SSH_CONNECTION=198.51.100.9 4711 198.51.100.2 22\0");
    let text = refused(&machine, ETH1, &Wish { force: true, ..Wish::default() });
    assert!(text.contains("the SSH session from 198.51.100.9"), "{text}");
}

#[test]
fn what_can_t_be_told_is_refused() {
    let machine = machine();
    machine.prints("ip -j -4 route show table all", "nonsense");
    let text = refused(&machine, ETH1, &Wish { force: true, ..Wish::default() });
    assert!(text.contains("could not be told (ip -j -4 route"), "{text}");
    assert!(take(&machine, ETH1, &Wish { lose: &[ETH1.to_owned()], ..Wish::default() }).is_ok());
    let machine = self::machine();
    machine.prints("ip -j -4 route show table all", r#"[{"dst":"default","dev":"eth7"}]"#);
    assert!(refused(&machine, ETH1, &Wish::default()).contains("another network namespace"));
}

#[test]
fn a_nic_in_use_takes_force() {
    let machine = machine();
    let address = r#"[{"ifname":"eth1","addr_info":[{"local":"10.0.0.1","prefixlen":8,"scope":"global"}]}]"#;
    machine.prints("ip -j address show", address);
    let text = refused(&machine, ETH1, &Wish::default());
    assert!(text.contains("eth1 has the address 10.0.0.1/8") && text.contains("--force"), "{text}");
    machine.prints("ip -j address show", "[]");
    machine.link("sys/class/net/eth1/master", "../bond0");
    assert!(refused(&machine, ETH1, &Wish::default()).contains("eth1 is part of bond0"));
    machine.remove("sys/class/net/eth1/master");
    machine.directory("sys/class/net/eth1/upper_eth1.10");
    assert!(refused(&machine, ETH1, &Wish::default()).contains("eth1.10 stands on eth1"));
    machine.remove("sys/class/net/eth1/upper_eth1.10");
    machine.file("sys/bus/pci/devices/0000:3b:00.1/sriov_numvfs", "4\n");
    assert!(refused(&machine, ETH1, &Wish::default()).contains("4 virtual functions"));
    assert!(take(&machine, ETH1, &Wish { force: true, ..Wish::default() }).is_ok());
}

#[test]
fn an_interface_elsewhere_takes_force() {
    let machine = machine();
    machine.remove("sys/bus/pci/devices/0000:3b:00.1/net/eth1");
    assert!(refused(&machine, ETH1, &Wish::default()).contains("not in this network namespace"));
    assert!(take(&machine, ETH1, &Wish { force: true, ..Wish::default() }).is_ok());
}

#[test]
fn drivers_that_share_stay() {
    let machine = machine();
    nic(&machine, ETH1, "eth1", "mlx5_core", "11");
    let bound = take(&machine, ETH1, &Wish::default()).expect("as it is");
    assert!(!bound.changed() && bound.to_string().contains("shares the NIC with DPDK"), "{bound}");
    let host = machine.host();
    assert!(!give_back(&host, Nic::named(&host, ETH1).expect("a NIC"), None).expect("as it is").changed());
    assert!(machine.writes.borrow().is_empty());
}

#[test]
fn without_an_iommu_vfio_takes_nothing() {
    let machine = machine();
    machine.remove("sys/bus/pci/devices/0000:3b:00.1/iommu_group");
    assert!(refused(&machine, ETH1, &Wish::default()).contains("has no IOMMU"));
    machine.file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    assert!(take(&machine, ETH1, &Wish::default()).is_ok());
}

#[test]
fn a_driver_that_is_not_loaded_is() {
    let machine = machine();
    machine.remove("sys/bus/pci/drivers/vfio-pci");
    assert!(refused(&machine, ETH1, &Wish::default()).contains("modprobe vfio-pci: not here"));
    machine.prints("modprobe vfio-pci", "");
    assert!(refused(&machine, ETH1, &Wish::default()).contains("no driver vfio-pci"), "modprobe did nothing");
    machine.reacts(|machine, what, text| {
        if what == "run" && text == "modprobe vfio-pci" {
            machine.file("sys/bus/pci/drivers/vfio-pci/unbind", "");
        }
        kernel(machine, what, text);
    });
    assert!(take(&machine, ETH1, &Wish::default()).is_ok());
}

#[test]
fn a_driver_that_does_not_take_it_leaves_the_nic_to_the_kernel() {
    let machine = machine();
    machine.directory("sys/bus/pci/drivers/broken");
    let error = take(&machine, ETH1, &Wish { driver: "broken", ..Wish::default() }).expect_err("not taken");
    assert!(error.to_string().contains("broken did not take it, and it is bound to ixgbe now"), "{error}");
    assert_eq!(driver(&machine, ETH1).as_deref(), Some("ixgbe"));
}

#[test]
fn a_write_that_fails_says_where() {
    let machine = machine();
    machine.refuses("sys/bus/pci/devices/0000:3b:00.1/driver_override");
    let text = refused(&machine, ETH1, &Wish::default());
    assert!(
        text.contains("/sys/bus/pci/devices/0000:3b:00.1/driver_override: permission denied; run as root"),
        "{text}"
    );
}

#[test]
fn one_that_is_open_is_not_given_back() {
    let machine = machine();
    nic(&machine, ETH1, "eth1", "vfio-pci", "11");
    machine.link("proc/4711/fd/9", "/dev/vfio/11");
    machine.file("proc/4711/comm", "flyover\n");
    let host = machine.host();
    let error =
        give_back(&host, Nic::named(&host, ETH1).expect("a NIC"), None).expect_err("open").to_string();
    assert!(error.contains("in use by flyover (4711)") && machine.writes.borrow().is_empty(), "{error}");
}

#[test]
fn companions_in_the_group_are_told() {
    let machine = machine();
    for address in [ETH0, ETH1] {
        machine.directory(&format!("sys/kernel/iommu_groups/11/devices/{address}"));
    }
    let bound = take(&machine, ETH1, &Wish::default()).expect("bound");
    assert!(bound.to_string().contains("IOMMU group 11 also has 0000:3b:00.0 (ixgbe)"), "{bound}");
}

#[test]
fn nics_are_found_by_address_and_by_interface() {
    let machine = machine();
    // A virtio NIC: the interface is the virtio device's.
    let device = "sys/devices/pci0000:00/0000:00:03.0";
    machine.directory(&format!("{device}/virtio2/net/eth9"));
    machine.link("sys/bus/pci/devices/0000:00:03.0", "../../../devices/pci0000:00/0000:00:03.0");
    for (file, text) in [("class", "0x020000"), ("vendor", "0x1af4"), ("device", "0x1041")] {
        machine.file(&format!("{device}/{file}"), text);
    }
    machine.link("sys/class/net/eth9/device", "../../../devices/pci0000:00/0000:00:03.0/virtio2");
    machine.file("sys/bus/pci/devices/0000:00:1f.0/class", "0x060100\n");
    machine.directory("sys/class/net/wan0");
    machine.directory("proc/self/fd");
    let host = machine.host();
    let found = Nic::named(&host, "eth9").expect("a NIC");
    assert_eq!((found.to_string().as_str(), found.id.as_str()), ("0000:00:03.0 (eth9)", "1af4:1041"));
    assert_eq!(Nic::named(&host, "3b:00.1").expect("a NIC").interfaces, ["eth1"]);
    let all: Vec<String> = Nic::all(&host).iter().map(|nic| nic.address.to_string()).collect();
    assert_eq!(all, ["0000:00:03.0", ETH0, ETH1]);
    let fault = |text| Nic::named(&host, text).expect_err("none").to_string();
    assert!(fault("eth8").starts_with("eth8: neither a PCI address"), "{}", fault("eth8"));
    assert!(fault("../../x").starts_with("../../x: neither"));
    assert!(fault("wan0").contains("no NIC on the PCI bus"));
    assert!(fault("0000:3b:00.2").starts_with("there is no PCI device 0000:3b:00.2"));
    assert!(fault("0000:00:1f.0").contains("no network device"));
}

/// Both NICs as ports, with what `bind` says.
fn kept(bind: Bind) -> Kept {
    let machine = crate::config::Machine { cores: vec![0], netns: std::path::PathBuf::new() };
    let ports = ["wan0=net_null0", "lan0=0000:3b:00.1"];
    let mut config = Config::from_ports(&ports, &machine).expect("valid");
    config.ports.iter_mut().for_each(|port| port.bind = bind);
    Kept::of(&config)
}

#[test]
fn ports_are_taken_and_given_back_as_they_say() {
    let has = |machine: &Machine| driver(machine, ETH1).unwrap_or_default();
    let machine = machine();
    let host = machine.host();
    assert!(kept(Bind::Manual).take(&host).expect("nothing").is_empty());
    assert!(kept(Bind::Manual).give_back(&host, true).is_empty());
    assert!(machine.writes.borrow().is_empty() && machine.ran.borrow().is_empty());

    let auto = kept(Bind::Auto);
    assert_eq!(auto.take(&host).expect("taken").len(), 1);
    assert!(auto.give_back(&host, false).is_empty(), "a restart finds it");
    assert_eq!(has(&machine), "vfio-pci");
    assert!(auto.take(&host).expect("taken").is_empty(), "already");
    let back = auto.give_back(&host, true);
    assert!(matches!(back.as_slice(), [Ok(bound)] if bound.after.as_deref() == Some("ixgbe")), "{back:?}");
    assert_eq!(has(&machine), "ixgbe");
    assert!(auto.give_back(&host, true).is_empty(), "once");

    let while_running = kept(Bind::WhileRunning);
    while_running.take(&host).expect("taken");
    assert_eq!(while_running.give_back(&host, false).len(), 1);
    assert_eq!(has(&machine), "ixgbe");

    machine.prints("ip -j -4 route show table all", r#"[{"dst":"default","dev":"eth1"}]"#);
    assert!(matches!(auto.take(&host), Err(BindError::Management { .. })), "nor by itself");
}
