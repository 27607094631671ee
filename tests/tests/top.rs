//! The live screen, on a terminal.

use std::time::Duration;

use lab::change::udp_pair;
use lab::rules::HOME_ROUTER;
use lab::terminal::Terminal;
use lab::{Lab, Plane, Result, leftovers, turn, udp, wait};
use serde_json::Value;

#[test]
fn the_screen_shows_what_flies_and_leaves_the_terminal_as_it_was() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let pair = udp_pair(&lab, 5000)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let directory = leftovers::directory()?;
    let line = format!("{} top --socket {}", lab::gateway::binary()?.display(), gateway.socket().display());
    let mut terminal = Terminal::start(lab.gateway(), directory.path(), (80, 24), &line)?;
    let port = format!(":{}", pair.source_port());
    // Until it is there with all of these on one screen.
    let until = |terminal: &Terminal, words: &[&str]| {
        wait::until_true(wait::PATIENCE, &format!("{words:?} on the screen"), || {
            let shown = terminal.text();
            pair.ping(1).is_ok() && words.iter().all(|word| shown.contains(word))
        })
        .inspect_err(|_| println!("{}", terminal.text()))
    };
    until(&terminal, &["ready", "software", &port, "wan0", "CORE", "TO KERNEL", " events "])?;
    // It is explained, and the way back; then all but it is left out, and it too.
    terminal.press("e")?;
    until(&terminal, &["any other key goes back", "conntrack", "reply"])?;
    terminal.press("x?")?;
    until(&terminal, &["order by bit/s"])?;
    terminal.press(&format!("x/udp {port}\r"))?;
    until(&terminal, &[&format!("only with: udp {port}"), " 1 of ", &format!("{port} > ")])?;
    terminal.press("/ nothing\r")?;
    until(&terminal, &[" 0 of "])?;
    terminal.press("/\u{1b}")?;
    until(&terminal, &[" by bit/s"])?;
    terminal.press("s")?;
    until(&terminal, &[" by packets/s"])?;

    // Nobody else has packets: it is the first, and has a rate.
    let stream = udp::Stream::start(&pair, Duration::from_millis(5), true)?;
    let listed = gateway.ask(&["flows", "--sort", "rate", "--limit", "1", "--json"])?;
    stream.finish();
    let first: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(first[0]["orig"]["sport"], pair.source_port(), "{listed}");
    assert!(first[0]["packets_per_s"].as_f64() > Some(10.0), "{listed}");
    terminal.press("q")?;
    let ended = terminal.wait(wait::PATIENCE)?;
    assert!(ended.success(), "{}", terminal.written());
    // The alternate screen is left.
    assert!(terminal.written().contains("\u{1b}[?1049l"));
    Ok(())
}
