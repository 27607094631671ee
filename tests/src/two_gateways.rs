//! Two gateways between two switches, of which one forwards: keepalived says which, and conntrackd tells the other of its
//! connections. Everything is configured by the files in `configs/ha`, as they are given to users.
//!
//! ```text
//! client ── lan ──┬── a ──┬── wan ── server
//!                 └── b ──┘
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::process::{Process, mortal};
use crate::topology::{CLIENT, HOST_INTERFACE, SERVER, next_core};
use crate::{Gateway, LabError, Namespace, Plane, Result, gateway, leftovers, wait};

/// The address in the LAN that moves: the hosts' gateway.
pub const VIRTUAL_LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// The address towards the world that moves: what connections seem to come from.
pub const VIRTUAL_WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

const KEEPALIVED: &str = include_str!("../../configs/ha/keepalived.conf");
const CONNTRACKD: &str = include_str!("../../configs/ha/conntrackd.conf");
const FLYOVER: &str = include_str!("../../configs/ha/flyover.toml");
const NOTIFY: &str = include_str!("../../configs/ha/notify");
const RULES: &str = include_str!("../../configs/ha/gateway.nft");
const SYSCTL: &str = include_str!("../../configs/ha/sysctl.conf");

/// The other side of [`Node`]s: a switch a side, and the gateways' NICs.
const SIDES: [&str; 2] = ["lan", "wan"];

/// What a laboratory of two gateways is made of.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Who forwards.
    pub plane: Plane,
    /// Whether connections are replicated.
    pub conntrackd: bool,
    /// Whether the addresses that move have MAC addresses of their own (`use_vmac`).
    pub vmac: bool,
}

/// Two gateways, and a host each side.
#[derive(Debug)]
pub struct TwoGateways {
    /// The first of the two and the second.
    pub nodes: [Node; 2],
    /// In the LAN.
    pub client: Namespace,
    /// In the world.
    pub server: Namespace,
    // Dropped after what runs in it.
    _switches: Namespace,
    _directory: TempDir,
}

/// One of the two.
#[derive(Debug)]
pub struct Node {
    /// Its namespace.
    pub namespace: Namespace,
    name: char,
    flyover: Option<Gateway>,
    switches: Namespace,
    keepalived: Option<Process>,
    conntrackd: Option<Process>,
    setup: Setup,
    directory: PathBuf,
}

impl TwoGateways {
    /// Builds it, and waits until one of the two forwards.
    ///
    /// # Errors
    /// When a step fails.
    pub fn build(setup: Setup) -> Result<Self> {
        let directory = leftovers::directory()?;
        let switches = Namespace::new("switches")?;
        for side in SIDES {
            switches.run(&format!("ip link add {side} type bridge"))?;
            switches.run(&format!("ip link set {side} up"))?;
        }
        let [client, server] = [Namespace::new("client")?, Namespace::new("server")?];
        for (host, side, address, via) in
            [(&client, "lan", CLIENT, VIRTUAL_LAN), (&server, "wan", SERVER, VIRTUAL_WAN)]
        {
            plug(&switches, &format!("{side}-host"), host, HOST_INTERFACE, side)?;
            host.run(&format!("ip address add {address}/24 dev {HOST_INTERFACE}"))?;
            host.run(&format!("ip link set {HOST_INTERFACE} up"))?;
            host.run(&format!("ip route add default via {via}"))?;
        }
        let mut nodes = [
            Node::new('a', setup, &switches, directory.path())?,
            Node::new('b', setup, &switches, directory.path())?,
        ];
        let [a, b] = [&nodes[0].namespace, &nodes[1].namespace];
        a.run(&format!("ip link add sync0 type veth peer name sync0 netns {}", b.name()))?;
        nodes.iter_mut().try_for_each(Node::lay)?;
        nodes.iter_mut().try_for_each(Node::start)?;
        let lab = Self { nodes, client, server, _switches: switches, _directory: directory };
        lab.master()?;
        Ok(lab)
    }

    /// Which of the two has both addresses, once one alone has.
    ///
    /// # Errors
    /// When neither has them, or both do, for [`wait::PATIENCE`].
    pub fn master(&self) -> Result<usize> {
        wait::until(wait::PATIENCE, "one gateway to be master", || {
            match [0, 1].map(|n| self.nodes[n].is_master()) {
                [true, false] => Some(0),
                [false, true] => Some(1),
                _ => None,
            }
        })
    }

    /// Waits until node `n` has both addresses.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn until_master(&self, n: usize) -> Result<()> {
        let what = format!("gateway {} to be master", self.nodes[n].name);
        wait::until_true(wait::PATIENCE, &what, || self.nodes[n].is_master())
    }
}

impl Drop for TwoGateways {
    fn drop(&mut self) {
        // Cargo shows it of tests that fail.
        self.nodes.iter().for_each(|node| println!("{}", node.report()));
    }
}

impl Node {
    fn new(name: char, setup: Setup, switches: &Namespace, directory: &Path) -> Result<Self> {
        let directory = directory.join(name.to_string());
        fs::create_dir(&directory).map_err(LabError::io("make a directory"))?;
        let namespace = Namespace::new(&format!("gw-{name}"))?;
        let (switches, flyover) = (switches.clone(), None);
        Ok(Self { namespace, name, flyover, switches, keepalived: None, conntrackd: None, setup, directory })
    }

    /// Cables, files, and what is configured once: on twins that outlive the process.
    fn lay(&mut self) -> Result<()> {
        let last = if self.name == 'a' { 2 } else { 3 };
        self.namespace.run(&format!("ip address add 10.255.0.{}/30 dev sync0", last - 1))?;
        self.namespace.run("ip link set sync0 up")?;
        let configured = |line: &&str| !line.starts_with('#');
        for (key, value) in SYSCTL.lines().filter(configured).filter_map(|line| line.split_once(" = ")) {
            self.namespace.sysctl(key, value)?;
        }
        self.namespace.nft(RULES)?;
        self.write_files()?;
        let name = self.name;
        for side in SIDES {
            let (port, twin) = (format!("{name}-{side}"), format!("{side}0"));
            match self.setup.plane {
                Plane::KernelOnly => plug(&self.switches, &port, &self.namespace, &twin, side)?,
                Plane::Flyover => {
                    plug(&self.switches, &port, &self.switches, &format!("{name}-{twin}"), side)?;
                    self.switches.run(&format!("ip link set {name}-{twin} up"))?;
                }
            }
        }
        if self.setup.plane == Plane::Flyover {
            let mut gateway = Gateway::new(&self.namespace, &self.directory, &[], "")?;
            let device = |side| format!("net_af_packet0,iface={name}-{side}0");
            let mut text = replaced(FLYOVER, "0000:3b:00.0", &device("wan"))?;
            text = replaced(&text, "0000:3b:00.1", &device("lan").replace("packet0", "packet1"))?;
            text = replaced(&text, "/run/flyover.sock", &gateway.socket().display().to_string())?;
            text += &format!("[workers]\ncores = [{}]\n", next_core());
            for side in ["wan", "lan"] {
                let port = format!("name = \"{side}0\"\n");
                let netns = format!("{port}netns = \"{}\"\n", self.switches.name());
                text = replaced(&text, &port, &netns)?;
            }
            fs::write(gateway.config(), text).map_err(LabError::io("write the configuration"))?;
            gateway.start()?;
            self.flyover = Some(gateway);
        }
        self.address()
    }

    /// The addresses that stay.
    fn address(&self) -> Result<()> {
        let last = if self.name == 'a' { 2 } else { 3 };
        for (twin, network) in [("lan0", "192.168.1"), ("wan0", "198.51.100")] {
            self.namespace.run(&format!("ip address replace {network}.{last}/24 dev {twin}"))?;
            self.namespace.run(&format!("ip link set {twin} up"))?;
        }
        Ok(())
    }

    fn write_files(&self) -> Result<()> {
        let path = |name: &str| self.directory.join(name).display().to_string();
        let mut conntrackd = replaced(CONNTRACKD, "/var/lock/conntrack.lock", &path("conntrackd.lock"))?;
        conntrackd = replaced(&conntrackd, "/var/run/conntrackd.ctl", &path("conntrackd.ctl"))?;
        let mut keepalived = replaced(KEEPALIVED, "/etc/keepalived/notify", &path("notify"))?;
        keepalived = replaced(&keepalived, "/etc/conntrackd/conntrackd.conf", &path("conntrackd.conf"))?;
        let asked = match self.setup.plane {
            Plane::Flyover => {
                format!("{} --socket {} status", gateway::binary()?.display(), path("flyover.sock"))
            }
            Plane::KernelOnly => "/bin/true".to_owned(),
        };
        keepalived = replaced(&keepalived, "/usr/bin/flyover status", &asked)?;
        if self.setup.vmac {
            keepalived =
                replaced(&keepalived, "    advert_int", "    use_vmac\n    vmac_xmit_base\n    advert_int")?;
        }
        if self.name == 'b' {
            // As the comments in the files say.
            conntrackd = replaced(
                &conntrackd,
                "IPv4_address 10.255.0.1             # second: 10.255.0.2",
                "IPv4_address 10.255.0.2",
            )?;
            conntrackd = replaced(
                &conntrackd,
                "IPv4_Destination_Address 10.255.0.2",
                "IPv4_Destination_Address 10.255.0.1",
            )?;
            keepalived = replaced(&keepalived, "router_id gateway-a", "router_id gateway-b")?;
            keepalived = replaced(&keepalived, "priority 150", "priority 100")?;
        }
        for (name, text) in [
            ("conntrackd.conf", &conntrackd),
            ("keepalived.conf", &keepalived),
            ("notify", &NOTIFY.to_owned()),
        ] {
            fs::write(path(name), text).map_err(LabError::io(format!("write {name}")))?;
        }
        fs::set_permissions(path("notify"), fs::Permissions::from_mode(0o755))
            .map_err(LabError::io("make notify executable"))
    }

    /// Starts conntrackd and keepalived.
    fn start(&mut self) -> Result<()> {
        if self.setup.conntrackd {
            let mut command = mortal("conntrackd");
            command.arg("-C").arg(self.directory.join("conntrackd.conf"));
            self.conntrackd = Some(self.namespace.start("conntrackd", command, &self.directory)?);
            wait::until_true(wait::PATIENCE, "conntrackd to answer", || self.conntrackd("-s").is_ok())?;
        }
        let mut command = mortal("keepalived");
        command.args(["--dont-fork", "--log-console", "--log-detail", "--no-syslog", "--vrrp"]);
        command.arg("--use-file").arg(self.directory.join("keepalived.conf"));
        command.arg("--pid").arg(self.directory.join("keepalived.pid"));
        command.arg("--vrrp_pid").arg(self.directory.join("vrrp.pid"));
        self.keepalived = Some(self.namespace.start("keepalived", command, &self.directory)?);
        Ok(())
    }

    /// Flyover, unless the kernel forwards alone.
    pub fn flyover(&self) -> Option<&Gateway> {
        self.flyover.as_ref()
    }

    /// Whether both addresses that move are here.
    pub fn is_master(&self) -> bool {
        let text = self.namespace.run("ip -o -4 address show").unwrap_or_default();
        [VIRTUAL_LAN, VIRTUAL_WAN].iter().all(|address| text.contains(&format!(" {address}/")))
    }

    /// Asks conntrackd.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn conntrackd(&self, what: &str) -> Result<String> {
        let conf = self.directory.join("conntrackd.conf");
        self.namespace.run(&format!("conntrackd -C {} {what}", conf.display()))
    }

    /// How many connections of the other gateway wait here to be taken over.
    ///
    /// # Errors
    /// When conntrackd does not answer.
    pub fn waiting(&self) -> Result<usize> {
        Ok(self.conntrackd("-e")?.lines().filter(|line| line.contains("ESTABLISHED")).count())
    }

    /// Everything ends in the same moment, as when the power goes.
    ///
    /// # Errors
    /// When something was not running.
    pub fn cut_power(&mut self) -> Result<()> {
        self.stop_forwarding()?;
        let vrrp = self.directory.join("vrrp.pid");
        let text = fs::read_to_string(&vrrp).map_err(LabError::io("read keepalived's process id"))?;
        let id = text.trim().parse().map_err(|_| LabError::Missing(format!("a process id in {text:?}")))?;
        // Before its parent, whose end would have it announce its own.
        kill(Pid::from_raw(id), Signal::SIGKILL).map_err(|e| LabError::io("kill keepalived")(e.into()))?;
        drop(self.keepalived.take());
        drop(self.conntrackd.take());
        Ok(())
    }

    /// The forwarding plane is killed, and nothing else: with the kernel alone both cables are pulled.
    ///
    /// # Errors
    /// When it was not running.
    pub fn stop_forwarding(&mut self) -> Result<()> {
        match &mut self.flyover {
            Some(flyover) => flyover.kill().map(drop),
            None => self.cables("down"),
        }
    }

    /// Starts the forwarding plane again.
    ///
    /// # Errors
    /// When it does not start.
    pub fn forward(&mut self) -> Result<()> {
        match &mut self.flyover {
            Some(flyover) => flyover.start(),
            None => self.cables("up"),
        }
    }

    /// What a boot does: nothing is left of connections and of the addresses that move; then everything starts.
    ///
    /// # Errors
    /// When something does not start.
    pub fn boot(&mut self) -> Result<()> {
        self.namespace.run("conntrack -F")?;
        for twin in ["lan0", "wan0"] {
            self.namespace.run(&format!("ip address flush dev {twin}"))?;
        }
        for file in ["conntrackd.lock", "conntrackd.ctl"] {
            // Where these lie is empty after a boot. It may be gone by itself.
            let _ = fs::remove_file(self.directory.join(file));
        }
        self.address()?;
        self.forward()?;
        self.start()
    }

    fn cables(&self, state: &str) -> Result<()> {
        SIDES.iter().try_for_each(|side| {
            self.switches.run(&format!("ip link set {}-{side} {state}", self.name)).map(drop)
        })
    }

    /// All that helps to see what went wrong.
    pub fn report(&self) -> String {
        let mut text = format!("gateway {}\n", self.name);
        text += &self.flyover.as_ref().map(Gateway::report).unwrap_or_default();
        for line in ["ip address", "ip neigh", "conntrack -L -o id"] {
            text += &format!("{line}\n{}\n", self.namespace.run(line).unwrap_or_else(|e| e.to_string()));
        }
        for (name, process) in [("keepalived", &self.keepalived), ("conntrackd", &self.conntrackd)] {
            let Some(process) = process else { continue };
            text += &format!("{name}:\n{}{}\n", process.output(), process.errors());
        }
        for what in ["-s", "-i", "-e"] {
            text +=
                &format!("conntrackd {what}\n{}\n", self.conntrackd(what).unwrap_or_else(|e| e.to_string()));
        }
        text
    }
}

/// A cable from a bridge to a namespace, without the offloads that no wire has either.
fn plug(switches: &Namespace, port: &str, to: &Namespace, name: &str, bridge: &str) -> Result<()> {
    switches.run(&format!("ip link add {port} type veth peer name {name} netns {}", to.name()))?;
    switches.run(&format!("ethtool -K {port} tx off tso off gso off gro off"))?;
    to.run(&format!("ethtool -K {name} tx off tso off gso off gro off"))?;
    switches.run(&format!("ip link set {port} master {bridge}"))?;
    switches.run(&format!("ip link set {port} up")).map(drop)
}

/// A file that is given to users, with what is of the laboratory in place of what is of their machine.
fn replaced(text: &str, what: &str, by: &str) -> Result<String> {
    if text.contains(what) {
        return Ok(text.replace(what, by));
    }
    Err(LabError::Shape { what: format!("configs/ha has no {what:?}"), text: text.to_owned() })
}
