//! Rulesets that Flyover ships: all that they let through can be carried.

use dataplane::flow::UDP;

use super::*;
use crate::netlink::testing::run;

const FW4: &str = include_str!("../../../../configs/nft/openwrt-fw4.nft");
const HOME_ROUTER: &str = include_str!("../../../../configs/nft/home-router.nft");
const DMZ_FIREWALL: &str = include_str!("../../../../configs/nft/dmz-firewall.nft");
const CGNAT: &str = include_str!("../../../../configs/nft/cgnat.nft");

/// Without what needs a kernel with nf_flow_table: the flowtable, and the rule that adds to it.
fn without_flowtable(ruleset: &str) -> String {
    let (before, rest) = ruleset.split_once("\tflowtable ft {").expect("a flowtable");
    let (_, after) = rest.split_once("\n\t}\n").expect("its end");
    let lines = after.lines().filter(|line| !line.contains("flow add"));
    format!("{before}{}\n", lines.collect::<Vec<_>>().join("\n"))
}

fn loads(ruleset: &str) -> bool {
    let path = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(path.path(), ruleset).expect("written");
    let output = Command::new("nft").arg("-f").arg(path.path()).output().expect("this test needs nft");
    output.status.success()
}

/// Nothing of it keeps a connection, whatever its direction, protocol, marks, and answered or not.
fn carries_everything(name: &str, judgement: &Judgement) {
    assert_eq!(judgement.constructs(), [], "{name}");
    for proto in [TCP, UDP] {
        for (src, dst) in [("192.168.1.5", "198.51.100.1"), ("fd00::5", "2001:db8::7")] {
            let answered = connection(tuple(proto, src, 40000, dst, 443));
            for view in [answered, ConnectionView { status: Status::CONFIRMED, ..answered }] {
                assert_eq!(judgement.keeps(&view), None, "{name}");
            }
        }
    }
}

#[test]
fn stock_rulesets_keep_nothing_in_the_kernel() {
    in_namespace(|| {
        run("ip link add lan0 type veth peer name wan0");
        run("ip link add dmz0 type veth peer name v0");
        for (name, ruleset) in
            [("home-router", HOME_ROUTER), ("dmz-firewall", DMZ_FIREWALL), ("cgnat", CGNAT)]
        {
            run("nft flush ruleset");
            // Again and again.
            assert!(loads(ruleset) && loads(ruleset), "{name}");
            let judgement = Judgement::new(&read().expect("read"), &[]);
            carries_everything(name, &judgement);
            assert!(judgement.tracks().0 && judgement.tracks().1, "{name}");
        }
    });
}

#[test]
fn the_ruleset_of_openwrt_keeps_nothing_in_the_kernel() {
    in_namespace(|| {
        run("ip link add lan0 type veth peer name wan0");
        // Without nf_flow_table the kernel takes none of it.
        let whole = loads(FW4);
        if !whole {
            let reduced = without_flowtable(FW4);
            assert!(loads(&reduced) && loads(&reduced), "{reduced}");
        }
        let judgement = Judgement::new(&read().expect("read"), &[]);
        carries_everything("fw4", &judgement);
        if whole {
            let [flowtable] = judgement.flowtables() else { panic!("{judgement:#?}") };
            assert_eq!((flowtable.name.as_str(), flowtable.offload), ("ft", false));
            assert_eq!(flowtable.devices, ["lan0", "wan0"]);
            assert!(judgement.may_be_added(&tcp("192.168.1.5", "192.0.2.1", 443)));
        }
        // What the user adds to it is found all the same.
        let handle = |chain: &str| {
            let listing = run(&format!("nft -a list chain inet fw4 {chain}"));
            listing.lines().find_map(|line| Some(line.split_once("vmap")?.1.rsplit_once(' ')?.1.to_owned()))
        };
        let handle = handle("forward").expect("the rule for established packets");
        run(&format!(
            "nft insert rule inet fw4 forward handle {handle} ip daddr 192.0.2.1 quota over 1000 mbytes drop"
        ));
        let judgement = Judgement::new(&read().expect("read"), &[]);
        let kept = judgement.keeps(&tcp("192.168.1.5", "192.0.2.1", 443)).expect("kept");
        assert!(kept.to_string().starts_with("quota in inet fw4 forward handle "), "{kept}");
        assert_eq!(judgement.keeps(&tcp("192.168.1.5", "192.0.2.2", 443)), None);
    });
}

/// Tables that the documentation gives as examples.
fn documented() -> Vec<&'static str> {
    const POLICY: &str = include_str!("../../../../docs/policy.md");
    let blocks = POLICY.split("```").skip(1).step_by(2);
    blocks
        .filter_map(|block| block.strip_prefix("nft\n").filter(|rules| rules.starts_with("table ")))
        .collect()
}

#[test]
fn documented_snippets_do_what_is_said_of_them() {
    in_namespace(|| {
        let [by_mark, by_quota, hardware, own] = documented().try_into().expect("four tables");
        let (guest, other) = (tcp("192.168.9.9", "192.0.2.1", 443), tcp("192.168.9.8", "192.0.2.1", 443));
        let judgement = judge(by_mark);
        carries_everything("by mark", &judgement);
        carries_everything("allowing hardware", &judge(hardware));
        let judgement = judge(by_quota);
        assert!(judgement.keeps(&guest).is_some() && judgement.keeps(&other).is_none());
        assert_eq!(judge(own).own_table(), OwnTable::Intact);
        let judgement =
            forward("ct state established,related accept; ct state new limit rate over 100/second drop");
        assert!(judgement.keeps(&other).is_none());
        // The queue itself needs a kernel with nft_queue.
        let judgement = forward("ct mark 0x1 accept; quota 1000 mbytes");
        assert!(judgement.keeps(&other).is_some());
        assert!(judgement.keeps(&ConnectionView { mark: 1, ..other }).is_none());
    });
}
