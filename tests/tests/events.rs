//! What a running gateway says of itself.

use lab::process::{Process, mortal};
use lab::rules::HOME_ROUTER;
use lab::{Lab, Plane, Result, turn, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn a_change_of_the_ruleset_is_told_to_whoever_follows() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = mortal(lab::gateway::binary()?);
    let socket = gateway.socket();
    command.args(["events", "--follow", "--json", "--socket"]).arg(socket);
    let mut follower = lab.gateway().start("events", command, directory.path())?;
    let messages = |follower: &Process| {
        let lines = follower.output();
        let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.map(|event| (event["message"].to_string(), event["fields"].clone())).collect::<Vec<_>>()
    };
    wait::until_true(wait::PATIENCE, "the past to be told", || {
        messages(&follower).iter().any(|(message, _)| message.contains("ready"))
    })?;
    let before = messages(&follower).len();
    lab.gateway().nft("add rule inet filter forward udp dport 9 drop")?;
    wait::until_true(wait::PATIENCE, "the change to be told", || {
        messages(&follower)[before..].iter().any(|(_, fields)| fields["what"] == "ruleset")
    })?;
    let listed = gateway.ask(&["events"])?;
    assert!(listed.contains("what=ruleset"), "{listed}");
    // A gateway that ends is told, too, and is no reason to hang.
    gateway.process()?.signal(Signal::SIGTERM)?;
    let ended = follower.wait(wait::PATIENCE)?;
    assert_eq!(ended.code(), Some(1), "{}", follower.errors());
    assert!(follower.errors().contains("the connection to the gateway broke"), "{}", follower.errors());
    Ok(())
}
