//! What a PMD does with flow rules.

use std::error::Error;

use dataplane::dpdk::flow_rule::{ActionKind, FlowAttr, FlowRule, FlowRules, ItemKind, Parts};
use dataplane::hardware::probe::{Probe, Unreachable};
use lab::report::Report;

use crate::bench::Bench;
use crate::frames::{DST, Frame, PORT, SRC};
use crate::spread;

const SOURCE: u16 = 700;
const UDP: u8 = 17;

/// To a queue: the frames that [`Frame::udp`] makes with this source port.
fn to_queue(queue: u16) -> FlowRule {
    let mut rule = FlowRule::new(FlowAttr { ingress: true, ..FlowAttr::default() });
    let ip = |addresses: [[u8; 4]; 2], proto| {
        let mut header = [0; 20];
        header[9] = proto;
        header[12..].copy_from_slice(&addresses.concat());
        header
    };
    let (ip, ip_mask) = (ip([SRC, DST], UDP), ip([[0xff; 4]; 2], 0xff));
    let ports = [SOURCE.to_be_bytes(), PORT.to_be_bytes()].concat();
    rule.item(ItemKind::ETH, &Parts::default())
        .item(ItemKind::IPV4, &Parts { spec: Some(&ip), last: None, mask: Some(&ip_mask) })
        .item(ItemKind::UDP, &Parts { spec: Some(&ports), last: None, mask: Some(&[0xff; 4]) })
        .action(ActionKind::QUEUE, Some(&queue.to_ne_bytes()));
    rule
}

/// Rules that choose a queue, where the PMD makes any, and what Flyover's probe finds.
pub(crate) fn rules(report: &mut Report, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let rules = FlowRules::of(bench.nic());
    for queue in 0..bench.queues() as u16 {
        let rule = match rules.create(&to_queue(queue)) {
            Ok(rule) => rule,
            Err(error) => {
                report.note(&format!("a rule for queue {queue} is refused"), &error.to_string());
                continue;
            }
        };
        let frame = Frame::to(bench.nic().mac()?).udp(SOURCE, 100)?;
        let frames = vec![frame.clone(); 10];
        let got = bench.all(&frames)?;
        let there = got.iter().filter(|got| got.is(&frame) && got.queue == queue).count();
        report.must(&format!("all frames of a rule for queue {queue} arrive"), got.len() == frames.len());
        report.note("of which on that queue", &there.to_string());
        report.must("it can be removed", rules.destroy(rule).is_ok());
        report.must("but once", rules.destroy(rule).is_err());
        let again = rules.create(&to_queue(queue));
        report.must("and made again", again.is_ok());
        rules.flush()?;
        report.must("a flush takes it, too", again.is_ok_and(|rule| rules.destroy(rule).is_err()));
    }
    let before = spread(bench)?;
    let (port, mac) = (bench.nic().id(), bench.nic().mac()?);
    let queues = (0..bench.queues() as u16).collect();
    let found =
        Probe { rules: &rules, port, mac, egress: port, queues, hairpins: Vec::new() }.run(&mut Unreachable);
    report.note("tier", &format!("{}: {}", found.tier.name(), found.findings.join("; ")));
    let after = spread(bench)?;
    report.must(
        &format!("flows are spread over queues as before the probe ({before:?}, {after:?})"),
        before == after,
    );
    Ok(())
}
