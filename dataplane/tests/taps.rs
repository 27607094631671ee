//! The kernel's side of a port, in namespaces of the test's own.

mod common;

use std::env;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{Netns, interfaces, wait_for};
use dataplane::dpdk::{Tap, TapError, TapOptions};

const SINGLE: TapOptions = TapOptions { multi_queue: false, kept: false, vnet_header: false };
const MULTI: TapOptions = TapOptions { multi_queue: true, kept: false, vnet_header: false };

/// One test at a time: a child process that another test has just made shares all descriptors until it becomes its
/// program, and an interface goes with the last one.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn errors_tell_what_to_do() {
    let _turn = turn();
    if !common::privileged("errors_tell_what_to_do") {
        return;
    }
    let ns = Netns::new();
    ns.ip("link add dummy-or-veth type veth peer name other-end");
    ns.ip("tuntap add dev layer3 mode tun");
    ns.run(|| {
        assert!(matches!(Tap::open("sixteen-letters!", SINGLE), Err(TapError::Name(_))));
        assert!(matches!(Tap::open("lo", SINGLE), Err(TapError::NotATap(_))));
        assert!(matches!(Tap::open("dummy-or-veth", SINGLE), Err(TapError::NotATap(_))));
        assert!(matches!(Tap::open("layer3", SINGLE), Err(TapError::NotATap(_))));
        for options in [SINGLE, MULTI] {
            let first = Tap::open("wan0", options).expect("opens");
            let second = Tap::open("wan0", options).expect_err("is open");
            assert!(matches!(second, TapError::Busy(_)), "{options:?}: {second}");
            drop(first);
        }
    });
    for (made, wanted) in [(SINGLE, MULTI), (MULTI, SINGLE)] {
        ns.run(|| Tap::open("wan0", made).expect("opens").set_persistent(true).expect("persists"));
        let error = ns.run(|| Tap::open("wan0", wanted)).expect_err("another mode");
        assert!(
            matches!(&error, TapError::QueueMode { multi_queue, .. } if *multi_queue == made.multi_queue)
        );
        assert!(error.to_string().ends_with("`ip link del wan0`"), "{error}");
        ns.ip("link del wan0");
    }
}

#[test]
fn without_privileges_it_says_so() {
    const INSIDE: &str = "TAPS_TEST_WITHOUT_NET_ADMIN";
    if env::var_os(INSIDE).is_some() {
        let error = Tap::open("wan0", SINGLE);
        assert!(matches!(error, Err(TapError::NotPermitted(_))), "{error:?}");
        return;
    }
    let _turn = turn();
    if !common::privileged("without_privileges_it_says_so") {
        return;
    }
    let inside = Netns::new().run(|| {
        Command::new("setpriv")
            .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"])
            .arg(env::current_exe().expect("path of the test binary"))
            .args(["--exact", "without_privileges_it_says_so"])
            .env(INSIDE, "1")
            .output()
            .expect("setpriv runs")
    });
    assert!(inside.status.success(), "{}", String::from_utf8_lossy(&inside.stdout));
}

#[test]
fn a_twin_keeps_its_addresses_across_a_restart() {
    let _turn = turn();
    if !common::privileged("a_twin_keeps_its_addresses_across_a_restart") {
        return;
    }
    let ns = Netns::new();
    let twin = ns.run(|| Tap::open("wan0", MULTI)).expect("opens");
    assert!(twin.created());
    twin.set_persistent(true).expect("persists");
    twin.set_mac([2, 0, 0, 0, 0, 7]).expect("mac");
    twin.set_mtu(1400).expect("mtu");
    ns.ip("addr add 192.0.2.1/24 dev wan0");
    ns.ip("link set wan0 up");
    ns.ip("route add 198.51.100.0/24 via 192.0.2.2");
    let index = twin.index().expect("index");
    drop(twin);
    let state = |what: &str| ns.ip(what);
    assert!(state("addr show dev wan0").contains("192.0.2.1/24"));

    let twin = ns.run(|| Tap::open("wan0", MULTI)).expect("opens again");
    assert!(!twin.created());
    assert_eq!(twin.index().expect("index"), index);
    assert_eq!(twin.mac().expect("mac"), [2, 0, 0, 0, 0, 7]);
    assert_eq!(twin.mtu().expect("mtu"), 1400);
    assert!(twin.is_up().expect("flags"));
    assert!(state("addr show dev wan0").contains("192.0.2.1/24"));
    assert!(state("route show").contains("198.51.100.0/24 via 192.0.2.2"));
    twin.set_persistent(false).expect("no longer");
    drop(twin);
    assert!(!ns.run(interfaces).contains(&"wan0".to_owned()));
}

#[test]
fn frames_pass_on_every_queue() {
    let _turn = turn();
    if !common::privileged("frames_pass_on_every_queue") {
        return;
    }
    let ns = Netns::new();
    let twin = ns.run(|| Tap::open("wan0", MULTI)).expect("opens");
    let second = ns.run(|| twin.open_queue()).expect("a second queue");
    assert!(!second.created() && second.name() == "wan0");
    ns.ip("addr add 192.0.2.1/24 dev wan0");
    ns.ip("link set wan0 up");
    ns.ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev wan0 nud permanent");
    let mut frame = [0; 2048];
    assert_eq!(twin.write(&[0; 5]).map_err(|e| e.kind()), Err(io::ErrorKind::InvalidInput), "not a frame");

    let socket = ns.run(|| UdpSocket::bind("192.0.2.1:4000")).expect("binds");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    for port in 5000..5040u16 {
        socket.send_to(b"ping", ("192.0.2.2", port)).expect("sends");
        let (len, queue) = wait_for(Duration::from_secs(5), || {
            [&twin, &second].into_iter().find_map(|queue| {
                loop {
                    let len = queue.read(&mut frame).ok()?;
                    if frame.get(36..38) == Some(&port.to_be_bytes()) {
                        return Some((len, queue));
                    }
                }
            })
        })
        .expect("the frame");
        for (a, b, len) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
            for byte in 0..len {
                frame.swap(a + byte, b + byte);
            }
        }
        assert_eq!(queue.write(&frame[..len]).expect("writes"), len);
        let mut answer = [0; 16];
        assert_eq!(socket.recv(&mut answer).expect("the answer"), 4);
    }
    assert_eq!(twin.read(&mut frame).map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock));

    // The kernel's operational state follows carrier a moment later.
    for carrier in [false, true] {
        twin.set_carrier(carrier).expect("carrier");
        assert_eq!(ns.ip("link show dev wan0").contains("NO-CARRIER"), !carrier);
        let follows = wait_for(Duration::from_secs(5), || (twin.is_running().ok()? == carrier).then_some(()));
        assert!(follows.is_some(), "carrier {carrier}");
    }
    ns.ip("link set wan0 down");
    assert_eq!(twin.write(&frame[..60]).expect_err("down").raw_os_error(), Some(libc::EIO));
    let _: std::os::fd::BorrowedFd<'_> = twin.as_fd();
}

#[test]
fn a_single_queue_is_all_there_is() {
    let _turn = turn();
    if !common::privileged("a_single_queue_is_all_there_is") {
        return;
    }
    let ns = Netns::new();
    let twin = ns.run(|| Tap::open("wan0", SINGLE)).expect("opens");
    assert!(matches!(ns.run(|| twin.open_queue()), Err(TapError::TooManyQueues(_))));
}

#[test]
fn a_keeper_holds_the_neighbours_and_takes_no_frames() {
    let _turn = turn();
    if !common::privileged("a_keeper_holds_the_neighbours_and_takes_no_frames") {
        return;
    }
    const KEPT: TapOptions = TapOptions { kept: true, ..MULTI };
    let ns = Netns::new();
    let twin = ns.run(|| Tap::open("wan0", MULTI)).expect("opens");
    twin.set_persistent(true).expect("persists");
    ns.ip("addr add 192.0.2.1/24 dev wan0");
    ns.ip("link set wan0 up");
    let neighbour = || ns.ip("neigh show dev wan0");
    let learn = || ns.ip("neigh replace 192.0.2.2 dev wan0 lladdr 02:00:00:00:00:02 nud reachable");
    learn();
    drop(twin);
    assert_eq!(neighbour(), "", "without a keeper they are forgotten");

    let twin = ns.run(|| Tap::open("wan0", MULTI)).expect("opens again");
    let keeper = ns.run(|| twin.keeper()).expect("a keeper");
    assert_eq!((keeper.interface(), keeper.stored_name().as_str()), ("wan0", "twin-wan0"));
    learn();
    drop(twin);
    assert!(neighbour().contains("02:00:00:00:00:02"));
    let stranger = ns.run(|| Tap::open("wan0", MULTI)).expect_err("somebody has it open");
    assert!(matches!(stranger, TapError::Busy(_)), "{stranger}");

    let twin = ns.run(|| Tap::open("wan0", KEPT)).expect("opens beside its keeper");
    let second = ns.run(|| Tap::open("wan0", KEPT)).expect_err("is open");
    assert!(matches!(second, TapError::Busy(_)), "{second}");
    // However the kernel spreads flows over queues, all come to the only one that is attached.
    let sender = ns.run(|| UdpSocket::bind("192.0.2.1:0")).expect("socket");
    for port in 1..=32_u16 {
        sender.send_to(b"x", ("192.0.2.2", port)).expect("sent");
    }
    let mut frame = [0; 2048];
    let mut seen = 0;
    wait_for(Duration::from_secs(5), || {
        while let Ok(len) = twin.read(&mut frame) {
            // Among other things the kernel says of itself: IPv4, UDP.
            seen += usize::from(len > 42 && frame[12..14] == [8, 0] && frame[23] == 17);
        }
        (seen == 32).then_some(())
    })
    .expect("all of them");
    twin.set_persistent(false).expect("no longer");
    drop((twin, keeper));
    assert!(!ns.run(interfaces).contains(&"wan0".to_owned()));
}

/// What vhost-net and a tap that is read frame by frame each rely on.
#[test]
fn the_first_descriptor_decides_on_the_header_before_frames() {
    let _turn = turn();
    if !common::privileged("the_first_descriptor_decides_on_the_header_before_frames") {
        return;
    }
    let ns = Netns::new();
    ns.run(|| {
        let header = |tap: &Tap| tap.vnet_header().expect("flags");
        let with = TapOptions { vnet_header: true, ..MULTI };
        let tap = Tap::open("wan0", with).expect("opens");
        tap.set_persistent(true).expect("persists");
        assert!(header(&tap));
        assert!(header(&tap.open_queue().expect("another queue")));
        drop(tap);
    });
    // The last descriptor of a persistent tap takes the choice with it.
    let reopened = || ns.run(|| Tap::open("wan0", MULTI)).ok();
    let tap = wait_for(Duration::from_secs(5), reopened).expect("opens again");
    assert!(!tap.vnet_header().expect("flags"));
    let mut frame = [0; 2048];
    assert_eq!(tap.read(&mut frame).expect_err("nothing to read").kind(), io::ErrorKind::WouldBlock);
    ns.ip("link del wan0");
}
