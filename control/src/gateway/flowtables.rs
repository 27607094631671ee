//! The user's flowtables, as they concern ports and flows.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use dataplane::punt::{Bell, PriorityTags};

use super::interfaces::{Links, above};
use crate::netlink::sysctl::{FLOWTABLE_TCP_TIMEOUT, FLOWTABLE_UDP_TIMEOUT, Sysctl};
use crate::ruleset::{Judgement, UserFlowtable};
use crate::tracker::Flowtables;

/// Whether a name stands among a flowtable's devices; a trailing `*` stands for any rest.
fn has(flowtable: &UserFlowtable, name: &str) -> bool {
    flowtable.devices.iter().any(|device| match device.strip_suffix('*') {
        Some(stem) => name.starts_with(stem),
        None => device == name,
    })
}

/// What they mean for ports, whose twins are given in the order of the ports.
pub(super) fn of(judgement: &Judgement, twins: &[u32], links: &Links) -> Flowtables {
    let all = judgement.flowtables();
    if all.is_empty() {
        return Flowtables::default();
    }
    let fed: Vec<&UserFlowtable> = all.iter().filter(|flowtable| judgement.is_added_to(flowtable)).collect();
    let named = |ifindex: &u32, flowtables: &[&UserFlowtable]| {
        links.get(ifindex).is_some_and(|link| flowtables.iter().any(|flowtable| has(flowtable, &link.name)))
    };
    let everything: Vec<&UserFlowtable> = all.iter().collect();
    // A bridge with VLAN filtering gives frames its own tag in place of the priority tag.
    let retagged = |twin: &u32| {
        let above = above(*twin, links);
        let filters = |link: &u32| links.get(link).is_some_and(|link| link.filters_vlans);
        above.iter().any(filters) && above.iter().any(|link| link != twin && named(link, &everything))
    };
    Flowtables {
        devices: twins.iter().map(|twin| above(*twin, links).iter().any(|link| named(link, &fed))).collect(),
        past_rules: twins.iter().map(retagged).collect(),
        past_rules_in_pppoe: links.values().any(|link| link.ppp && named(&link.ifindex, &everything)),
        tcp_timeout_s: timeout(FLOWTABLE_TCP_TIMEOUT),
        udp_timeout_s: timeout(FLOWTABLE_UDP_TIMEOUT),
    }
}

/// A kernel that has no flowtables has no setting for them.
fn timeout(setting: Sysctl) -> u32 {
    setting.read().unwrap_or(Flowtables::TIMEOUT_S)
}

/// Tells the punt thread which packets get a priority tag.
#[derive(Debug)]
pub(super) struct Tagging {
    told: PriorityTags,
    queue: Arc<ArrayQueue<PriorityTags>>,
    bell: Arc<Bell>,
}

impl Tagging {
    pub(super) fn new(bell: Arc<Bell>) -> Self {
        Self { told: PriorityTags::default(), queue: Arc::new(ArrayQueue::new(1)), bell }
    }

    pub(super) fn queue(&self) -> Arc<ArrayQueue<PriorityTags>> {
        Arc::clone(&self.queue)
    }

    /// Where there is a flowtable, even one to which nothing is added any more, all that is routed gets one. `true`: it
    /// was not so before.
    pub(super) fn follow(&mut self, judgement: &Judgement, links: &Links) -> bool {
        let tags = if judgement.flowtables().is_empty() {
            PriorityTags::default()
        } else {
            PriorityTags::for_host(links.values().filter_map(|link| link.mac))
        };
        let new = tags != self.told;
        if new {
            self.queue.force_push(tags.clone());
            self.bell.ring();
            self.told = tags;
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::watch::Link;
    use crate::ruleset::testing::with_flowtable as judged;

    fn link(ifindex: u32, name: &str) -> Link {
        Link {
            ifindex,
            name: name.to_owned(),
            altnames: Vec::new(),
            up: true,
            running: true,
            mtu: 1500,
            mac: Some([2, 0, 0, 0, 0, ifindex as u8]),
            master: None,
            lower: None,
            ppp: false,
            filters_vlans: false,
        }
    }

    /// wan0 (1) with wan0.7 (3) on it, lan0 (2) in br0 (4), and ppp0 (5).
    fn links(filtering: bool) -> Links {
        let links = [
            link(1, "wan0"),
            Link { master: Some(4), ..link(2, "lan0") },
            Link { lower: Some(1), ..link(3, "wan0.7") },
            Link { filters_vlans: filtering, ..link(4, "br0") },
            Link { ppp: true, mac: None, ..link(5, "ppp0") },
        ];
        links.into_iter().map(|link| (link.ifindex, link)).collect()
    }

    fn devices(names: &[&str]) -> Vec<bool> {
        of(&judged(names, true), &[1, 2], &links(false)).devices
    }

    #[test]
    fn a_device_is_a_twin_or_stands_on_one() {
        assert_eq!(devices(&["wan0", "lan0"]), [true, true]);
        assert_eq!(devices(&["wan0.7"]), [true, false]);
        assert_eq!(devices(&["br0"]), [false, true]);
        assert_eq!(devices(&["wan*"]), [true, false]);
        assert_eq!(devices(&["eth7", "ppp0", "wan"]), [false, false]);
        assert_eq!(of(&judged(&["wan0"], false), &[1, 2], &links(false)).devices, [false, false]);
    }

    #[test]
    fn where_no_tag_is_left_the_rules_cannot_be_asked() {
        let of = |names: &[&str], filtering| of(&judged(names, true), &[1, 2], &links(filtering));
        assert_eq!(of(&["wan0", "br0"], false).past_rules, [false, false]);
        assert_eq!(of(&["wan0", "br0"], true).past_rules, [false, true]);
        assert_eq!(of(&["wan0", "lan0"], true).past_rules, [false, false], "lan0 is below the bridge");
        assert!(of(&["ppp0"], false).past_rules_in_pppoe);
        assert!(!of(&["wan0"], false).past_rules_in_pppoe);
    }

    #[test]
    fn packets_are_tagged_while_there_is_a_flowtable() {
        let bell = Arc::new(Bell::new().expect("a bell"));
        let mut tagging = Tagging::new(bell);
        assert!(!tagging.follow(&Judgement::default(), &links(false)));
        assert!(tagging.follow(&judged(&["wan0"], false), &links(false)));
        assert!(!tagging.follow(&judged(&["lan0"], true), &links(false)), "the same packets");
        let tags = tagging.queue().pop().expect("told");
        assert_eq!(tags, PriorityTags::for_host((1..=4).map(|n| [2, 0, 0, 0, 0, n])));
        assert!(tagging.follow(&Judgement::default(), &links(false)));
        assert_eq!(tagging.queue().pop(), Some(PriorityTags::default()));
    }
}
