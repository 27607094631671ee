//! A kernel small enough to be seen through: conntrack with masquerading, a ruleset, routes.

use dataplane::flow::{FiveTuple, TCP, UDP};

use crate::netlink::conntrack::{ConntrackEntry, Status, TcpFlags, TcpInfo, TcpState, Zones};
use crate::tracker::testing::ip;
use crate::tracker::{Millis, Timing};

/// Pairs of a client and a server, each with one connection at a time; they differ in address, port and protocol.
pub(crate) const HOSTS: usize = 4;

/// Original direction: 0; reply: 1.
pub(crate) type Direction = usize;

/// Seconds after which an established TCP entry ends: the sysctl of this kernel.
pub(crate) const TCP_ESTABLISHED_S: u32 = 90;
/// The same of assured UDP.
pub(crate) const UDP_STREAM_S: u32 = 60;
/// The same of UDP that is not.
pub(crate) const UDP_S: u32 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Syn,
    Fin,
    Rst,
}

/// What a packet left as, and which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) tuple: FiveTuple,
    pub(crate) way: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Update,
    Destroy,
}

/// An entry of conntrack.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: u32,
    pub(crate) host: usize,
    nat_port: u16,
    state: TcpState,
    replied: bool,
    assured: bool,
    liberal: bool,
    pub(crate) mark: u32,
    expires: Millis,
    /// From then on answered UDP is a stream.
    stream_from: Millis,
    /// The last packet of the connection, wherever it went; whether it was answered by then, and a stream.
    last: Millis,
    answered: bool,
    stream: bool,
    /// Its timeout was set by a gateway that has died since.
    orphan: bool,
    /// An event of it was lost, and nobody was told.
    unheard: bool,
}

pub(crate) fn proto(host: usize) -> u8 {
    if host < HOSTS / 2 { TCP } else { UDP }
}

pub(crate) fn orig(host: usize) -> FiveTuple {
    let src = ip(&format!("10.0.0.{}", 2 + host));
    FiveTuple { proto: proto(host), src, dst: ip("192.0.2.9"), sport: 4000, dport: 80 }
}

/// Whose packet it is that leaves for the server: its translated port tells, as [`Kernel::new_port`] chooses it.
pub(crate) fn client_of(sent: &FiveTuple) -> Option<usize> {
    let is = |host: &usize| usize::from(sent.sport % 100) == *host && proto(*host) == sent.proto;
    (0..HOSTS).find(is).filter(|host| sent.dst == orig(*host).dst)
}

fn reply(host: usize, nat_port: u16) -> FiveTuple {
    let (src, dst) = (ip("192.0.2.9"), ip("192.0.2.1"));
    FiveTuple { proto: proto(host), src, dst, sport: 80, dport: nat_port }
}

/// What replies to a host's connections may come in with.
pub(crate) fn replies(host: usize) -> impl Iterator<Item = FiveTuple> {
    (0..SHIFTS).map(move |shift| reply(host, new_port(host, shift)))
}

/// New connections get one of so many source ports.
const SHIFTS: u16 = 3;

const fn new_port(host: usize, shift: u16) -> u16 {
    4000 + host as u16 + 100 * shift
}

impl Entry {
    /// Seconds that it lives on after a packet.
    fn timeout_s(&self, stream: bool) -> u32 {
        match (proto(self.host), self.state) {
            (TCP, TcpState::Established) => TCP_ESTABLISHED_S,
            (TCP, TcpState::Close) => 10,
            (TCP, TcpState::FinWait | TcpState::TimeWait) => 120,
            (TCP, _) => 60,
            _ if stream => UDP_STREAM_S,
            _ => UDP_S,
        }
    }

    /// A packet passed, whichever way.
    fn touch(&mut self, now: Millis, direction: Direction) {
        self.last = now;
        self.answered |= direction == 1;
        self.stream |= self.answered && now > self.stream_from;
    }

    pub(crate) fn tuples(&self) -> [FiveTuple; 2] {
        [orig(self.host), reply(self.host, self.nat_port)]
    }

    /// As a dump or an event shows it.
    fn told(&self, now: Millis) -> ConntrackEntry {
        let [orig, reply] = self.tuples();
        let mut status = Status::CONFIRMED | Status::SRC_NAT;
        for (is, bit) in [(self.replied, Status::SEEN_REPLY), (self.assured, Status::ASSURED)] {
            if is {
                status = status | bit;
            }
        }
        let flags = Some(TcpFlags(if self.liberal { TcpFlags::BE_LIBERAL.0 } else { 0 }));
        let tcp = TcpInfo { state: self.state, orig_flags: flags, reply_flags: flags };
        ConntrackEntry {
            id: self.id,
            orig,
            reply,
            zones: Zones::default(),
            status,
            timeout_s: Some((self.expires.saturating_sub(now) / 1000) as u32),
            mark: (self.mark != 0).then_some(self.mark),
            tcp: (orig.proto == TCP).then_some(tcp),
            has_helper: false,
            seq_adjust: false,
            synproxy: false,
            counted: None,
            started_ns: None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) entries: Vec<Entry>,
    pub(crate) blocked: [bool; HOSTS],
    pub(crate) ways: [[u8; 2]; HOSTS],
    /// What the next new connection's source port becomes, counted from 4000 and the host.
    shift: u16,
    next_id: u32,
    /// What is to be told, as it was at that moment.
    pub(crate) events: Vec<(Event, ConntrackEntry)>,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            blocked: [false; HOSTS],
            ways: [[0, 1]; HOSTS],
            shift: 0,
            next_id: 1,
            events: Vec::new(),
        }
    }

    /// conntrack's times, as the tracker is told of them.
    pub(crate) fn timing() -> Timing {
        Timing {
            tcp_established_s: TCP_ESTABLISHED_S,
            udp_stream_s: UDP_STREAM_S,
            udp_s: UDP_S,
            ..Timing::default()
        }
    }

    fn of_host(&self, host: usize) -> Option<usize> {
        self.entries.iter().position(|entry| entry.host == host)
    }

    /// New connections get another source port from now on.
    pub(crate) fn shift_ports(&mut self) {
        self.shift = (self.shift + 1) % SHIFTS;
    }

    fn new_port(&self, host: usize) -> u16 {
        new_port(host, self.shift)
    }

    /// What a data packet from the wire would leave as.
    pub(crate) fn would(&self, direction: Direction, tuple: &FiveTuple) -> Option<Sent> {
        let known = self.entries.iter().find(|entry| entry.tuples()[direction] == *tuple);
        let (host, nat_port) = match (known, direction) {
            (Some(entry), _) => (entry.host, entry.nat_port),
            (None, 0) => {
                let host = (0..HOSTS).find(|host| orig(*host) == *tuple)?;
                (host, self.new_port(host))
            }
            (None, _) => return None,
        };
        if self.blocked[host] {
            return None;
        }
        let peer = if direction == 0 { reply(host, nat_port) } else { orig(host) };
        Some(Sent { tuple: peer.inverted(), way: self.ways[host][direction] })
    }

    /// A packet from the wire goes through.
    pub(crate) fn packet(
        &mut self,
        now: Millis,
        direction: Direction,
        tuple: &FiveTuple,
        kind: Kind,
    ) -> Option<Sent> {
        let known = self.entries.iter().position(|entry| entry.tuples()[direction] == *tuple);
        let ended = |entry: &Entry| matches!(entry.state, TcpState::TimeWait | TcpState::Close);
        let index = match known {
            // A SYN opens it anew.
            Some(index) if kind == Kind::Syn && ended(&self.entries[index]) => {
                self.destroy(now, index);
                None
            }
            known => known,
        };
        let sent = self.would(direction, tuple);
        let index = match index {
            Some(index) => index,
            // What is not let through leaves no entry.
            None => {
                sent.filter(|_| matches!(kind, Kind::Data | Kind::Syn))?;
                let host = (0..HOSTS).find(|host| orig(*host) == *tuple)?;
                self.open(now, host, kind)
            }
        };
        self.follow(now, index, direction, kind);
        sent
    }

    fn open(&mut self, now: Millis, host: usize, kind: Kind) -> usize {
        // One pair of tuples stands for one connection at a time.
        if let Some(former) = self.of_host(host) {
            self.destroy(now, former);
        }
        let picked_up = proto(host) == TCP && kind == Kind::Data;
        self.entries.push(Entry {
            id: self.next_id,
            host,
            nat_port: self.new_port(host),
            state: if picked_up || proto(host) == UDP { TcpState::Established } else { TcpState::SynSent },
            replied: false,
            assured: false,
            liberal: false,
            mark: 0,
            expires: now,
            stream_from: now + 2_000,
            last: now,
            answered: false,
            stream: false,
            orphan: false,
            unheard: false,
        });
        self.next_id += 1;
        self.entries.len() - 1
    }

    /// conntrack takes a packet of a known connection in.
    fn follow(&mut self, now: Millis, index: usize, direction: Direction, kind: Kind) {
        let entry = &mut self.entries[index];
        let before = (entry.state, entry.replied, entry.assured);
        entry.replied |= direction == 1;
        if proto(entry.host) == TCP {
            entry.state = match (entry.state, kind, direction) {
                (TcpState::SynSent, Kind::Syn | Kind::Data, 1) => TcpState::SynRecv,
                (TcpState::SynRecv, Kind::Data, 0) => TcpState::Established,
                (state @ (TcpState::SynSent | TcpState::SynRecv), Kind::Fin, _) => state,
                (_, Kind::Rst, _) => TcpState::Close,
                (TcpState::Established, Kind::Fin, _) => TcpState::FinWait,
                (TcpState::FinWait, Kind::Fin, _) => TcpState::TimeWait,
                (state, ..) => state,
            };
            entry.assured |= entry.replied && entry.state == TcpState::Established;
        } else {
            entry.assured |= entry.replied && now > entry.stream_from;
        }
        entry.touch(now, direction);
        entry.orphan = false;
        entry.expires = now + Millis::from(entry.timeout_s(entry.assured)) * 1000;
        if before != (entry.state, entry.replied, entry.assured) {
            self.events.push((Event::Update, entry.told(now)));
        }
    }

    fn destroy(&mut self, now: Millis, index: usize) {
        let entry = self.entries.swap_remove(index);
        let told = ConntrackEntry { timeout_s: None, ..entry.told(now) };
        self.events.push((Event::Destroy, told));
    }

    /// `conntrack -D`.
    pub(crate) fn delete(&mut self, now: Millis, host: usize) {
        if let Some(index) = self.of_host(host) {
            self.destroy(now, index);
        }
    }

    /// `ct mark set` in a rule, with a packet of the client.
    pub(crate) fn mark(&mut self, now: Millis, host: usize, mark: u32) {
        if let Some(index) = self.of_host(host) {
            self.follow(now, index, 0, Kind::Data);
            let entry = &mut self.entries[index];
            entry.mark = mark;
            self.events.push((Event::Update, ConntrackEntry { tcp: None, ..entry.told(now) }));
        }
    }

    /// What a GET finds.
    pub(crate) fn get(&self, now: Millis, tuple: &FiveTuple) -> Option<ConntrackEntry> {
        self.entries.iter().find(|entry| entry.tuples().contains(tuple)).map(|entry| entry.told(now))
    }

    pub(crate) fn dump(&self, now: Millis) -> Vec<ConntrackEntry> {
        self.entries.iter().map(|entry| entry.told(now)).collect()
    }

    /// CTA_TIMEOUT, and the liberal flags.
    pub(crate) fn set_timeout(&mut self, now: Millis, tuple: &FiveTuple, timeout_s: u32, liberal: bool) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.tuples().contains(tuple)) {
            entry.expires = now + Millis::from(timeout_s) * 1000;
            entry.liberal |= liberal;
        }
    }

    /// A packet of this connection took the fast path.
    pub(crate) fn flew(&mut self, now: Millis, direction: Direction, tuple: &FiveTuple) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.tuples()[direction] == *tuple) {
            entry.touch(now, direction);
        }
    }

    /// A timeout comes that is meant for the entry `known`. Another one lives longer than it should, until it is seen.
    pub(crate) fn hit(&mut self, tuple: &FiveTuple, known: Option<u32>) {
        let entry = self.entries.iter_mut().find(|entry| entry.tuples().contains(tuple));
        if let Some(entry) = entry.filter(|entry| known != Some(entry.id)) {
            entry.unheard = true;
        }
    }

    /// Nobody will know of the last event of this entry.
    pub(crate) fn unheard(&mut self, id: u32) {
        self.entries.iter_mut().filter(|entry| entry.id == id).for_each(|entry| entry.unheard = true);
    }

    /// The gateway died: who knows what it left behind. Of UDP that flew its successor can't know if it was a stream.
    pub(crate) fn orphan(&mut self, now: Millis) {
        for entry in &mut self.entries {
            entry.orphan = true;
            entry.unheard |= entry.expires > now + 1000 * Millis::from(TCP_ESTABLISHED_S);
        }
    }

    /// Ends what has timed out, and says if something lived shorter or longer than it would have without Flyover.
    pub(crate) fn expire(&mut self, now: Millis, late: Millis) {
        for index in (0..self.entries.len()).rev() {
            let entry = &self.entries[index];
            let alone = entry.last + Millis::from(entry.timeout_s(entry.stream)) * 1000;
            // Of one that became a stream while nobody told of it, control can't know when.
            let unsure = entry.stream && !entry.assured && entry.last < entry.stream_from + 2_000;
            let alone = if unsure && entry.expires <= now { now } else { alone };
            if entry.expires <= now {
                assert!(entry.orphan || now + 1000 >= alone, "ended {} ms early: {entry:?}", alone - now);
                self.destroy(now, index);
            } else if !entry.orphan && !entry.unheard {
                assert!(now <= alone + late, "lives {} ms too long: {entry:?}", now - alone);
            }
        }
    }
}
