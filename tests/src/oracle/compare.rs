//! One packet through both gateways, and what to think of the difference.

use std::fmt;

use dataplane::hardware::model::Outcome;
use dataplane::packet::{DropReason, PuntReason, parse, tcp};

use super::OracleError;
use super::decode;
use super::frames::{Input, has_bad_checksum};
use super::hardware::Way;
use super::kernel::{KernelGateway, Opened, Sent, is_answer};
use super::links::Link;
use super::plane::{self, FastPath};

/// What both gateways did with a packet.
#[derive(Clone, Debug)]
pub enum Finding {
    /// Flyover sent what the kernel sent.
    Equal {
        /// The link that it left by.
        egress: Link,
        /// What left.
        frame: Vec<u8>,
    },
    /// Flyover gave it to the kernel, as it came.
    Punted {
        /// Why.
        reason: PuntReason,
        /// What the kernel made of it, if it was shown.
        kernel: Option<Answer>,
    },
    /// Flyover dropped what the kernel does not send on either.
    Dropped(DropReason),
    /// They differ in a way that the design allows.
    Exception(Exception),
    /// They differ.
    Mismatch(Mismatch),
}

/// What the kernel did with a packet that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// Sent it on, in one piece or in fragments.
    Forwarded,
    /// Answered with an ICMP message.
    Answered,
    /// Nothing left.
    Nothing,
}

/// The differences that the design allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exception {
    /// L4 checksums are not verified in software: Flyover forwards what conntrack calls INVALID.
    BadL4Checksum,
    /// A FIN, RST or SYN outside of the window is dropped, where a kernel without liberal flags would ignore it.
    ImplausibleClose,
}

impl Exception {
    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadL4Checksum => "bad L4 checksum: Flyover forwards, the kernel drops",
            Self::ImplausibleClose => "implausible FIN, RST or SYN: Flyover drops",
        }
    }
}

/// A difference that there must not be.
#[derive(Clone, Debug)]
pub enum Mismatch {
    /// The kernel sent something else, nothing, or more.
    Sent {
        /// What Flyover sent, and by which port.
        flyover: (u16, Vec<u8>),
        /// What the kernel sent.
        kernel: Vec<Sent>,
    },
    /// Flyover changed a packet before it gave it to the kernel.
    Changed {
        /// Why it gave it to the kernel.
        reason: PuntReason,
        /// What the kernel would have got.
        frame: Vec<u8>,
    },
    /// Flyover dropped what it should not drop, or what the kernel sends on.
    Dropped {
        /// Flyover's reason.
        reason: DropReason,
        /// What the kernel sent.
        kernel: Vec<Sent>,
    },
    /// A NIC with rules does otherwise.
    Nic {
        /// Which rules.
        way: Way,
        /// What it did.
        outcome: Outcome,
        /// What it made of the packet.
        frame: Vec<u8>,
        /// By which port the packet should have left, and how; none if it is for software.
        expected: Option<(u16, Vec<u8>)>,
        /// What worker and kernel did.
        finding: Box<Finding>,
    },
}

/// Sends a packet through both, Flyover first.
///
/// # Errors
/// When one of the gateways can't be used.
pub fn compare(
    kernel: &mut KernelGateway,
    fast: &mut FastPath,
    opened: &[Opened],
    input: &Input,
    verify: bool,
) -> Result<Finding, OracleError> {
    let (port, frame) = (input.port, input.frame.as_slice());
    let outcome = fast.forward([(port, frame)])?;
    fast.reset(input.connection, &opened[input.connection]);
    Ok(match outcome.into_iter().next() {
        Some(plane::Outcome::Flew { port: out, frame: flown }) => flew(kernel, input, (out, flown), verify)?,
        Some(plane::Outcome::Punted { reason, frame: given }) if given == frame => {
            let answer = if input.harmless { Some(answer(&kernel.forward(port, frame)?)) } else { None };
            Finding::Punted { reason, kernel: answer }
        }
        Some(plane::Outcome::Punted { reason, frame }) => {
            Finding::Mismatch(Mismatch::Changed { reason, frame })
        }
        Some(plane::Outcome::Dropped(reason)) => dropped(kernel, input, reason)?,
        None => return Err(OracleError::Miscounted("nothing came out".to_owned())),
    })
}

fn flew(
    kernel: &mut KernelGateway,
    input: &Input,
    flyover: (u16, Vec<u8>),
    verify: bool,
) -> Result<Finding, OracleError> {
    let mut sent = kernel.forward(input.port, &input.frame)?;
    if sent.is_empty() {
        let bad =
            parse(&input.frame, input.port).is_ok_and(|headers| has_bad_checksum(&input.frame, &headers));
        if bad && verify {
            return Ok(Finding::Exception(Exception::BadL4Checksum));
        }
        sent = kernel.late()?;
    }
    Ok(match sent.as_slice() {
        [one] if one.link.port() == flyover.0 && one.frame == flyover.1 => {
            Finding::Equal { egress: one.link, frame: flyover.1 }
        }
        _ => Finding::Mismatch(Mismatch::Sent { flyover, kernel: sent }),
    })
}

fn dropped(kernel: &mut KernelGateway, input: &Input, reason: DropReason) -> Result<Finding, OracleError> {
    let sent = match reason {
        DropReason::BadIpHeader => kernel.forward(input.port, &input.frame)?,
        DropReason::ImplausibleClose => {
            let closes = parse(&input.frame, input.port)
                .is_ok_and(|headers| headers.tcp_flags & (tcp::FIN | tcp::RST | tcp::SYN) != 0);
            if closes {
                return Ok(Finding::Exception(Exception::ImplausibleClose));
            }
            kernel.forward(input.port, &input.frame)?
        }
        // A generator is faster than a link: what is over the budget would be dropped on any.
        DropReason::ControlBudget => return Ok(Finding::Dropped(reason)),
        _ => return Ok(Finding::Mismatch(Mismatch::Dropped { reason, kernel: Vec::new() })),
    };
    let agreed = sent.is_empty() && reason == DropReason::BadIpHeader;
    Ok(if agreed {
        Finding::Dropped(reason)
    } else {
        Finding::Mismatch(Mismatch::Dropped { reason, kernel: sent })
    })
}

fn answer(sent: &[Sent]) -> Answer {
    match sent {
        [] => Answer::Nothing,
        _ if sent.iter().all(is_answer) => Answer::Answered,
        _ => Answer::Forwarded,
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent { flyover: (port, frame), kernel } => {
                writeln!(f, "Flyover, port {port}: {}", decode::hex(frame))?;
                if kernel.is_empty() {
                    writeln!(f, "the kernel sent nothing")?;
                }
                for Sent { link, frame: theirs } in kernel {
                    writeln!(f, "kernel, {link}, port {}: {}", link.port(), decode::hex(theirs))?;
                    f.write_str(&decode::difference(frame, theirs))?;
                }
                Ok(())
            }
            Self::Changed { reason, frame } => {
                writeln!(f, "punted ({}) and changed: {}", reason.name(), decode::hex(frame))
            }
            Self::Dropped { reason, kernel } => {
                writeln!(f, "Flyover dropped it ({})", reason.name())?;
                for Sent { link, frame } in kernel {
                    writeln!(f, "kernel, {link}: {}", decode::hex(frame))?;
                }
                Ok(())
            }
            Self::Nic { way, outcome, frame, expected, finding } => {
                writeln!(f, "NIC ({way}): {outcome:?}: {}", decode::hex(frame))?;
                match expected {
                    Some((port, bytes)) => {
                        writeln!(f, "worker and kernel, port {port}: {}", decode::hex(bytes))?;
                        f.write_str(&decode::difference(frame, bytes))
                    }
                    None => writeln!(f, "which is for software: {finding:?}"),
                }
            }
        }
    }
}
