//! A set of connections in both gateways, and packets through them.

use dataplane::flow::EntryState;
use dataplane::packet::{DropReason, PuntReason};
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::compare::{Finding, Mismatch, compare};
use super::connection::{Connection, connections as any_connection};
use super::frames::{Input, Packet, packets};
use super::hardware::{Hardware, Verdict};
use super::kernel::{KernelGateway, Opened};
use super::links::PORTS;
use super::plane::{FastPath, Outcome, Ports};
use super::{Case, Event, OracleError, Report};

/// Connections in a world, and packets through them.
const CONNECTIONS: usize = 192;
const PACKETS: u64 = 20_000;
/// Packets sent again together: a worker's burst.
const BURST: usize = 64;
/// Steps in which a mismatch is made smaller.
const SHRINKING: usize = 2000;

/// A set of connections.
pub(super) fn connections(runner: &mut TestRunner, bridge: bool) -> Vec<Connection> {
    let strategy = vec(any_connection(bridge), CONNECTIONS);
    strategy.new_tree(runner).map(|tree| tree.current()).unwrap_or_default()
}

/// See the module.
pub(super) struct World<'a> {
    kernel: &'a mut KernelGateway,
    fast: FastPath,
    hardware: Hardware,
    opened: Vec<Opened>,
    verify: bool,
}

/// A packet that leaves no trace in a flow, and what became of it.
struct Seen {
    port: u16,
    frame: Vec<u8>,
    outcome: Outcome,
}

/// Reasons of punts that change nothing, and have no budget.
const TRACELESS: [PuntReason; 7] = [
    PuntReason::NoFlow,
    PuntReason::IngressContext,
    PuntReason::Ttl,
    PuntReason::Fragment,
    PuntReason::IpOptions,
    PuntReason::ExtensionHeader,
    PuntReason::Malformed,
];

impl Seen {
    fn new(input: &Input, finding: &Finding, connection: &Connection) -> Option<Self> {
        let outcome = match finding {
            Finding::Equal { egress, frame } => Outcome::Flew { port: egress.port(), frame: frame.clone() },
            Finding::Punted { reason, .. } if TRACELESS.contains(reason) => {
                Outcome::Punted { reason: *reason, frame: input.frame.clone() }
            }
            Finding::Dropped(DropReason::BadIpHeader) => Outcome::Dropped(DropReason::BadIpHeader),
            _ => return None,
        };
        let traceless = connection.state == EntryState::Software;
        traceless.then(|| Self { port: input.port, frame: input.frame.clone(), outcome })
    }
}

impl<'a> World<'a> {
    /// Opens connections through the kernel and puts what was learned into a flow table.
    pub(super) fn open(
        kernel: &'a mut KernelGateway,
        ports: &Ports,
        connections: &[Connection],
        verify: bool,
    ) -> Result<Self, OracleError> {
        let opened = kernel.open(connections, verify)?;
        let fast = FastPath::new(ports, &opened)?;
        let hardware = Hardware::new(&fast, &opened)?;
        Ok(Self { kernel, fast, hardware, opened, verify })
    }

    /// Sends a packet through both, and then through the NICs.
    pub(super) fn compare(&mut self, input: &Input) -> Result<(Finding, Verdict), OracleError> {
        let finding = compare(self.kernel, &mut self.fast, &self.opened, input, self.verify)?;
        if matches!(finding, Finding::Mismatch(_)) {
            return Ok((finding, Verdict::NoRule));
        }
        Ok(match self.hardware.judge(&self.opened[input.connection], input, &finding)? {
            Ok(verdict) => (finding, verdict),
            Err(mismatch) => (Finding::Mismatch(mismatch), Verdict::NoRule),
        })
    }

    /// Generates packets until the world has had its share, or the report its total.
    pub(super) fn run(
        &mut self,
        runner: &mut TestRunner,
        report: &mut Report,
        total: u64,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), OracleError> {
        report.classes.world(&self.hardware);
        let strategy = packets();
        let mut together = Vec::with_capacity(BURST);
        for _ in 0..PACKETS.min(total.saturating_sub(report.packets)) {
            let Ok(mut tree) = strategy.new_tree(runner) else { continue };
            let input = tree.current().through(&self.opened);
            let (finding, verdict) = self.compare(&input)?;
            let opened = &self.opened[input.connection];
            let connection = &opened.connection;
            report.count(connection, &input, &finding);
            report.classes.count(opened, &input, &finding, verdict);
            together.extend(Seen::new(&input, &finding, connection));
            // Bursts of every length.
            if together.len() > report.packets as usize % BURST {
                self.burst(&together, report, tell)?;
                together.clear();
            }
            if matches!(finding, Finding::Mismatch(_)) {
                let (input, mismatch) = self.shrink(&mut tree, input, finding)?;
                tell(Event::Mismatch(&self.case(&input), &mismatch));
                if report.mismatches >= super::ENOUGH_MISMATCHES {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Sends packets once more, all at once: the same must become of each, and those that fly leave in order.
    fn burst(
        &mut self,
        together: &[Seen],
        report: &mut Report,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), OracleError> {
        let frames = together.iter().map(|seen| (seen.port, seen.frame.as_slice()));
        let found = in_order(self.fast.forward(frames)?);
        // A worker takes its ports in turn.
        let by_port =
            (0..PORTS as u16).flat_map(|port| together.iter().filter(move |seen| seen.port == port));
        let mut expected: Vec<Outcome> = by_port.map(|seen| seen.outcome.clone()).collect();
        // What leaves is read by port.
        expected.sort_by_key(|outcome| match outcome {
            Outcome::Flew { port, .. } => *port,
            _ => u16::MAX,
        });
        let expected = in_order(expected);
        match expected.iter().zip(&found).find(|(expected, found)| expected != found) {
            None => report.in_bursts += together.len() as u64,
            Some((expected, found)) => {
                report.mismatches += 1;
                tell(Event::Burst { expected, found });
            }
        }
        Ok(())
    }

    /// Makes a packet that shows a mismatch simpler, as long as it does.
    fn shrink(
        &mut self,
        tree: &mut impl ValueTree<Value = Packet>,
        mut input: Input,
        finding: Finding,
    ) -> Result<(Input, Mismatch), OracleError> {
        let Finding::Mismatch(mut smallest) = finding else {
            return Err(OracleError::Miscounted("no mismatch to shrink".to_owned()));
        };
        for _ in 0..SHRINKING {
            let simpler = tree.current().through(&self.opened);
            let fails = match self.compare(&simpler)? {
                (Finding::Mismatch(mismatch), _) => {
                    (input, smallest) = (simpler, mismatch);
                    true
                }
                _ => false,
            };
            if !(if fails { tree.simplify() } else { tree.complicate() }) {
                break;
            }
        }
        Ok((input, smallest))
    }

    fn case(&self, input: &Input) -> Case {
        let connection = self.opened[input.connection].connection.clone();
        Case { connection, verify: self.verify, port: input.port, frame: input.frame.clone() }
    }
}

/// What flew, as it was, and then the rest, sorted: punts of a burst overtake each other.
fn in_order(outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let (mut all, mut rest): (Vec<_>, Vec<_>) =
        outcomes.into_iter().partition(|outcome| matches!(outcome, Outcome::Flew { .. }));
    rest.sort();
    all.append(&mut rest);
    all
}
