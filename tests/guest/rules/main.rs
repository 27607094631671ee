//! Flow rules on a net_tap port, which its PMD carries out by filters of the kernel's on the tap: `guest-rules`, on a
//! kernel with cls_flower. `guest-rules hold` makes three, says so, and waits to be killed.
//!
//! Prints a line a fact: `ok` and `FAILED` for what must be so, `note` for what is told.
#![forbid(unsafe_code)]

mod bench;

use std::error::Error;
use std::process::ExitCode;

use bench::{Bench, TAP};
use dataplane::dpdk::flow_rule::{ActionKind, FlowAttr, FlowError, FlowId, FlowRule, ItemKind, Parts};
use dataplane::hardware::probe::{Probe, Unreachable};
use lab::report::{self, Report};

const DATAGRAMS: u64 = 10;

fn main() -> ExitCode {
    let hold = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("hold") => true,
        Some(_) => {
            println!("FAILED: usage: guest-rules [hold]");
            return ExitCode::from(2);
        }
    };
    report::exit(if hold { self::hold() } else { run() })
}

/// What is done with the datagrams of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Queue,
    Drop,
    Pass,
}

impl Fate {
    const ALL: [Self; 3] = [Self::Queue, Self::Drop, Self::Pass];

    fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Drop => "drop",
            Self::Pass => "pass",
        }
    }

    /// The port that its datagrams go to.
    fn port(self) -> u16 {
        4001 + self as u16
    }

    /// What tc calls it.
    fn words(self) -> &'static str {
        match self {
            Self::Queue => "queue_mapping 1",
            Self::Drop => "gact action drop",
            Self::Pass => "gact action continue",
        }
    }

    /// UDP to its port.
    fn rule(self) -> FlowRule {
        let mut rule = FlowRule::new(FlowAttr { ingress: true, ..FlowAttr::default() });
        let [high, low] = self.port().to_be_bytes();
        let port = Parts { spec: Some(&[0, 0, high, low]), last: None, mask: Some(&[0, 0, 0xff, 0xff]) };
        rule.item(ItemKind::ETH, &Parts::default())
            .item(ItemKind::IPV4, &Parts::default())
            .item(ItemKind::UDP, &port);
        match self {
            Self::Queue => rule.action(ActionKind::QUEUE, Some(&1u16.to_ne_bytes())),
            Self::Drop => rule.action(ActionKind::DROP, None),
            Self::Pass => rule.action(ActionKind::PASSTHRU, None),
        };
        rule
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let mut report = Report::default();
    let mut bench = Bench::open()?;
    report.must("no filter is there before", bench.filters()?.is_empty());
    for fate in Fate::ALL {
        one(&mut report, &mut bench, fate)?;
    }
    all(&mut report, &mut bench)?;
    probe(&mut report, &bench)?;
    let rule = bench.rules.create(&Fate::Drop.rule())?;
    bench.stop()?;
    report.must("a stop of the port leaves no filter", bench.filters()?.is_empty());
    report.must("and the rule's name means nothing any more", bench.rules.destroy(rule).is_err());
    Ok(report.well)
}

/// Makes a rule, hits it, and removes it.
fn one(report: &mut Report, bench: &mut Bench, fate: Fate) -> Result<(), Box<dyn Error>> {
    let (name, port) = (fate.name(), fate.port());
    let before = bench.arrivals(port, DATAGRAMS)?;
    report.must(&format!("without a {name} rule all arrive"), before.iter().sum::<u64>() == DATAGRAMS);
    let rule = bench.rules.create(&fate.rule())?;
    let landed = bench.filters()?;
    let place = format!("dst_port {port}");
    let is_it = landed.len() == 1 && landed[0].has("flower") && landed[0].has(&place);
    report.must(&format!("a {name} rule is one filter of the kernel's"), is_it);
    report.must(
        &format!("it does what was asked ({})", fate.words()),
        landed.iter().any(|one| one.has(fate.words())),
    );
    let arrived = bench.arrivals(port, DATAGRAMS)?;
    let right = match fate {
        Fate::Queue => arrived == [0, DATAGRAMS],
        Fate::Drop => arrived == [0, 0],
        Fate::Pass => arrived.iter().sum::<u64>() == DATAGRAMS,
    };
    report.must(&format!("datagrams of the {name} rule arrive by queue as {arrived:?}"), right);
    let other = bench.arrivals(port + 100, DATAGRAMS)?;
    report.must("datagrams to another port arrive", other.iter().sum::<u64>() == DATAGRAMS);
    let counted = bench.filters()?.first().and_then(bench::Filter::packets);
    report.must(&format!("the filter has counted {counted:?}"), counted == Some(DATAGRAMS));
    report.must("the PMD does not tell the count", bench.rules.count(rule, false).is_err());
    bench.rules.destroy(rule)?;
    report.must(&format!("the {name} rule is gone"), bench.filters()?.is_empty());
    let after = bench.arrivals(port, DATAGRAMS)?;
    report.must("and all arrive again", after.iter().sum::<u64>() == DATAGRAMS);
    Ok(())
}

fn make_all(bench: &Bench) -> Result<Vec<FlowId>, FlowError> {
    Fate::ALL.into_iter().map(|fate| bench.rules.create(&fate.rule())).collect()
}

/// Several at once, removed one by one and together.
fn all(report: &mut Report, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let ids = make_all(bench)?;
    report.must("three rules are three filters", bench.filters()?.len() == 3);
    bench.rules.destroy(ids[1])?;
    let left = bench.filters()?;
    let has = |port: u16| left.iter().any(|filter| filter.has(&format!("dst_port {port}")));
    let others = has(Fate::Queue.port()) && has(Fate::Pass.port());
    report.must("without the second the others are there", left.len() == 2 && others);
    bench.rules.flush()?;
    report.must("a flush leaves none", bench.filters()?.is_empty());
    let again = make_all(bench)?;
    report.must("names are not given twice", again.iter().all(|id| !ids.contains(id)));
    bench.rules.flush()?;
    Ok(())
}

/// What Flyover makes of such a port.
fn probe(report: &mut Report, bench: &Bench) -> Result<(), Box<dyn Error>> {
    let (port, mac) = (bench.port.id(), bench.port.mac()?);
    let (queues, hairpins) = (vec![0, 1], Vec::new());
    let probe = Probe { rules: &bench.rules, port, mac, egress: port, queues, hairpins };
    let found = probe.run(&mut Unreachable);
    println!("note tier {}: {}", found.tier.name(), found.findings.join("; "));
    report.must("its tier is none", found.tier.name() == "none");
    report.must("nothing is left of the probe", bench.filters()?.is_empty());
    Ok(())
}

fn hold() -> Result<bool, Box<dyn Error>> {
    let bench = Bench::open()?;
    make_all(&bench)?;
    let filters = bench.filters()?.len();
    println!("holds {filters} filters on {TAP} in {}", bench.namespace.name());
    loop {
        std::thread::park();
    }
}
