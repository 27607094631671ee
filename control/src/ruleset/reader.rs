//! Reading the ruleset of this process's network namespace from the kernel: the only part with I/O.

use std::os::fd::AsFd;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::codec::{self, Kind, Part};
use super::model::{Element, Family, Ruleset, Table};
use crate::netlink::NetlinkError;
use crate::netlink::message::{Message, Messages, Writer, error_number};
use crate::netlink::receive::{Received, Receiver};

/// Sets with more elements than this match anything, as far as Flyover is concerned.
pub const MOST_ELEMENTS: usize = 4096;
/// Times that reading begins again because the ruleset changed meanwhile.
const ATTEMPTS: usize = 10;
/// The kernel fills a dump's datagrams up to 32 KB.
const DATAGRAM: usize = 32 << 10;
/// Against a kernel that says nothing; never needed.
const PATIENCE_MS: u16 = 5000;

/// Why a ruleset could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The socket failed, or the kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// It changed each time before it was read to its end.
    #[error("the ruleset changed {ATTEMPTS} times while it was read; something edits it without pause")]
    Changing,
}

/// Why one attempt ended.
enum Stop {
    /// Something changed; begin again.
    Changed,
    /// What was wanted is there: the rest of the dump is not read.
    Enough,
    Error(NetlinkError),
}

impl From<NetlinkError> for Stop {
    fn from(error: NetlinkError) -> Self {
        Self::Error(error)
    }
}

/// Reads the whole ruleset, all parts of one generation. Needs CAP_NET_ADMIN.
///
/// A kernel without nf_tables has an empty one.
pub fn read() -> Result<Ruleset, ReadError> {
    for _ in 0..ATTEMPTS {
        match Reading::open()?.ruleset() {
            Ok(ruleset) => return Ok(ruleset),
            Err(Stop::Changed | Stop::Enough) => {}
            Err(Stop::Error(error)) => return Err(error.into()),
        }
    }
    Err(ReadError::Changing)
}

/// One attempt.
struct Reading {
    receiver: Receiver,
    writer: Writer,
    sequence: u32,
    generation: u32,
}

fn open() -> Result<Receiver, NetlinkError> {
    let socket =
        Socket::new(NETLINK_NETFILTER).map_err(NetlinkError::system("open a netfilter netlink socket"))?;
    Receiver::bind(socket, DATAGRAM)
}

impl Reading {
    fn open() -> Result<Self, NetlinkError> {
        Ok(Self { receiver: open()?, writer: Writer::default(), sequence: 0, generation: 0 })
    }

    fn ruleset(mut self) -> Result<Ruleset, Stop> {
        let mut ruleset = Ruleset { interfaces: interfaces(), ..Ruleset::default() };
        match self.generation() {
            Ok(generation) => self.generation = generation,
            // No such subsystem: nf_tables is not there.
            Err(Stop::Error(NetlinkError::Refused { source: Errno::EINVAL, .. })) => return Ok(ruleset),
            Err(stop) => return Err(stop),
        }
        ruleset.generation = self.generation;
        // Each kind finds what it belongs to among what came before.
        for kind in [Kind::Tables, Kind::Chains, Kind::Rules, Kind::Sets, Kind::Objects, Kind::Flowtables] {
            self.dump(kind, None, |part| {
                place(&mut ruleset.tables, part);
                Ok(())
            })?;
        }
        for table in &mut ruleset.tables {
            for set in &mut table.sets {
                set.elements = self.elements(table.family, &table.name, &set.name)?;
                set.close_intervals();
            }
        }
        if self.generation()? == self.generation { Ok(ruleset) } else { Err(Stop::Changed) }
    }

    fn generation(&mut self) -> Result<u32, Stop> {
        let mut found = None;
        let outcome = self.exchange(Kind::Generation, None, |part| {
            if let Part::Generation(generation) = part {
                found = Some(generation);
            }
            Err(Stop::Enough)
        });
        match outcome {
            Ok(()) | Err(Stop::Enough) => {
                found.ok_or(Stop::Error(NetlinkError::Malformed("generation of the ruleset")))
            }
            Err(stop) => Err(stop),
        }
    }

    /// The elements of a set, if they are few enough.
    fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Option<Vec<Element>>, Stop> {
        let mut found: Vec<Element> = Vec::new();
        let outcome = self.dump(Kind::Elements, Some((family, table, set)), |part| {
            if let Part::Elements(elements) = part {
                found.extend(elements);
            }
            // An interval may be two elements.
            if found.len() > 2 * MOST_ELEMENTS { Err(Stop::Enough) } else { Ok(()) }
        });
        match outcome {
            Ok(()) => Ok(Some(found)),
            Err(Stop::Enough) => {
                // Closing is what ends a dump early.
                self.receiver = open()?;
                Ok(None)
            }
            Err(stop) => Err(stop),
        }
    }

    fn dump(
        &mut self,
        kind: Kind,
        set: Option<(Family, &str, &str)>,
        handle: impl FnMut(Part) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        match self.exchange(kind, set, handle) {
            // A kernel without flowtables or objects refuses to list them; a set may be gone by now.
            Err(Stop::Error(NetlinkError::Refused { source, .. })) => match source {
                Errno::EOPNOTSUPP | Errno::EINVAL if matches!(kind, Kind::Objects | Kind::Flowtables) => {
                    Ok(())
                }
                Errno::ENOENT | Errno::EINTR => Err(Stop::Changed),
                source => Err(refused(kind, source).into()),
            },
            outcome => outcome,
        }
    }

    /// Sends a request and hands on what its answer brings, up to its end.
    fn exchange(
        &mut self,
        kind: Kind,
        set: Option<(Family, &str, &str)>,
        mut handle: impl FnMut(Part) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.writer.clear();
        codec::write_request(&mut self.writer, kind, self.sequence, set);
        self.receiver.send(self.writer.bytes(), "ask for the ruleset")?;
        let (sequence, generation) = (self.sequence, self.generation);
        let mut end: Option<Result<(), Stop>> = None;
        loop {
            let drained = self.receiver.drain(1, |received| {
                let Received::Datagram(datagram) = received else {
                    end.get_or_insert(Err(Stop::Changed));
                    return;
                };
                for message in Messages::new(datagram).filter(|message| message.sequence == sequence) {
                    if end.is_none() {
                        end = take(kind, generation, &message, &mut handle);
                    }
                }
            })?;
            if let Some(end) = end {
                return end;
            }
            if drained.datagrams == 0 {
                self.wait()?;
            }
        }
    }

    fn wait(&self) -> Result<(), NetlinkError> {
        let mut descriptors = [PollFd::new(self.receiver.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, PollTimeout::from(PATIENCE_MS)) {
            Ok(0) => Err(NetlinkError::Malformed("list the ruleset")),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(NetlinkError::errno("wait for the ruleset")(error)),
        }
    }
}

fn refused(kind: Kind, source: Errno) -> NetlinkError {
    let what = match kind {
        Kind::Generation => "tell the ruleset's generation",
        Kind::Tables => "list the ruleset's tables",
        Kind::Chains => "list the ruleset's chains",
        Kind::Rules => "list the ruleset's rules",
        Kind::Sets => "list the ruleset's sets",
        Kind::Elements => "list the elements of a set",
        Kind::Objects => "list the ruleset's objects",
        Kind::Flowtables => "list the ruleset's flowtables",
    };
    NetlinkError::Refused { doing: what.to_owned(), source, message: String::new() }
}

/// Works one message off; `Some` is the end of the answer.
fn take(
    kind: Kind,
    generation: u32,
    message: &Message<'_>,
    handle: &mut impl FnMut(Part) -> Result<(), Stop>,
) -> Option<Result<(), Stop>> {
    if message.has(libc::NLM_F_DUMP_INTR) {
        return Some(Err(Stop::Changed));
    }
    match i32::from(message.kind) {
        libc::NLMSG_DONE | libc::NLMSG_ERROR => match error_number(message.payload) {
            Some(0) => Some(Ok(())),
            error => Some(Err(refused(kind, Errno::from_raw(error.unwrap_or(libc::EBADMSG))).into())),
        },
        _ if message.kind == kind.answer() => {
            // Of another generation than what was read before, though this dump is of one.
            if kind != Kind::Generation && codec::generation_of(message) != Some(generation as u16) {
                return Some(Err(Stop::Changed));
            }
            let Some(part) = codec::parse(message) else {
                return Some(Err(NetlinkError::Malformed("list the ruleset").into()));
            };
            handle(part).err().map(Err)
        }
        _ => None,
    }
}

fn interfaces() -> Vec<(u32, String)> {
    let Ok(interfaces) = nix::net::if_::if_nameindex() else { return Vec::new() };
    interfaces
        .iter()
        .map(|interface| (interface.index(), interface.name().to_string_lossy().into_owned()))
        .collect()
}

fn find<'a>(tables: &'a mut [Table], family: Family, name: &str) -> Option<&'a mut Table> {
    tables.iter_mut().find(|table| table.family == family && table.name == name)
}

/// Puts a part where it belongs. What it belongs to came before, as all is of one generation.
fn place(tables: &mut Vec<Table>, part: Part) {
    match part {
        Part::Table(table) => tables.push(table),
        Part::Chain(family, table, chain) => {
            if let Some(table) = find(tables, family, &table) {
                table.chains.push(chain);
            }
        }
        Part::Rule(family, table, name, rule) => {
            let chains = find(tables, family, &table).map(|table| table.chains.iter_mut());
            if let Some(chain) = chains.and_then(|mut chains| chains.find(|chain| chain.name == name)) {
                chain.rules.push(rule);
            }
        }
        Part::Set(family, table, set) => {
            if let Some(table) = find(tables, family, &table) {
                table.sets.push(set);
            }
        }
        Part::Object(family, table, object) => {
            if let Some(table) = find(tables, family, &table) {
                table.objects.push(object);
            }
        }
        Part::Flowtable(family, table, flowtable) => {
            if let Some(table) = find(tables, family, &table) {
                table.flowtables.push(flowtable);
            }
        }
        Part::Elements(_) | Part::Generation(_) => {}
    }
}
