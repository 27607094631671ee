//! What a running gateway may do beyond an ordinary process, and where it writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::gateway::{self, Port};
use lab::process::{Process, mortal};
use lab::{Gateway, Lab, LabError, Namespace, Plane, Result, leftovers, turn, wait};

const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;
const SETPCAP: u64 = 1 << 8;

/// A thread as /proc has it.
#[derive(Debug)]
struct Task {
    name: String,
    status: String,
}

impl Task {
    fn all(process: &Process) -> Result<Vec<Self>> {
        let tasks = format!("/proc/{}/task", process.id());
        let entries = fs::read_dir(&tasks).map_err(LabError::io(&tasks))?;
        // One that ends meanwhile is none.
        let task = |path: PathBuf| {
            let name = fs::read_to_string(path.join("comm")).ok()?.trim().to_owned();
            Some(Self { name, status: fs::read_to_string(path.join("status")).ok()? })
        };
        Ok(entries.flatten().filter_map(|entry| task(entry.path())).collect())
    }

    fn field(&self, name: &str) -> u64 {
        let line = self.status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let field = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
        field.unwrap_or_else(|| panic!("{name} of {self:?}"))
    }

    /// Carries packets, or talks to clients.
    fn is_exposed(&self) -> bool {
        ["worker-", "punt", "capture", "metrics"].iter().any(|name| self.name.starts_with(name))
    }
}

/// Every thread has these capabilities at the most, and those that are exposed none.
fn has_only(process: &Process, kept: u64, exposed: &[&str]) -> Result<()> {
    let tasks = Task::all(process)?;
    for name in exposed {
        assert!(tasks.iter().any(|task| task.name.starts_with(name)), "a thread {name} in {tasks:?}");
    }
    for task in &tasks {
        let kept = if task.is_exposed() { 0 } else { kept };
        assert_eq!((task.field("CapPrm"), task.field("CapEff")), (kept, kept), "{task:?}");
        assert_eq!((task.field("CapInh"), task.field("CapAmb")), (0, 0), "{task:?}");
        assert_eq!(task.field("NoNewPrivs"), 1, "{task:?}");
    }
    Ok(())
}

fn own(field: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").map_err(LabError::io("/proc/self/status"))?;
    Ok(Task { name: String::new(), status }.field(field))
}

fn ports() -> Vec<Port> {
    let port = |name: &str, device: &str| Port {
        name: name.to_owned(),
        device: device.to_owned(),
        netns: None,
        mtu: None,
    };
    vec![port("wan0", "net_tap0,iface=wire0"), port("lan0", "net_tap1,iface=wire1")]
}

const REST: &str = "[workers]\ncores = [0]\n[metrics]\nlisten = \"127.0.0.1:9477\"\n";

#[test]
fn a_gateway_keeps_what_its_configuration_needs_and_its_threads_nothing() -> Result<()> {
    if Plane::under_test() == Plane::KernelOnly {
        return Ok(());
    }
    let _turn = turn::take();
    let directory = leftovers::directory()?;
    let namespace = Namespace::new("gateway")?;
    let mut gateway = Gateway::new(&namespace, directory.path(), &ports(), REST)?;
    gateway.start()?;
    has_only(gateway.process()?, NET_ADMIN, &["worker-", "punt", "metrics", "flyover"])?;
    if own("CapEff")? & SETPCAP != 0 {
        for task in Task::all(gateway.process()?)? {
            assert_eq!(task.field("CapBnd"), NET_ADMIN, "{task:?}");
        }
    }

    // What is left will do at run time.
    namespace.run("ip link delete wan0")?;
    wait::until_true(wait::PATIENCE, "the twin to be made again", || namespace.has_interface("wan0"))?;
    wait::until_true(wait::PATIENCE, "its own table, kept", || {
        namespace.run("nft list table inet flyover").is_ok()
    })?;
    namespace.run("nft delete table inet flyover")?;
    wait::until_true(wait::PATIENCE, "its own table, once more", || {
        namespace.run("nft list table inet flyover").is_ok()
    })?;

    let mut command = mortal(gateway::binary()?);
    command.args(["capture", "-w", "-", "--socket"]).arg(gateway.socket());
    let _capture = namespace.start("capture", command, directory.path())?;
    wait::until_true(wait::PATIENCE, "a thread that captures", || {
        let tasks = gateway.process().and_then(Task::all).unwrap_or_default();
        // Its first step is to give up what it was started with.
        tasks.iter().any(|task| task.name == "capture" && task.field("CapPrm") == 0)
    })?;
    has_only(gateway.process()?, NET_ADMIN, &["capture"])?;
    assert!(gateway.stop()?.success());
    Ok(())
}

#[test]
fn a_port_with_a_wire_side_elsewhere_keeps_what_leads_there() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let tasks = Task::all(gateway.process()?)?;
    let control = tasks.iter().find(|task| task.name == "flyover");
    let kept = control.map(|task| task.field("CapPrm") & !(1 << 39));
    assert_eq!(kept, Some(NET_ADMIN | SYS_ADMIN), "but for CAP_BPF, with several workers: {tasks:?}");
    Ok(())
}

/// Remounts everything read-only but what is the kernel's, /run, and a directory; then becomes the program.
const READ_ONLY: &str = r#"
    own=$1; shift
    mount --bind "$own" "$own"
    cut -d ' ' -f 5 /proc/self/mountinfo | sort -u | while read -r place; do
        case $place in
            /proc | /proc/* | /sys | /sys/* | /dev | /dev/* | /run | /run/* | "$own") ;;
            *) mount -o remount,bind,ro "$place" || exit 1 ;;
        esac
    done || exit 1
    if touch "$(dirname "$own")/written" 2>/dev/null; then echo "not read-only" >&2; exit 1; fi
    exec "$@""#;

#[test]
fn it_runs_where_nothing_but_its_own_places_can_be_written_and_has_no_other_file_open() -> Result<()> {
    if Plane::under_test() == Plane::KernelOnly {
        return Ok(());
    }
    let _turn = turn::take();
    let directory = leftovers::directory()?;
    let namespace = Namespace::new("gateway")?;
    let gateway = Gateway::new(&namespace, directory.path(), &ports(), REST)?;
    let mut command = mortal("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", READ_ONLY, "read-only"]);
    command.arg(directory.path()).arg(gateway::binary()?).args(["run", "-c"]).arg(gateway.config());
    let mut process = namespace.start("flyover", command, directory.path())?;
    let ready = wait::until_true(Duration::from_secs(30), "flyover to be ready", || {
        gateway.status().is_ok_and(|status| status.ready())
    });
    ready.inspect_err(|_| println!("{}", process.errors()))?;
    namespace.run("ip link set lan0 up")?;
    assert!(!process.errors().contains("Read-only file system"), "{}", process.errors());

    let open = written(&process)?;
    let strangers: Vec<_> = open.iter().filter(|path| !is_its_own(path, directory.path())).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    assert!(open.iter().any(|path| path == Path::new("/dev/net/tun")), "{open:?}");
    process.signal(nix::sys::signal::Signal::SIGTERM)?;
    assert!(process.wait(wait::PATIENCE)?.success(), "{}", process.errors());
    Ok(())
}

/// Paths that a process has open for writing. What is no path (sockets, memory) is not among them.
fn written(process: &Process) -> Result<Vec<PathBuf>> {
    let proc = PathBuf::from(format!("/proc/{}", process.id()));
    let entries = fs::read_dir(proc.join("fd")).map_err(LabError::io("list descriptors"))?;
    let path = |fd: PathBuf| {
        let info = fs::read_to_string(proc.join("fdinfo").join(fd.file_name()?)).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
        let target = fs::read_link(&fd).ok()?;
        (flags & 3 != 0 && target.is_absolute()).then_some(target)
    };
    Ok(entries.flatten().filter_map(|entry| path(entry.path())).collect())
}

fn is_its_own(path: &Path, directory: &Path) -> bool {
    // Devices; DPDK's memory, and what it keeps of each process; the socket, standard output and error.
    let places = [Path::new("/dev"), Path::new("/run"), directory];
    path.to_string_lossy().starts_with("/memfd:") || places.iter().any(|place| path.starts_with(place))
}
