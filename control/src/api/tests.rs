use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::flow::FiveTuple;
use dataplane::packet::{DropReason, PuntReason};
use mio::{Events, Poll};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{MsgFlags, recv};
use serde_json::{Value, json};

use super::*;

/// A gateway with `flows` connections, the even ones TCP.
struct Fake {
    flows: u64,
}

impl Fake {
    fn flow(index: u64) -> FlowInfo {
        let port = u16::try_from(index % 50_000).unwrap_or(0) + 1;
        let tuple = |src: &str, dst: &str, sport, dport| TupleInfo {
            src: src.parse().expect("address"),
            dst: dst.parse().expect("address"),
            sport,
            dport,
        };
        FlowInfo {
            proto: if index.is_multiple_of(2) { "tcp" } else { "udp" }.to_owned(),
            orig: tuple("192.168.1.2", "192.0.2.9", port, 443),
            reply: tuple("192.0.2.9", "203.0.113.1", 443, port),
            state: FlowState::Software,
            why: "proved".to_owned(),
            packets: PerDirection { orig: index, reply: 1 },
            bytes: PerDirection { orig: 1000, reply: 52 },
            in_port: Some("lan0".to_owned()),
            out_port: None,
            age_s: 1.5,
            idle_s: 0.0,
        }
    }
}

impl Handler for Fake {
    fn status(&self) -> Status {
        Status { version: "test".to_owned(), ready: true, ..Status::default() }
    }
    fn ports(&self) -> Vec<PortStatus> {
        vec![PortStatus { name: "wan0".to_owned(), ..PortStatus::default() }]
    }
    fn stats(&self) -> Stats {
        Stats::default()
    }
    fn reload(&self, check: bool, _: bool) -> Result<ReloadState, String> {
        if check { Ok(ReloadState { number: 7, report: None }) } else { Err("not now".to_owned()) }
    }
    fn reloaded(&self, number: u64) -> Result<ReloadState, String> {
        Ok(ReloadState { number, report: Some(ReloadReport::default()) })
    }
    fn explain(&self, _: &FiveTuple) -> Explanation {
        Explanation::default()
    }
    fn events(&self, after: u64, limit: usize) -> EventPage {
        let seq = after + 1;
        let event = EventInfo { seq, message: "carrier".to_owned(), ..EventInfo::default() };
        EventPage { events: vec![event; limit.min(2)], next: seq, lost: 0 }
    }
    fn hardware(&self) -> Vec<PortHardware> {
        Vec::new()
    }
    fn rules(&self, _: &FiveTuple) -> Vec<DirectionRules> {
        Vec::new()
    }
    /// Looks at no more than 1000 connections a call.
    fn flows(&self, cursor: u64, limit: usize, filter: &FlowFilter) -> FlowPage {
        let end = self.flows.min(cursor.saturating_add(1000));
        let mut flows = Vec::new();
        for index in cursor..end {
            let flow = Self::flow(index);
            if filter.matches(&flow) {
                flows.push(flow);
            }
            if flows.len() == limit && index + 1 < self.flows {
                return FlowPage { flows, next: Some(index + 1) };
            }
        }
        FlowPage { flows, next: (end < self.flows).then_some(end) }
    }
}

/// A server on its own thread, as the control thread runs it.
struct Running {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    clients: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Running {
    fn start(flows: u64) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("api.sock");
        let mut server = Server::bind(&path).expect("bound");
        let (stop, clients) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&clients));
        let thread = std::thread::spawn(move || {
            let mut poll = Poll::new().expect("poll");
            let mut events = Events::with_capacity(64);
            server.register(poll.registry(), 100).expect("registered");
            while !stopped.load(Ordering::Relaxed) {
                poll.poll(&mut events, Some(Duration::from_millis(10))).expect("polled");
                for event in &events {
                    assert!(server.tokens().contains(&event.token().0));
                    server.handle(poll.registry(), event.token(), &Fake { flows });
                }
                count.store(server.clients(), Ordering::Relaxed);
            }
        });
        Self { path, stop, clients, thread: Some(thread), _directory: directory }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path).expect("connected")
    }

    /// A connection without the client's manners.
    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        stream
    }

    fn wait_for_clients(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.clients.load(Ordering::Relaxed) != count {
            assert!(Instant::now() < deadline, "{} clients", self.clients.load(Ordering::Relaxed));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            assert!(std::thread::panicking() || outcome.is_ok(), "the server panicked");
        }
        assert!(!self.path.exists(), "the socket stays behind");
    }
}

/// What the server says to some bytes, until it closes.
fn said(server: &Running, bytes: &[u8]) -> String {
    let mut stream = server.raw();
    stream.write_all(bytes).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    answer
}

#[test]
fn questions_are_answered() {
    let server = Running::start(3);
    let mut client = server.client();
    let status: Status = client.ask(&Request::Status {}).expect("status");
    assert!(status.ready && status.version == "test");
    let ports: Vec<PortStatus> = client.ask(&Request::Ports {}).expect("ports");
    assert_eq!(ports.first().map(|port| port.name.as_str()), Some("wan0"));
    assert_eq!(client.ask::<Stats>(&Request::Stats {}).expect("stats"), Stats::default());
    let flows = Request::Flows { cursor: 0, limit: 2, filter: FlowFilter::default() };
    let page: FlowPage = client.ask(&flows).expect("flows");
    assert_eq!(page, FlowPage { flows: vec![Fake::flow(0), Fake::flow(1)], next: Some(2) });
}

#[test]
fn only_the_owner_and_group_may_ask() {
    let server = Running::start(0);
    let mode = std::fs::metadata(&server.path).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn a_second_instance_is_refused_and_the_first_goes_on() {
    let server = Running::start(0);
    let error = Server::bind(&server.path).expect_err("in use");
    assert!(matches!(error, BindError::InUse { .. }));
    let path = server.path.display();
    assert_eq!(
        error.to_string(),
        format!("{path}: socket in use by a running flyover; stop it, or choose another with --socket PATH")
    );
    assert!(server.client().ask::<Status>(&Request::Status {}).is_ok());
}

#[test]
fn a_dead_socket_is_replaced_and_a_file_is_not() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("api.sock");
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists());
    let server = Server::bind(&path).expect("takes the dead one's place");
    // Somebody replaced the socket: it isn't ours to remove.
    std::fs::remove_file(&path).expect("removed");
    let other = UnixListener::bind(&path).expect("bound");
    drop(server);
    assert!(path.exists());
    drop(other);
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, "precious").expect("written");
    assert!(matches!(Server::bind(&path), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
    assert!(matches!(Server::bind(&directory.path().join("no/dir")), Err(BindError::Io { .. })));
}

#[test]
fn of_many_starters_one_wins() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("api.sock");
    drop(UnixListener::bind(&path).expect("a dead socket"));
    let starters: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || Server::bind(&path))
        })
        .collect();
    let outcomes: Vec<_> = starters.into_iter().map(|starter| starter.join().expect("no panic")).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert!(UnixStream::connect(&path).is_ok(), "the winner can be reached");
}

#[test]
fn starters_take_turns() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("api.sock");
    let file = std::fs::File::open(directory.path()).expect("directory");
    let turn = Flock::lock(file, FlockArg::LockExclusive).expect("locked");
    let next = std::thread::spawn(move || Server::bind(&path));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!next.is_finished(), "it must wait");
    drop(turn);
    assert!(next.join().expect("no panic").is_ok());
}

#[test]
fn a_gateway_that_is_not_there_is_named() {
    let path = Path::new("/nonexistent/flyover.sock");
    let error = Client::connect(path).expect_err("nobody");
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    assert!(error.to_string().contains("flyover run -c FILE"), "{error}");
}

#[test]
fn malformed_requests_get_an_error_and_the_client_stays() {
    let server = Running::start(1);
    let bad: &[&[u8]] = &[
        b"{}",
        b"null",
        b"\xff\xfe\x00",
        b"{\"cmd\":\"nonsense\"}",
        b"{\"cmd\":\"status\",\"x\":1}",
        b"{\"cmd\":\"flows\",\"limit\":-1}",
        b"{\"cmd\":\"flows\",\"limit\":0}",
        b"{\"cmd\":\"flows\",\"filter\":{\"address\":\"nowhere\"}}",
        b"{\"cmd\":\"flows\",\"filter\":{\"nope\":1}}",
        b"[[[[[[[[[[[[[[[[",
    ];
    for request in bad {
        let answer = said(&server, &[request, b"\n{\"cmd\":\"status\"}\n".as_slice()].concat());
        let lines: Vec<Value> =
            answer.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let [error, status] = lines.as_slice() else { panic!("{answer}") };
        assert!(error.get("error").is_some_and(Value::is_string), "{answer}");
        assert!(status.get("ok").is_some(), "{answer}");
    }
    assert!(
        said(&server, b"{\"cmd\":\"nonsense\"}")
            .contains("expected one of `status`, `ports`, `stats`, `flows`")
    );
    assert_eq!(said(&server, b"\n\r\n \n"), "", "empty lines are nothing");
    assert!(said(&server, b"{\"cmd\":\"status\"}").starts_with("{\"ok\":"), "the last line needs no end");
}

#[test]
fn a_request_that_is_too_long_is_refused_and_closed() {
    let server = Running::start(0);
    let mut stream = server.raw();
    stream.write_all(&vec![b'x'; MAX_REQUEST]).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    assert_eq!(answer, "{\"error\":\"a request has at most 16384 bytes\"}\n");
    let longest = format!("{{\"cmd\":\"status\"{}}}\n", " ".repeat(MAX_REQUEST - 17));
    assert_eq!(longest.len(), MAX_REQUEST);
    assert!(said(&server, longest.as_bytes()).starts_with("{\"ok\":"));
}

#[test]
fn a_hundred_thousand_flows_come_in_pages() {
    let server = Running::start(100_000);
    let mut client = server.client();
    let mut ask = |filter: FlowFilter| {
        let (mut count, mut cursor) = (0u64, Some(0));
        let mut expected = 0;
        while let Some(from) = cursor {
            let request = Request::Flows { cursor: from, limit: usize::MAX, filter: filter.clone() };
            let page: FlowPage = client.ask(&request).expect("page");
            assert!(page.flows.len() <= MAX_PAGE);
            for flow in &page.flows {
                assert!(flow.packets.orig >= expected, "none twice");
                expected = flow.packets.orig + 1;
            }
            count += page.flows.len() as u64;
            cursor = page.next;
        }
        count
    };
    assert_eq!(ask(FlowFilter::default()), 100_000);
    assert_eq!(ask(FlowFilter { proto: Some("udp".to_owned()), ..FlowFilter::default() }), 50_000);
    // Port 50000 is the 49,999th of each 50,000: whole pages hold nothing.
    assert_eq!(ask(FlowFilter { port: Some(50_000), ..FlowFilter::default() }), 2);
}

#[test]
fn filters_look_at_both_ends_and_directions() {
    let flow = Fake::flow(41);
    let matches = |filter: FlowFilter| filter.matches(&flow);
    let address = |text: &str| FlowFilter { address: text.parse().ok(), ..FlowFilter::default() };
    assert!(["192.168.1.2", "192.0.2.9", "203.0.113.1"].into_iter().all(|a| matches(address(a))));
    assert!(["192.168.1.0/24", "192.0.0.0/16"].into_iter().all(|a| matches(address(a))));
    assert!(!matches(address("203.0.113.2")) && !matches(address("198.51.100.0/24")));
    let port = |port| FlowFilter { port: Some(port), ..FlowFilter::default() };
    assert!(matches(port(443)) && matches(port(42)) && !matches(port(80)));
    let state = |state| FlowFilter { state: Some(state), ..FlowFilter::default() };
    assert!(matches(state(FlowState::Software)) && !matches(state(FlowState::Closing)));
    let both = FlowFilter { proto: Some("tcp".to_owned()), port: Some(443), ..FlowFilter::default() };
    assert!(!matches(both), "all conditions must hold");
}

#[test]
fn a_slow_reader_holds_nobody_up_and_gets_everything() {
    let server = Running::start(100_000);
    let slow = server.raw();
    slow.set_nonblocking(true).expect("non-blocking");
    // More requests than sockets take, whose answers would be many megabytes.
    let request = b"{\"cmd\":\"flows\",\"limit\":256}\n";
    let mut sent = 0;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        match (&slow).write(request) {
            Ok(length) if length == request.len() => sent += 1,
            Ok(length) => panic!("{length} bytes of a request"),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sent > 10);
    let status: Status = server.client().ask(&Request::Status {}).expect("others are served");
    assert!(status.ready);
    slow.set_nonblocking(false).expect("blocking");
    let mut lines = BufReader::new(&slow).lines();
    for _ in 0..sent {
        let line = lines.next().expect("a line").expect("read");
        assert!(line.starts_with("{\"ok\":{\"flows\":["));
    }
}

/// The client neither reads nor sends any more, so that nothing but the server itself makes its socket ready.
/// Fewer answers than a quarter of the send buffer: beyond that epoll waits for the client to read.
#[test]
fn requests_beyond_a_turn_are_not_forgotten() {
    let server = Running::start(0);
    let one = said(&server, b"x\n").len();
    let mut stream = server.raw();
    stream.write_all(&b"x\n".repeat(40)).expect("sent");
    let mut answers = vec![0; 200 * one];
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = recv(stream.as_raw_fd(), &mut answers, MsgFlags::MSG_PEEK).expect("peeked");
        if seen == 40 * one {
            break;
        }
        assert!(Instant::now() < deadline, "{} of 40 answers", seen / one);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn clients_that_leave_mid_reply_are_forgotten() {
    let server = Running::start(100_000);
    for _ in 0..2 * MAX_CLIENTS {
        let mut stream = server.raw();
        stream.write_all(&b"{\"cmd\":\"flows\"}\n".repeat(20)).expect("sent");
        let mut some = [0; 100];
        stream.read_exact(&mut some).expect("read");
    }
    server.wait_for_clients(0);
    assert!(server.client().ask::<Status>(&Request::Status {}).is_ok());
}

#[test]
fn a_reload_is_ordered_and_asked_after() {
    let server = Running::start(0);
    let mut client = server.client();
    let order = |check| Request::Reload { check, partial: false };
    let state: ReloadState = client.ask(&order(true)).expect("taken");
    assert_eq!((state.number, state.report), (7, None));
    let refused = client.ask::<ReloadState>(&order(false)).expect_err("refused");
    assert!(matches!(refused, ClientError::Refused(text) if text == "not now"));
    let state: ReloadState = client.ask(&Request::Reloaded { number: 7 }).expect("known");
    assert_eq!(state.report, Some(ReloadReport::default()));
}

#[test]
fn silent_clients_make_room() {
    let server = Running::start(0);
    let silent: Vec<UnixStream> = (0..MAX_CLIENTS).map(|_| server.raw()).collect();
    server.wait_for_clients(MAX_CLIENTS);
    assert!(server.client().ask::<Status>(&Request::Status {}).is_ok());
    let mut first = silent.first().expect("clients");
    assert_eq!(first.read(&mut [0; 1]).expect("closed"), 0, "the one that was silent longest");
}

/// A server that answers with whatever it is told.
fn liar(answer: &'static [u8]) -> (tempfile::TempDir, Client) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("api.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let client = Client::connect(&path).expect("connected");
    let (mut stream, _) = listener.accept().expect("accepted");
    stream.write_all(answer).expect("written");
    std::thread::spawn(move || {
        let _ = stream.read(&mut [0; 100]);
    });
    (directory, client)
}

#[test]
fn bad_answers_are_errors() {
    let ask = |answer| {
        let (_directory, mut client) = liar(answer);
        client.ask::<Status>(&Request::Status {}).expect_err("an error")
    };
    assert!(matches!(ask(b"nonsense\n"), ClientError::Garbled { .. }));
    assert!(matches!(ask(b"{\"ok\":{}}\n"), ClientError::Garbled { .. }));
    assert!(matches!(ask(b"{\"ok\":"), ClientError::Broken { .. }));
    assert!(matches!(ask(b"{\"error\":\"no\"}\n"), ClientError::Refused(text) if text == "no"));
}

/// The keys of an object, and those of the objects in it with a dot.
fn keys(value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        all.push(key.clone());
        let first = value.as_array().and_then(|list| list.first()).unwrap_or(value);
        all.extend(keys(first).into_iter().map(|below| format!("{key}.{below}")));
    }
    all
}

/// Keys are what scripts hold on to: a change here is a change for them.
#[test]
fn json_keys_are_stable() {
    let flow = serde_json::to_value(Fake::flow(0)).expect("JSON");
    assert_eq!(
        flow,
        json!({
            "proto": "tcp",
            "orig": {"src": "192.168.1.2", "dst": "192.0.2.9", "sport": 1, "dport": 443},
            "reply": {"src": "192.0.2.9", "dst": "203.0.113.1", "sport": 443, "dport": 1},
            "state": "software",
            "why": "proved",
            "packets": {"orig": 0, "reply": 1},
            "bytes": {"orig": 1000, "reply": 52},
            "in_port": "lan0",
            "out_port": null,
            "age_s": 1.5,
            "idle_s": 0.0,
        })
    );
    let status = Status {
        workers: vec![WorkerStatus::default()],
        ports: vec![PortStatus::default()],
        ipfix: vec![CollectorStatus::default()],
        ruleset: RulesetInfo { flowtables: vec![FlowtableInfo::default()], ..RulesetInfo::default() },
        ..Status::default()
    };
    let value = serde_json::to_value(&status).expect("JSON");
    let short: Vec<String> = keys(&value)
        .into_iter()
        .filter(|key| !key.contains("_by_reason.") && !key.starts_with("ports."))
        .collect();
    let expected = "config_file conntrack conntrack.events conntrack.overruns conntrack.refreshes conntrack.resyncs \
        dropped_by_reason epoch flows flows.candidate flows.capacity flows.closing flows.hardware flows.probing \
        flows.software hardware hugepages ipfix ipfix.collector ipfix.error ipfix.lost ipfix.messages ipfix.records \
        ipfix.waiting marks marks.found marks.missed notices packets packets.dropped packets.fast packets.from_kernel \
        packets.hardware packets.punted policy ports punted_by_reason ready revalidation \
        revalidation.last_missed_s revalidation.missed ruleset ruleset.flowtables \
        ruleset.flowtables.added_to ruleset.flowtables.devices ruleset.flowtables.family ruleset.flowtables.name \
        ruleset.flowtables.offload ruleset.flowtables.table ruleset.keeps ruleset.own_table ruleset.warns uptime_s version \
        workers workers.busy_percent workers.core workers.packets workers.sleeping_percent";
    assert_eq!(short.join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
    let port = serde_json::to_value(PortStatus::default()).expect("JSON");
    let expected = "admin_up device driver link_up mac mtu name netns queues rx rx.bytes rx.errors rx.missed \
        rx.packets speed_mbps twin twin.rx_bytes twin.rx_packets twin.tx_bytes twin.tx_packets twin_io tx tx.bytes \
        tx.errors tx.missed tx.packets";
    assert_eq!(keys(&port).join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
    let hardware = serde_json::to_value(PortHardware::default()).expect("JSON");
    let expected = "ages audit audit.extra audit.failing audit.looks audit.lost audit.orphaned audit.outdated \
        audit.remade directions directions.capacity directions.hardware directions.leaving directions.put_off \
        directions.waiting driver findings form ipv6 lengths marks marks.found marks.missed name proved queues tier used vlan waits waits.longest_us waits.overran";
    assert_eq!(keys(&hardware).join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
    let stats =
        Stats { workers: vec![WorkerStats::default()], punt: vec![PuntStats::default()], ..Stats::default() };
    let value = serde_json::to_value(&stats).expect("JSON");
    let short: Vec<String> = keys(&value).into_iter().filter(|key| !key.contains("_by_reason.")).collect();
    let expected = "buffers buffers.in_use buffers.total dropped_by_reason marks marks.found marks.missed packets packets.dropped packets.fast packets.from_kernel packets.hardware \
        packets.punted punt punt.control punt.dropped_by_reason punt.from_kernel punt.thread punt.to_kernel \
        punted_by_reason tracker tracker.asked tracker.changes tracker.deadline_missed tracker.entries \
        tracker.not_forwarded tracker.proofs tracker.stale_proofs tracker.table_full tracker.unasked workers \
        workers.busy_percent workers.core workers.cycles_per_packet workers.cycles_per_packet.decide \
        workers.cycles_per_packet.parse workers.cycles_per_packet.receive workers.cycles_per_packet.send \
        workers.dropped_by_reason workers.empty_polls workers.marks workers.marks.found workers.marks.missed \
        workers.packets workers.packets.dropped workers.packets.fast workers.packets.from_kernel \
        workers.packets.hardware workers.packets.punted workers.polls workers.punted_by_reason workers.sleeps";
    assert_eq!(short.join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
    assert_eq!(
        serde_json::from_value::<Status>(serde_json::to_value(&status).expect("JSON")).ok(),
        Some(status)
    );
}

#[test]
fn every_reason_is_there_zero_included() {
    let status = serde_json::to_value(Status::default()).expect("JSON");
    let all = |key: &str| status.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
    let (punted, dropped) = (all("punted_by_reason"), all("dropped_by_reason"));
    assert_eq!((punted.len(), dropped.len()), (PuntReason::COUNT, DropReason::COUNT));
    assert!(PuntReason::ALL.iter().all(|reason| punted.get(reason.name()) == Some(&json!(0))));
    assert!(DropReason::ALL.iter().all(|reason| dropped.get(reason.name()) == Some(&json!(0))));
}

#[test]
fn counts_by_reason_add_up_and_can_be_read_back() {
    let mut counts = ByReason::from_counts(&[3, 1]);
    counts.add(PuntReason::Arp, 5);
    let twice = Cell::new(counts.clone());
    counts.merge(&twice.take());
    assert_eq!((counts.get(PuntReason::ALL[0]), counts.get(PuntReason::Arp), counts.total()), (6, 10, 18));
    let text = serde_json::to_string(&counts).expect("JSON");
    assert_eq!(serde_json::from_str::<ByReason<PuntReason>>(&text).expect("back"), counts);
    let newer = r#"{"arp":1,"a_reason_of_next_year":7}"#;
    assert_eq!(serde_json::from_str::<ByReason<PuntReason>>(newer).expect("read").total(), 1);
}

proptest::proptest! {
    /// No line makes the parser panic.
    #[test]
    fn any_line_is_a_request_or_an_error(line in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = protocol::request(&line);
    }
}
