//! The configuration changes while packets fly: what can change does, what can't is said before anything changes, and
//! nothing that was established is lost.

use std::net::{SocketAddrV4, UdpSocket};
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use lab::change::udp_pair;
use lab::process::mortal;
use lab::rules::HOME_ROUTER;
use lab::tcp::{Pair, Service, Way};
use lab::topology::{GATEWAY_OTHER, HOST_INTERFACE, OTHER, SERVER};
use lab::{Gateway, Lab, LabBuilder, LabError, Namespace, Plane, Result, conntrack, turn, udp, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A laboratory of two ports, and a host to whose wire a third one can be added.
struct Bench {
    lab: Lab,
    other: Namespace,
    /// The configuration as it was at the start.
    text: String,
}

impl Bench {
    fn build(builder: LabBuilder) -> Result<Option<Self>> {
        if Plane::under_test() == Plane::KernelOnly {
            return Ok(None);
        }
        let lab = builder.rules(HOME_ROUTER).build()?;
        let text = lab.flyover().map(|gateway| std::fs::read_to_string(gateway.config()));
        let text = text.expect("Flyover forwards").map_err(LabError::io("read the configuration"))?;
        Ok(Some(Self { lab, other: Namespace::new("other")?, text }))
    }

    fn new() -> Result<Option<Self>> {
        Self::build(Lab::builder(Plane::under_test()))
    }

    fn gateway(&self) -> &Gateway {
        self.lab.flyover().expect("Flyover forwards")
    }

    /// `[[port]]` of the third port.
    fn third(&self, device: &str) -> String {
        format!("\n[[port]]\nname = \"opt0\"\ndevice = {device:?}\nnetns = {:?}\n", self.other.name())
    }

    fn write(&self, text: &str) -> Result<()> {
        std::fs::write(self.gateway().config(), text).map_err(LabError::io("write the configuration"))
    }

    /// Writes a configuration and runs `flyover reload`; gives what it reports with `--json`.
    fn reload(&self, text: &str, options: &[&str]) -> Result<(Output, Value)> {
        self.write(text)?;
        let arguments: Vec<&str> = ["reload", "--json"].iter().chain(options).copied().collect();
        let output = self.gateway().flyover(&arguments)?;
        let told = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        Ok((output, told))
    }

    /// It must be taken over.
    fn takes(&self, text: &str) -> Result<Value> {
        let (output, told) = self.reload(text, &[])?;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(told["outcome"], "applied", "{told}");
        Ok(told)
    }

    fn port_names(&self) -> Result<Vec<String>> {
        let ports: Value = serde_json::from_str(&self.gateway().ask(&["ports", "--json"])?).expect("JSON");
        let names = ports.as_array().into_iter().flatten();
        Ok(names.filter_map(|port| Some(port["name"].as_str()?.to_owned())).collect())
    }

    /// Gives the third port's twin and host addresses, and waits until they reach each other.
    fn plug(&self) -> Result<()> {
        let gateway = self.lab.gateway();
        gateway.run(&format!("ip address replace {GATEWAY_OTHER}/24 dev opt0"))?;
        gateway.run("ip link set opt0 up")?;
        wait::until_true(wait::PATIENCE, "the wire side", || self.other.has_interface(HOST_INTERFACE))?;
        self.other.run(&format!("ip address replace {OTHER}/24 dev {HOST_INTERFACE}"))?;
        self.other.run(&format!("ip link set {HOST_INTERFACE} up"))?;
        self.other.run(&format!("ip route replace default via {GATEWAY_OTHER}"))?;
        wait::until_true(wait::PATIENCE, "the third host to reach the gateway", || {
            // Only to make the kernel ask.
            let _ = self.other.inside(|| UdpSocket::bind("0.0.0.0:0")?.send_to(&[0], (GATEWAY_OTHER, 9)));
            let neighbour = format!("ip neigh show {GATEWAY_OTHER} dev {HOST_INTERFACE}");
            self.other.run(&neighbour).is_ok_and(|line| line.contains("lladdr"))
        })
    }

    /// A connection from the client to the third host flies.
    fn flies_to_other(&self, port: u16) -> Result<udp::Pair> {
        let server = udp::bind(&self.other, OTHER, port)?;
        let pair = udp::Pair::open(
            self.lab.client(),
            lab::topology::CLIENT,
            SocketAddrV4::new(OTHER, port),
            server,
        )?;
        let flow = wait::until(wait::PATIENCE, "the connection by the third port to fly", || {
            // The first may be lost while neighbours are found.
            pair.ping(1).ok()?;
            let flow = self.gateway().flow("udp", pair.source_port()).ok()??;
            (flow.state() == "software").then_some(flow)
        })?;
        assert_eq!((flow.in_port(), flow.out_port()), ("lan0", Some("opt0")));
        Ok(pair)
    }

    fn descriptors(&self) -> Result<usize> {
        let id = self.gateway().process()?.id();
        let entries =
            std::fs::read_dir(format!("/proc/{id}/fd")).map_err(LabError::io("list descriptors"))?;
        Ok(entries.count())
    }

    /// Packet buffers that there are, and that are in use.
    fn buffers(&self) -> Result<(u64, u64)> {
        let stats = self.gateway().stats()?;
        Ok((stats.counter("buffers.total")?, stats.counter("buffers.in_use")?))
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn keys(told: &Value, list: &str) -> Vec<String> {
    let changes = told[list].as_array().into_iter().flatten();
    changes.filter_map(|change| Some(change["key"].as_str()?.to_owned())).collect()
}

#[test]
fn ports_come_and_go_while_others_carry() -> Result<()> {
    const TIMES: u16 = 20;
    let _turn = turn::take();
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let service = Service::listen(bench.lab.server(), SERVER, 80)?;
    let tcp = Pair::open(bench.lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    bench.lab.until_flying("tcp", tcp.source_port(), || tcp.ping(1))?;
    let stream_pair = udp_pair(&bench.lab, 5000)?;
    let ids = || -> Result<Vec<u64>> {
        let ours = |entry: &conntrack::Entry| [80, 5000].contains(&entry.original.destination_port);
        Ok(conntrack::list(bench.lab.gateway())?.iter().filter(|e| ours(e)).map(|e| e.id).collect())
    };
    let stream = udp::Stream::start(&stream_pair, Duration::from_millis(2), true)?;
    wait::until_true(wait::PATIENCE, "the stream to begin", || stream.received() > 100)?;
    let before = ids()?;
    let with = bench.text.clone() + &bench.third("net_tap2,iface=eth0");
    let (stop, transfers) = (AtomicBool::new(false), AtomicU64::new(0));
    let steady = thread::scope(|scope| -> Result<[(u64, u64, usize); 2]> {
        let load = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                let transfer = tcp.transfer(Way::Up, 2_000_000)?;
                assert_eq!(transfer.sent, transfer.received);
                transfers.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let cycle = |number: u16| -> Result<(u64, u64, usize)> {
            let told = bench.takes(&with)?;
            assert_eq!(keys(&told, "changed"), ["port.opt0"]);
            bench.plug()?;
            let pair = bench.flies_to_other(6000 + number)?;
            (0..20).try_for_each(|token| pair.ping(token).map(drop))?;
            let told = bench.takes(&bench.text)?;
            assert!(told["notices"].to_string().contains("ip link del opt0"), "{told}");
            assert!(!bench.other.has_interface(HOST_INTERFACE), "the device is there still");
            assert!(bench.lab.gateway().has_interface("opt0"), "the twin is gone");
            let flow = bench.gateway().flow("udp", pair.source_port())?;
            assert!(flow.is_none_or(|flow| flow.state() == "candidate"), "it flies by a port that is gone");
            assert_eq!(bench.port_names()?, ["wan0", "lan0"]);
            let (total, in_use) = bench.buffers()?;
            Ok((total, in_use, bench.descriptors()?))
        };
        let outcome = (|| {
            let first = cycle(0)?;
            let last = (1..TIMES).map(cycle).collect::<Result<Vec<_>>>()?;
            Ok([first, *last.last().expect("more than one")])
        })();
        stop.store(true, Ordering::Relaxed);
        load.join().expect("no panic")?;
        outcome
    })?;
    println!("buffers, in use, descriptors after the first and the last time: {steady:?}");
    let [first, last] = steady;
    assert_eq!(first.0, last.0, "more packet buffers each time");
    assert_eq!(first.2, last.2, "descriptors are left behind");
    println!("{} transfers meanwhile", transfers.load(Ordering::Relaxed));
    assert!(transfers.load(Ordering::Relaxed) > 0);
    assert_eq!((stream.foreign(), stream.duplicated()), (0, 0));
    let (sent, answered) = stream.finish();
    println!("stream: {sent} sent, {answered} answered");
    assert!(answered * 100 >= sent * 99, "{sent} sent, {answered} answered");
    assert_eq!(ids()?, before, "other connections than before");
    tcp.finish()?;
    // Without traffic nothing is on its way, and as much is in use as at any other time.
    let idle = wait::until(wait::PATIENCE, "packet buffers to come home", || {
        let (_, in_use) = bench.buffers().ok()?;
        (in_use <= first.1).then_some(in_use)
    })?;
    println!("in use without traffic: {idle}");
    Ok(())
}

#[test]
fn what_takes_a_restart_is_said_before_anything_changes() -> Result<()> {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let policy = || -> Result<String> {
        Ok(bench.gateway().status()?.0["policy"].as_str().unwrap_or_default().to_owned())
    };
    let before = policy()?;
    let both = format!(
        "{}[flows]\ncapacity = 4096\nrevalidate_within = \"3s\"\n[policy]\naccelerate = \"established\"\n",
        bench.text
    );
    let (output, told) = bench.reload(&both, &["--check"])?;
    assert_eq!((output.status.code(), &told["outcome"]), (Some(1), &Value::from("refused")), "{output:?}");
    let (output, told) = bench.reload(&both, &[])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(told["outcome"], "refused");
    assert_eq!(keys(&told, "restart"), ["flows.capacity"]);
    assert_eq!(keys(&told, "changed"), ["flows.revalidate_within", "policy.accelerate"]);
    let change = &told["restart"][0];
    assert_eq!((&change["old"], &change["new"]), (&Value::from("1048576"), &Value::from("4096")), "{told}");
    assert!(change["why"].as_str().is_some_and(|why| why.contains("start")), "{told}");
    assert!(errors(&output).contains("--partial"), "{output:?}");
    assert_eq!(policy()?, before, "something was taken over");
    // In words.
    let output = bench.gateway().flyover(&["reload"])?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(words.contains("needs a restart: systemctl restart flyover (connections go on)"), "{words}");
    assert!(words.contains("flows.capacity  1048576 -> 4096"), "{words}");
    assert_eq!(policy()?, before);
    // The rest, by word.
    let (output, told) = bench.reload(&both, &["--partial"])?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!((told["outcome"].as_str(), keys(&told, "restart").len()), (Some("applied"), 1));
    assert!(policy()?.starts_with("established"), "{}", policy()?);
    assert_eq!(bench.gateway().status()?.counter("flows.capacity")?, 1_048_576);
    // What was taken over differs no more.
    let (_, told) = bench.reload(&both, &["--check", "--partial"])?;
    assert!(keys(&told, "changed").is_empty() && keys(&told, "restart").len() == 1, "{told}");
    let (output, told) = bench.reload(&bench.text, &["--check"])?;
    assert_eq!((output.status.code(), told["outcome"].as_str()), (Some(0), Some("checked")));
    assert!(policy()?.starts_with("established"), "a check has changed something");
    assert_eq!(keys(&bench.takes(&bench.text)?, "changed"), ["flows.revalidate_within", "policy.accelerate"]);
    assert_eq!(policy()?, before);
    let output = bench.gateway().ask(&["reload"])?;
    assert!(output.contains("nothing differs"), "{output}");
    Ok(())
}

#[test]
fn what_fails_changes_nothing() -> Result<()> {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let established = "[policy]\naccelerate = \"established\"\n";
    let pair = udp_pair(&bench.lab, 5000)?;
    bench.lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let (descriptors, interfaces) = (bench.descriptors()?, bench.lab.gateway().interfaces()?);
    let fails = |text: &str, word: &str| -> Result<()> {
        let (output, told) = bench.reload(text, &[])?;
        assert_eq!((output.status.code(), told["outcome"].as_str()), (Some(1), Some("failed")), "{output:?}");
        let errors = errors(&output);
        assert!(errors.contains(word) && errors.contains("nothing was changed"), "no {word:?} in {errors}");
        assert!(told["error"].as_str().is_some_and(|error| errors.contains(error)), "{told} {errors}");
        let status = bench.gateway().status()?;
        assert!(status.0["policy"].as_str().is_some_and(|policy| policy.starts_with("auto")), "{status:?}");
        assert_eq!(bench.port_names()?, ["wan0", "lan0"]);
        assert_eq!(bench.lab.gateway().interfaces()?, interfaces, "a twin was left behind");
        assert_eq!(bench.descriptors()?, descriptors, "descriptors were left behind");
        Ok(())
    };
    let broken = bench.text.clone() + "[flows]\ncapcity = 7\n";
    fails(&broken, "capcity")?;
    let line = broken.lines().position(|line| line.starts_with("capcity")).map_or(0, |at| at + 1);
    fails(&broken, &format!("flyover.toml:{line}:1"))?;
    let nothing = bench.third("net_af_packet7,iface=nosuch0");
    fails(&format!("{}{nothing}{established}", bench.text), "nosuch0")?;
    // One of two can be had.
    let two =
        format!("{}{}{}", bench.text, bench.third("net_tap2,iface=eth0"), nothing.replace("opt0", "opt1"));
    fails(&format!("{two}{established}"), "nosuch0")?;
    assert!(!bench.other.has_interface(HOST_INTERFACE), "the wire side of what could be had was left behind");
    let taken = format!("{}{established}[metrics]\nlisten = \"203.0.113.77:9477\"\n", bench.text);
    fails(&taken, "203.0.113.77:9477")?;
    // Nor does a port that is to make room go for nothing: it comes back.
    bench.takes(&(bench.text.clone() + &bench.third("net_tap2,iface=eth0")))?;
    bench.plug()?;
    let (output, _) =
        bench.reload(&(bench.text.clone() + &bench.third("net_af_packet7,iface=nosuch0")), &[])?;
    let told = errors(&output);
    assert!(output.status.code() == Some(1) && told.contains("are back"), "{told}");
    assert_eq!(bench.port_names()?, ["wan0", "lan0", "opt0"]);
    bench.plug()?;
    bench.flies_to_other(6000)?;
    bench.takes(&bench.text)?;
    pair.ping(7).map(drop)
}

#[test]
fn a_twin_whose_name_somebody_else_has_is_refused() -> Result<()> {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    bench.lab.gateway().run("ip link add opt0 type veth peer name opt1")?;
    let with = bench.text.clone() + &bench.third("net_tap2,iface=eth0");
    let (output, told) = bench.reload(&with, &[])?;
    assert_eq!((output.status.code(), told["outcome"].as_str()), (Some(1), Some("failed")));
    let errors = errors(&output);
    assert!(errors.contains("opt0") && errors.contains("not a tap"), "{errors}");
    assert!(bench.lab.gateway().run("ip -d link show opt0")?.contains("veth"), "it is not what it was");
    assert!(!bench.other.has_interface(HOST_INTERFACE));
    bench.lab.gateway().run("ip link del opt0")?;
    bench.takes(&with)?;
    bench.plug()?;
    bench.flies_to_other(6000).map(drop)
}

#[test]
fn a_port_is_had_anew_and_under_another_name() -> Result<()> {
    let _turn = turn::take();
    let Some(mut bench) = Bench::new()? else { return Ok(()) };
    // A service manager holds twins, too: it is not taken for a stranger.
    let gateway = bench.lab.flyover_mut().expect("Flyover forwards");
    gateway.stop()?;
    gateway.serve()?;
    bench.lab.restart()?;
    let (first, second) = (bench.third("net_tap2,iface=eth0"), bench.third("net_tap3,iface=eth0"));
    bench.takes(&(bench.text.clone() + &first))?;
    bench.plug()?;
    bench.flies_to_other(6000)?;
    // The same twin by another device: it keeps its address, and its interface.
    let index = || -> Result<String> {
        let line = bench.lab.gateway().run("ip -o link show opt0")?;
        Ok(line.split(':').next().unwrap_or_default().to_owned())
    };
    let before = index()?;
    let told = bench.takes(&(bench.text.clone() + &second))?;
    assert_eq!(keys(&told, "changed"), ["port.opt0.device"]);
    assert_eq!(index()?, before);
    bench.plug()?;
    bench.flies_to_other(6001)?;
    // The same device under another name.
    let renamed = second.replace("opt0", "opt1");
    let told = bench.takes(&(bench.text.clone() + &renamed))?;
    assert_eq!(keys(&told, "changed"), ["port.opt0", "port.opt1"]);
    assert_eq!(bench.port_names()?, ["wan0", "lan0", "opt1"]);
    // An MTU changes in place.
    let told = bench.takes(&(bench.text.clone() + &renamed + "mtu = 1400\n"))?;
    assert_eq!(keys(&told, "changed"), ["port.opt1.mtu"]);
    wait::until_true(wait::PATIENCE, "the twin to have its MTU", || {
        bench.lab.gateway().run("ip -o link show opt1").is_ok_and(|link| link.contains("mtu 1400"))
    })?;
    // Longer than packet buffers are.
    let (output, told) = bench.reload(&(bench.text.clone() + &renamed + "mtu = 9000\n"), &[])?;
    assert_eq!((output.status.code(), keys(&told, "restart")), (Some(1), vec!["port.opt1.mtu".to_owned()]));
    Ok(())
}

#[test]
fn two_at_once_take_turns_or_are_refused() -> Result<()> {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    bench.write(&(bench.text.clone() + &bench.third("net_tap2,iface=eth0")))?;
    let outputs = thread::scope(|scope| {
        let asks: Vec<_> = (0..6).map(|_| scope.spawn(|| bench.gateway().flyover(&["reload"]))).collect();
        asks.into_iter().map(|ask| ask.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    let (well, refused): (Vec<_>, Vec<_>) = outputs.iter().partition(|output| output.status.success());
    assert!(!well.is_empty(), "{outputs:?}");
    for output in refused {
        assert!(errors(output).contains("under way already"), "{output:?}");
    }
    assert_eq!(bench.port_names()?, ["wan0", "lan0", "opt0"]);
    bench.plug()?;
    bench.flies_to_other(6000).map(drop)
}

#[test]
fn a_signal_does_the_same_and_logs() -> Result<()> {
    let Some(bench) = Bench::new()? else { return Ok(()) };
    let says = |word: &str| {
        wait::until_true(wait::PATIENCE, word, || {
            bench.gateway().ask(&["events"]).is_ok_and(|events| events.contains(word))
        })
    };
    bench.write(
        &(bench.text.clone() + "[log]\nlevel = \"debug\"\n[policy]\naccelerate = \"established\"\n"),
    )?;
    bench.gateway().process()?.signal(Signal::SIGHUP)?;
    says("policy.accelerate")?;
    // What happens to the kernel's state is told in more words from here on.
    let quiet = bench.gateway().process()?.errors();
    assert!(!quiet.contains("DEBUG"), "{quiet}");
    bench.lab.gateway().run("ip address add 10.1.2.3/32 dev lan0")?;
    wait::until_true(wait::PATIENCE, "more to be written", || {
        bench.gateway().process().is_ok_and(|process| process.errors().contains("DEBUG"))
    })?;
    bench.write(&(bench.text.clone() + "[workers]\ncores = \"all\"\n"))?;
    bench.gateway().process()?.signal(Signal::SIGHUP)?;
    says("the configuration was not taken over")?;
    bench.write(&(bench.text.clone() + "[flows]\ncapacity = 5\n"))?;
    bench.gateway().process()?.signal(Signal::SIGHUP)?;
    says("a change of the configuration needs a restart")?;
    let status = bench.gateway().status()?;
    assert!(
        status.0["policy"].as_str().is_some_and(|policy| policy.starts_with("established")),
        "{status:?}"
    );
    Ok(())
}

#[test]
fn metrics_move_to_another_address() -> Result<()> {
    let Some(bench) = Bench::build(Lab::builder(Plane::under_test()))? else { return Ok(()) };
    bench.lab.gateway().run("ip link set lo up")?;
    let with = |listen: &str| format!("{}[metrics]\nlisten = \"{listen}\"\n", bench.text);
    let answers = |address: &str| {
        let line = format!("curl -sS --max-time 20 http://{address}/healthz");
        bench.lab.gateway().run(&line).is_ok_and(|answer| answer == "ready\n")
    };
    bench.takes(&with("127.0.0.1:9477"))?;
    assert!(answers("127.0.0.1:9477"));
    bench.takes(&with("127.0.0.1:9478"))?;
    assert!(answers("127.0.0.1:9478") && !answers("127.0.0.1:9477"));
    // Where the gateway itself is in the way.
    let told = bench.takes(&with("0.0.0.0:9478"))?;
    assert!(told["notices"].to_string().contains("without a password"), "{told}");
    assert!(answers("127.0.0.1:9478") && answers("127.0.0.2:9478"));
    // Where somebody else is.
    let mut other = mortal("python3");
    other.args(["-m", "http.server", "--bind", "127.0.0.3", "9479"]);
    let other = bench.lab.gateway().start("other", other, bench.lab.directory())?;
    wait::until_true(wait::PATIENCE, "the other to listen", || {
        bench.lab.gateway().run("ss -Hltn sport = :9479").is_ok_and(|listening| !listening.is_empty())
    })?;
    let (output, _) = bench.reload(&with("127.0.0.3:9479"), &[])?;
    assert!(errors(&output).contains("127.0.0.3:9479"), "{output:?}");
    assert!(answers("127.0.0.1:9478"), "the old one is gone");
    drop(other);
    bench.takes(&bench.text)?;
    assert!(!answers("127.0.0.1:9478"));
    Ok(())
}
