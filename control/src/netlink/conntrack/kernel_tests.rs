//! Against the running kernel, in network namespaces of the tests' own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use dataplane::flow::{FiveTuple, TCP, UDP};
use nix::libc;

use super::oracle;
use super::*;
use crate::netlink::message::Writer;
use crate::netlink::sysctl;
use crate::netlink::testing::{eventually, in_namespace, run};

/// Without a rule that looks at connections the kernel does not track any.
fn track() {
    run("nft add table inet t");
    run("nft add chain inet t c { type filter hook input priority 0; }");
    run("nft add rule inet t c ct state established accept");
}

fn events(groups: EventGroups, own: Option<u32>) -> EventSocket {
    EventSocket::open(groups, own, RECEIVE_BUFFER).expect("event socket")
}

/// Collects events until `enough` says so.
fn collect(
    socket: &mut EventSocket,
    what: &str,
    enough: impl Fn(&[ConntrackMessage]) -> bool,
) -> Vec<ConntrackMessage> {
    let mut seen = Vec::new();
    eventually(what, || {
        socket.drain(64, |message| seen.push(message)).expect("drained");
        enough(&seen)
    });
    seen
}

/// Sends a request and waits for its answer, which must be one.
fn ask(socket: &mut RequestSocket, request: Request) -> ConntrackMessage {
    let wanted = socket.send(&request).expect("sent");
    let mut answer = None;
    eventually("an answer", || {
        socket
            .drain(16, |message| match message {
                ConntrackMessage::DumpEntry { sequence, .. } | ConntrackMessage::Error { sequence, .. } => {
                    assert_eq!(sequence, wanted);
                    assert!(answer.replace(message).is_none(), "a second answer: {message:?}");
                }
                other => panic!("{other:?}"),
            })
            .expect("drained");
        answer.is_some()
    });
    answer.expect("an answer")
}

fn get(socket: &mut RequestSocket, tuple: FiveTuple, zone: u16) -> ConntrackEntry {
    match ask(socket, Request::Get { tuple, zone }) {
        ConntrackMessage::DumpEntry { entry, .. } => entry,
        other => panic!("no entry: {other:?}"),
    }
}

/// All entries that a filter lets through.
fn dump(socket: &mut RequestSocket, filter: DumpFilter) -> Vec<ConntrackEntry> {
    let wanted = socket.send(&Request::Dump(filter)).expect("sent");
    let mut entries = Vec::new();
    let mut done = None;
    eventually("the end of a dump", || {
        // A small limit, so that a dump takes many turns.
        socket
            .drain(1, |message| match message {
                ConntrackMessage::DumpEntry { sequence, entry } => {
                    assert_eq!(sequence, wanted);
                    entries.push(entry);
                }
                ConntrackMessage::Done { sequence, errno } => done = Some((sequence, errno)),
                other => panic!("{other:?}"),
            })
            .expect("drained");
        done.is_some()
    });
    assert_eq!((done, socket.dump_under_way()), (Some((wanted, 0)), None));
    entries
}

fn update(socket: &mut RequestSocket, update: EntryUpdate) {
    socket.send(&Request::Update(update)).expect("sent");
    socket.drain(16, |message| panic!("refused: {message:?}")).expect("drained");
}

/// An entry as a test wants it: number `n`, TCP and established, or UDP.
fn wanted(proto: u8, n: u32, v6: bool) -> ConntrackEntry {
    let (src, dst) = if v6 {
        (Ipv6Addr::from(0xfd00 << 112 | u128::from(n)).into(), Ipv6Addr::from(0xfd01 << 112).into())
    } else {
        (Ipv4Addr::from(0x0a00_0000 | n >> 8).into(), Ipv4Addr::new(192, 0, 2, 1).into())
    };
    let orig = FiveTuple { proto, src, dst, sport: 1024 + (n & 0xff) as u16, dport: 443 };
    let info = TcpInfo { state: TcpState::Established, orig_flags: None, reply_flags: None };
    ConntrackEntry {
        id: 0,
        orig,
        reply: orig.inverted(),
        zones: Zones::DEFAULT,
        status: Status::SEEN_REPLY | Status::ASSURED | Status::CONFIRMED,
        timeout_s: Some(600),
        mark: None,
        tcp: (proto == TCP).then_some(info),
        has_helper: false,
        seq_adjust: false,
        synproxy: false,
        counted: None,
        started_ns: None,
    }
}

/// Makes entries in the kernel, from a socket that is not Flyover's.
fn create(entries: impl IntoIterator<Item = ConntrackEntry>) {
    let socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_NETFILTER).expect("socket");
    let kernel = netlink_sys::SocketAddr::new(0, 0);
    let entries: Vec<_> = entries.into_iter().collect();
    for chunk in entries.chunks(64) {
        let bytes: Vec<u8> = chunk.iter().flat_map(|entry| oracle::create(entry, 1)).collect();
        socket.send_to(&bytes, &kernel, 0).expect("sent");
        let refused = socket.recv(&mut Vec::with_capacity(4096), libc::MSG_DONTWAIT);
        assert!(refused.is_err(), "an entry was refused");
    }
}

fn tuple_of(proto: u8, from: std::net::SocketAddr, to: std::net::SocketAddr) -> FiveTuple {
    FiveTuple { proto, src: from.ip(), dst: to.ip(), sport: from.port(), dport: to.port() }
}

#[test]
fn a_udp_flow_tells_its_life() {
    in_namespace(|| {
        track();
        let mut socket = events(EventGroups::ALL, None);
        let server = UdpSocket::bind("127.0.0.1:0").expect("server");
        let client = UdpSocket::bind("127.0.0.1:0").expect("client");
        let (from, to) = (client.local_addr().expect("address"), server.local_addr().expect("address"));
        client.send_to(b"question", to).expect("sent");
        server.send_to(b"answer", from).expect("sent");
        let tuple = tuple_of(UDP, from, to);

        let seen = collect(&mut socket, "NEW and UPDATE", |seen| seen.len() >= 2);
        let [ConntrackMessage::New(new), ConntrackMessage::Update(update)] = seen[..] else {
            panic!("{seen:?}")
        };
        assert_eq!((new.orig, new.reply), (tuple, tuple.inverted()));
        assert!(!new.status.contains(Status::SEEN_REPLY) && new.status.contains(Status::CONFIRMED));
        assert!(update.status.contains(Status::SEEN_REPLY));
        assert_eq!((new.id, new.timeout_s, new.tcp), (update.id, Some(30), None));

        run("conntrack -D -p udp");
        let seen = collect(&mut socket, "DESTROY", |seen| !seen.is_empty());
        assert!(matches!(seen[..], [ConntrackMessage::Destroy(entry)] if entry.id == new.id), "{seen:?}");
    });
}

/// What flow records rest on: the end of an entry tells what the kernel has counted, when it began, and whether it had time
/// left.
#[test]
fn the_end_of_an_entry_tells_what_was_counted() {
    in_namespace(|| {
        track();
        sysctl::CONNTRACK_ACCT.write(1).expect("counted");
        run("sysctl -qw net.netfilter.nf_conntrack_timestamp=1");
        let mut socket = events(EventGroups::ALL, None);
        let server = UdpSocket::bind("127.0.0.1:0").expect("server");
        let client = UdpSocket::bind("127.0.0.1:0").expect("client");
        let (from, to) = (client.local_addr().expect("address"), server.local_addr().expect("address"));
        for _ in 0..3 {
            client.send_to(&[0; 100], to).expect("sent");
        }
        server.send_to(&[0; 10], from).expect("sent");
        let seen = collect(&mut socket, "NEW and UPDATE", |seen| seen.len() >= 2);
        let told = |message: &ConntrackMessage| matches!(message, ConntrackMessage::New(e) | ConntrackMessage::Update(e) if e.counted.is_some());
        assert!(!seen.iter().any(told), "only the end tells: {seen:?}");
        let answer = get(&mut RequestSocket::open().expect("request socket"), tuple_of(UDP, from, to), 0);
        run("conntrack -D -p udp");
        let seen = collect(&mut socket, "DESTROY", |seen| !seen.is_empty());
        let [ConntrackMessage::Destroy(last)] = seen[..] else { panic!("{seen:?}") };
        let counted = [Count { packets: 3, bytes: 3 * 128 }, Count { packets: 1, bytes: 38 }];
        assert_eq!((last.counted, answer.counted), (Some(counted), Some(counted)));
        let started = last.started_ns.map(Duration::from_nanos).expect("a beginning");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
        assert!(started <= now && now - started < Duration::from_secs(60), "{started:?} {now:?}");
        assert!(last.timeout_s.is_some_and(|left| left > 0), "deleted before its time: {last:?}");
    });
}

#[test]
fn a_tcp_connection_tells_its_states_and_translation() {
    in_namespace(|| {
        track();
        run("nft add chain inet t nat { type nat hook output priority -100; }");
        let server = TcpListener::bind("127.0.0.1:0").expect("server");
        let to = server.local_addr().expect("address");
        run(&format!("nft add rule inet t nat tcp dport 7 redirect to :{}", to.port()));
        let mut socket = events(EventGroups::LIFE, None);

        let mut client = TcpStream::connect("127.0.0.1:7").expect("connected");
        let (mut peer, _) = server.accept().expect("accepted");
        client.write_all(b"x").expect("written");
        peer.read_exact(&mut [0]).expect("read");
        let from = client.local_addr().expect("address");
        let assured = |message: &ConntrackMessage| matches!(message, ConntrackMessage::Update(entry) if entry.status.contains(Status::ASSURED));
        let seen = collect(&mut socket, "ASSURED", |seen| seen.iter().any(assured));
        let Some(ConntrackMessage::Update(entry)) = seen.into_iter().find(assured) else { panic!() };
        assert_eq!(entry.tcp_state(), Some(TcpState::Established));
        assert!(entry.status.contains(Status::DST_NAT) && !entry.status.contains(Status::SRC_NAT));
        assert_eq!(entry.orig, tuple_of(TCP, from, "127.0.0.1:7".parse().expect("address")));
        assert_eq!(entry.reply, tuple_of(TCP, to, from));

        client.shutdown(std::net::Shutdown::Write).expect("shut down");
        drop(peer);
        drop(client);
        let state = |wanted| move |message: &ConntrackMessage| matches!(message, ConntrackMessage::Update(entry) if entry.tcp_state() == Some(wanted));
        collect(&mut socket, "TIME_WAIT", |seen| seen.iter().any(state(TcpState::TimeWait)));
        run("conntrack -F");
        let seen = collect(&mut socket, "DESTROY", |seen| !seen.is_empty());
        let [ConntrackMessage::Destroy(last)] = seen[..] else { panic!("{seen:?}") };
        assert_eq!((last.id, last.orig), (entry.id, entry.orig));
        assert_eq!(socket.counts().malformed, 0);
    });
}

#[test]
fn entries_are_changed_and_read_back() {
    in_namespace(|| {
        create([wanted(TCP, 1, false), wanted(UDP, 1, false), wanted(TCP, 1, true), wanted(UDP, 1, true)]);
        let mut socket = RequestSocket::open().expect("request socket");
        for (proto, v6) in [(TCP, false), (UDP, false), (TCP, true), (UDP, true)] {
            let tuple = wanted(proto, 1, v6).orig;
            let before = get(&mut socket, tuple, 0);
            assert_eq!(before.orig, tuple);
            assert_eq!(get(&mut socket, tuple.inverted(), 0), before, "found by its reply direction too");
            assert_eq!(before.mark.unwrap_or(0), 0);
            update(
                &mut socket,
                EntryUpdate {
                    timeout_s: Some(300),
                    mark: Some((0x5_0005, 0xf_0000)),
                    tcp_flags: Some(TcpFlagsUpdate::LIBERAL),
                    status: Some(before.status),
                    ..EntryUpdate::new(tuple, Zones::DEFAULT)
                },
            );
            let after = get(&mut socket, tuple, 0);
            assert_eq!((after.id, after.status), (before.id, before.status));
            assert!(matches!(after.timeout_s, Some(299..=300)), "{after:?}");
            assert_eq!(after.mark, Some(0x5_0000), "bits outside the mask are kept");
            let flags = |entry: ConntrackEntry| entry.tcp.map(|tcp| [tcp.orig_flags, tcp.reply_flags]);
            let liberal = Some(TcpFlags::BE_LIBERAL);
            assert_eq!(flags(after), (proto == TCP).then_some([liberal; 2]));
            let strict = EntryUpdate {
                tcp_flags: Some(TcpFlagsUpdate::STRICT),
                ..EntryUpdate::new(tuple, Zones::DEFAULT)
            };
            update(&mut socket, strict);
            assert_eq!(flags(get(&mut socket, tuple, 0)), (proto == TCP).then_some([Some(TcpFlags(0)); 2]));
        }
        assert!(run("conntrack -L -o extended").lines().all(|line| line.contains("mark=327680")));
    });
}

#[test]
fn zones_say_which_entry_is_meant() {
    in_namespace(|| {
        let zones = [
            Zones::DEFAULT,
            Zones { orig: 5, reply: 5 },
            Zones { orig: 7, reply: 0 },
            Zones { orig: 0, reply: 9 },
        ];
        // A direction in the default zone must not have the tuple of the first entry.
        let entries = zones.map(|zones| {
            let mut entry = ConntrackEntry { zones, ..wanted(UDP, 1, false) };
            entry.orig.sport += u16::from(zones.reply == 9);
            entry.reply.sport += u16::from(zones.orig == 7);
            entry
        });
        create(entries);
        let mut socket = RequestSocket::open().expect("request socket");
        for (n, entry) in entries.into_iter().enumerate() {
            let zones = entry.zones;
            assert_eq!(get(&mut socket, entry.orig, zones.orig).zones, zones);
            assert_eq!(get(&mut socket, entry.reply, zones.reply).zones, zones);
            let mark = Some((n as u32 + 100, u32::MAX));
            update(&mut socket, EntryUpdate { mark, ..EntryUpdate::new(entry.orig, zones) });
        }
        for (n, entry) in entries.into_iter().enumerate() {
            let found = get(&mut socket, entry.orig, entry.zones.orig);
            assert_eq!((found.zones, found.mark), (entry.zones, Some(n as u32 + 100)));
            ask_nothing(&mut socket, Request::Delete { orig: entry.orig, zones: entry.zones, id: found.id });
        }
        assert!(dump(&mut socket, DumpFilter::default()).is_empty());
    });
}

fn ask_nothing(socket: &mut RequestSocket, request: Request) {
    socket.send(&request).expect("sent");
    socket.drain(16, |message| panic!("refused: {message:?}")).expect("drained");
}

#[test]
fn what_is_not_there_is_an_error_and_an_id_protects_a_successor() {
    in_namespace(|| {
        create([wanted(UDP, 1, false)]);
        let mut socket = RequestSocket::open().expect("request socket");
        let (tuple, gone) = (wanted(UDP, 1, false).orig, wanted(UDP, 2, false).orig);
        let is_enoent = |answer| matches!(answer, ConntrackMessage::Error { errno: libc::ENOENT, .. });
        assert!(is_enoent(ask(&mut socket, Request::Get { tuple: gone, zone: 0 })));
        let refresh = EntryUpdate { timeout_s: Some(9), ..EntryUpdate::new(gone, Zones::DEFAULT) };
        assert!(is_enoent(ask(&mut socket, Request::Update(refresh))), "an update must not create");
        let entry = get(&mut socket, tuple, 0);
        let wrong = Request::Delete { orig: tuple, zones: Zones::DEFAULT, id: !entry.id };
        assert!(is_enoent(ask(&mut socket, wrong)));
        assert_eq!(get(&mut socket, tuple, 0).id, entry.id);
    });
}

#[test]
fn the_kernel_ignores_an_id_in_an_update() {
    in_namespace(|| {
        create([wanted(UDP, 1, false)]);
        let mut socket = RequestSocket::open().expect("request socket");
        let tuple = wanted(UDP, 1, false).orig;
        let mut writer = Writer::default();
        let message = writer.message(0x100, libc::NLM_F_REQUEST, 1);
        writer.raw(&[libc::AF_INET as u8, 0, 0, 0]);
        request::write_tuple(&mut writer, 1, &tuple, 0);
        writer.attribute(12, &[0; 4]);
        writer.attribute(7, &77u32.to_be_bytes());
        writer.end_message(message);
        let other = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_NETFILTER).expect("socket");
        other.send_to(writer.bytes(), &netlink_sys::SocketAddr::new(0, 0), 0).expect("sent");
        let timeout = get(&mut socket, tuple, 0).timeout_s;
        assert!(
            matches!(timeout, Some(76..=77)),
            "if this fails, EntryUpdate could carry an id: {timeout:?}"
        );
    });
}

#[test]
fn own_updates_make_no_events_and_own_deletions_do() {
    in_namespace(|| {
        sysctl::CONNTRACK_EVENTS.write(1).expect("sysctl");
        create((0..100).map(|n| wanted(TCP, n, false)));
        let mut requests = RequestSocket::open().expect("request socket");
        let mut own = events(EventGroups::ALL, Some(requests.port()));
        let mut all = events(EventGroups::ALL, None);
        for n in 0..100 {
            let mark = Some((n + 1, u32::MAX));
            let change = EntryUpdate { mark, ..EntryUpdate::new(wanted(TCP, n, false).orig, Zones::DEFAULT) };
            requests.queue(&Request::Update(change)).expect("queued");
        }
        requests.flush().expect("sent");
        let echoes = collect(&mut all, "100 echoes at another listener", |seen| seen.len() >= 100);
        assert!(echoes.iter().all(|message| matches!(message, ConntrackMessage::Update(_))));

        // Somebody else's change, and the own deletion, come after the echoes would have.
        let mut other = RequestSocket::open().expect("request socket");
        let mark = Some((4711, u32::MAX));
        update(
            &mut other,
            EntryUpdate { mark, ..EntryUpdate::new(wanted(TCP, 1, false).orig, Zones::DEFAULT) },
        );
        let entry = get(&mut requests, wanted(TCP, 2, false).orig, 0);
        ask_nothing(&mut requests, Request::Delete { orig: entry.orig, zones: Zones::DEFAULT, id: entry.id });
        let seen = collect(&mut own, "the other's change", |seen| seen.len() >= 2);
        let [ConntrackMessage::Update(changed), ConntrackMessage::Destroy(gone)] = seen[..] else {
            panic!("{seen:?}")
        };
        assert_eq!((changed.mark, gone.id), (Some(4711), entry.id));
    });
}

#[test]
fn a_large_table_is_dumped_in_turns_and_filtered() {
    in_namespace(|| {
        const ENTRIES: u32 = 20_000;
        create((0..ENTRIES).map(|n| ConntrackEntry {
            mark: (n % 100 == 0).then_some(0x1_0000 | n),
            status: if n % 10 == 0 { Status::CONFIRMED } else { wanted(UDP, n, false).status },
            ..wanted(UDP, n, false)
        }));
        let mut socket = RequestSocket::open().expect("request socket");
        let all = dump(&mut socket, DumpFilter::default());
        let mut tuples: Vec<_> = all.iter().map(|entry| entry.orig).collect();
        tuples.sort();
        tuples.dedup();
        assert_eq!((all.len(), tuples.len()), (20_000, 20_000));
        let marked = dump(&mut socket, DumpFilter { mark: Some((0x1_0000, 0x1_0000)), status: None });
        assert_eq!(marked.len(), 200);
        assert!(marked.iter().all(|entry| entry.mark.is_some_and(|mark| mark & 0x1_0000 != 0)));
        let assured = dump(&mut socket, DumpFilter { mark: None, status: Some(Status::ASSURED) });
        assert_eq!(assured.len(), 18_000);
        assert_eq!(socket.counts(), SocketCounts { messages: 38_203, ..SocketCounts::default() });
    });
}

#[test]
fn one_dump_at_a_time_and_requests_beside_it() {
    in_namespace(|| {
        create((0..2_000).map(|n| wanted(UDP, n, false)));
        let mut socket = RequestSocket::open().expect("request socket");
        let all = Request::Dump(DumpFilter::default());
        let dumping = socket.send(&all).expect("sent");
        assert!(matches!(socket.send(&all), Err(crate::netlink::NetlinkError::DumpUnderWay)));
        let tuple = wanted(UDP, 77, false).orig;
        let getting = socket.send(&Request::Get { tuple, zone: 0 }).expect("sent");
        let (mut dumped, mut got, mut done) = (0, 0, false);
        eventually("both answers", || {
            socket
                .drain(1, |message| match message {
                    ConntrackMessage::DumpEntry { sequence, .. } if sequence == dumping => dumped += 1,
                    ConntrackMessage::DumpEntry { sequence, entry } if sequence == getting => {
                        assert_eq!(entry.orig, tuple);
                        got += 1;
                    }
                    ConntrackMessage::Done { sequence, errno: 0 } if sequence == dumping => done = true,
                    other => panic!("{other:?}"),
                })
                .expect("drained");
            done && got == 1
        });
        assert_eq!(dumped, 2_000);
        assert_eq!(dump(&mut socket, DumpFilter::default()).len(), 2_000);
    });
}

#[test]
fn an_overrun_heals_itself() {
    in_namespace(|| {
        const ENTRIES: u32 = 5_000;
        sysctl::CONNTRACK_EVENTS.write(1).expect("sysctl");
        create((0..ENTRIES).map(|n| wanted(UDP, n, false)));
        let groups = EventGroups { new: false, update: false, destroy: true };
        let mut socket = EventSocket::open(groups, None, 128 << 10).expect("event socket");
        assert!(socket.receive_buffer() < 1 << 20, "the buffer must be too small for this test");
        run("conntrack -F");
        let mut ids = std::collections::HashSet::new();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while ids.len() < ENTRIES as usize && std::time::Instant::now() < deadline {
            socket
                .drain(64, |message| match message {
                    ConntrackMessage::Destroy(entry) => _ = ids.insert(entry.id),
                    other => panic!("{other:?}"),
                })
                .expect("drained");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(ids.len(), ENTRIES as usize, "every DESTROY comes, late as it may be");
        assert!(socket.delayed().expect("/proc") > 0, "nothing was lost, so nothing was tested");
    });
}

/// Without the sysctl it says nothing, if no other test has a listener just then: the kernel remembers a
/// listener of any namespace.
#[test]
fn an_entry_older_than_the_listener_speaks_if_events_are_on() {
    in_namespace(|| {
        track();
        sysctl::CONNTRACK_EVENTS.write(1).expect("sysctl");
        let server = UdpSocket::bind("127.0.0.1:0").expect("server");
        let client = UdpSocket::bind("127.0.0.1:0").expect("client");
        let to = server.local_addr().expect("address");
        client.send_to(b"before", to).expect("sent");
        let mut socket = events(EventGroups::LIFE, None);
        run("conntrack -F");
        let seen = collect(&mut socket, "DESTROY", |seen| !seen.is_empty());
        let [ConntrackMessage::Destroy(entry)] = seen[..] else { panic!("{seen:?}") };
        assert_eq!(entry.orig, tuple_of(UDP, client.local_addr().expect("address"), to));
    });
}

#[test]
fn mio_wakes_on_an_event() {
    in_namespace(|| {
        let mut socket = events(EventGroups::ALL, None);
        let mut poll = mio::Poll::new().expect("poll");
        poll.registry().register(&mut socket, mio::Token(3), mio::Interest::READABLE).expect("registered");
        create([wanted(UDP, 1, false)]);
        let mut ready = mio::Events::with_capacity(4);
        poll.poll(&mut ready, Some(Duration::from_secs(5))).expect("polled");
        assert!(ready.iter().any(|event| event.token() == mio::Token(3)));
        let mut seen = 0;
        assert!(!socket.drain(64, |_| seen += 1).expect("drained").more);
        assert_eq!(seen, 1);
    });
}
