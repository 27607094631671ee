//! The live screen, on a terminal.

use std::process::Command;
use std::time::Duration;

use lab::change::udp_pair;
use lab::process::mortal;
use lab::rules::HOME_ROUTER;
use lab::{Lab, Plane, Result, turn, udp, wait};
use serde_json::Value;

#[test]
fn the_screen_shows_what_flies_and_leaves_the_terminal_as_it_was() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let pair = udp_pair(&lab, 5000)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let directory = tempfile::tempdir().expect("a directory");
    let enough = directory.path().join("enough");
    let (binary, socket) = (lab::gateway::binary()?.display(), gateway.socket());
    // script(1) has a terminal, of 100 columns here; the last key is typed when the test has seen enough.
    let line = format!(
        "while ! [ -e {enough} ]; do sleep 0.2; done | cat - {enough} 2>/dev/null | \
         script -qec 'stty cols 100 rows 30; {binary} top --socket {socket}' /dev/null",
        enough = enough.display(),
        socket = socket.display(),
    );
    let mut command: Command = mortal("sh");
    command.args(["-c", &line]);
    let mut screen = lab.gateway().start("top", command, directory.path())?;
    let port = format!(":{}", pair.source_port());
    wait::until_true(wait::PATIENCE, "the connection on the screen", || {
        let sent = pair.ping(1);
        let shown = screen.output();
        sent.is_ok() && shown.contains("software") && shown.contains(&port) && shown.contains("wan0")
    })?;
    // Nobody else has packets: it is the first, and has a rate.
    let stream = udp::Stream::start(&pair, Duration::from_millis(5), true)?;
    let listed = gateway.ask(&["flows", "--sort", "rate", "--limit", "1", "--json"])?;
    stream.finish();
    let first: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(first[0]["orig"]["sport"], pair.source_port(), "{listed}");
    assert!(first[0]["packets_per_s"].as_f64() > Some(10.0), "{listed}");
    std::fs::write(&enough, "q").expect("written");
    let ended = screen.wait(wait::PATIENCE)?;
    assert!(ended.success(), "{}", screen.errors());
    // The alternate screen is left.
    assert!(screen.output().contains("\u{1b}[?1049l"));
    Ok(())
}
