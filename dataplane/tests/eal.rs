//! Starting DPDK: each case in a process of its own, since DPDK starts once in one.

use std::env;
use std::process::{Command, Output};

use dataplane::dpdk::{Eal, EalError, EalOptions, Hugepages, Mempool, Port};

/// Runs one of the `inside_` tests below in another process.
fn inside(test: &str) -> Output {
    Command::new(env::current_exe().expect("path of the test binary"))
        .args(["--exact", test, "--nocapture"])
        .env("EAL_TEST_INSIDE", "1")
        .output()
        .expect("the test binary runs")
}

fn is_inside() -> bool {
    env::var_os("EAL_TEST_INSIDE").is_some()
}

fn options() -> EalOptions {
    EalOptions {
        hugepages: Hugepages::Off,
        memory_mb: Some(32),
        file_prefix: "flyover-test-eal".to_owned(),
        ..EalOptions::default()
    }
}

#[test]
fn nothing_goes_to_standard_output() {
    for (test, speaks) in [("inside_quiet", false), ("inside_verbose", true)] {
        let output = inside(test);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{err}");
        let foreign =
            |line: &&str| !line.is_empty() && !line.starts_with("running") && !line.starts_with("test ");
        assert_eq!(out.lines().find(foreign), None, "{test}");
        assert_eq!(err.contains("EAL:"), speaks, "{test}: {err}");
    }
}

#[test]
fn inside_quiet() {
    if is_inside() {
        let _eal = Eal::init(&options()).expect("DPDK starts");
        assert!(Port::attach("net_nonsense0", None).is_err());
    }
}

#[test]
fn inside_verbose() {
    if is_inside() {
        let _eal = Eal::init(&EalOptions { quiet: false, ..options() }).expect("DPDK starts");
        assert!(Port::attach("net_null0", None).is_ok());
    }
}

#[test]
fn refusals_are_errors() {
    let output = inside("inside_refusals");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
}

#[test]
fn inside_refusals() {
    if !is_inside() {
        return;
    }
    let nul = EalOptions { file_prefix: "a\0b".to_owned(), ..options() };
    assert!(matches!(Eal::init(&nul), Err(EalError::Argument(_))));
    let no_such_core = EalOptions { main_core: Some(1000), ..options() };
    let error = Eal::init(&no_such_core).expect_err("there is no CPU 1000");
    assert!(matches!(error, EalError::Init(_)), "{error}");
}

#[test]
fn ordinary_pages_where_hugepages_are_short() {
    let output = inside("inside_auto");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
}

#[test]
fn inside_auto() {
    if !is_inside() {
        return;
    }
    let auto = EalOptions { hugepages: Hugepages::Auto, ..options() };
    let eal = Eal::init(&auto).expect("DPDK starts with or without hugepages");
    println!("test with hugepages: {}", eal.uses_hugepages());
    let pool = Mempool::packets("auto", 1023, 2048, 0, None).expect("a pool");
    assert_eq!(pool.available(), 1023);
}
