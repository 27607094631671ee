//! A client, a gateway and a server, and who forwards between them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use crate::counters::LinkCounters;
use crate::gateway::{Gateway, Port};
use crate::process::{Process, mortal};
use crate::status::Flow;
use crate::{Namespace, Result, leftovers, wait};

/// The client, in the LAN.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
/// Another address in the LAN, on the client's host: what the port forward leads to.
pub const LAN_SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// The gateway's address in the LAN.
pub const GATEWAY_LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// The gateway's address towards the world.
pub const GATEWAY_WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The second address of the gateway towards the world: the one that `snat` uses.
pub const GATEWAY_SNAT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
/// The server, in the world.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The gateway's address on the third port.
pub const GATEWAY_OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The host on the third port.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// The client's IPv6 address, in the LAN.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x10);
/// Another IPv6 address of the client's host: what the port forward leads to.
pub const LAN_SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 2);
/// The gateway's IPv6 address in the LAN.
pub const GATEWAY_LAN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1);
/// The gateway's IPv6 address towards the world.
pub const GATEWAY_WAN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// The server's IPv6 address, in the world.
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);

/// The name of every host's interface.
pub const HOST_INTERFACE: &str = "eth0";

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Flyover on net_tap ports: hosts have the wire side, the gateway the twins.
    Flyover,
    /// The kernel alone, between veth pairs without offloads: what Flyover must be equal to.
    KernelOnly,
}

impl Plane {
    /// The plane that tests are about: Flyover, or the kernel alone where `FLYOVER_LAB=kernel`, which shows that
    /// a test's expectations are the kernel's.
    pub fn under_test() -> Self {
        match std::env::var("FLYOVER_LAB").as_deref() {
            Ok("kernel") => Self::KernelOnly,
            _ => Self::Flyover,
        }
    }
}

/// What Flyover's ports are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// net_tap: its wire side is the host's interface.
    Tap,
    /// net_af_packet on one end of a veth pair without offloads; the host has the other.
    AfPacket,
    /// net_af_xdp, likewise.
    AfXdp,
    /// net_pcap on one end of a veth pair, in and out: slow, and the one that takes jumbo frames.
    Pcap,
    /// net_memif as server. On the other side of the shared memory a process, the program at this path, passes
    /// frames on between net_memif as client and a net_tap in the host's namespace.
    Memif(&'static str),
}

impl Device {
    const fn is_veth(self) -> bool {
        matches!(self, Self::AfPacket | Self::AfXdp | Self::Pcap)
    }
}

/// A wire between the gateway and a host.
#[derive(Clone, Debug)]
struct Wire {
    twin: &'static str,
    gateway: &'static [Ipv4Addr],
    gateway6: &'static [Ipv6Addr],
    host: Namespace,
    addresses: &'static [Ipv4Addr],
    addresses6: &'static [Ipv6Addr],
    device: Device,
    /// Where a veth pair's end lives that is a port: a namespace whose kernel does nothing with its packets.
    wires: Option<Namespace>,
    mtu: Option<u16>,
}

/// What a laboratory is made of.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    plane: Plane,
    rules: String,
    third_port: bool,
    quiet: bool,
    ipv6: bool,
    device: Device,
    mtu: Option<u16>,
    sections: BTreeMap<String, Vec<String>>,
}

impl LabBuilder {
    /// IPv6 beside IPv4, with addresses on both wires; without it IPv6 is off.
    pub fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// What the ports are: taps without this.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// The MTU of ports, twins and hosts.
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// The gateway's nft ruleset: one of [`crate::rules`] or another. None without this.
    pub fn rules(mut self, rules: &str) -> Self {
        rules.clone_into(&mut self.rules);
        self
    }

    /// A third port `opt0`, with the host [`OTHER`] on it.
    pub fn third_port(mut self) -> Self {
        self.third_port = true;
        self
    }

    /// Prints nothing at the end.
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Adds a line to a section of Flyover's configuration.
    pub fn config(mut self, section: &str, line: &str) -> Self {
        self.sections.entry(section.to_owned()).or_default().push(line.to_owned());
        self
    }

    /// Makes the namespaces, starts the gateway, sets addresses and rules, and waits until every host reaches
    /// the gateway.
    ///
    /// # Errors
    /// When a step fails; what was made until then is taken away.
    pub fn build(self) -> Result<Lab> {
        Lab::build(self)
    }
}

/// Namespaces with a gateway between them. Dropping it takes everything away, and prints what helps to understand
/// a failure: cargo shows it of tests that fail, by a panic or by an error.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: first the processes, then the namespaces, then its files.
    gateway: Option<Gateway>,
    peers: Vec<Process>,
    wires: Vec<Wire>,
    namespace: Namespace,
    plane: Plane,
    quiet: bool,
    directory: TempDir,
}

impl Lab {
    /// Describes a laboratory of client, gateway and server.
    pub fn builder(plane: Plane) -> LabBuilder {
        LabBuilder {
            plane,
            rules: String::new(),
            third_port: false,
            quiet: false,
            ipv6: false,
            device: Device::Tap,
            mtu: None,
            sections: BTreeMap::new(),
        }
    }

    fn build(description: LabBuilder) -> Result<Self> {
        let LabBuilder { plane, rules, third_port, quiet, ipv6, device, mtu, mut sections } = description;
        let namespace = Namespace::new("gw")?;
        let wires = (device.is_veth() && plane == Plane::Flyover).then(|| Namespace::new("wires"));
        let wires = wires.transpose()?;
        let wire = |twin, gateway, addresses, host| {
            Ok(Wire {
                twin,
                gateway,
                gateway6: &[],
                host: Namespace::new(host)?,
                addresses,
                addresses6: &[],
                device,
                wires: wires.clone(),
                mtu,
            })
        };
        let mut wires: Vec<Wire> = vec![
            wire("wan0", &[GATEWAY_WAN, GATEWAY_SNAT], &[SERVER], "server")?,
            wire("lan0", &[GATEWAY_LAN], &[CLIENT, LAN_SERVER], "client")?,
        ];
        if ipv6 {
            (wires[0].gateway6, wires[0].addresses6) = (&[GATEWAY_WAN6], &[SERVER6]);
            (wires[1].gateway6, wires[1].addresses6) = (&[GATEWAY_LAN6], &[CLIENT6, LAN_SERVER6]);
        }
        if third_port {
            wires.push(wire("opt0", &[GATEWAY_OTHER], &[OTHER], "other")?);
        }
        if ipv6 {
            for namespace in wires.iter().map(|wire| &wire.host).chain([&namespace]) {
                namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "0")?;
                namespace.sysctl("net.ipv6.conf.all.disable_ipv6", "0")?;
            }
            namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        }
        let directory = leftovers::directory()?;
        if plane == Plane::Flyover {
            wires.iter().try_for_each(Wire::lay_port)?;
        }
        let gateway = match plane {
            Plane::KernelOnly => None,
            Plane::Flyover => {
                // Laboratories that run side by side share the cores evenly.
                let cores = format!("cores = [{}]", next_core());
                let workers = sections.entry("workers".to_owned()).or_default();
                if !workers.iter().any(|line| line.starts_with("cores")) {
                    workers.push(cores);
                }
                let port = |(n, wire): (usize, &Wire)| wire.port(n, directory.path());
                let ports: Vec<Port> = wires.iter().enumerate().map(port).collect();
                Some(Gateway::new(&namespace, directory.path(), &ports, &toml(&sections))?)
            }
        };
        let mut lab = Self { gateway, peers: Vec::new(), wires, namespace, plane, quiet, directory };
        lab.namespace.sysctl("net.ipv4.ip_forward", "1")?;
        lab.namespace.sysctl("net.ipv4.conf.all.rp_filter", "1")?;
        lab.namespace.sysctl("net.ipv4.conf.default.rp_filter", "1")?;
        match &mut lab.gateway {
            Some(gateway) => gateway.start()?,
            None => lab.wires.iter().try_for_each(|wire| wire.lay_veth(&lab.namespace))?,
        }
        lab.address_twins()?;
        lab.start_peers()?;
        lab.namespace.nft(&rules)?;
        lab.plug_hosts()?;
        Ok(lab)
    }

    /// Who forwards here.
    pub fn plane(&self) -> Plane {
        self.plane
    }

    /// The gateway's namespace.
    pub fn gateway(&self) -> &Namespace {
        &self.namespace
    }

    /// The client's namespace, in the LAN.
    pub fn client(&self) -> &Namespace {
        self.host("lan0")
    }

    /// The server's namespace, in the world.
    pub fn server(&self) -> &Namespace {
        self.host("wan0")
    }

    /// The namespace of the host on the third port.
    ///
    /// # Panics
    /// When the laboratory was built without one.
    pub fn other(&self) -> &Namespace {
        self.host("opt0")
    }

    /// A directory that goes away with the laboratory.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Flyover, unless the kernel forwards alone.
    pub fn flyover(&self) -> Option<&Gateway> {
        self.gateway.as_ref()
    }

    /// Flyover, unless the kernel forwards alone, to stop it and start it again.
    pub fn flyover_mut(&mut self) -> Option<&mut Gateway> {
        self.gateway.as_mut()
    }

    /// Starts Flyover again and connects the hosts, whose interfaces went away with the process that made them.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<()> {
        if let Some(gateway) = &mut self.gateway {
            gateway.start()?;
        }
        self.plug_hosts()
    }

    /// Gives the hosts' interfaces their addresses and a way out, and waits until they reach the gateway.
    ///
    /// # Errors
    /// When an interface is missing or the gateway can't be reached.
    pub fn plug_hosts(&self) -> Result<()> {
        self.wires.iter().try_for_each(Wire::plug)?;
        self.wires.iter().try_for_each(Wire::wait_for_gateway)
    }

    /// The kernel's counters of all twins, summed.
    ///
    /// # Errors
    /// When a twin is missing.
    pub fn kernel_counters(&self) -> Result<LinkCounters> {
        self.wires.iter().try_fold(LinkCounters::default(), |sum, wire| {
            let link = LinkCounters::read(&self.namespace, wire.twin)?;
            Ok(LinkCounters {
                rx_packets: sum.rx_packets + link.rx_packets,
                tx_packets: sum.tx_packets + link.tx_packets,
                rx_bytes: sum.rx_bytes + link.rx_bytes,
                tx_bytes: sum.tx_bytes + link.tx_bytes,
            })
        })
    }

    /// Makes traffic with `stimulate` until the connection from `source_port` flies, and returns it. With the
    /// kernel alone the traffic is made once.
    ///
    /// # Errors
    /// When the traffic fails, or the connection does not fly within [`wait::PATIENCE`].
    pub fn until_flying(
        &self,
        protocol: &str,
        source_port: u16,
        mut stimulate: impl FnMut() -> Result<()>,
    ) -> Result<Option<Flow>> {
        let Some(gateway) = &self.gateway else { return stimulate().map(|()| None) };
        let what = format!("the {protocol} connection from port {source_port} to fly");
        wait::until(wait::PATIENCE, &what, || {
            if let Err(error) = stimulate() {
                return Some(Err(error));
            }
            match gateway.flow(protocol, source_port) {
                Ok(Some(flow)) if flow.state() == "software" || flow.state() == "hardware" => Some(Ok(flow)),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            }
        })?
        .map(Some)
    }

    /// The namespace of the host on a twin's wire.
    ///
    /// # Panics
    /// When the laboratory was built without one.
    pub fn host(&self, twin: &str) -> &Namespace {
        let wire = self.wires.iter().find(|wire| wire.twin == twin);
        &wire.unwrap_or_else(|| panic!("this laboratory has no {twin}")).host
    }

    /// The processes at the other side of memif ports, which must be there to be connected to.
    fn start_peers(&mut self) -> Result<()> {
        for (number, wire) in self.wires.iter().enumerate() {
            let (Device::Memif(peer), true) = (wire.device, self.plane == Plane::Flyover) else { continue };
            let mut command = mortal(peer);
            command.arg(wire.memif(number, "client", self.directory.path()));
            command.arg(format!("net_tap0,iface={HOST_INTERFACE}"));
            let name = format!("memif-peer-{}", wire.twin);
            self.peers.push(wire.host.start(&name, command, self.directory.path())?);
        }
        Ok(())
    }

    fn address_twins(&self) -> Result<()> {
        for wire in &self.wires {
            for address in wire.gateway {
                self.namespace.run(&format!("ip address replace {address}/24 dev {}", wire.twin))?;
            }
            for address in wire.gateway6 {
                self.namespace.run(&format!("ip address replace {address}/64 dev {}", wire.twin))?;
            }
            self.namespace.run(&format!("ip link set {} up", wire.twin))?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.quiet {
            return;
        }
        if let Some(gateway) = &self.gateway {
            println!("{}", gateway.report());
        }
        for line in [
            "ip -s link",
            "ip route",
            "ip -6 route",
            "ip neigh",
            "nft list ruleset",
            "conntrack -L -o id",
            "conntrack -L -f ipv6",
        ] {
            let text = self.namespace.run(line).unwrap_or_else(|e| e.to_string());
            println!("gateway: {line}\n{}", text.lines().take(60).collect::<Vec<_>>().join("\n"));
        }
    }
}

impl Wire {
    fn port(&self, number: usize, directory: &std::path::Path) -> Port {
        let (twin, wires) = (self.twin, self.wires.as_ref().map(|wires| wires.name().to_owned()));
        let (device, netns) = match self.device {
            Device::Tap => {
                (format!("net_tap{number},iface={HOST_INTERFACE}"), Some(self.host.name().to_owned()))
            }
            Device::AfPacket => (format!("net_af_packet{number},iface=port-{twin}"), wires),
            Device::AfXdp => (format!("net_af_xdp{number},iface=port-{twin}"), wires),
            Device::Pcap => (format!("net_pcap{number},rx_iface_in=port-{twin},tx_iface=port-{twin}"), wires),
            Device::Memif(_) => (self.memif(number, "server", directory), None),
        };
        Port { name: twin.to_owned(), device, netns, mtu: self.mtu }
    }

    /// One side of shared memory, by a socket that has a file: abstract ones end at their namespace's border.
    fn memif(&self, number: usize, role: &str, directory: &std::path::Path) -> String {
        let socket = directory.join(format!("memif-{}", self.twin));
        format!("net_memif{number},role={role},id=0,socket={},socket-abstract=no", socket.display())
    }

    /// The veth pair whose one end is a port. Frames of a veth pair bear unfinished checksums and may be longer
    /// than the MTU, as no wire's do, unless the offloads of the sending end are off.
    fn lay_port(&self) -> Result<()> {
        let Some(wires) = &self.wires else { return Ok(()) };
        let (port, host) = (format!("port-{}", self.twin), self.host.name());
        wires.run(&format!("ip link add {port} type veth peer name {HOST_INTERFACE} netns {host}"))?;
        wires.run(&format!("ethtool -K {port} tx off tso off gso off gro off"))?;
        self.host.run(&format!("ethtool -K {HOST_INTERFACE} tx off tso off gso off gro off"))?;
        if let Some(mtu) = self.mtu {
            wires.run(&format!("ip link set {port} mtu {mtu}"))?;
        }
        wires.run(&format!("ip link set {port} up"))?;
        self.host.run(&format!("ip link set {HOST_INTERFACE} up")).map(drop)
    }

    /// The kernel's way: a veth pair, with the offloads off that a wire would not have either.
    fn lay_veth(&self, gateway: &Namespace) -> Result<()> {
        let (twin, host) = (self.twin, self.host.name());
        gateway.run(&format!("ip link add {twin} type veth peer name {HOST_INTERFACE} netns {host}"))?;
        gateway.run(&format!("ethtool -K {twin} tx off tso off gso off gro off"))?;
        self.host.run(&format!("ethtool -K {HOST_INTERFACE} tx off tso off gso off gro off"))?;
        if let Some(mtu) = self.mtu {
            gateway.run(&format!("ip link set {twin} mtu {mtu}"))?;
        }
        Ok(())
    }

    fn plug(&self) -> Result<()> {
        let what = format!("{HOST_INTERFACE} in {}", self.host.name());
        wait::until_true(wait::PATIENCE, &what, || self.host.has_interface(HOST_INTERFACE))?;
        let eth0 = HOST_INTERFACE;
        if let Some(mtu) = self.mtu {
            self.host.run(&format!("ip link set {eth0} mtu {mtu}"))?;
        }
        for address in self.addresses {
            self.host.run(&format!("ip address replace {address}/24 dev {eth0}"))?;
        }
        for address in self.addresses6 {
            self.host.run(&format!("ip address replace {address}/64 dev {eth0}"))?;
        }
        self.host.run(&format!("ip link set {eth0} up"))?;
        if let Some(gateway) = self.gateway.first() {
            self.host.run(&format!("ip route replace default via {gateway}"))?;
        }
        if let Some(gateway) = self.gateway6.first() {
            self.host.run(&format!("ip -6 route replace default via {gateway}"))?;
        }
        Ok(())
    }

    /// Until the gateway has answered an ARP request, and a neighbour solicitation where there is IPv6: frames
    /// pass both ways, whatever the ruleset says.
    fn wait_for_gateway(&self) -> Result<()> {
        let wildcards = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let gateways = self.gateway.first().map(|address| IpAddr::V4(*address)).into_iter();
        let gateways = gateways.chain(self.gateway6.first().map(|address| IpAddr::V6(*address)));
        for gateway in gateways {
            let discard = SocketAddr::new(gateway, 9);
            let wildcard = SocketAddr::new(wildcards[usize::from(gateway.is_ipv6())], 0);
            let what = format!("{} to reach {gateway}", self.host.name());
            let neighbour = format!("ip neigh show {gateway} dev {HOST_INTERFACE}");
            wait::until_true(wait::PATIENCE, &what, || {
                // Only to make the kernel ask; it may fail while the last request has failed.
                let _ = self.host.inside(move || UdpSocket::bind(wildcard)?.send_to(&[0], discard));
                self.host.run(&neighbour).is_ok_and(|line| line.contains("lladdr"))
            })?;
        }
        let tentative = format!("ip -6 address show dev {HOST_INTERFACE} tentative");
        let what = format!("the addresses of {} to be nobody else's", self.host.name());
        wait::until_true(wait::PATIENCE, &what, || {
            self.host.run(&tentative).is_ok_and(|text| text.trim().is_empty())
        })
    }
}

fn toml(sections: &BTreeMap<String, Vec<String>>) -> String {
    let mut text = String::new();
    for (section, lines) in sections {
        // Writing to a string can't fail.
        let _ = writeln!(text, "[{section}]\n{}", lines.join("\n"));
    }
    text
}

pub(crate) fn next_core() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    NEXT.fetch_add(1, Ordering::Relaxed) % cores
}
