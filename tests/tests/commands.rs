//! Every command on a live gateway: in text and JSON, with its exit codes.
//!
//! The commands are those that `flyover --help` lists. One for which nothing is tried here fails the test.

use std::net::{SocketAddr, SocketAddrV4};
use std::process::Output;
use std::time::Duration;

use lab::process::mortal;
use lab::schema::Schema;
use lab::tcp::{Pair, Service};
use lab::topology::{CLIENT, SERVER};
use lab::{
    Gateway, Lab, LabError, Namespace, Result, change, gateway, leftovers, model_nic, turn, udp, wait,
};
use serde_json::Value;

/// A gateway with a model NIC, and connections that fly over it.
struct Live<'a> {
    lab: &'a Lab,
    gateway: &'a Gateway,
    /// Source port of answered UDP, in the NIC.
    udp: u16,
    /// TCP.
    tcp: &'a Pair,
}

/// What is tried of a command.
type Case = fn(&Live<'_>) -> Result<()>;

fn case(command: &str) -> Option<Case> {
    Some(match command {
        "run" => run,
        "check" => check,
        "doctor" => doctor,
        "reload" => reload,
        "bind" => bind,
        "unbind" => unbind,
        "status" => status,
        "ports" => ports,
        "flows" => flows,
        "stats" => stats,
        "events" => events,
        "hardware" => hardware,
        "top" => top,
        "explain" => explain,
        "trace" => trace,
        "capture" => capture,
        _ => return None,
    })
}

/// Those that ask a gateway, with arguments that will do.
const ASKING: [(&str, &[&str]); 10] = [
    ("reload", &["--check"]),
    ("trace", &[]),
    ("status", &[]),
    ("ports", &[]),
    ("flows", &[]),
    ("stats", &[]),
    ("events", &[]),
    ("hardware", &[]),
    ("hardware", &["--rules", "udp", "192.0.2.1:1", "192.0.2.2:2"]),
    ("explain", &["udp", "192.0.2.1:1", "192.0.2.2:2"]),
];

#[test]
fn every_command_does_what_it_says_on_a_live_gateway() -> Result<()> {
    let _turn = turn::take();
    // A flow that is in the NIC stays there for as long as the test lasts.
    let lab = model_nic::lab().config("flows", "reprove_every = \"10m\"").build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let tcp = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    lab.until_flying("tcp", tcp.source_port(), || tcp.ping(1))?;
    let pair = change::udp_pair(&lab, 5000)?;
    let stream = udp::Stream::start(&pair, Duration::from_millis(5), true)?;
    let live = Live { lab: &lab, gateway, udp: pair.source_port(), tcp: &tcp };
    live.until_in_the_nic()?;
    let commands = listed(&gateway.ask(&["--help"])?);
    for command in commands {
        let Some(tried) = case(&command) else { panic!("nothing is tried of flyover {command}") };
        tried(&live).inspect_err(|_| println!("of flyover {command}:"))?;
    }
    stream.finish();
    tcp.finish()
}

/// The commands that the help lists.
fn listed(help: &str) -> Vec<String> {
    let after = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = after.take_while(|line| !line.is_empty());
    let named = lines.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let names = named.filter_map(|line| line.split_whitespace().next());
    let names: Vec<String> = names.filter(|name| *name != "help").map(str::to_owned).collect();
    assert!(names.len() > 10, "{names:?} of\n{help}");
    names
}

impl Live<'_> {
    fn until_in_the_nic(&self) -> Result<()> {
        wait::until_true(wait::PATIENCE, "the connection in the NIC", || {
            let flow = self.gateway.flow("udp", self.udp);
            flow.is_ok_and(|flow| flow.is_some_and(|flow| flow.state() == "hardware"))
        })
    }

    /// What a command prints for people: plain, as standard output is no terminal.
    fn text(&self, arguments: &[&str]) -> Result<String> {
        let text = self.gateway.ask(arguments)?;
        assert!(!text.trim().is_empty(), "{arguments:?} says nothing");
        for line in text.lines() {
            let plain = !line.contains(|c: char| c.is_control()) && line.trim_end() == line;
            assert!(plain, "{arguments:?}: {line:?}");
        }
        Ok(text)
    }

    /// What it prints for programs, by its schema.
    fn json(&self, arguments: &[&str], schema: &str) -> Result<Value> {
        Schema::read(schema)?.parse(&self.gateway.ask(&[arguments, &["--json"]].concat())?)
    }

    /// With `--watch` it comes again.
    fn watched(&self, arguments: &[&str]) -> Result<()> {
        let directory = leftovers::directory()?;
        let mut command = mortal(gateway::binary()?);
        command.args(arguments).args(["--json", "--watch", "--socket"]).arg(self.gateway.socket());
        let watcher = self.lab.gateway().start("watch", command, directory.path())?;
        let (started, ended) = if arguments[0] == "flows" { ("[{", "}]\n") } else { ("", "\n") };
        wait::until_true(wait::PATIENCE, &format!("{arguments:?} to come again"), || {
            let out = watcher.output();
            out.starts_with(started) && out.matches(ended).count() >= 2
        })
    }

    fn ends(&self, source_port: u16, to: u16) -> [String; 2] {
        [SocketAddr::from((CLIENT, source_port)).to_string(), SocketAddr::from((SERVER, to)).to_string()]
    }
}

/// Where the columns of a table begin or end, by their titles, all the cells below do.
fn is_aligned(table: &str, left: &[&str], right: &[&str]) {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let rows: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    assert!(!rows.is_empty(), "{table}");
    let blank = |row: &str, at: usize| row.chars().nth(at).is_none_or(|c| c == ' ');
    let column = |title: &str| {
        // A whole title, not a part of another one.
        let whole = |at: &usize| (*at == 0 || blank(head, at - 1)) && blank(head, at + title.len());
        head.match_indices(title).map(|(at, _)| at).find(whole).unwrap_or_else(|| panic!("{title}: {table}"))
    };
    for row in rows {
        for title in left {
            let at = column(title);
            assert!(!blank(row, at) && (at == 0 || blank(row, at - 1)), "{title}:\n{table}");
        }
        for title in right {
            let end = column(title) + title.len();
            assert!(!blank(row, end - 1) && blank(row, end), "{title}:\n{table}");
        }
    }
}

/// A second one on the same socket changes nothing and says why.
fn run(live: &Live<'_>) -> Result<()> {
    let config = live.gateway.config().display().to_string();
    let output = live.gateway.flyover(&["run", "-c", &config])?;
    failed(&output, 1, &["in use"]);
    assert!(live.gateway.status()?.ready(), "the first one goes on");
    Ok(())
}

fn check(live: &Live<'_>) -> Result<()> {
    let path = live.gateway.config();
    let config = path.display().to_string();
    // What runs has its names and its socket; whatever else the machine lacks are warnings.
    let text = live.text(&["check", "-c", &config])?;
    assert!(text.contains(&format!("{config}: can run; errors: 0")), "{text}");
    let found = live.json(&["check", "-c", &config], "check")?;
    assert_eq!(found["ok"], true, "{found}");

    let wrong = path.with_file_name("wrong.toml");
    std::fs::write(&wrong, "[flows]\nkapacity = 7\n").map_err(LabError::io("write a configuration"))?;
    let wrong = wrong.display().to_string();
    failed(&live.gateway.flyover(&["check", "-c", &wrong])?, 2, &["wrong.toml:2", "kapacity", "capacity"]);
    let output = live.gateway.flyover(&["check", "-c", &wrong, "--json"])?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let found = Schema::read("check")?.parse(&String::from_utf8_lossy(&output.stdout))?;
    assert_eq!((&found["ok"], &found["findings"][0]["check"]), (&Value::from(false), &Value::from("config")));
    Ok(())
}

/// What changes and what is refused is tested in `reload.rs`.
fn reload(live: &Live<'_>) -> Result<()> {
    for arguments in [&["reload", "--check"][..], &["reload"]] {
        live.text(arguments)?;
        let told = live.json(arguments, "reload")?;
        assert_eq!((&told["outcome"], &told["error"]), (&Value::from("unchanged"), &Value::Null), "{told}");
    }
    failed(&live.gateway.flyover(&["reload", "--chekc"])?, 2, &["--check"]);
    Ok(())
}

/// Its other options have tests of their own, in `doctor.rs`.
fn doctor(live: &Live<'_>) -> Result<()> {
    let output = live.gateway.flyover(&["doctor"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = live.gateway.flyover(&["doctor", "--json"])?;
    let found = Schema::read("check")?.parse(&String::from_utf8_lossy(&told.stdout))?;
    let code = Some(i32::from(found["ok"] != true));
    assert_eq!((output.status.code(), told.status.code()), (code, code), "{text}{found}");
    assert!(!text.contains('\u{1b}') && text.lines().any(|line| line.starts_with("  why: ")), "{text}");
    Ok(())
}

/// The machine's NICs are left alone: `doctor.rs` and unit tests have some that are made up.
fn bind(live: &Live<'_>) -> Result<()> {
    live.text(&["bind", "--status"])?;
    let found: Value =
        serde_json::from_str(&live.gateway.ask(&["bind", "--status", "--json"])?).expect("JSON");
    assert!(found.is_array(), "{found}");
    failed(&live.gateway.flyover(&["bind"])?, 2, &["DEVICE"]);
    Ok(())
}

fn unbind(live: &Live<'_>) -> Result<()> {
    failed(&live.gateway.flyover(&["unbind"])?, 2, &["DEVICE"]);
    Ok(())
}

fn status(live: &Live<'_>) -> Result<()> {
    let text = live.text(&["status"])?;
    let first = text.lines().next().unwrap_or_default();
    assert!(first.starts_with("flyover ") && first.contains(": ready, up "), "{text}");
    assert!(text.contains("\nconnections, of ") && text.contains("\n  software   "), "{text}");
    let found = live.json(&["status"], "status")?;
    assert_eq!(
        (&found["ready"], &found["flows"]["hardware"]),
        (&Value::from(true), &Value::from(1)),
        "{found}"
    );
    live.watched(&["status"])?;

    // What goes wrong is the first that is told, with what to type.
    live.lab.gateway().run("ip link set wan0 down")?;
    wait::until_true(wait::PATIENCE, "the port that is down to be told", || {
        let text = live.gateway.ask(&["status"]).unwrap_or_default();
        text.lines()
            .nth(1)
            .is_some_and(|line| line.starts_with("look: ") && line.contains("ip link set wan0 up"))
    })?;
    live.lab.gateway().run("ip link set wan0 up")?;
    wait::until_true(wait::PATIENCE, "it to be up again", || {
        !live.gateway.ask(&["status"]).is_ok_and(|text| text.contains("ip link set"))
    })?;
    // For those that come after this.
    live.lab.until_flying("tcp", live.tcp.source_port(), || live.tcp.ping(1))?;
    live.until_in_the_nic()
}

fn ports(live: &Live<'_>) -> Result<()> {
    let text = live.text(&["ports"])?;
    let rows: String =
        text.lines().filter(|line| !line.starts_with(' ')).map(|line| format!("{line}\n")).collect();
    is_aligned(&rows, &["PORT", "DRIVER", "LINK", "ADMIN", "MAC", "DEVICE"], &["MTU", "PACKETS", "ERRORS"]);
    let found = live.json(&["ports"], "ports")?;
    let names: Vec<_> = found.as_array().into_iter().flatten().map(|port| port["name"].clone()).collect();
    assert_eq!(names, text.lines().skip(1).step_by(4).map(|line| line[..4].into()).collect::<Vec<Value>>());
    live.watched(&["ports"])
}

fn flows(live: &Live<'_>) -> Result<()> {
    let (udp, tcp) = (live.udp, live.tcp.source_port());
    let source_ports = |arguments: &[&str]| -> Result<Vec<u64>> {
        let found = live.json(&[&["flows"], arguments].concat(), "flows")?;
        let mut ports: Vec<u64> = found
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|flow| flow["orig"]["sport"].as_u64())
            .collect();
        ports.retain(|port| [udp, tcp].map(u64::from).contains(port));
        ports.sort_unstable();
        Ok(ports)
    };
    let (udp, tcp) = (u64::from(udp), u64::from(tcp));
    let mut both = vec![udp, tcp];
    both.sort_unstable();
    let (client, udp_text) = (CLIENT.to_string(), udp.to_string());
    for (arguments, expected) in [
        ([].as_slice(), &both),
        (&["--proto", "udp"], &vec![udp]),
        (&["--proto", "tcp"], &vec![tcp]),
        (&["--state", "closing"], &vec![]),
        (&["--port", &udp_text], &vec![udp]),
        (&["--port", "80"], &vec![tcp]),
        (&["--port", "9"], &vec![]),
        (&["--address", &client], &both),
        (&["--address", "192.168.1.0/24"], &both),
        // As it is after NAT.
        (&["--address", "198.51.100.1"], &both),
        (&["--address", "192.168.2.0/24"], &vec![]),
        (&["--address", &client, "--proto", "udp", "--state", "hardware"], &vec![udp]),
        (&["--limit", "0"], &vec![]),
    ] {
        assert_eq!(source_ports(arguments)?, *expected, "{arguments:?}");
    }
    assert!(source_ports(&["--state", "hardware"])?.contains(&udp));
    let text = live.text(&["flows"])?;
    is_aligned(
        &text,
        &["PROTO", "STATE", "ORIGINAL", "REPLY", "IN", "OUT", "WHY"],
        &["PACKETS", "BYTES", "AGE"],
    );
    assert!(live.text(&["flows", "--limit", "1"])?.lines().count() == 2);

    for (order, pointer) in [
        ("packets", "/packets"),
        ("bytes", "/bytes"),
        ("age", "/age_s"),
        ("idle", "/idle_s"),
        ("rate", "/bits_per_s"),
    ] {
        let found = live.json(&["flows", "--sort", order], "flows")?;
        let value = |flow: &Value| {
            let value = flow.pointer(pointer).cloned().unwrap_or_default();
            value
                .as_f64()
                .or_else(|| Some(value["orig"].as_f64()? + value["reply"].as_f64()?))
                .unwrap_or(-1.0)
        };
        let values: Vec<f64> = found.as_array().into_iter().flatten().map(value).collect();
        assert!(values.len() >= 2 && values.is_sorted_by(|a, b| a >= b), "{order}: {found}");
        assert!(values.iter().all(|value| *value >= 0.0), "{order}: {found}");
    }
    let rated = live.text(&["flows", "--sort", "rate", "--limit", "1"])?;
    is_aligned(&rated, &["PROTO", "WHY"], &["PKT/S", "BIT/S"]);
    for (arguments, words) in [
        (["--address", "nowhere"], "192.0.2.0/24"),
        (["--state", "flying"], "candidate, software"),
        (["--sort", "size"], "rate"),
        (["--proto", "icmp"], "tcp, udp"),
    ] {
        failed(&live.gateway.flyover(&[&["flows"], arguments.as_slice()].concat())?, 2, &[words]);
    }
    live.watched(&["flows"])
}

fn stats(live: &Live<'_>) -> Result<()> {
    let text = live.text(&["stats"])?;
    is_aligned(&text, &[], &["WORKER CORE", "FAST", "PUNTED", "POLLS", "BUSY"]);
    let found = live.json(&["stats"], "stats")?;
    assert!(found["packets"]["fast"].as_u64() > Some(0), "{found}");
    live.watched(&["stats"])
}

fn events(live: &Live<'_>) -> Result<()> {
    let found = live.json(&["events"], "events")?;
    let events = found.as_array().cloned().unwrap_or_default();
    assert!(events.iter().any(|event| event["message"] == "ready"), "{found}");
    let text = live.text(&["events"])?;
    assert!(text.lines().count() >= events.len() && text.contains("  info   ready"), "{text}");
    assert_eq!(live.text(&["events", "-n", "1"])?.lines().count(), 1);
    let warnings = live.json(&["events", "--level", "warn"], "events")?;
    assert!(warnings.as_array().into_iter().flatten().all(|event| event["level"] != "info"), "{warnings}");

    let directory = leftovers::directory()?;
    let mut command = mortal(gateway::binary()?);
    command.args(["events", "--follow", "--json", "--socket"]).arg(live.gateway.socket());
    let follower = live.lab.gateway().start("events", command, directory.path())?;
    wait::until_true(wait::PATIENCE, "events to be told", || {
        follower.output().lines().count() >= events.len()
    })?;
    let schema = Schema::read("event")?;
    let lines = follower.output();
    // The last line may be on its way.
    let whole = lines.rfind('\n').map_or("", |end| &lines[..end]);
    whole.lines().try_for_each(|line| schema.parse(line).map(drop))
}

fn hardware(live: &Live<'_>) -> Result<()> {
    let text = live.text(&["hardware"])?;
    let table: String = text.lines().take(3).map(|line| format!("{line}\n")).collect();
    is_aligned(&table, &["PORT", "DRIVER", "TIER", "USED"], &["DIRECTIONS", "CAPACITY", "BY MARK"]);
    let found = live.json(&["hardware"], "hardware")?;
    assert!(found.as_array().into_iter().flatten().all(|port| port["tier"] == "full"), "{found}");
    live.watched(&["hardware"])?;
    // The same rules, by any way of asking.
    let [from, to] = live.ends(live.udp, 5000);
    let of = ["hardware", "--rules", "udp", &from, &to];
    let rules = live.json(&of, "rules")?;
    let lines: Vec<&str> = rules
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|direction| direction["rules"].as_array().into_iter().flatten().filter_map(Value::as_str))
        .collect();
    assert!(lines.iter().any(|line| line.starts_with("flow create ")), "{rules}");
    let text = live.text(&of)?;
    let told: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(told, lines);
    // Of nobody there are none, which is an answer.
    let [_, nobody] = live.ends(1, 9);
    assert_eq!(
        live.json(&["hardware", "--rules", "udp", &from, &nobody], "rules")?,
        Value::Array(Vec::new())
    );
    failed(&live.gateway.flyover(&["hardware", "--rules", "icmp", &from, &to])?, 2, &["tcp or udp"]);
    Ok(())
}

/// The screen itself is looked at in `top.rs`; here there is no terminal.
fn top(live: &Live<'_>) -> Result<()> {
    failed(&live.gateway.flyover(&["top"])?, 2, &["terminal", "flyover status"]);
    Ok(())
}

fn explain(live: &Live<'_>) -> Result<()> {
    let [from, to] = live.ends(live.tcp.source_port(), 80);
    let of = ["explain", "tcp", &from, &to];
    let found = live.json(&of, "explain")?;
    let directions = found["directions"].as_array().map_or(0, Vec::len);
    assert_eq!((found["known"].as_str(), directions), (Some("flyover"), 2), "{found}");
    let text = live.text(&of)?;
    for words in [&format!("\noriginal    {from} > {to}\n"), "\nreply       ", "\nconntrack   id "] {
        assert!(text.contains(words), "{words}: {text}");
    }
    live.watched(&of)?;
    let [_, nobody] = live.ends(1, 9);
    let of = ["explain", "udp", &from, &nobody];
    assert_eq!(live.json(&of, "explain")?["known"], "nowhere");
    assert!(live.text(&of)?.starts_with("unknown: "));
    failed(&live.gateway.flyover(&["explain", "tcp", "nowhere", &to])?, 2, &["192.0.2.1:443"]);
    Ok(())
}

/// What it tells of packets is looked at in `trace.rs`.
fn trace(live: &Live<'_>) -> Result<()> {
    let of = ["trace", "-n", "2", "--timeout", "20s", "udp port 5000"];
    live.text(&of)?;
    let told = live.gateway.ask(&[of.as_slice(), &["--json"]].concat())?;
    let packets: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(packets.len() == 2 && packets.iter().all(|packet| packet["decision"].is_string()), "{told}");
    Ok(())
}

/// What it captures is looked at in `capture.rs`.
fn capture(live: &Live<'_>) -> Result<()> {
    let directory = leftovers::directory()?;
    let path = directory.path().join("some.pcapng");
    let file = path.display().to_string();
    let of = ["capture", "-w", &file, "-c", "2", "--duration", "20s", "udp port 5000"];
    let told = live.gateway.flyover(&[of.as_slice(), &["--json"]].concat())?;
    let summary: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!((told.status.code(), summary["packets"].as_u64()), (Some(0), Some(2)), "{told:?}");
    let written = std::fs::read(&path).map_err(LabError::io("read the capture"))?;
    assert!(written.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]), "pcapng begins with a section's header");
    let told = live.gateway.flyover(&of)?;
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    Ok(())
}

/// Failed with this code, without a word on standard output, and with these on standard error.
fn failed(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "errors belong on standard error: {output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(words.iter().all(|word| errors.contains(word)), "{words:?}: {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}

/// Nobody is there to be asked: 1, with the cause and what to type. An option that there is not: 2.
#[test]
fn without_a_gateway_each_command_says_so() -> Result<()> {
    let namespace = Namespace::new("nobody")?;
    let directory = leftovers::directory()?;
    let socket = directory.path().join("nobody.sock");
    let asked = |arguments: &[&str]| {
        let mut command = mortal("timeout");
        command.arg(Duration::from_secs(60).as_secs().to_string()).arg(gateway::binary()?);
        command.args(arguments).arg("--socket").arg(&socket);
        namespace.command("flyover", command)
    };
    let help = asked(&["--help"])?;
    for command in listed(&String::from_utf8_lossy(&help.stdout)) {
        failed(&asked(&[&command, "--no-such-option"])?, 2, &["--no-such-option"]);
    }
    for (command, arguments) in ASKING {
        for json in [[].as_slice(), &["--json"]] {
            let output = asked(&[&[command], arguments, json].concat())?;
            failed(
                &output,
                1,
                &["no gateway is running at", "nobody.sock", "flyover run -c FILE", "--socket PATH"],
            );
        }
    }
    Ok(())
}
