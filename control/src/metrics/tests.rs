use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use dataplane::packet::{DropReason, PuntReason};
use serde_json::Value;

use super::*;
use crate::api::{
    ByReason, CollectorStatus, HardwareDirections, PortHardware, PortStatus, Stats, Status, WorkerStats,
    WorkerStatus,
};

fn scrape() -> Scrape {
    let mut punted_by_reason = ByReason::default();
    punted_by_reason.add(PuntReason::Fragment, 7);
    let mut status = Status { version: "1.2.3".to_owned(), ready: true, uptime_s: 61, ..Status::default() };
    status.punted_by_reason = punted_by_reason;
    status.packets.fast = 1 << 40;
    status.flows.software = 12;
    let mut port = PortStatus { name: "wan0".to_owned(), link_up: true, ..PortStatus::default() };
    port.rx.bytes = 1500;
    port.twin.tx_packets = 3;
    status.ports = vec![port, PortStatus { name: "lan0".to_owned(), ..PortStatus::default() }];
    status.workers = vec![WorkerStatus { core: 2, busy_percent: 12.5, ..WorkerStatus::default() }];
    status.ipfix = vec![CollectorStatus {
        collector: "192.0.2.50:4739".to_owned(),
        lost: 3,
        ..CollectorStatus::default()
    }];
    let stats = Stats {
        workers: vec![WorkerStats { core: 2, polls: 9, ..WorkerStats::default() }],
        ..Stats::default()
    };
    let directions = HardwareDirections { hardware: 5, ..HardwareDirections::default() };
    let (name, tier) = ("wan0".to_owned(), "full".to_owned());
    let hardware = vec![PortHardware { name, tier, used: true, directions, ..PortHardware::default() }];
    Scrape { status, stats, hardware }
}

/// Names with their types, as `# TYPE` lines give them.
fn families(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// Names as they are asked for.
fn sampled(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| Some(line.split(['{', ' ']).next()?.to_owned())).collect()
}

#[test]
fn answers_become_metrics() {
    let text = render(scrape());
    for line in [
        "flyover_build_info{version=\"1.2.3\"} 1",
        "flyover_ready 1",
        "flyover_uptime_seconds 61",
        "flyover_flows{state=\"software\"} 12",
        "flyover_packets_total{path=\"fast\"} 1099511627776",
        "flyover_punted_packets_total{reason=\"fragment\"} 7",
        "flyover_port_bytes_total{port=\"wan0\",direction=\"receive\"} 1500",
        "flyover_twin_packets_total{port=\"wan0\",direction=\"transmit\"} 3",
        "flyover_port_link_up{port=\"lan0\"} 0",
        "flyover_worker_busy_ratio{core=\"2\"} 0.125",
        "flyover_worker_polls_total{core=\"2\"} 9",
        "flyover_hardware_directions{port=\"wan0\",state=\"hardware\"} 5",
        "flyover_ipfix_lost_records_total{collector=\"192.0.2.50:4739\"} 3",
        "flyover_hardware_used{port=\"wan0\",tier=\"full\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    for reason in PuntReason::ALL.iter().map(|r| r.name()).chain(DropReason::ALL.iter().map(|r| r.name())) {
        assert!(text.contains(&format!("_packets_total{{reason=\"{reason}\"}} ")), "{reason}");
    }
}

/// What a port is called is the operator's choice.
#[test]
fn labels_are_escaped() {
    let mut scrape = scrape();
    scrape.status.ports[0].name = "w\"\\\n0".to_owned();
    let text = render(scrape);
    assert!(text.contains("flyover_port_link_up{port=\"w\\\"\\\\\\n0\"} 1\n"), "{text}");
}

#[test]
fn every_metric_is_documented_and_no_other() {
    let text = include_str!("../../../docs/metrics.md");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `flyover_")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`');
        let kind = cells.next().filter(|kind| matches!(*kind, "gauge" | "counter"))?;
        Some((format!("flyover_{name}"), kind.to_owned()))
    });
    let documented: BTreeMap<String, String> = rows.collect();
    let exposed = families(&render(scrape())).into_iter().map(|(name, kind)| match kind.as_str() {
        "counter" => (format!("{name}_total"), kind),
        _ => (name, kind),
    });
    assert_eq!(documented, exposed.collect());
}

/// The names of metrics in an expression.
fn names(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("flyover_")).collect()
}

#[test]
fn documented_alerts_ask_for_what_there_is() {
    let (docs, text) = (include_str!("../../../docs/metrics.md"), render(scrape()));
    let alerts = docs.split("## Worth an alert").nth(1).expect("the section");
    let rows: Vec<&str> = alerts.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(rows.len() >= 5);
    for row in rows {
        assert!(
            !names(row).is_empty() && names(row).iter().all(|name| sampled(&text).contains(*name)),
            "{row}"
        );
        for label in row.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            assert!(text.contains(&format!("{{{label}}}")), "{label}");
        }
    }
}

/// Every expression of a panel or a variable, wherever it is.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match (key.as_str(), value) {
                    ("expr" | "definition" | "query", Value::String(text)) => found.push(text.clone()),
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// Labels, and the values that each may have.
type Labels<'a> = Vec<(&'a str, Vec<&'a str>)>;

/// Each metric of an expression with what it selects: label, and the values asked for.
fn selectors(expression: &str) -> Vec<(&str, Labels<'_>)> {
    let found = names(expression).into_iter().map(|name| {
        let rest = expression.split(name).nth(1).unwrap_or_default();
        let inside = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
        let pairs = inside.split(',').filter_map(|pair| pair.split_once('='));
        let pairs = pairs.map(|(label, value)| {
            (label.trim_end_matches('!'), value.trim_matches(['~', '"']).split('|').collect())
        });
        (name, pairs.collect())
    });
    found.collect()
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let dashboard = include_str!("../../../configs/grafana/flyover.json");
    let dashboard: Value = serde_json::from_str(dashboard).expect("JSON");
    let mut asked = Vec::new();
    expressions(&dashboard, &mut asked);
    assert!(asked.len() > 10, "{asked:?}");
    let text = render(scrape());
    let exposed = sampled(&text);
    for expression in asked {
        assert!(!names(&expression).is_empty() || expression == "prometheus", "{expression}");
        for name in names(&expression) {
            assert!(exposed.contains(name), "{name} of {expression}");
        }
        asks_for_labels_that_there_are(&text, &expression);
    }
}

/// Prometheus itself adds `instance`; all other labels, and values that are asked for by name, are the gateway's.
fn asks_for_labels_that_there_are(text: &str, expression: &str) {
    let has =
        |name: &str, label: &str| text.lines().any(|line| line.starts_with(name) && line.contains(label));
    for (name, labels) in selectors(expression) {
        for (label, values) in labels.into_iter().filter(|(label, _)| *label != "instance") {
            for value in values {
                let wanted = format!("{label}=\"{value}\"");
                assert!(has(name, &wanted), "{name} has no {wanted}, which {expression} asks for");
            }
        }
        for by in expression.split("by (").skip(1).filter_map(|rest| rest.split(')').next()) {
            for label in by.split(',').map(str::trim).filter(|label| *label != "instance") {
                assert!(has(name, &format!("{label}=\"")), "{name} has no label {label}: {expression}");
            }
        }
    }
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn listener() -> (Listener, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address")).expect("a listener");
    let address = listener.address().expect("an address");
    (listener, address)
}

#[test]
fn without_a_gateway_it_says_so() {
    let (listener, address) = listener();
    let _server = listener.serve(Path::new("/nonexistent/flyover.sock")).expect("a thread");
    for path in ["/metrics", "/healthz"] {
        let answer = exchange(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("no gateway is running at /nonexistent/flyover.sock"), "{answer}");
    }
    for (request, status) in [("GET /other", "404"), ("POST /metrics", "405"), ("GET /", "200")] {
        let answer = exchange(address, &format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    let answer = exchange(address, "what is this\r\n\r\n");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn clients_that_say_nothing_do_not_keep_others_out() {
    let (listener, address) = listener();
    let _server = listener.serve(Path::new("/nonexistent/flyover.sock")).expect("a thread");
    let silent: Vec<TcpStream> =
        (0..10).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    assert!(exchange(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 200 "));
    drop(silent);
}

#[test]
fn an_address_in_use_is_told() {
    let (_listener, address) = listener();
    let error = Listener::bind(address).expect_err("it is in use").to_string();
    assert!(
        error.contains(&format!("metrics.listen = \"{address}\"")) && error.contains("ss -ltnp"),
        "{error}"
    );
}
