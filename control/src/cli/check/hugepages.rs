//! Hugepages: whether packet memory finds room in them, where NICs want it.

use super::{Finding, Running, Severity};
use crate::cli::mend::Mend;
use crate::config::{Config, Device};
use crate::gateway;
use crate::host::Host;
use crate::nics::Nic;

const SIZES: &str = "sys/kernel/mm/hugepages";
const NODES: &str = "sys/devices/system/node";
/// What is proposed at the least.
const PAGES: u64 = 512;

pub(super) fn finding(host: &Host<'_>, config: &Config, running: Option<&Running>) -> Option<Finding> {
    let nics = config.ports.iter().any(|port| !port.device.is_vdev());
    let needed = u64::from(gateway::packet_memory_mb(config));
    // What counts are in: the machine's default size.
    let page_mb = page_kb(host).max(1024) / 1024;
    let pages = Pages::under(host, SIZES);
    let why = "packet memory in hugepages saves TLB misses, and most NICs can't do DMA without";
    let warning = |what: String, why: &str, place: Place, count: u64| {
        let (fix, mend) = place.reserve(host, count);
        let found = super::finding(Severity::Warning, "hugepages", what, why, Some(&fix));
        Some(found.mended_by(vec![mend]))
    };
    if pages.reserved_mb == 0 {
        let what = "no hugepages; Flyover runs without them".to_owned();
        if !nics {
            let (fix, _) = Place::Machine.reserve(host, PAGES);
            return Some(super::finding(Severity::Note, "hugepages", what, why, Some(&fix)));
        }
        let place = Place::of(host, config);
        return warning(what, why, place, PAGES.max(needed.div_ceil(page_mb)));
    }
    if !nics {
        return None;
    }
    let place = Place::of(host, config);
    let free = place.pages(host);
    let wanted = free.count + needed.saturating_sub(free.free_mb).div_ceil(page_mb);
    match running {
        Some(Running { hugepages: true, .. }) => None,
        Some(_) => {
            let what =
                "packet memory is not in hugepages: the gateway found too few when it started".to_owned();
            let why = "they save TLB misses, and most NICs can't do DMA without; it looks for them at its next start";
            warning(what, why, place, wanted.max(PAGES))
        }
        None if free.free_mb < needed => {
            let told = place.told();
            let what = format!(
                "{} MB of hugepages are free{told}, and packet memory takes {needed} MB",
                free.free_mb
            );
            warning(what, why, place, wanted)
        }
        None => None,
    }
}

/// Where pages are reserved.
#[derive(Clone, Copy)]
enum Place {
    Machine,
    Node(u32),
}

impl Place {
    /// The node of the first NIC, on a machine with several.
    fn of(host: &Host<'_>, config: &Config) -> Self {
        let nodes = host.names(NODES).iter().filter(|name| name.starts_with("node")).count();
        let addresses = config.ports.iter().filter_map(|port| match port.device {
            Device::Pci { address, .. } => Some(address),
            Device::Vdev { .. } => None,
        });
        let mut on = addresses.filter_map(|address| Nic::at(host, address).ok()?.numa_node);
        on.next().filter(|_| nodes > 1).map_or(Self::Machine, Self::Node)
    }

    fn told(self) -> String {
        match self {
            Self::Machine => String::new(),
            Self::Node(node) => format!(" on NUMA node {node}, the NIC's"),
        }
    }

    fn pages(self, host: &Host<'_>) -> Pages {
        match self {
            Self::Machine => Pages::under(host, SIZES),
            Self::Node(node) => Pages::under(host, &format!("{NODES}/node{node}/hugepages")),
        }
    }

    /// The command, and what does the same.
    fn reserve(self, host: &Host<'_>, count: u64) -> (String, Mend) {
        match self {
            Self::Machine => {
                (format!("sysctl -w vm.nr_hugepages={count}"), Mend::sysctl("vm.nr_hugepages", count))
            }
            Self::Node(node) => {
                let kb = page_kb(host);
                let path = format!("{NODES}/node{node}/hugepages/hugepages-{kb}kB/nr_hugepages");
                let setting = format!("hugepages of NUMA node {node}");
                (format!("echo {count} > /{path}"), Mend::Set { setting, path, value: count.to_string() })
            }
        }
    }
}

/// By `/proc/meminfo`; 2 MB where that says nothing.
fn page_kb(host: &Host<'_>) -> u64 {
    let text = host.read("proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Hugepagesize:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(2048)
}

/// Pages of all sizes.
struct Pages {
    reserved_mb: u64,
    free_mb: u64,
    /// Pages of the default size.
    count: u64,
}

impl Pages {
    fn under(host: &Host<'_>, path: &str) -> Self {
        let mut pages = Self { reserved_mb: 0, free_mb: 0, count: 0 };
        for size in host.names(path) {
            let kb =
                size.strip_prefix("hugepages-").and_then(|text| text.strip_suffix("kB")?.parse::<u64>().ok());
            let Some(kb) = kb else { continue };
            let number = |file: &str| host.number(&format!("{path}/{size}/{file}")).unwrap_or_default();
            let free = number("free_hugepages").saturating_sub(number("resv_hugepages"));
            pages.reserved_mb += number("nr_hugepages") * kb / 1024;
            pages.free_mb += free * kb / 1024;
            if kb == page_kb(host) {
                pages.count = number("nr_hugepages");
            }
        }
        pages
    }
}
