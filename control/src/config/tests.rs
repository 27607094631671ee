use super::*;
use proptest::prelude::*;

/// Two cores, and one named namespace, `uplink`.
fn machine() -> (tempfile::TempDir, Machine) {
    let directory = tempfile::tempdir().expect("temporary directory");
    std::fs::write(directory.path().join("uplink"), "").expect("namespace");
    let machine = Machine { cores: vec![0, 1], netns: directory.path().to_owned() };
    (directory, machine)
}

pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
    let (_directory, machine) = machine();
    Config::parse(Path::new("gw.toml"), text, &machine)
}

/// The message that a text ends in.
fn fault(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

/// The message of a text below one good port: its first line is line 4.
pub(super) fn fault_below_port(text: &str) -> String {
    fault(&format!("[[port]]\nname = \"wan0\"\ndevice = \"net_tap0,iface=up0\"\n{text}"))
}

#[test]
fn the_contract_file_means_what_it_says() {
    let config = parse(
        r#"
[[port]]
name = "wan0"
device = "net_tap0,iface=uplink"
netns = "uplink"
[[port]]
name = "lan0"
device = "0000:3b:00.0"
queues = 2
descriptors = 1024
mtu = 1500
twin_io = "vhost-net"
bind = "while-running"
[workers]
cores = [1]
idle_sleep = "0"
[flows]
capacity = 1048576
revalidate_within = "5s"
reprove_every = "30s"
[policy]
accelerate = "marked"
accept_loss = ["limit", "quota"]
mark = "0x10000/0x10000"
[hardware]
offload = "model"
hot = 50
mark = "0x20000/0x20000"
oversize = 4
[hardware.model]
tier = "assist"
groups = false
hairpin = true
lengths = false
capacity = 16
queues = false
[api]
socket = "/run/flyover.sock"
[metrics]
listen = "127.0.0.1:9477"
[ipfix]
collectors = ["192.0.2.50:4739", "192.0.2.51:2055"]
source = "192.0.2.1"
active_timeout = "30s"
template_interval = "10m"
observation_domain = 7
message_size = 512
nat_events = true
"#,
    )
    .expect("valid");
    let [wan, lan] = config.ports.as_slice() else { panic!("two ports") };
    assert_eq!((wan.name.as_str(), wan.netns.as_deref()), ("wan0", Some("uplink")));
    assert_eq!(wan.device.to_string(), "net_tap0,iface=uplink");
    assert_eq!((wan.twin_io, lan.twin_io), (TwinIo::Auto, TwinIo::VhostNet));
    assert_eq!((wan.bind, lan.bind), (Bind::Manual, Bind::WhileRunning));
    assert_eq!((lan.queues, lan.descriptors, lan.mtu), (Some(2), Some(1024), Some(1500)));
    assert_eq!(
        (config.workers.cores.as_slice(), config.workers.idle_sleep),
        ([1].as_slice(), Duration::ZERO)
    );
    assert_eq!(config.policy.accelerate, Accelerate::Marked);
    assert_eq!(config.policy.accept_loss, [Construct::Limit, Construct::Quota]);
    let model = ModelConfig {
        tier: Tier::Assist,
        capacity: 16,
        queues: false,
        groups: false,
        hairpin: true,
        lengths: false,
    };
    let mark = Some(Mark { value: 0x20000, mask: 0x20000 });
    assert_eq!(
        config.hardware,
        HardwareConfig { offload: Offload::Model, hot: 50, mark, oversize: Some(4), model }
    );
    assert_eq!(config.metrics.listen, "127.0.0.1:9477".parse().ok());
    assert!(config.notices.is_empty(), "{:?}", config.notices);
    let address = |text: &str| text.parse().expect("an address");
    let ipfix = IpfixConfig {
        collectors: vec![address("192.0.2.50:4739"), address("192.0.2.51:2055")],
        source: "192.0.2.1".parse().ok(),
        active_timeout: Duration::from_secs(30),
        template_interval: Duration::from_secs(600),
        observation_domain: 7,
        message_size: 512,
        nat_events: true,
    };
    assert_eq!(config.ipfix, Some(ipfix));
}

#[test]
fn what_is_left_out_has_the_contracts_defaults() {
    let config = parse("[[port]]\nname = \"a\"\ndevice = \"net_null0\"").expect("valid");
    let options = Config::from_ports(&["a=net_null0"], &machine().1).expect("valid");
    assert_eq!(config, options, "a file and options mean the same");
    assert_eq!(config.workers, WorkersConfig { cores: vec![1], idle_sleep: Duration::from_millis(2) });
    assert_eq!(
        config.flows,
        FlowsConfig {
            capacity: 1_048_576,
            revalidate_within: Duration::from_secs(5),
            reprove_every: Duration::from_secs(30),
        }
    );
    let mark = Mark { value: 0x10000, mask: 0x10000 };
    assert_eq!(config.policy, PolicyConfig { accelerate: Accelerate::Auto, accept_loss: vec![], mark });
    let model = ModelConfig {
        tier: Tier::Full,
        capacity: 1 << 20,
        queues: true,
        groups: true,
        hairpin: false,
        lengths: true,
    };
    assert_eq!(
        config.hardware,
        HardwareConfig { offload: Offload::Auto, hot: 1000, mark: None, oversize: None, model }
    );
    assert_eq!((config.metrics.listen, config.ipfix), (None, None));
    assert_eq!(config.api.socket, Path::new("/run/flyover.sock"));
    assert!(config.notices.is_empty());
}

#[test]
fn port_options_split_at_the_first_equals_sign() {
    let (_directory, machine) = machine();
    let config = Config::from_ports(&["wan0=net_tap0,iface=up0,mac=fixed", "lan0=3b:00.1"], &machine);
    let devices: Vec<String> =
        config.expect("valid").ports.iter().map(|port| format!("{} {}", port.name, port.device)).collect();
    assert_eq!(devices, ["wan0 net_tap0,iface=up0,mac=fixed", "lan0 0000:3b:00.1"]);
    let fault = |options: &[&str]| Config::from_ports(options, &machine).expect_err("invalid").to_string();
    assert_eq!(
        fault(&["wan0"]),
        "--port wan0: write NAME=DEVICE, as in --port wan0=0000:3b:00.0 or --port wan0=net_tap0,iface=uplink"
    );
    assert_eq!(
        fault(&["a=net_null0", "b=net_null0"]),
        "--port b=net_null0: device = \"net_null0\": the port of --port a=net_null0 has it already; \
         a device can be one port only"
    );
    assert!(fault(&[]).contains("no port"), "{}", fault(&[]));
    assert!(fault(&["=net_null0"]).contains("an interface needs a name"));
}

#[test]
fn keys_that_do_not_exist_are_named_with_the_likely_one() {
    assert_eq!(
        fault_below_port("mtuu = 1500"),
        "gw.toml:4:1: unknown key `mtuu` in [[port]] (did you mean `mtu`?); \
         the keys here are name, device, netns, queues, descriptors, mtu, twin_io, bind"
    );
    assert_eq!(
        fault_below_port("[flows]\n  capcity = 1"),
        "gw.toml:5:3: unknown key `capcity` in [flows] (did you mean `capacity`?); \
         the keys here are capacity, revalidate_within, reprove_every"
    );
    assert_eq!(
        fault_below_port("[florw]\nx = 1"),
        "gw.toml:4:2: unknown key `florw` (did you mean `flows`?); \
         the keys here are port, workers, flows, policy, hardware, api, metrics, ipfix, log"
    );
    assert_eq!(
        fault_below_port("[zzz]"),
        "gw.toml:4:2: unknown key `zzz`; the keys here are port, workers, flows, policy, hardware, api, metrics, ipfix, log"
    );
}

#[test]
fn wrong_types_say_what_is_needed() {
    assert_eq!(
        fault_below_port("queues = \"two\""),
        "gw.toml:4:10: queues: string \"two\", but a whole number is needed"
    );
    assert_eq!(
        fault_below_port("[workers]\ncores = 1"),
        "gw.toml:5:9: cores: integer `1`, but a list in [ ] is needed"
    );
    assert_eq!(
        fault_below_port("[workers]\nidle_sleep = 1"),
        "gw.toml:5:14: idle_sleep: integer `1`, but a string in quotes is needed"
    );
    assert_eq!(fault("port = 3"), "gw.toml:1:8: port: integer `3`, but a list in [ ] is needed");
    assert_eq!(
        fault_below_port("[flows]\ncapacity = 1.5"),
        "gw.toml:5:12: capacity: floating point `1.5`, but a whole number is needed"
    );
}

#[test]
fn missing_keys_and_ports_say_what_to_write() {
    assert_eq!(
        fault("# nothing\n[[port]]\nname = \"a\""),
        "gw.toml:2:1: `device` is missing in [[port]]: \
         add device = \"0000:3b:00.0\" (a PCI address) or \"net_tap0,iface=uplink\" (a vdev)"
    );
    assert_eq!(
        fault("[[port]]\ndevice = \"net_null0\""),
        "gw.toml:1:1: `name` is missing in [[port]]: add name = \"wan0\", the name of the twin interface"
    );
    let none = "gw.toml: no port: a gateway needs at least one [[port]] with a name and a device";
    assert_eq!(fault(""), none);
    assert_eq!(fault("[flows]\ncapacity = 1"), none);
}

#[test]
fn bad_toml_is_placed() {
    assert_eq!(fault_below_port("[flows\n"), "gw.toml:4:7: bad TOML: unclosed table, expected `]`");
    assert!(fault("a = \"").starts_with("gw.toml:1:"), "{}", fault("a = \""));
    assert!(fault_below_port("mtu = 1500\nmtu = 1500").starts_with("gw.toml:5:1: bad TOML: duplicate key"));
}

#[test]
fn names_are_names_of_interfaces() {
    let named = |name: &str| fault(&format!("[[port]]\nname = {name}\ndevice = \"net_null0\""));
    assert_eq!(
        named("\"sixteen-bytes-xx\""),
        "gw.toml:2:8: name = \"sixteen-bytes-xx\": 16 bytes long, but an interface name has at most 15"
    );
    assert_eq!(named("\"a b\""), "gw.toml:2:8: name = \"a b\": an interface name can't have ' ' in it");
    for bad in ["\"\"", "\".\"", "\"..\"", "\"a/b\"", "\"a:b\"", "\"a%d\"", "\"a\\u0000\"", "\"üüüüüüüü\""]
    {
        assert!(named(bad).starts_with("gw.toml:2:8: name = "), "{bad}");
    }
    let same_wire = "[[port]]\nname = \"wan0\"\ndevice = \"net_tap0,iface=wan0\"";
    assert_eq!(
        fault(same_wire),
        "gw.toml:3:10: device = \"net_tap0,iface=wan0\": \
         the wire side can't be named wan0, as the twin is: change iface= or set netns"
    );
    assert!(parse(&format!("{same_wire}\nnetns = \"uplink\"")).is_ok());
}

#[test]
fn names_and_devices_are_unique() {
    assert_eq!(
        fault_below_port("[[port]]\nname = \"wan0\"\ndevice = \"net_null0\""),
        "gw.toml:5:8: name = \"wan0\": the port of line 1 has it already; each twin needs a name of its own"
    );
    assert_eq!(
        fault_below_port("[[port]]\nname = \"lan0\"\ndevice = \"net_tap0,iface=other\""),
        "gw.toml:6:10: device = \"net_tap0,iface=other\": the port of line 1 has it already; \
         a device can be one port only"
    );
    let pci = |address: &str, name: &str| format!("[[port]]\nname = \"{name}\"\ndevice = \"{address}\"\n");
    let twice = pci("3b:00.0", "a") + &pci("0000:3B:00.0", "b");
    assert!(fault(&twice).contains("has it already"), "{}", fault(&twice));
}

#[test]
fn devices_and_namespaces_must_be_known() {
    assert_eq!(
        fault("[[port]]\nname = \"a\"\ndevice = \"eth0\""),
        "gw.toml:3:10: device = \"eth0\": A device is a PCI address (0000:3b:00.0) or a vdev whose name begins \
         with net_tap, net_null, net_ring, net_pcap, net_af_packet, net_af_xdp, net_memif, net_vhost, \
         net_virtio_user, virtio_user"
    );
    assert_eq!(
        fault_below_port("netns = \"none\""),
        "gw.toml:4:9: netns = \"none\": there is no such namespace; make it with: ip netns add none"
    );
    assert_eq!(
        fault("[[port]]\nname = \"a\"\ndevice = \"3b:00.0\"\nnetns = \"uplink\""),
        "gw.toml:4:9: netns = \"uplink\": only a vdev's wire side can be in another namespace, \
         and 0000:3b:00.0 is a NIC"
    );
    assert!(fault_below_port("netns = \"../uplink\"").contains("the name of a namespace"));
    assert!(fault_below_port("netns = \"\"").contains("the name of a namespace"));
}

#[test]
fn numbers_have_ranges() {
    for (text, message) in [
        ("queues = 0", "gw.toml:4:10: queues = 0: it must be from 1 to 256"),
        ("descriptors = 63", "gw.toml:4:15: descriptors = 63: it must be from 64 to 32768"),
        ("mtu = 100000", "gw.toml:4:7: mtu = 100000: it must be from 68 to 9600"),
        ("[flows]\ncapacity = 0", "gw.toml:5:12: capacity = 0: it must be from 1 to 67108864"),
        ("[flows]\ncapacity = 67108865", "gw.toml:5:12: capacity = 67108865: it must be from 1 to 67108864"),
        ("[workers]\ncores = [1, 7]", "gw.toml:5:13: cores = 7: this process may use the cores 0-1"),
        ("[workers]\ncores = [-1]", "gw.toml:5:10: cores = -1: this process may use the cores 0-1"),
        (
            "[workers]\ncores = [\n1,\n1]",
            "gw.toml:7:1: cores = 1: the core is in the list already: one worker a core",
        ),
        (
            "[workers]\ncores = []",
            "gw.toml:5:9: cores = []: at least one core must work; leave the line out for all but the first",
        ),
    ] {
        assert_eq!(fault_below_port(text), message);
    }
}

#[test]
fn durations_need_a_unit_and_a_range() {
    assert_eq!(
        fault_below_port("[flows]\nrevalidate_within = \"5\""),
        "gw.toml:5:21: revalidate_within = \"5\": time unit needed, for example 5sec or 5ms; \
         write a number and a unit, as in \"5s\" or \"500ms\", from 10ms to 1h"
    );
    assert_eq!(
        fault_below_port("[flows]\nreprove_every = \"0\""),
        "gw.toml:5:17: reprove_every = \"0\": must be from 10ms to 1h"
    );
    assert_eq!(
        fault_below_port("[workers]\nidle_sleep = \"2s\""),
        "gw.toml:5:14: idle_sleep = \"2s\": must be from 0s to 1s"
    );
}

#[test]
fn choices_are_listed() {
    assert_eq!(
        fault_below_port("[policy]\naccelerate = \"establish\""),
        "gw.toml:5:14: accelerate = \"establish\": did you mean \"established\"? \
         It must be one of \"auto\", \"established\", \"marked\", \"flowtable\""
    );
    assert_eq!(
        fault_below_port("[hardware]\noffload = \"yes\""),
        "gw.toml:5:11: offload = \"yes\": it must be one of \"auto\", \"off\", \"model\""
    );
    assert_eq!(
        fault_below_port("[hardware]\nhot = 0"),
        "gw.toml:5:7: hot = 0: it must be from 1 to 1000000000"
    );
    assert_eq!(
        fault_below_port("[hardware.model]\ntier = \"half\""),
        "gw.toml:5:8: tier = \"half\": it must be one of \"full\", \"assist\", \"none\""
    );
    let told = fault_below_port("[hardware.model]\nqueues = \"yes\"");
    assert!(told.starts_with("gw.toml:5:10: ") && told.contains("bool"), "{told}");
    assert_eq!(
        fault_below_port("[policy]\naccept_loss = [\"limit\", \"quotas\"]"),
        "gw.toml:5:25: accept_loss = \"quotas\": did you mean \"quota\"? It must be one of \"queue\", \"quota\", \
         \"limit\", \"ct bytes\", \"ct count\", \"ct expiration\", \"dup\", \"time\", \"ether saddr\", \
         \"length\", \"dscp\", \"ttl\", \"tcp flags\", \"tcp option\", \"payload\", \"numgen\", \"set\", \"notrack\", \"unknown\""
    );
    assert_eq!(
        fault_below_port("[policy]\nmark = \"0x3/0x1\""),
        "gw.toml:5:8: mark = \"0x3/0x1\": 0x3 has bits outside of the mask 0x1, so that no mark matches"
    );
    assert_eq!(
        fault_below_port("[policy]\nmark = \"7\""),
        "gw.toml:5:8: mark = \"7\": write VALUE/MASK in hexadecimal or decimal, as in \"0x10000/0x10000\""
    );
}

#[test]
fn sockets_and_listeners_are_addresses() {
    assert_eq!(
        fault_below_port("[api]\nsocket = \"flyover.sock\""),
        "gw.toml:5:10: socket = \"flyover.sock\": it must be an absolute path, such as \"/run/flyover.sock\""
    );
    let long = format!("[api]\nsocket = \"/{}\"", "x".repeat(107));
    assert!(fault_below_port(&long).ends_with("a Unix socket's path has at most 107 bytes"));
    assert!(fault_below_port("[api]\nsocket = \"/run/\"").ends_with("it must be the path of a file"));
    assert_eq!(
        fault_below_port("[metrics]\nlisten = \"9477\""),
        "gw.toml:5:10: listen = \"9477\": \
         it must be an address and a port, such as \"127.0.0.1:9477\" or \"[::1]:9477\""
    );
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let fault = |path: &Path| Config::load(path).expect_err("unreadable").to_string();
    let missing = directory.path().join("none.toml");
    assert_eq!(
        fault(&missing),
        format!(
            "{}: can't read the configuration: No such file or directory (os error 2); \
             give the path of a TOML file with -c, or ports with --port NAME=DEVICE",
            missing.display()
        )
    );
    assert!(fault(directory.path()).contains("Is a directory"), "{}", fault(directory.path()));
    let file = directory.path().join("gw.toml");
    std::fs::write(&file, [0xff, 0xfe]).expect("written");
    assert_eq!(fault(&file), format!("{}: not UTF-8 text", file.display()));
    std::fs::write(&file, vec![b'#'; 1 << 20]).expect("written");
    assert!(fault(&file).contains("no port"), "the longest file is read");
    std::fs::write(&file, vec![b'#'; (1 << 20) + 1]).expect("written");
    assert_eq!(fault(&file), format!("{}: longer than 1048576 bytes: not a configuration", file.display()));
}

/// Every file in `configs/` is a configuration that this version takes.
#[test]
fn the_example_files_are_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let (_directory, machine) = machine();
    let mut seen = 0;
    for entry in std::fs::read_dir(examples).expect("configs").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).expect("readable");
            // The namespaces of the examples are the reader's to make.
            let text = text.replace("netns = \"internet\"", "netns = \"uplink\"");
            let text = text.replace("netns = \"home\"", "netns = \"uplink\"");
            let config = Config::parse(&path, &text, &machine).expect("valid");
            assert!(config.notices.is_empty(), "{:?}", config.notices);
            seen += 1;
        }
    }
    assert!(seen >= 2, "{seen} examples");
}

/// Lines that are near enough to a configuration to reach every check.
fn line() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "name",
        "device",
        "netns",
        "queues",
        "descriptors",
        "mtu",
        "twin_io",
        "cores",
        "idle_sleep",
        "capacity",
        "revalidate_within",
        "reprove_every",
        "accelerate",
        "accept_loss",
        "mark",
        "offload",
        "socket",
        "listen",
        "collectors",
        "source",
        "message_size",
        "port",
        "x",
    ]);
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| format!("{text:?}")),
        prop::sample::select(vec![
            "\"net_tap0,iface=é\"",
            "\"0x1/0x1\"",
            "\"1ms\"",
            "[0, 1]",
            "[\"limit\"]",
            "{ a = 1 }"
        ])
        .prop_map(str::to_owned),
    ];
    let header = prop::sample::select(vec![
        "[[port]]",
        "[workers]",
        "[flows]",
        "[policy]",
        "[hardware]",
        "[api]",
        "[metrics]",
        "[ipfix]\ncollectors = [\"192.0.2.1:1\"]",
        "[port]",
    ]);
    prop_oneof![
        header.prop_map(str::to_owned),
        (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        ".*",
    ]
}

proptest! {
    /// Whatever is in a file, it is taken or refused with a place in that file; nothing panics.
    #[test]
    fn any_text_is_taken_or_refused(lines in prop::collection::vec(line(), 0..12)) {
        if let Err(error) = parse(&lines.join("\n")) {
            prop_assert!(error.to_string().starts_with("gw.toml:"), "{error}");
        }
    }

    #[test]
    fn any_option_is_taken_or_refused(option in ".*=?.*") {
        if let Err(error) = Config::from_ports(&[&option], &machine().1) {
            prop_assert!(error.to_string().starts_with("--port "), "{error}");
        }
    }
}

#[test]
fn only_nics_are_bound() {
    let nic = |bind: &str| format!("[[port]]\nname = \"a\"\ndevice = \"0000:3b:00.0\"\nbind = \"{bind}\"\n");
    for bind in Bind::ALL {
        assert_eq!(parse(&nic(bind.name())).expect("valid").ports.first().map(|port| port.bind), Some(*bind));
    }
    assert!(fault(&nic("always")).contains("bind = \"always\": "), "{}", fault(&nic("always")));
    let vdev = fault("[[port]]\nname = \"a\"\ndevice = \"net_null0\"\nbind = \"auto\"\n");
    assert!(vdev.contains(":4:8: bind = \"auto\": a vdev has no kernel driver"), "{vdev}");
}

#[test]
fn without_ports_everything_is_as_by_default() {
    let (_directory, machine) = machine();
    let mut config = Config::from_ports(&["a=net_null0"], &machine).expect("valid");
    config.ports.clear();
    assert_eq!(Config::without_ports(&machine).expect("valid"), config);
}
