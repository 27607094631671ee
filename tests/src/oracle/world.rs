//! A set of connections in both gateways, and packets through them.

use dataplane::flow::EntryState;
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::compare::{Finding, Mismatch, compare};
use super::connection::{Connection, connections as any_connection};
use super::frames::{Input, Packet, packets};
use super::kernel::{KernelGateway, Opened};
use super::plane::{FastPath, Outcome, Ports};
use super::{Case, Event, OracleError, Report};

/// Connections in a world, and packets through them.
const CONNECTIONS: usize = 192;
const PACKETS: u64 = 20_000;
/// Packets sent again together: a worker's burst.
const BURST: usize = 64;
/// Steps in which a mismatch is made smaller.
const SHRINKING: usize = 2000;

/// A set of connections with different tuples.
pub(super) fn connections(runner: &mut TestRunner) -> Vec<Connection> {
    let strategy = vec(any_connection(), CONNECTIONS);
    strategy.new_tree(runner).map(|tree| tree.current()).unwrap_or_default()
}

/// See the module.
pub(super) struct World<'a> {
    kernel: &'a mut KernelGateway,
    fast: FastPath,
    opened: Vec<Opened>,
    verify: bool,
}

/// A packet that has flown: what came in, and what left by which port.
struct Flown {
    input: Input,
    egress: u16,
    frame: Vec<u8>,
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
        Ok(Self { kernel, fast, opened, verify })
    }

    /// Sends a packet through both.
    pub(super) fn compare(&mut self, input: &Input) -> Result<Finding, OracleError> {
        compare(self.kernel, &mut self.fast, &self.opened, input, self.verify)
    }

    /// Generates packets until the world has had its share, or the report its total.
    pub(super) fn run(
        &mut self,
        runner: &mut TestRunner,
        report: &mut Report,
        total: u64,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), OracleError> {
        let strategy = packets();
        let mut flown = Vec::with_capacity(BURST);
        for _ in 0..PACKETS.min(total.saturating_sub(report.packets)) {
            let Ok(mut tree) = strategy.new_tree(runner) else { continue };
            let input = tree.current().through(&self.opened);
            let finding = self.compare(&input)?;
            let connection = &self.opened[input.connection].connection;
            report.count(connection, &input, &finding);
            if let (Finding::Equal { egress, frame }, EntryState::Software) = (&finding, connection.state) {
                let (input, egress, frame) = (input.clone(), egress.port(), frame.clone());
                flown.push(Flown { input, egress, frame });
            }
            // Bursts of every length.
            if flown.len() > report.packets as usize % BURST {
                self.burst(&flown, report, tell)?;
                flown.clear();
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

    /// Sends packets that have flown one by one again, all at once: the same must leave in the same order.
    fn burst(
        &mut self,
        flown: &[Flown],
        report: &mut Report,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), OracleError> {
        let frames = flown.iter().map(|flown| (flown.input.port, flown.input.frame.as_slice()));
        let outcomes = self.fast.forward(frames)?;
        // A worker takes its ports in turn, and what leaves is read by port.
        let mut expected: Vec<&Flown> = flown.iter().collect();
        expected.sort_by_key(|flown| (flown.egress, flown.input.port));
        let same = |(flown, outcome): (&&Flown, &Outcome)| {
            matches!(outcome, Outcome::Flew { port, frame }
            if *port == flown.egress && *frame == flown.frame)
        };
        match expected.iter().zip(&outcomes).find(|pair| !same(*pair)) {
            None => report.in_bursts += flown.len() as u64,
            Some((flown, outcome)) => {
                report.mismatches += 1;
                tell(Event::Burst(&self.case(&flown.input), outcome));
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
                Finding::Mismatch(mismatch) => {
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
