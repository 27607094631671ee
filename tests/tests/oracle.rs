//! The kernel as oracle, in small: the named cases, and some thousand packets. `make oracle` sends more.

use lab::oracle::{Effort, Event, Oracle};

/// DPDK starts once a process, so one test does all.
#[test]
fn the_fast_path_sends_what_the_kernel_sends() {
    let mut oracle = Oracle::new().expect("both gateways");
    assert_eq!(oracle.replay_regressions().expect("named cases"), Vec::<String>::new());

    let effort = Effort { packets: 8000, duration: None, seed: 0xf17e };
    let mut differences = Vec::new();
    let report = oracle
        .run(effort, &mut |event| match &event {
            Event::Progress(_) => {}
            Event::Mismatch(case, mismatch) => differences.push(format!("{case}\n{mismatch}")),
            Event::Burst { .. } => differences.push(format!("{event:?}")),
        })
        .expect("both gateways work");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!((report.packets, report.mismatches), (effort.packets, 0));
}
