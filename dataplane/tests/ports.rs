//! Ports without hardware. DPDK starts once a process, so one test runs all cases in turn.

mod common;
mod rules;

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::{Netns, interfaces, ip, wait_for};
use dataplane::dpdk::{
    BURST_MAX, Burst, Direction, Eal, EalError, EalOptions, Hugepages, Mbuf, Mempool, MempoolError, Port,
    PortConfig, PortError, Tap, TapOptions, register_thread, tsc, tsc_hz, wire_mac_of,
};
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;

const POOL: u32 = 2047;

type Case = (&'static str, fn(&Mempool));

/// The namespace that the calling thread is in.
fn current_netns() -> PathBuf {
    fs::read_link("/proc/thread-self/ns/net").expect("a namespace")
}

/// A path by which DPDK may enter a namespace.
fn path(netns: &Netns) -> PathBuf {
    format!("/proc/self/fd/{}", netns.as_raw_fd()).into()
}

#[test]
fn ports() {
    if !common::privileged("ports") {
        return;
    }
    assert!(matches!(Mempool::packets("early", POOL, 2048, 0, None), Err(MempoolError::NotRunning)));
    assert!(matches!(Port::attach("net_null0", None), Err(PortError::NotRunning)));

    let affinity = sched_getaffinity(Pid::from_raw(0)).expect("affinity");
    let options = EalOptions {
        hugepages: Hugepages::Off,
        memory_mb: Some(128),
        file_prefix: "flyover-test-ports".to_owned(),
        main_core: Some(0),
        ..EalOptions::default()
    };
    let eal = Eal::init(&options).expect("DPDK starts");
    assert!(!eal.uses_hugepages());
    assert!(affinity == sched_getaffinity(Pid::from_raw(0)).expect("affinity"), "EAL pins its main core");
    assert!(matches!(Eal::init(&options), Err(EalError::AlreadyInitialised)));

    let pool = Mempool::packets("ports", POOL, 2048, 64, None).expect("a pool");
    let cases: [Case; 13] = [
        ("pools", pools),
        ("packets", packets),
        ("bursts", bursts),
        ("null", null),
        ("ring", ring),
        ("pcap", pcap),
        ("refusals", refusals),
        ("handles", handles),
        ("tap", tap),
        ("tap_refusals", tap_refusals),
        ("duplicate_addresses", duplicate_addresses),
        ("rules of null", rules::null),
        ("rules of tap", rules::tap),
    ];
    for (name, case) in cases {
        println!("{name}");
        case(&pool);
        assert_eq!((pool.available(), pool.in_use()), (POOL, 0), "{name} leaks packets");
    }

    // The last handle ends DPDK, whichever it is.
    drop(eal);
    let packet = packet(&pool, b"still here");
    drop(pool);
    assert_eq!(packet.data(), b"still here");
    drop(packet);
    assert!(matches!(Eal::init(&options), Err(EalError::AlreadyInitialised)));
}

fn packet(pool: &Mempool, bytes: &[u8]) -> Mbuf {
    let mut packet = pool.alloc().expect("a buffer");
    assert!(packet.extend_from_slice(bytes));
    packet
}

/// Attached, configured and started, with one queue each way.
fn started(device: &str, netns: Option<&Path>, pool: &Mempool) -> Port {
    let port = Port::attach(device, netns).unwrap_or_else(|e| panic!("{e}"));
    port.configure(&PortConfig::new(pool)).unwrap_or_else(|e| panic!("{e}"));
    port.start().unwrap_or_else(|e| panic!("{e}"));
    port
}

fn pools(pool: &Mempool) {
    assert!(
        matches!(Mempool::packets("ports", 63, 256, 0, None), Err(MempoolError::Refused { .. })),
        "same name"
    );
    assert!(matches!(Mempool::packets("p", 63, u16::MAX, 0, None), Err(MempoolError::DataRoom(_))));
    assert!(matches!(Mempool::packets("a\0b", 63, 256, 0, None), Err(MempoolError::Name(_))));
    let huge = Mempool::packets("huge", 1 << 24, 2048, 0, None);
    assert!(matches!(huge, Err(MempoolError::Refused { .. })), "more than there is memory");

    // A pool's name is free again when its last handle is gone, and not before.
    let small = Mempool::packets("small", 63, 256, 0, None).expect("a pool");
    let clone = small.clone();
    let all: Vec<Mbuf> = std::iter::from_fn(|| small.alloc()).collect();
    assert_eq!((all.len(), small.available(), small.in_use()), (63, 0, 63));
    let mut burst = Burst::new();
    assert!(!small.alloc_bulk(&mut burst, 1) && burst.is_empty());
    drop(all);
    drop(small);
    assert!(Mempool::packets("small", 63, 256, 0, None).is_err());
    assert_eq!(clone.available(), 63);
    drop(clone);
    drop(Mempool::packets("small", 63, 256, 0, None).expect("the name is free"));

    // A registered thread returns packets of another, and the count comes out even.
    let moved: Vec<Mbuf> = (0..100).map(|n| packet(pool, &[n])).collect();
    thread::scope(|scope| {
        scope.spawn(move || {
            let registration = register_thread().expect("registers");
            let again = register_thread().expect("registers twice");
            assert!(moved.iter().zip(0..).all(|(packet, n)| packet.data() == [n]));
            drop(moved);
            drop(again);
            drop(registration);
        });
    });
    let (before, hz) = (tsc(), tsc_hz());
    thread::sleep(Duration::from_millis(20));
    assert!(tsc() - before > hz / 100, "20 ms are more than a hundredth of a second");
}

fn packets(pool: &Mempool) {
    assert_eq!(size_of::<Option<Mbuf>>(), size_of::<usize>());
    let mut packet = packet(pool, b"payload");
    assert_eq!((packet.len(), packet.packet_len(), packet.segments()), (7, 7, 1));
    assert_eq!((packet.headroom(), packet.tailroom()), (128, 2048 - 7));
    assert_eq!((packet.rss_hash(), packet.mark(), packet.stripped_vlan()), (None, None, None));

    packet.prepend(4).expect("headroom").copy_from_slice(b"head");
    assert_eq!(packet.data(), b"headpayload");
    assert!(packet.prepend(125).is_none(), "one more than is left");
    assert!(packet.prepend(usize::MAX).is_none());
    assert_eq!(packet.prepend(124).map(|bytes| bytes.len()), Some(124));
    assert_eq!(packet.headroom(), 0);

    assert!(!packet.trim_front(136) && !packet.trim_front(usize::MAX), "more than there is");
    assert!(packet.trim_front(128));
    assert_eq!(packet.data(), b"payload");

    assert!(!packet.set_len(2049) && !packet.set_len(usize::MAX), "more than there is room");
    assert!(!packet.extend_from_slice(&[0; 2042]));
    assert!(packet.set_len(3));
    assert_eq!((packet.data(), packet.packet_len()), (&b"pay"[..], 3));
    assert!(packet.extend_from_slice(&[7; 2045]));
    assert_eq!((packet.len(), packet.tailroom()), (2048, 0));
    assert!(packet.set_len(0) && packet.data().is_empty());
    packet.data_mut().fill(0);
    packet.prefetch_head();
    packet.prefetch_data();
}

fn bursts(pool: &Mempool) {
    let mut burst = Burst::new();
    assert!(pool.alloc_bulk(&mut burst, 10));
    assert!(!pool.alloc_bulk(&mut burst, BURST_MAX - 9), "one more than there is room");
    assert!(pool.alloc_bulk(&mut burst, BURST_MAX - 10));
    assert!(burst.is_full() && pool.in_use() == 64);
    let back = burst.push(packet(pool, b"too many"));
    assert_eq!(back.as_ref().map_err(Mbuf::data), Err(&b"too many"[..]));
    assert_eq!(burst.drain().take(3).count(), 3);
    assert_eq!(burst.len(), 0, "the others are freed with the iterator");
    burst.extend((0..100).map(|n| packet(pool, &[n])));
    assert_eq!(burst.len(), BURST_MAX);
    assert_eq!(burst.pop().as_ref().map(Mbuf::data), Some(&[63][..]));
    assert_eq!(burst.into_iter().zip(0..).filter(|(packet, n)| packet.data() == [*n]).count(), 63);
}

fn null(pool: &Mempool) {
    let port = started("net_null0,size=100", None, pool);
    let info = port.info().expect("info");
    assert_eq!((info.driver.as_str(), info.is_vdev), ("net_null", true));
    assert_eq!(port.driver(), "net_null");
    let (mut rx, mut tx) = port.take_queues().expect("queues");
    let mut burst = Burst::new();
    for _ in 0..1000 {
        assert_eq!(rx[0].burst(&mut burst), BURST_MAX);
        assert_eq!(rx[0].burst(&mut burst), 0, "there is no room");
        assert!(burst.iter().all(|packet| packet.len() == 100 && packet.port() == port.id()));
        assert_eq!(tx[0].burst(&mut burst), BURST_MAX);
        assert!(burst.is_empty());
    }
    let stats = port.stats().expect("stats");
    assert_eq!((stats.ipackets, stats.opackets), (64_000, 64_000));
    let link = port.link().expect("link");
    assert!(link.full_duplex && link.speed_mbps == 10_000);
}

fn ring(pool: &Mempool) {
    let port = started("net_ring0", None, pool);
    let (mut rx, mut tx) = port.take_queues().expect("queues");
    // The loop works from another thread too.
    thread::scope(|scope| {
        scope.spawn(|| {
            let _registration = register_thread().expect("registers");
            let (mut out, mut back) = (Burst::new(), Burst::new());
            let (mut sent, mut got) = (0u32, 0u32);
            while got < 10_000 {
                while sent < 10_000 && !out.is_full() {
                    assert!(out.push(packet(pool, &sent.to_be_bytes())).is_ok());
                    sent += 1;
                }
                tx[0].burst(&mut out);
                rx[0].burst(&mut back);
                for packet in back.drain() {
                    assert_eq!(packet.data(), got.to_be_bytes(), "frames in order, none lost");
                    got += 1;
                }
            }
            // Nobody reads: the ring fills, and what does not fit stays with us, in order.
            let mut sent = 0u32;
            loop {
                while !out.is_full() {
                    assert!(out.push(packet(pool, &sent.to_be_bytes())).is_ok());
                    sent += 1;
                }
                let taken = tx[0].burst(&mut out);
                if taken < BURST_MAX {
                    let first = out.first().expect("the rest").data().to_vec();
                    assert_eq!(out.len(), BURST_MAX - taken);
                    assert_eq!(first, (sent - u32::try_from(out.len()).expect("few")).to_be_bytes());
                    break;
                }
            }
        });
    });
    drop((rx, tx));
    // The device gives nothing back of what is in its rings when it goes: take it out.
    let (mut rx, _tx) = port.take_queues().expect("queues, again");
    let mut burst = Burst::new();
    while rx[0].burst(&mut burst) > 0 {
        burst.clear();
    }
}

fn pcap(pool: &Mempool) {
    let directory = tempfile::tempdir().expect("a directory");
    let (input, output) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
    let frames: Vec<Vec<u8>> = (1..=20u8).map(|n| vec![n; 60 + usize::from(n)]).collect();
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for frame in &frames {
        let len = u32::try_from(frame.len()).expect("short");
        for word in [0, 0, len, len] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(frame);
    }
    fs::write(&input, &file).expect("written");

    let port =
        started(&format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display()), None, pool);
    let (mut rx, mut tx) = port.take_queues().expect("queues");
    let mut burst = Burst::new();
    while rx[0].burst(&mut burst) > 0 {}
    assert!(burst.iter().map(Mbuf::data).eq(frames.iter().map(Vec::as_slice)));
    assert_eq!(tx[0].burst(&mut burst), frames.len());
    drop((rx, tx, port));
    let written = fs::read(&output).expect("the output");
    let mut rest = written.get(24..).expect("a header");
    for frame in &frames {
        assert_eq!(rest.get(16..16 + frame.len()), Some(frame.as_slice()));
        rest = &rest[16 + frame.len()..];
    }
    assert!(rest.is_empty());
}

fn refusals(pool: &Mempool) {
    for device in ["net_nonsense0", "nonsense", "0000:00:99.0", "net_nonsense0,iface=x"] {
        let error = Port::attach(device, None).expect_err(device);
        assert!(
            matches!(&error, PortError::NoSuchDevice { device: named, .. } if named == device),
            "{error}"
        );
    }
    assert!(matches!(Port::attach("", None), Err(PortError::Malformed(_))));
    assert!(matches!(Port::attach(",a=b", None), Err(PortError::Malformed(_))));
    assert!(matches!(Port::attach("net_null0\0", None), Err(PortError::Malformed(_))));
    let missing = Port::attach("net_pcap0,rx_pcap=/no/such/file.pcap", None).expect_err("no file");
    assert!(missing.to_string().contains("/no/such/file.pcap: No such file or directory"), "{missing}");

    let port = Port::attach("net_null0", None).expect("null");
    assert!(matches!(Port::attach("net_null0,size=70", None), Err(PortError::AlreadyAttached(_))));
    assert!(matches!(port.start(), Err(PortError::NotConfigured(_))));
    assert!(matches!(port.set_mtu(1000), Err(PortError::NotConfigured(_))));
    assert!(matches!(port.take_queues(), Err(PortError::NotStarted(_))));
    let config = PortConfig::new(pool);
    let limit = port.info().expect("info").max_rx_queues;
    let many = port.configure(&PortConfig { rx_queues: limit + 1, ..config.clone() });
    let direction = Direction::Receive;
    assert!(
        matches!(&many, Err(PortError::Queues { direction: d, limit: l, .. }) if (*d, *l) == (direction, limit)),
        "{many:?}"
    );
    assert!(matches!(
        port.configure(&PortConfig { tx_queues: 0, ..config.clone() }),
        Err(PortError::Queues { direction: Direction::Transmit, asked: 0, .. })
    ));
    assert!(matches!(
        port.configure(&PortConfig { mtu: Some(9000), ..config.clone() }),
        Err(PortError::BufferTooSmall { asked: 9000, room: 2048, .. })
    ));
    assert!(matches!(
        port.configure(&PortConfig { mtu: Some(10), ..config.clone() }),
        Err(PortError::Mtu { asked: 10, .. })
    ));
    // None of which keeps the port from working.
    port.configure(&PortConfig { rx_queues: 4, tx_queues: 3, ..config.clone() }).expect("configures");
    port.start().expect("starts");
    assert!(matches!(port.configure(&config), Err(PortError::Started(_))));
    let (rx, tx) = port.take_queues().expect("queues");
    assert_eq!((rx.len(), tx.len()), (4, 3));
    assert!(rx.iter().zip(0..).all(|(queue, n)| queue.queue() == n && queue.port() == port.id()));
}

fn handles(pool: &Mempool) {
    let port = started("net_null0", None, pool);
    let (mut rx, tx) = port.take_queues().expect("queues");
    assert!(matches!(port.take_queues(), Err(PortError::QueuesInUse(_))));
    assert!(matches!(port.stop(), Err(PortError::QueuesInUse(_))));
    // Queues keep the device.
    drop(port);
    drop(tx);
    let mut burst = Burst::new();
    assert_eq!(rx[0].burst(&mut burst), BURST_MAX);
    assert!(matches!(Port::attach("net_null0", None), Err(PortError::AlreadyAttached(_))));
    drop(rx);
    // With them it is gone: it can be attached again, stopped, and started with other queues.
    let port = started("net_null0", None, pool);
    drop(port.take_queues().expect("queues"));
    port.stop().expect("stops");
    port.stop().expect("is stopped");
    assert!(matches!(port.take_queues(), Err(PortError::NotStarted(_))));
    port.configure(&PortConfig { rx_queues: 2, tx_queues: 2, ..PortConfig::new(pool) }).expect("configures");
    port.start().expect("starts");
    assert_eq!(port.take_queues().expect("queues").0.len(), 2);
}

/// Real frames both ways over a net_tap port whose wire side is in another namespace.
fn tap(pool: &Mempool) {
    let wire = Netns::new();
    let home = current_netns();
    let port = started("net_tap0,iface=fly-wire", Some(&path(&wire)), pool);
    assert_eq!(current_netns(), home);
    assert!(!interfaces().contains(&"fly-wire".to_owned()), "the device must not be here");
    assert!(wire.run(interfaces).contains(&"fly-wire".to_owned()));

    let port_mac = port.mac().expect("mac");
    assert_eq!(wire.run(|| mac_of("fly-wire")), wire_mac_of(port_mac));
    port.set_mac([2, 0, 0, 0, 0, 9]).expect("another mac");
    assert_eq!(port.mac().expect("mac"), [2, 0, 0, 0, 0, 9]);
    assert_eq!(wire.run(|| mac_of("fly-wire")), [2, 0x80, 0, 0, 0, 9]);

    port.set_mtu(1400).expect("a smaller MTU");
    assert_eq!(port.mtu().expect("mtu"), 1400);
    assert!(wire.ip("link show dev fly-wire").contains("mtu 1400"));
    assert!(port.link().expect("link").up);
    port.set_promiscuous(true).expect("promiscuous");
    port.set_allmulticast(true).expect("all multicast");

    wire.ip("addr add 192.0.2.1/24 dev fly-wire");
    wire.ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:09 dev fly-wire nud permanent");
    let socket = wire.run(|| UdpSocket::bind("192.0.2.1:4000").expect("binds"));
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    let (mut rx, mut tx) = port.take_queues().expect("queues");
    let mut burst = Burst::new();
    for n in 0..100u8 {
        socket.send_to(&[n; 32], "192.0.2.2:5000").expect("sends");
        let mut packet = wait_for(Duration::from_secs(5), || {
            rx[0].burst(&mut burst);
            burst.drain().find(|packet| packet.data().get(36..38) == Some(&5000u16.to_be_bytes()))
        })
        .expect("the frame arrives");
        assert_eq!(packet.data().get(42..), Some(&[n; 32][..]));
        assert!(!packet.offload_flags().ip_checksum_bad() && !packet.offload_flags().l4_checksum_bad());
        answer(packet.data_mut());
        assert!(burst.push(packet).is_ok());
        assert_eq!(tx[0].burst(&mut burst), 1);
        let mut reply = [0; 64];
        assert_eq!(socket.recv(&mut reply).expect("the answer"), 32);
        assert_eq!(reply[..32], [n; 32]);
    }
    assert!(port.stats().expect("stats").ipackets >= 100);
    drop((rx, tx, port));
    assert!(!wire.run(interfaces).contains(&"fly-wire".to_owned()), "the wire side goes with the port");
}

/// Turns a frame round: addresses and ports change places, which leaves the checksums right.
fn answer(frame: &mut [u8]) {
    for (a, b, len) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        for byte in 0..len {
            frame.swap(a + byte, b + byte);
        }
    }
}

fn mac_of(interface: &str) -> [u8; 6] {
    let link = ip(&format!("link show dev {interface}"));
    let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("an address");
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
    bytes.try_into().expect("six bytes")
}

fn tap_refusals(pool: &Mempool) {
    let wire = Netns::new();
    let home = current_netns();
    let nowhere =
        Port::attach("net_tap0,iface=fly-wire", Some(Path::new("no-such-netns"))).expect_err("no netns");
    assert!(matches!(nowhere, PortError::Netns { .. }), "{nowhere}");
    let not_one =
        Port::attach("net_tap0,iface=fly-wire", Some(Path::new("/dev/null"))).expect_err("no netns");
    assert!(matches!(not_one, PortError::Netns { .. }), "{not_one}");
    let too_long =
        Port::attach("net_tap0,iface=longer-than-15-characters", Some(&path(&wire))).expect_err("name");
    assert!(too_long.to_string().contains("longer-than-15-characters"), "{too_long}");

    let port = Port::attach("net_tap0,iface=fly-wire", Some(&path(&wire))).expect("attaches");
    let config = PortConfig { rx_queues: 2, rx_descriptors: 256, ..PortConfig::new(pool) };
    let uneven = port.configure(&config);
    assert!(matches!(uneven, Err(PortError::Refused { .. })), "{uneven:?}");
    assert!(matches!(port.start(), Err(PortError::NotConfigured(_))));
    assert_eq!(current_netns(), home);
    port.configure(&PortConfig { tx_queues: 2, ..config }).expect("configures");
    port.start().expect("starts");
    assert_eq!(port.take_queues().expect("queues").0.len(), 2);
    // Stopped and started again, its wire side still has its own address.
    port.stop().expect("stops");
    port.start().expect("starts again");
    assert_eq!(wire.run(|| mac_of("fly-wire")), wire_mac_of(port.mac().expect("mac")));
}

/// A twin with the port's MAC address and the wire behind it find no duplicate of each other's IPv6 address.
fn duplicate_addresses(pool: &Mempool) {
    let (wire, gateway) = (Netns::new(), Netns::new());
    let port = started("net_tap0,iface=fly-wire", Some(&path(&wire)), pool);
    let twin = gateway.run(|| Tap::open("twin0", TapOptions::default())).expect("a twin");
    twin.set_mac(port.mac().expect("mac")).expect("the port's mac");
    port.set_promiscuous(true).expect("promiscuous");
    gateway.ip("link set twin0 up");
    let (mut rx, mut tx) = port.take_queues().expect("queues");
    let mut burst = Burst::new();
    let mut frame = [0; 2048];
    let settled = |addresses: &str, interface: &str| {
        let mut mine = addresses.lines().filter(|line| line.ends_with(interface)).peekable();
        mine.peek().is_some() && mine.all(|line| flags_of(line) & IFA_F_TENTATIVE == 0)
    };
    let deadline = Instant::now() + Duration::from_secs(15);
    let relayed = loop {
        rx[0].burst(&mut burst);
        for packet in burst.drain() {
            // What the twin does not take is not this test's business.
            let _ = twin.write(packet.data());
        }
        while let Ok(len) = twin.read(&mut frame) {
            assert!(burst.push(packet(pool, &frame[..len])).is_ok());
            tx[0].burst(&mut burst);
        }
        let (there, here) = (wire.run(addresses), gateway.run(addresses));
        if settled(&there, "fly-wire") && settled(&here, "twin0") {
            break there + &here;
        }
        assert!(Instant::now() < deadline, "addresses stay tentative:\n{there}{here}");
        thread::sleep(Duration::from_millis(1));
    };
    assert!(relayed.lines().all(|line| flags_of(line) & IFA_F_DADFAILED == 0), "duplicate found:\n{relayed}");
    assert!(port.stats().expect("stats").ipackets > 0, "nothing was relayed");
}

const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;

fn addresses() -> String {
    let all = fs::read_to_string("/proc/thread-self/net/if_inet6").expect("IPv6");
    all.lines().filter(|line| !line.ends_with(" lo")).map(|line| format!("{line}\n")).collect()
}

fn flags_of(line: &str) -> u32 {
    u32::from_str_radix(line.split_whitespace().nth(4).expect("flags"), 16).expect("hex")
}
