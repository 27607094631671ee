//! Flow rules of drivers, and what is found out about them.

use std::os::fd::AsRawFd;
use std::path::PathBuf;

use dataplane::dpdk::flow_rule::{ActionKind, FlowAttr, FlowQueues, FlowRule, FlowRules, ItemKind, Parts};
use dataplane::dpdk::{Mempool, Port, PortConfig};
use dataplane::hardware::Tier;
use dataplane::hardware::probe::{Capabilities, Probe, Unreachable};
use nix::errno::Errno;

use crate::common::Netns;

/// Drops UDP to a certain port: what net_tap can, where the kernel has cls_flower.
fn drops() -> FlowRule {
    let mut rule = FlowRule::new(FlowAttr { ingress: true, ..FlowAttr::default() });
    let port = Parts { spec: Some(&[0, 0, 0, 53]), last: None, mask: Some(&[0, 0, 0xff, 0xff]) };
    rule.item(ItemKind::ETH, &Parts::default())
        .item(ItemKind::IPV4, &Parts::default())
        .item(ItemKind::UDP, &port)
        .action(ActionKind::DROP, None);
    rule
}

fn found(port: &Port, rules: &FlowRules) -> Capabilities {
    let mac = port.mac().expect("a MAC address");
    let (queues, hairpins) = (vec![0], Vec::new());
    let probe = Probe { rules, port: port.id(), mac, egress: port.id(), queues, hairpins };
    probe.run(&mut Unreachable)
}

pub(crate) fn null(pool: &Mempool) {
    let port = Port::attach("net_null0", None).expect("attaches");
    port.configure(&PortConfig::new(pool)).expect("is configured");
    let mut rules = FlowRules::of(&port);
    // Before the start, where queues for rules can be set up; not on this port.
    let queues = FlowQueues { queues: 1, depth: 64, rules: 1024 };
    assert_eq!(rules.configure(&queues).map_err(|error| error.errno), Err(Errno::ENOSYS));
    port.start().expect("starts");
    assert_eq!(rules.create(&drops()).map_err(|error| error.errno), Err(Errno::ENOSYS));
    let found = found(&port, &rules);
    assert_eq!(
        (found.tier, &found.findings[..]),
        (Tier::None, &["the NIC refuses: Function not implemented".to_owned()][..])
    );
}

pub(crate) fn tap(pool: &Mempool) {
    let wire = Netns::new();
    let netns = PathBuf::from(format!("/proc/self/fd/{}", wire.as_raw_fd()));
    let port = Port::attach("net_tap0,iface=fly-wire", Some(&netns)).expect("attaches");
    port.configure(&PortConfig::new(pool)).expect("is configured");
    port.start().expect("starts");
    let rules = FlowRules::of(&port);
    rules.validate(&drops()).expect("it says that it takes the rule, whether the kernel does or not");
    match rules.create(&drops()) {
        // A kernel with cls_flower.
        Ok(rule) => {
            rules.destroy(rule).expect("it goes");
            assert_eq!(rules.destroy(rule).map_err(|error| error.errno), Err(Errno::ENOENT));
            let rule = rules.create(&drops()).expect("again");
            assert!(rules.count(rule, false).is_err(), "taps do not count");
            port.stop().expect("stops");
            assert_eq!(
                rules.destroy(rule).map_err(|error| error.errno),
                Err(Errno::ENOENT),
                "it went with the stop"
            );
            port.start().expect("starts");
        }
        Err(error) => assert!(!error.to_string().is_empty() && error.errno != Errno::ENOSYS, "{error:?}"),
    }
    let found = found(&port, &rules);
    assert_eq!(found.tier, Tier::None, "{found:?}");
    assert!(!found.findings.is_empty());
    rules.flush().expect("nothing is left");
}
