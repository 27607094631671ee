//! Flow records on their way to collectors: docs/ipfix.md.
//!
//! Sockets are never waited for: what one does not take waits in its exporter, and what finds no room there is counted as
//! lost.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, SystemTime};

use super::collector::Session;
use super::error::GatewayError;
use super::plane::FlowPlane;
use super::state::State;
use crate::api::CollectorStatus;
use crate::config::IpfixConfig;
use crate::ipfix::{Accounts, FlowRecord, Moment, NatEvent, NatSession};
use crate::netlink::conntrack::{ConntrackEntry, Status};
use crate::netlink::sysctl::CONNTRACK_ACCT;
use crate::tracker::{Account, Tracker};

/// How long the last records may put off the end of the gateway.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a frame that the punt thread has read may take to leave.
const LAST_FRAMES: Duration = Duration::from_millis(50);
/// A pause before a socket that is full is tried again.
const MOMENT: Duration = Duration::from_millis(1);
/// Connections accounted for at the end before their records are sent.
const CHUNK: u32 = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Export {
    accounts: Accounts,
    sessions: Vec<Session>,
    nat_events: bool,
    /// Interfaces of the twins, by port.
    interfaces: Vec<u32>,
    moment: Moment,
    /// The entry whose end is being handled, and whether its connection was carried, and so has its record.
    ended: Option<(ConntrackEntry, bool)>,
}

impl Export {
    /// Opens the sockets. That a collector is out of reach now is no reason to fail: twins get their addresses later.
    pub(super) fn open(config: &IpfixConfig) -> Result<Self, GatewayError> {
        let session = |collector| {
            Session::open(collector, config).map_err(|source| GatewayError::Collector { collector, source })
        };
        Ok(Self {
            accounts: Accounts::new(config.active_timeout.as_millis() as u64),
            sessions: config.collectors.iter().copied().map(session).collect::<Result<_, _>>()?,
            nat_events: config.nat_events,
            interfaces: Vec::new(),
            moment: Moment::default(),
            ended: None,
        })
    }

    /// What follows happens now, between these interfaces.
    fn at(&mut self, now: u64, interfaces: impl Iterator<Item = u32>) {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.moment = Moment { now, unix_ms: unix.as_millis() as u64 };
        self.interfaces.clear();
        self.interfaces.extend(interfaces);
    }

    /// A connection leaves the table.
    pub(super) fn closed(&mut self, account: &Account) {
        let ended = self.ended.as_mut().filter(|(entry, _)| entry.id == account.id);
        let ended = ended.map(|(entry, carried)| {
            *carried = true;
            &*entry
        });
        let interface = |port: u16| self.interfaces.get(usize::from(port)).copied().unwrap_or(0);
        if let Some(record) = self.accounts.last(self.moment, account, ended, interface) {
            tell(&mut self.sessions, self.moment, &record);
        }
    }

    /// The kernel has made an entry.
    fn began(&mut self, entry: &ConntrackEntry) {
        self.session(entry, NatEvent::Create);
    }

    /// The entry that was handled last is gone, and the tracker has heard of it.
    fn over(&mut self, is_local: bool) {
        let Some((entry, carried)) = self.ended.take() else { return };
        if !carried
            && !is_local
            && is_forwarded(entry.orig.dst)
            && let Some(record) = Accounts::foreign(self.moment, &entry)
        {
            tell(&mut self.sessions, self.moment, &record);
        }
        self.session(&entry, NatEvent::Delete);
    }

    /// RFC 8158 has no numbers for NAT66.
    fn session(&mut self, entry: &ConntrackEntry, event: NatEvent) {
        let after = entry.reply.inverted();
        if !self.nat_events || entry.orig == after || !entry.orig.src.is_ipv4() || !after.src.is_ipv4() {
            return;
        }
        let session = NatSession { id: entry.id, before: entry.orig, after, event, at: self.moment.unix_ms };
        self.sessions.iter_mut().for_each(|to| to.exporter.nat(self.moment, &session));
    }

    /// Makes the records whose time has come, and sends what there is; `true`: there is more.
    fn advance(&mut self, tracker: &Tracker, plane: &FlowPlane) -> bool {
        let Self { accounts, sessions, interfaces, moment, .. } = self;
        let interface = |port: u16| interfaces.get(usize::from(port)).copied().unwrap_or(0);
        for index in accounts.due(moment.now, tracker.span()) {
            let account = tracker.account(index as u32, plane);
            if let Some(record) = account.and_then(|of| accounts.interim(*moment, &of, interface)) {
                tell(sessions, *moment, &record);
            }
        }
        let now = moment.now;
        for session in sessions.iter_mut() {
            session.exporter.advance(*moment);
            session.forget_trouble(now);
        }
        send_all(sessions, now)
    }

    /// Sends the last records of all connections.
    fn finish(&mut self, tracker: &Tracker, plane: &FlowPlane) {
        let deadline = Instant::now() + FAREWELL;
        for index in 0..tracker.span() as u32 {
            if let Some(account) = tracker.account(index, plane) {
                self.closed(&account);
            }
            if index % CHUNK == CHUNK - 1 {
                self.send_until(deadline);
            }
        }
        self.sessions.iter_mut().for_each(|session| session.exporter.close(self.moment));
        self.send_until(deadline);
        // What goes by a twin is not out before a worker has sent it.
        while Instant::now() < deadline && self.sessions.iter().any(Session::has_unsent) {
            std::thread::sleep(MOMENT);
        }
        std::thread::sleep(LAST_FRAMES);
        for session in &mut self.sessions {
            session.give_up(self.moment);
        }
    }

    fn send_until(&mut self, deadline: Instant) {
        while Instant::now() < deadline {
            let now = self.moment.now;
            if send_all(&mut self.sessions, now) {
                continue;
            }
            if !self.sessions.iter().any(|session| session.may_send(now)) {
                return;
            }
            std::thread::sleep(MOMENT);
        }
    }

    fn status(&self) -> Vec<CollectorStatus> {
        self.sessions.iter().map(|session| session.status(self.moment.now)).collect()
    }

    /// What an operator should know of it.
    fn notices(&self) -> Vec<String> {
        let failing = self.sessions.iter().filter_map(|session| session.notice(self.moment.now));
        let uncounted = CONNTRACK_ACCT.read::<u8>().is_ok_and(|on| on == 0).then(|| {
            "ipfix: the kernel does not count its share of connections, so that records tell only of packets past it: \
             sysctl -w net.netfilter.nf_conntrack_acct=1 has it count, in connections that begin from then on"
                .to_owned()
        });
        failing.chain(uncounted).collect()
    }
}

fn tell(sessions: &mut [Session], moment: Moment, record: &FlowRecord) {
    sessions.iter_mut().for_each(|session| session.exporter.flow(moment, record));
}

/// Has each session send; `true`: one has more.
fn send_all(sessions: &mut [Session], now: u64) -> bool {
    // Each is asked: `any` would stop at the first.
    sessions.iter_mut().map(|session| session.send(now)).filter(|more| *more).count() > 0
}

/// What goes to everybody on a link is not forwarded.
fn is_forwarded(destination: IpAddr) -> bool {
    !destination.is_multicast() && destination != IpAddr::V4(Ipv4Addr::BROADCAST)
}

impl State {
    /// Another pass of the loop begins.
    pub(super) fn export_at(&mut self, now: u64) {
        if let Some(export) = &mut self.plane.export {
            export.at(now, self.ports.twins().into_iter());
        }
    }

    /// Tells collectors what there is to tell now; `true`: there is more.
    pub(super) fn export(&mut self) -> bool {
        let Some(mut export) = self.plane.export.take() else { return false };
        let more = export.advance(&self.tracker, &self.plane);
        self.plane.export = Some(export);
        more
    }

    /// The kernel has made an entry; `true`: it is new, and of no interest to the tracker. Events that the kernel could
    /// not deliver at first come together, as one of a new entry that has grown up already.
    pub(super) fn is_only_new(&mut self, entry: &ConntrackEntry) -> bool {
        if let Some(export) = &mut self.plane.export {
            export.began(entry);
        }
        !entry.status.intersects(Status::SEEN_REPLY | Status::ASSURED)
    }

    /// The kernel has destroyed an entry.
    pub(super) fn destroyed(&mut self, now: u64, entry: &ConntrackEntry) {
        if let Some(export) = &mut self.plane.export {
            export.ended = Some((*entry, false));
        }
        self.tracker.destroyed(now, entry, &mut self.plane);
        if let Some(export) = &mut self.plane.export {
            export.over(self.tracker.is_local(entry));
        }
    }

    /// The gateway ends: the last records.
    pub(super) fn export_last(&mut self) {
        let Some(mut export) = self.plane.export.take() else { return };
        export.finish(&self.tracker, &self.plane);
        self.plane.export = Some(export);
    }

    pub(super) fn collectors(&self) -> Vec<CollectorStatus> {
        self.plane.export.as_ref().map(|export| export.status()).unwrap_or_default()
    }

    pub(super) fn export_notices(&self) -> Vec<String> {
        self.plane.export.as_ref().map(|export| export.notices()).unwrap_or_default()
    }
}
