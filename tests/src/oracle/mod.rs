//! The kernel as oracle: the same packet goes through a kernel gateway and through Flyover's fast path, in the same
//! state, and what leaves must be equal byte for byte.
//!
//! Connections are opened through the kernel, which admits them, translates them and chooses their next hops. What it
//! sends is learned, and a worker's flow table is filled with it. Then packets of these connections, ordinary ones and
//! ones with anything wrong, go through both. What the worker sends the kernel must have sent; what it punts it must
//! not have changed; what it drops the kernel must not send. A NIC with rules for these connections must send the same,
//! or leave the packet to the worker.
//!
//! `docs/oracle.md` tells how to use it and what the exceptions are.

mod bytes;
mod classes;
pub mod compare;
pub mod connection;
mod decode;
mod error;
pub mod frames;
pub mod hardware;
pub mod kernel;
pub mod links;
pub mod plane;
pub mod regressions;
pub mod report;
mod world;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use compare::{Finding, Mismatch};
use connection::{Connection, pairs, value};
pub use error::OracleError;
use frames::Input;
use kernel::KernelGateway;
use plane::{Outcome, Ports};
use regressions::{Expected, REGRESSIONS};
pub use report::Report;
use world::World;

/// Mismatches after which a run ends: more of them tell no more.
const ENOUGH_MISMATCHES: u64 = 10;

/// How much to try.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Packets.
    pub packets: u64,
    /// Time, if it is to end earlier.
    pub duration: Option<Duration>,
    /// What all that is generated follows from.
    pub seed: u64,
}

/// A packet through a connection: all that is needed to try it again.
#[derive(Clone, Debug)]
pub struct Case {
    /// The connection.
    pub connection: Connection,
    /// Whether conntrack verifies L4 checksums.
    pub verify: bool,
    /// The port that the frame comes in by.
    pub port: u16,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Both gateways.
#[derive(Debug)]
pub struct Oracle {
    kernel: KernelGateway,
    ports: Ports,
}

impl Oracle {
    /// Makes both gateways. DPDK starts once in a process, and so does this.
    ///
    /// # Errors
    /// Without the rights to make a network namespace, or when anything in it can't be made.
    pub fn new() -> Result<Self, OracleError> {
        Ok(Self { kernel: KernelGateway::new()?, ports: Ports::start()? })
    }

    /// Tries the named cases; says what is wrong with each that fails.
    ///
    /// # Errors
    /// When a gateway can't be used.
    pub fn replay_regressions(&mut self) -> Result<Vec<String>, OracleError> {
        let mut failures = Vec::new();
        for regression in REGRESSIONS {
            let case: Case = regression.line.parse().map_err(OracleError::Line)?;
            if case.connection.from.is_bridged() && !self.kernel.has_bridge {
                continue;
            }
            let finding = self.replay(&case)?;
            let as_expected = match (&finding, regression.expected) {
                (Finding::Equal { .. }, Expected::Flies) => true,
                (Finding::Punted { reason, .. }, Expected::Punted(expected)) => *reason == expected,
                (Finding::Dropped(reason), Expected::Dropped(expected)) => *reason == expected,
                _ => false,
            };
            if !as_expected {
                failures.push(format!(
                    "{}: expected {:?}, found {finding:?}",
                    regression.name, regression.expected
                ));
            }
        }
        Ok(failures)
    }

    /// Tries one case.
    ///
    /// # Errors
    /// When a gateway can't be used.
    pub fn replay(&mut self, case: &Case) -> Result<Finding, OracleError> {
        let connections = std::slice::from_ref(&case.connection);
        let mut world = World::open(&mut self.kernel, &self.ports, connections, case.verify)?;
        let (port, frame) = (case.port, case.frame.clone());
        let way = usize::from(port != case.connection.from.port());
        let input = Input { connection: 0, way, port, frame, kind: "replayed", harmless: false };
        Ok(world.compare(&input)?.0)
    }

    /// Generates packets and compares. `tell` hears of each mismatch, and now and then of the progress.
    ///
    /// # Errors
    /// When a gateway can't be used, or the worker miscounts.
    pub fn run(&mut self, effort: Effort, tell: &mut dyn FnMut(Event<'_>)) -> Result<Report, OracleError> {
        let started = Instant::now();
        let mut report = Report::new(self.kernel.has_bridge);
        let over = |report: &Report| {
            report.packets >= effort.packets
                || report.mismatches >= ENOUGH_MISMATCHES
                || effort.duration.is_some_and(|duration| started.elapsed() >= duration)
        };
        while !over(&report) {
            let mut runner = runner(effort.seed, report.worlds);
            // Every other world shows what the checksums of packets with a bad one become.
            let verify = report.worlds.is_multiple_of(2);
            // A port that is in a bridge drops less.
            let bridge = self.kernel.has_bridge && report.worlds.is_multiple_of(3);
            let connections = world::connections(&mut runner, bridge);
            let mut world = World::open(&mut self.kernel, &self.ports, &connections, verify)?;
            world.run(&mut runner, &mut report, effort.packets, tell)?;
            report.worlds += 1;
            report.connections += connections.len() as u64;
            tell(Event::Progress(&report));
        }
        report.chatter = self.kernel.chatter;
        Ok(report)
    }
}

/// What is told during a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// A set of connections is done.
    Progress(&'a Report),
    /// A mismatch, as small as it could be made.
    Mismatch(&'a Case, &'a Mismatch),
    /// Packets that are right one by one come out differently in a burst.
    Burst {
        /// What became of it alone.
        expected: &'a Outcome,
        /// What became of it, or of another in its place, in the burst.
        found: &'a Outcome,
    },
}

/// Randomness that follows from the seed and the world's number, so that a world can be had alone.
fn runner(seed: u64, world: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&world.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, rng)
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, verify, port, frame } = self;
        write!(f, "{connection} verify={verify} port={port} frame={}", decode::hex(frame))
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let pairs = pairs(line);
        let frame = decode::unhex(pairs.get("frame").ok_or("no frame= in the line")?)?;
        let (verify, port) = (value(&pairs, "verify")?, value(&pairs, "port")?);
        Ok(Self { connection: line.parse()?, verify, port, frame })
    }
}
