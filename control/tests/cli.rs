//! The `flyover` binary as a user meets it: exit codes, and what goes to which stream.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use control::api::{
    DirectionRules, EventInfo, EventPage, Explanation, FlowFilter, FlowInfo, FlowPage, FlowState, Handler,
    PerDirection, PortHardware, PortStatus, PuntStats, ReloadState, Server, Stats, Status, TupleInfo,
    WorkerStats, WorkerStatus,
};
use dataplane::flow::FiveTuple;
use dataplane::packet::PuntReason;
use mio::{Events, Poll};
use serde_json::Value;

/// A gateway with some connections.
struct Fake {
    flows: u64,
}

impl Handler for Fake {
    fn status(&self) -> Status {
        let mut status = Status {
            version: "1.2.3".to_owned(),
            ready: true,
            uptime_s: 200,
            policy: "auto".to_owned(),
            hardware: "none".to_owned(),
            workers: vec![WorkerStatus { core: 1, ..WorkerStatus::default() }],
            ports: self.ports(),
            ..Status::default()
        };
        status.ruleset.own_table = "not_needed".to_owned();
        status.punted_by_reason.add(PuntReason::Arp, 1234);
        status
    }
    fn ports(&self) -> Vec<PortStatus> {
        let device = "net_tap0,iface=up0".to_owned();
        vec![PortStatus {
            name: "wan0".to_owned(),
            device,
            speed_mbps: Some(10_000),
            ..PortStatus::default()
        }]
    }
    fn stats(&self) -> Stats {
        Stats {
            workers: vec![WorkerStats { core: 1, polls: 77, ..WorkerStats::default() }],
            punt: vec![PuntStats::default()],
            ..Stats::default()
        }
    }
    fn flows(&self, cursor: u64, limit: usize, filter: &FlowFilter) -> FlowPage {
        let end = self.flows.min(cursor + limit as u64);
        let flows = (cursor..end).map(flow).filter(|flow| filter.matches(flow)).collect();
        FlowPage { flows, next: (end < self.flows).then_some(end) }
    }
    fn reload(&self, _: bool, _: bool) -> Result<ReloadState, String> {
        Err("not now".to_owned())
    }
    fn reloaded(&self, number: u64) -> Result<ReloadState, String> {
        Ok(ReloadState { number, report: None })
    }
    fn explain(&self, _: &FiveTuple) -> Explanation {
        Explanation { why: "nobody knows".to_owned(), ..Explanation::default() }
    }
    fn events(&self, after: u64, limit: usize) -> EventPage {
        // 300 in all, more than a page.
        let events = (after + 1..=300).take(limit).map(|seq| EventInfo {
            seq,
            time: "2026-01-02T03:04:05.006Z".to_owned(),
            level: if seq.is_multiple_of(100) { "warn" } else { "info" }.to_owned(),
            message: format!("event {seq}"),
            fields: [("port".to_owned(), "wan0".to_owned())].into(),
        });
        let events: Vec<EventInfo> = events.collect();
        let next = events.last().map_or(after, |event| event.seq);
        EventPage { events, next, lost: 0 }
    }
    fn hardware(&self) -> Vec<PortHardware> {
        vec![PortHardware { name: "wan0".to_owned(), tier: "none".to_owned(), ..PortHardware::default() }]
    }
    fn rules(&self, _: &FiveTuple) -> Vec<DirectionRules> {
        Vec::new()
    }
}

fn flow(index: u64) -> FlowInfo {
    let address = |text: &str| text.parse().expect("address");
    let (client, server, wan) = (address("2001:db8::2"), address("2001:db8:1::9"), address("2001:db8:2::1"));
    let port = u16::try_from(index % 50_000).unwrap_or(0) + 1;
    FlowInfo {
        proto: if index.is_multiple_of(2) { "tcp" } else { "udp" }.to_owned(),
        orig: TupleInfo { src: client, dst: server, sport: port, dport: 443 },
        reply: TupleInfo { src: server, dst: wan, sport: 443, dport: port },
        state: FlowState::Software,
        why: "proved".to_owned(),
        packets: PerDirection { orig: 1_000_000, reply: 234_567 },
        bytes: PerDirection { orig: 1536, reply: 0 },
        in_port: Some("lan0".to_owned()),
        out_port: None,
        age_s: 200.0,
        idle_s: 0.5,
    }
}

/// The fake gateway behind an API socket.
struct Gateway {
    directory: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    fn start(flows: u64) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut gateway = Self { directory, stop: Arc::default(), thread: None };
        gateway.run(flows);
        gateway
    }

    fn run(&mut self, flows: u64) {
        let mut server = Server::bind(&self.directory.path().join("api.sock")).expect("bound");
        self.stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&self.stop);
        self.thread = Some(std::thread::spawn(move || {
            let mut poll = Poll::new().expect("poll");
            let mut events = Events::with_capacity(16);
            server.register(poll.registry(), 0).expect("registered");
            while !stopped.load(Ordering::Relaxed) {
                poll.poll(&mut events, Some(Duration::from_millis(10))).expect("polled");
                for event in &events {
                    server.handle(poll.registry(), event.token(), &Fake { flows });
                }
            }
        }));
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            assert!(std::thread::panicking() || outcome.is_ok(), "the server panicked");
        }
    }

    fn socket(&self) -> String {
        self.directory.path().join("api.sock").display().to_string()
    }

    /// Asks it, and expects an answer without a word on standard error.
    fn ask(&self, arguments: &[&str]) -> String {
        let socket = self.socket();
        let outcome = flyover(&[arguments, &["--socket", &socket]].concat());
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{arguments:?}");
        outcome.stdout
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ask(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.end();
    }
}

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flyover"));
    command.args(arguments).stdin(Stdio::null());
    // Whatever the one who tests likes.
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command
}

fn flyover(arguments: &[&str]) -> Outcome {
    let output = command(arguments).output().expect("started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let code = output.status.code().expect("an exit code, not a signal");
    Outcome { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Fails with a code, says why on standard error, and nothing on standard output.
fn fails(arguments: &[&str], code: i32) -> String {
    let outcome = flyover(arguments);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (code, ""), "{arguments:?}: {}", outcome.stderr);
    outcome.stderr
}

/// A configuration file, and a socket path that must stay free.
struct File {
    directory: tempfile::TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = Self { directory };
        let socket = file.socket();
        std::fs::write(file.path(), format!("{text}\n[api]\nsocket = {socket:?}\n")).expect("written");
        file
    }
    fn path(&self) -> PathBuf {
        self.directory.path().join("gw.toml")
    }
    fn socket(&self) -> PathBuf {
        self.directory.path().join("api.sock")
    }
}

#[test]
fn help_and_version_are_answers() {
    let help = flyover(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for command in [
        "run", "check", "doctor", "bind", "unbind", "status", "ports", "flows", "stats", "events", "top",
        "hardware", "explain", "--socket",
    ] {
        assert!(help.stdout.contains(command), "{command}: {}", help.stdout);
    }
    let run = flyover(&["run", "--help"]);
    assert_eq!(run.code, 0);
    for option in ["--config", "--port <NAME=DEVICE>", "--log-level", "--socket"] {
        assert!(run.stdout.contains(option), "{option}: {}", run.stdout);
    }
    let version = flyover(&["--version"]);
    assert_eq!((version.code, version.stdout), (0, format!("flyover {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [
        [].as_slice(),
        &["fly"],
        &["run"],
        &["check", "--json"],
        &["status", "--nope"],
        &["run", "-c", "x", "--port", "a=net_null0"],
        &["flows", "--proto", "icmp"],
        &["flows", "--state", "gone"],
        &["flows", "--address", "nowhere"],
        &["flows", "--port", "65536"],
        &["run", "-c", "x", "--log-level", "loud"],
        &["run", "-c", "x", "--log-format", "xml"],
        &["events", "--level", "debug"],
        &["flows", "--sort", "colour"],
        &["status", "--watch=0"],
        &["events", "--watch"],
        &["top"],
        &["top", "--interval", "0"],
        &["events", "-n", "-1"],
        &["doctor", "--dry-run"],
        &["bind"],
        &["bind", "--status", "eth0"],
        &["bind", "eth0", "--driver", "ixgbe"],
        &["unbind"],
    ] {
        assert!(!fails(arguments, 2).is_empty());
    }
}

#[test]
fn each_fault_of_a_file_is_one_line_and_leaves_nothing_behind() {
    let port = |name: &str, device: &str| format!("[[port]]\nname = \"{name}\"\ndevice = \"{device}\"\n");
    for (text, place, says) in [
        (port("a", "net_null0") + "mut = 1", ":4:1: ", "unknown key `mut` in [[port]] (did you mean `mtu`?)"),
        (port("a", "eth9"), ":3:10: ", "device = \"eth9\": A device is a PCI address"),
        (port("a", "net_null0") + &port("a", "net_null1"), ":5:8: ", "the port of line 1 has it already"),
        (port("a", "net_null0") + "netns = \"flyover-none\"", ":4:9: ", "there is no such namespace"),
    ] {
        let file = File::new(&text);
        let path = file.path().display().to_string();
        for verb in ["run", "check"] {
            let error = fails(&[verb, "-c", &path], 2);
            assert!(error.starts_with(&format!("flyover: {path}{place}")), "{error}");
            assert!(error.contains(says), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
            assert!(!file.socket().exists());
        }
    }
    let error = fails(&["run", "-c", "/nonexistent/gw.toml"], 2);
    assert!(
        error.starts_with("flyover: /nonexistent/gw.toml: can't read the configuration: No such file"),
        "{error}"
    );
    assert!(fails(&["run", "--port", "a=b=c"], 2).starts_with("flyover: --port a=b=c: device = \"b=c\": "));
}

#[test]
fn a_name_in_use_is_1() {
    // Every namespace has `lo`, which is no tap.
    let error = fails(&["run", "--port", "lo=net_null0"], 1);
    assert!(error.contains("the name lo is in use by an interface that is not a tap"), "{error}");
    let outcome = flyover(&["check", "--port", "lo=net_null0"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (1, ""));
    assert!(outcome.stdout.contains("error: the name lo is in use"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("\n  fix: ip link set lo down"), "{}", outcome.stdout);
}

#[test]
fn check_answers_in_json_alone() {
    let outcome = flyover(&["check", "--json", "--port", "lo=net_null0"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (1, ""));
    let document: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(document["ok"], false);
    let finding = document["findings"].as_array().expect("a list").iter().find(|f| f["check"] == "twin");
    for key in ["severity", "check", "what", "why", "fix"] {
        assert!(finding.expect("found")[key].is_string(), "{key}");
    }
    let outcome = flyover(&["check", "--json", "-c", "/nonexistent/gw.toml"]);
    assert_eq!(outcome.code, 2);
    let document: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(document["findings"][0]["check"], "config");
    assert!(outcome.stderr.starts_with("flyover: /nonexistent/gw.toml: "), "{}", outcome.stderr);
}

#[test]
fn the_doctor_answers_in_json_alone() {
    let file = File::new("[[port]]\nname = \"lo\"\ndevice = \"net_null0\"");
    let path = file.path().display().to_string();
    let outcome = flyover(&["doctor", "--json", "-c", &path]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (1, ""));
    let document: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!((&document["ok"], &document["dry_run"]), (&Value::from(false), &Value::from(false)));
    assert_eq!(document["fixes"], Value::Array(Vec::new()));
    let only = flyover(&["doctor", "--json", "-c", &path, "--only", "twin", "--fix", "--dry-run"]);
    let document: Value = serde_json::from_str(&only.stdout).expect("JSON");
    let [finding] = document["findings"].as_array().expect("a list").as_slice() else { panic!("{document}") };
    assert_eq!((&finding["fixable"], &document["dry_run"]), (&Value::from(false), &Value::from(true)));
    assert!(finding["left"].as_str().is_some_and(|left| left.contains("for you to say")), "{finding}");
    let outcome = flyover(&["doctor", "--json", "-c", "/nonexistent/gw.toml"]);
    assert_eq!(outcome.code, 2);
    let document: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(document["findings"][0]["check"], "config");
}

#[test]
fn nics_that_are_not_there_are_1() {
    let error = fails(&["bind", "flyover-none", "0000:ff:1f.7"], 1);
    assert!(error.starts_with("flyover: flyover-none: neither a PCI address"), "{error}");
    assert!(error.contains("\nflyover: there is no PCI device 0000:ff:1f.7"), "{error}");
    assert!(fails(&["unbind", "lo"], 1).starts_with("flyover: lo is no NIC on the PCI bus"));
    let list = flyover(&["bind", "--status", "--json"]);
    assert_eq!((list.code, list.stderr.as_str()), (0, ""));
    let list: Value = serde_json::from_str(&list.stdout).expect("JSON");
    for nic in list.as_array().expect("a list") {
        for key in ["address", "id", "held_by", "can"] {
            assert!(nic[key].is_string(), "{key}: {nic}");
        }
    }
}

#[test]
fn a_gateway_that_is_not_running_is_1() {
    for arguments in
        [["status"].as_slice(), &["ports"], &["flows"], &["stats"], &["doctor"], &["flows", "--json"]]
    {
        let error = fails(&[arguments, &["--socket", "/nonexistent.sock"]].concat(), 1);
        assert!(error.starts_with("flyover: no gateway is running at /nonexistent.sock: "), "{error}");
        assert!(error.contains("flyover run -c FILE"), "{error}");
    }
}

#[test]
fn the_socket_may_be_named_before_or_after_the_command() {
    let gateway = Gateway::start(0);
    let socket = gateway.socket();
    let before = flyover(&["--socket", &socket, "status", "--json"]);
    let after = flyover(&["status", "--json", "--socket", &socket]);
    assert_eq!((before.code, after.code), (0, 0));
    assert_eq!(before.stdout, after.stdout);
}

#[test]
fn events_are_shown_from_a_level_on_and_the_last_of_them() {
    let gateway = Gateway::start(0);
    assert_eq!(gateway.ask(&["events"]).lines().count(), 300);
    assert_eq!(
        gateway.ask(&["events", "-n", "2"]),
        "2026-01-02T03:04:05.006Z  info   event 299  port=wan0\n\
         2026-01-02T03:04:05.006Z  warn   event 300  port=wan0\n"
    );
    let warnings = gateway.json(&["events", "--level", "warn"]);
    let numbers: Vec<_> = warnings.as_array().expect("a list").iter().map(|event| &event["seq"]).collect();
    assert_eq!(numbers, [100, 200, 300]);
    assert_eq!(
        gateway.ask(&["events", "-n", "1", "--json"]),
        "[{\"seq\":300,\"time\":\"2026-01-02T03:04:05.006Z\",\"level\":\"warn\",\"message\":\"event 300\",\
         \"fields\":{\"port\":\"wan0\"}}]\n"
    );
    assert_eq!(gateway.ask(&["events", "--level", "error"]), "");
}

#[test]
fn flows_are_sorted_and_only_the_first_of_them_shown() {
    let gateway = Gateway::start(600);
    assert_eq!(gateway.ask(&["flows", "--sort", "bytes"]).lines().count(), 101);
    assert_eq!(gateway.json(&["flows", "--sort", "age", "--limit", "7"]).as_array().map(Vec::len), Some(7));
    let rated = gateway.json(&["flows", "--sort", "rate", "--limit", "1", "--proto", "udp"]);
    assert_eq!((&rated[0]["proto"], &rated[0]["packets_per_s"]), (&Value::from("udp"), &Value::from(0.0)));
    assert!(gateway.ask(&["flows", "--sort", "rate"]).starts_with("PKT/S  BIT/S  PROTO"));
    // Without an order nothing is left out, and rates are nobody's business.
    let all = gateway.json(&["flows"]);
    assert_eq!((all.as_array().map(Vec::len), all[0].get("packets_per_s")), (Some(600), None));
}

#[test]
fn what_is_watched_comes_again() {
    let gateway = Gateway::start(3);
    for arguments in [["status", "--json", "--watch"].as_slice(), &["flows", "--sort", "age", "--watch=1"]] {
        let socket = gateway.socket();
        let mut watcher = command(&[arguments, &["--socket", &socket]].concat())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(watcher.stdout.take().expect("a pipe")).lines();
        let first = lines.next().expect("a line").expect("text");
        assert!(lines.any(|line| line.is_ok_and(|line| line == first)), "{arguments:?}");
        // Whoever reads has seen enough.
        drop(lines);
        assert_eq!(watcher.wait().expect("ended").code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn a_watch_outlives_the_gateway() {
    let mut gateway = Gateway::start(3);
    let mut watcher = command(&["flows", "--json", "--watch", "--socket", &gateway.socket()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(watcher.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let whole = |lines: &mut dyn Iterator<Item = String>, number: usize| {
        let mut list = lines.next().expect("a line");
        while !list.ends_with("}]") {
            list.push_str(&lines.next().expect("a line"));
        }
        let list: Value = serde_json::from_str(&list).expect("JSON");
        list.as_array().map(Vec::len) == Some(number)
    };
    assert!(whole(&mut lines, 3));
    gateway.end();
    // It is told before there is another one.
    let mut told = String::new();
    let mut errors = BufReader::new(watcher.stderr.take().expect("a pipe"));
    errors.read_line(&mut told).expect("read");
    assert!(told.contains("waiting for it to come back"), "{told}");
    gateway.run(5);
    assert!((0..1000).any(|_| whole(&mut lines, 5)), "the one that came back");
    watcher.kill().expect("killed");
    watcher.wait().expect("ended");
}

#[test]
fn colours_are_for_terminals_or_for_who_asks() {
    let gateway = Gateway::start(1);
    let socket = gateway.socket();
    let coloured = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = command(&[arguments, &["--socket", &socket]].concat());
        let output = command.envs(variables.iter().copied()).output().expect("started");
        assert!(output.status.success(), "{output:?}");
        output.stdout.contains(&0x1b)
    };
    for (arguments, variables, expected) in [
        (["flows"].as_slice(), [].as_slice(), false),
        (&["flows", "--color", "always"], &[], true),
        (&["--color=always", "status"], &[("NO_COLOR", "1")], true),
        (&["status"], &[("CLICOLOR_FORCE", "1")], true),
        (&["status"], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
        (&["status", "--color", "never"], &[("CLICOLOR_FORCE", "1")], false),
        // JSON is for programs.
        (&["status", "--color", "always", "--json"], &[], false),
        (&["flows", "--color", "always", "--json"], &[], false),
        (&["events", "--color", "always", "--json"], &[], false),
    ] {
        assert_eq!(coloured(arguments, variables), expected, "{arguments:?} {variables:?}");
    }
    // Colours take no room.
    let plain = gateway.ask(&["flows"]);
    let mut painted = gateway.ask(&["flows", "--color", "always"]);
    while let Some(start) = painted.find('\x1b') {
        let end = painted[start..].find('m').expect("the end of a colour");
        painted.replace_range(start..=start + end, "");
    }
    assert_eq!(painted, plain);
}

#[test]
fn json_is_what_the_gateway_says() {
    let gateway = Gateway::start(600);
    let status = gateway.json(&["status"]);
    assert_eq!(
        (&status["ready"], &status["punted_by_reason"]["arp"]),
        (&Value::from(true), &Value::from(1234))
    );
    assert_eq!(gateway.json(&["ports"])[0]["name"], "wan0");
    assert_eq!(gateway.json(&["explain", "udp", "192.0.2.1:1", "192.0.2.2:2"])["why"], "nobody knows");
    assert_eq!(gateway.json(&["stats"])["workers"][0]["polls"], 77);
    assert_eq!(gateway.json(&["hardware"])[0]["tier"], "none");
    let ends = ["192.0.2.1:1", "192.0.2.2:2"];
    let rules = |proto| [["hardware", "--rules", proto].as_slice(), ends.as_slice()].concat();
    assert_eq!(gateway.json(&rules("udp")), Value::Array(Vec::new()));
    let count = |arguments: &[&str]| gateway.json(arguments).as_array().expect("a list").len();
    assert_eq!(count(&["flows"]), 600);
    assert_eq!(count(&["flows", "--limit", "300"]), 300);
    assert_eq!(count(&["flows", "--limit", "0"]), 0);
    assert_eq!(count(&["flows", "--proto", "udp"]), 300);
    assert_eq!(count(&["flows", "--port", "5", "--address", "2001:db8:2::1"]), 1);
    assert_eq!(count(&["flows", "--port", "5", "--address", "2001:db8:2::/48"]), 1);
    assert_eq!(count(&["flows", "--address", "192.0.2.0/24"]), 0);
    assert_eq!(count(&["flows", "--state", "closing"]), 0);
    let flow = &gateway.json(&["flows", "--limit", "1"])[0];
    assert_eq!(
        (&flow["reply"]["dst"], &flow["bytes"]["orig"]),
        (&Value::from("2001:db8:2::1"), &Value::from(1536))
    );
}

#[test]
fn tables_are_aligned_and_plain() {
    let gateway = Gateway::start(2);
    let flows = gateway.ask(&["flows"]);
    let lines: Vec<&str> = flows.lines().collect();
    let [head, first, _] = lines.as_slice() else { panic!("{flows}") };
    let column = |title: &str| head.find(title).expect("a column");
    assert!(first[column("ORIGINAL")..].starts_with("[2001:db8::2]:1 > [2001:db8:1::9]:443 "), "{flows}");
    assert!(first[column("IN ")..].starts_with("lan0 "), "{flows}");
    assert!(first.contains(" 1,234,567  1.5 KiB  3m20s  0.5s  proved"), "{flows}");
    for arguments in [["status"].as_slice(), &["ports"], &["stats"], &["flows"]] {
        let text = gateway.ask(arguments);
        assert!(!text.contains('\x1b'), "{text:?}");
        assert!(text.lines().all(|line| line.trim_end() == line), "{text:?}");
    }
    let status = gateway.ask(&["status"]);
    assert!(status.starts_with("flyover 1.2.3: ready, up 3m20s; one thing to look at\n"), "{status}");
    assert!(status.contains("punted, by reason\n  arp  1,234\n"), "{status}");
    assert!(status.contains("10 Gbit/s"), "{status}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let gateway = Gateway::start(100_000);
    let socket = gateway.socket();
    for json in [[].as_slice(), &["--json"]] {
        let mut child = command(&[&["flows", "--socket", &socket], json].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut first).expect("read");
        assert!(!first.is_empty());
        let status = child.wait().expect("ended");
        let mut error = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut error).expect("read");
        assert_eq!((status.code(), error.as_str()), (Some(0), ""));
    }
}
