use std::time::{Duration, Instant};

use dataplane::packet::{DropReason, PuntReason};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::app::{App, Order, Over, Wish};
use super::sample::Sample;
use super::view;
use crate::api::{
    EventInfo, Explanation, FlowInfo, FlowState, PerDirection, PortCounters, PortStatus, StageCycles, Stats,
    Status, TupleInfo, WorkerStats, WorkerStatus,
};

fn flow(number: u16, packets: u64, state: FlowState) -> FlowInfo {
    let tuple = |src: &str, dst: &str, sport, dport| TupleInfo {
        src: src.parse().expect("an address"),
        dst: dst.parse().expect("an address"),
        sport,
        dport,
    };
    FlowInfo {
        proto: if number.is_multiple_of(2) { "tcp" } else { "udp" }.to_owned(),
        orig: tuple("192.168.1.2", "198.51.100.9", 40_000 + number, 443),
        reply: tuple("198.51.100.9", "203.0.113.1", 443, 40_000 + number),
        state,
        why: "proved".to_owned(),
        packets: PerDirection { orig: packets, reply: packets / 2 },
        bytes: PerDirection { orig: 1000 * packets, reply: 0 },
        in_port: Some("lan0".to_owned()),
        out_port: Some("wan0".to_owned()),
        age_s: 100.0 - f64::from(number),
        idle_s: 0.0,
    }
}

/// What a gateway says in this second of a run.
fn sample(begun: Instant, second: u64) -> Sample {
    let count = |each: u64| each * second;
    let counters = |packets| PortCounters {
        packets: count(packets),
        bytes: count(packets * 1000),
        ..PortCounters::default()
    };
    let port = |name: &str, rx, tx| PortStatus {
        name: name.to_owned(),
        link_up: name != "dmz0",
        admin_up: true,
        rx: counters(rx),
        tx: counters(tx),
        ..PortStatus::default()
    };
    let mut status = Status {
        version: "1.2.3".to_owned(),
        ready: true,
        uptime_s: 60 + second,
        policy: "auto: every connection that the ruleset lets through".to_owned(),
        ports: vec![port("wan0", 2_000_000, 1_000), port("lan0", 1_000, 2_000_000), port("dmz0", 0, 0)],
        workers: vec![WorkerStatus {
            core: 1,
            busy_percent: 42.0,
            sleeping_percent: 3.0,
            packets: count(1_500_000),
        }],
        ..Status::default()
    };
    status.packets.fast = count(1_500_000);
    status.packets.hardware = count(500_000);
    status.packets.punted = count(1_000);
    status.punted_by_reason.add(PuntReason::NoFlow, count(900));
    status.punted_by_reason.add(PuntReason::Arp, count(100));
    status.dropped_by_reason.add(DropReason::TxQueueFull, count(7));
    let cycles_per_packet = StageCycles { receive: 20.0, parse: 30.0, decide: 40.0, send: 10.0 };
    let stats = Stats {
        workers: vec![WorkerStats { core: 1, cycles_per_packet, ..WorkerStats::default() }],
        ..Stats::default()
    };
    let event = EventInfo {
        seq: second + 1,
        time: "2026-01-02T03:04:05.006Z".to_owned(),
        level: "info".to_owned(),
        message: format!("carrier in second {second}"),
        fields: [("port".to_owned(), "wan0".to_owned())].into(),
    };
    Sample {
        at: begun + Duration::from_secs(second),
        status,
        stats,
        flows: vec![
            flow(1, count(10), FlowState::Candidate),
            flow(2, count(100_000), FlowState::Hardware),
            flow(3, count(5_000), FlowState::Software),
        ],
        all_flows: true,
        events: vec![event],
        seen: second + 1,
    }
}

fn app() -> App {
    let (mut app, begun) = (App::new(), Instant::now());
    (0..3).for_each(|second| app.take(sample(begun, second)));
    app
}

fn screen(app: &App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| view::draw(frame, app)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| row(y).trim_end().to_owned()).collect()
}

fn press(app: &mut App, keys: &str) -> Wish {
    let mut wish = Wish::None;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            key => KeyCode::Char(key),
        };
        wish = app.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    wish
}

#[test]
fn all_is_there_in_80_columns() {
    let screen = screen(&app(), 80, 24);
    let expected = [
        " flyover 1.2.3 ready  1 to look at: flyover status  up 1m02s  policy auto: every",
        "PORT            LINK   RX pkt/s   bit/s  TX pkt/s   bit/s",
        "wan0            up         2.0M   16.0G      1.0k    8.0M",
        "lan0            up         1.0k    8.0M      2.0M   16.0G",
        "dmz0            down          0       0         0       0",
        "PATH       pkt/s  share   pkt/s TO KERNEL, DROP  CORE  BUSY SLEEP  pkt/s cyc/pkt",
        "hardware    500k  25.0%     900 no_flow             1   42%    3%   1.5M     100",
        "software    1.5M  75.0%     100 arp",
        "kernel      1.0k   0.0%       7 drop tx_queue_ful",
        " 3 of 3 connections, by bit/s ──",
        "     STATE     CONNECTION                                    pkt/s  bit/s    AGE",
        "tcp  hardware  192.168.1.2:40002 > 198.51.100.9:443           150k   800M  1m38s",
        "udp  software  192.168.1.2:40003 > 198.51.100.9:443           7.5k  40.0M  1m37s",
        "udp  candidate 192.168.1.2:40001 > 198.51.100.9:443             15  80.0k  1m39s",
    ];
    for (found, expected) in screen.iter().zip(expected) {
        assert!(found.starts_with(expected), "{expected:?} is not\n{}", screen.join("\n"));
    }
    assert!(screen[19].starts_with(" events ──"), "{screen:?}");
    assert_eq!(screen[22], "03:04:05 carrier in second 2  port=wan0");
    assert!(screen[23].starts_with(" q end  s order"));
    assert!(screen[2].chars().any(|c| c == '█'), "{screen:?}");
}

#[test]
fn a_large_screen_shows_more() {
    let screen = screen(&app(), 120, 40);
    let line = |words: &str| {
        screen.iter().position(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {screen:#?}"))
    };
    assert!(screen[0].contains("policy auto: every connection that the ruleset lets"), "{screen:#?}");
    line("7 drop tx_queue_full");
    let first = &screen[line("192.168.1.2:40002 > 198.51.100.9:443")];
    assert!(first.contains("  lan0 > wan0  ") && first.ends_with(" 150k   800M  1m38s"), "{first}");
    // Eight lines for events, above the keys.
    assert_eq!((line(" events ──"), line("carrier in second 0"), line("q end")), (30, 31, 39));
}

#[test]
fn a_long_explanation_is_scrolled_and_no_further_than_to_its_end() {
    let mut app = app();
    let lines: String = (1..=40).map(|line| format!("line {line}\n")).collect();
    app.explained(Err(lines));
    let shown =
        |app: &App, line: u32| screen(app, 80, 24).iter().any(|row| row.contains(&format!("line {line} ")));
    assert!(shown(&app, 1) && !shown(&app, 40));
    press(&mut app, "jj");
    assert!(!shown(&app, 2) && shown(&app, 3));
    (0..9).for_each(|_| drop(app.key(KeyEvent::new(KeyCode::PageDown, KeyModifiers::NONE))));
    assert!(shown(&app, 40) && shown(&app, 20) && app.over != Over::Nothing);
    // The next one begins at its beginning.
    press(&mut app, "q");
    app.explained(Err("another".to_owned()));
    assert_eq!((app.scrolled, app.over.clone()), (0, Over::Explanation("another".to_owned())));
}

#[test]
fn no_size_is_too_small() {
    let mut app = app();
    for over in [Over::Nothing, Over::Help, Over::Explanation("a line\n".repeat(100))] {
        app.over = over;
        for (width, height) in [(1, 1), (10, 3), (40, 10), (80, 12), (300, 100)] {
            assert_eq!(screen(&app, width, height).len(), usize::from(height));
        }
    }
    // Nothing is known yet, and no second answer is there.
    let empty = App::new();
    assert!(screen(&empty, 80, 24)[0].contains("asking the gateway"));
}

#[test]
fn connections_are_ordered_and_chosen_by_keys() {
    let mut app = app();
    let ports = |app: &App| app.flows().iter().map(|flow| flow.flow.orig.sport).collect::<Vec<_>>();
    assert_eq!(ports(&app), [40_002, 40_003, 40_001]);
    for (order, expected) in [
        (Order::Packets, [40_002, 40_003, 40_001]),
        (Order::Total, [40_002, 40_003, 40_001]),
        (Order::Age, [40_001, 40_002, 40_003]),
        (Order::Bits, [40_002, 40_003, 40_001]),
    ] {
        press(&mut app, "s");
        assert_eq!((app.order, ports(&app)), (order, expected.into()));
    }
    let wish = press(&mut app, "j\n");
    let expected = Wish::Explain {
        proto: "udp".to_owned(),
        src: "192.168.1.2:40003".parse().expect("an address"),
        dst: "198.51.100.9:443".parse().expect("an address"),
    };
    assert_eq!(wish, expected);
    app.explained(Ok(Explanation { why: "nobody knows".to_owned(), ..Explanation::default() }));
    assert!(screen(&app, 80, 24).iter().any(|line| line.contains("nobody knows")));
    assert_eq!(press(&mut app, "q"), Wish::None, "it goes back first");
    assert_eq!(press(&mut app, "q"), Wish::Quit);
    assert_eq!(app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Wish::Quit);
    // Far below the last one is the last one.
    press(&mut app, "jjjjjjjj");
    assert_eq!(app.selected, 2);
}

#[test]
fn a_filter_leaves_what_has_all_of_its_words() {
    let mut app = app();
    let ports = |app: &App| app.flows().iter().map(|flow| flow.flow.orig.sport).collect::<Vec<_>>();
    press(&mut app, "/udp softq");
    assert_eq!((app.filter.as_str(), app.typing), ("udp softq", true));
    assert!(ports(&app).is_empty());
    press(&mut app, "\u{8}w\n");
    assert_eq!((ports(&app), app.typing), (vec![40_003], false));
    assert!(screen(&app, 80, 24)[23].starts_with(" only with: udp softw"));
    press(&mut app, "/\u{1b}");
    assert_eq!(ports(&app).len(), 3);
    for (word, many) in [("203.0.113.1", 3), (":443", 3), ("wan0", 3), (":40001", 1), ("hardware", 1)] {
        app.filter = word.to_owned();
        assert_eq!(ports(&app).len(), many, "{word}");
    }
}

#[test]
fn a_gateway_that_goes_away_and_comes_back() {
    let begun = Instant::now();
    let mut app = app();
    app.lost("no gateway is running at /run/flyover.sock".to_owned());
    assert!(screen(&app, 80, 24)[0].contains("no gateway is running"));
    // It counts from zero again.
    app.take(Sample { at: begun + Duration::from_secs(10), status: Status::default(), ..sample(begun, 0) });
    assert_eq!((app.trouble.as_deref(), app.seen()), (None, 0));
    assert!(app.rates.paths.software == 0.0);
    // Nothing moves while the picture is held, but events are not missed.
    press(&mut app, "p");
    app.take(sample(begun, 20));
    assert_eq!((app.rates.paths.software, app.seen()), (0.0, 21));
    assert!(screen(&app, 80, 24)[0].contains("HELD"));
}
