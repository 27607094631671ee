//! `flyover doctor` and `flyover bind` on a live gateway: a finding appears, is mended and gone; what is policy is told and
//! not changed.

use std::process::Output;

use lab::change::{lab, udp_pair};
use lab::rules::HOME_ROUTER;
use lab::{Gateway, Lab, Result, gateway, leftovers, process};
use serde_json::Value;

const EVENTS: &str = "net.netfilter.nf_conntrack_events";

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The findings of one name.
fn findings(document: &Value, check: &str) -> Vec<Value> {
    let all = document.get("findings").and_then(Value::as_array).expect("findings");
    all.iter().filter(|finding| finding.get("check") == Some(&check.into())).cloned().collect()
}

fn sysctl(lab: &Lab, name: &str) -> Result<String> {
    Ok(lab.gateway().run(&format!("sysctl -n {name}"))?.trim().to_owned())
}

/// The doctor's document, with the exit code that belongs to it.
fn doctor(gateway: &Gateway, options: &[&str]) -> Result<Value> {
    let output = gateway.flyover(&[&["doctor", "--json"], options].concat())?;
    let document = json(&output);
    let ok = document.get("ok").and_then(Value::as_bool).expect("ok");
    assert_eq!(output.status.code(), Some(i32::from(!ok)), "{document}");
    Ok(document)
}

fn is_about_events(finding: &Value) -> bool {
    finding.get("what").and_then(Value::as_str).is_some_and(|what| what.contains(EVENTS))
}

#[test]
fn what_can_be_mended_is_and_the_finding_is_gone() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    assert!(!findings(&doctor(gateway, &[])?, "conntrack").iter().any(is_about_events), "all is well");
    lab.gateway().sysctl(EVENTS, "0")?;

    let found = findings(&doctor(gateway, &["--only", "conntrack"])?, "conntrack");
    let finding = found.iter().find(|finding| is_about_events(finding)).expect("a finding");
    assert_eq!(finding.get("severity"), Some(&"warning".into()), "{finding}");
    assert_eq!(finding.get("fixable"), Some(&true.into()), "{finding}");
    let command = format!("sysctl -w {EVENTS}=1");
    assert_eq!(finding.get("fix"), Some(&command.clone().into()), "{finding}");
    assert!(text(&gateway.flyover(&["doctor"])?).contains(&format!("\n  fix: {command}\n")));

    let dry = text(&gateway.flyover(&["doctor", "--fix", "--dry-run", "--only", "conntrack"])?);
    assert!(dry.contains(&format!("would set: {EVENTS}: 0 -> 1\n")), "{dry}");
    assert_eq!(sysctl(&lab, EVENTS)?, "0", "nothing but words");

    let document = doctor(gateway, &["--fix", "--only", "conntrack"])?;
    let fixes = document.get("fixes").and_then(Value::as_array).expect("fixes");
    let fix = fixes.iter().find(|fix| fix.get("setting") == Some(&EVENTS.into())).expect("a fix");
    for (key, value) in
        [("before", "0".into()), ("after", "1".into()), ("done", true.into()), ("error", Value::Null)]
    {
        assert_eq!(fix.get(key), Some(&value), "{fix}");
    }
    assert!(!findings(&document, "conntrack").iter().any(is_about_events), "{document}");
    assert_eq!(sysctl(&lab, EVENTS)?, "1");
    assert!(!findings(&doctor(gateway, &[])?, "conntrack").iter().any(is_about_events), "it stays mended");
    // Which is why it was to be mended.
    let pair = udp_pair(&lab, 5000)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;

    lab.gateway().sysctl(EVENTS, "2")?;
    let did = text(&gateway.flyover(&["doctor", "--fix", "--only", "conntrack"])?);
    assert!(did.starts_with(&format!("set: {EVENTS}: 2 -> 1\n")), "{did}");
    Ok(())
}

#[test]
fn policy_is_told_and_not_changed() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    lab.gateway().sysctl("net.ipv4.ip_forward", "0")?;
    let document = doctor(gateway, &["--fix", "--only", "forwarding"])?;
    let found = findings(&document, "forwarding");
    let finding = found.first().expect("a finding");
    assert_eq!(finding.get("fixable"), Some(&false.into()), "{finding}");
    let left = finding.get("left").and_then(Value::as_str).expect("a reason");
    assert!(left.contains("policy"), "{left}");
    assert_eq!(document.get("fixes"), Some(&Value::Array(Vec::new())), "{document}");
    assert_eq!(sysctl(&lab, "net.ipv4.ip_forward")?, "0");
    let told = text(&gateway.flyover(&["doctor", "--fix", "--only", "forwarding"])?);
    assert!(told.contains("\n  fix: sysctl -w net.ipv4.ip_forward=1\n  left: "), "{told}");
    Ok(())
}

/// Taps concern neither IOMMU nor NUMA, whatever the machine is.
#[test]
fn without_nics_nothing_is_said_of_what_nics_need() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let document = doctor(gateway, &[])?;
    for check in ["iommu", "vfio", "nic", "numa", "isolation", "nohz", "cstates"] {
        assert_eq!(findings(&document, check), Vec::<Value>::new());
    }
    Ok(())
}

#[test]
fn the_doctor_needs_no_gateway_that_runs() -> Result<()> {
    let namespace = lab::Namespace::new("gw")?;
    let directory = leftovers::directory()?;
    let path = directory.path().join("gw.toml");
    let config = "[[port]]\nname = \"wan0\"\ndevice = \"net_null0\"\n";
    std::fs::write(&path, config).map_err(lab::LabError::io("write the configuration"))?;
    let run = |options: &[&std::ffi::OsStr]| {
        let mut command = process::mortal(gateway::binary()?);
        command.arg("doctor").args(options).arg("--socket").arg(directory.path().join("nobody.sock"));
        namespace.command("flyover doctor", command)
    };
    let output = run(&["-c".as_ref(), path.as_os_str()])?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = text(&output);
    assert!(told.contains("warning: net.ipv4.ip_forward is 0\n"), "{told}");
    assert!(told.ends_with(&format!("{}: can run; errors: 0, warnings: 1\n", path.display())), "{told}");
    let asked = run(&[])?;
    assert_eq!(asked.status.code(), Some(1), "that gateway was asked for: {asked:?}");
    Ok(())
}

/// What there is to bind depends on the machine: here a twin, which is no NIC.
#[test]
fn a_twin_is_nothing_to_bind() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let output = gateway.flyover(&["bind", "wan0", "--json"])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let document = json(&output);
    let one = document.get(0).expect("an outcome");
    assert_eq!((one.get("device"), one.get("changed")), (Some(&"wan0".into()), Some(&false.into())), "{one}");
    assert!(one.get("error").is_some_and(Value::is_string), "{one}");
    let list = gateway.flyover(&["bind", "--status", "--json"])?;
    assert!(list.status.success() && json(&list).is_array(), "{list:?}");
    let table = text(&gateway.flyover(&["bind", "--status"])?);
    assert!(table.starts_with("ADDRESS"), "{table}");
    Ok(())
}
