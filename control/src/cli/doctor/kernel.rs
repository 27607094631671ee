//! Settings of the kernel, and what it offers.

use super::Running;
use crate::cli::findings::{Finding, Severity};
use crate::cli::mend::Mend;
use crate::config::{Config, TwinIo};
use crate::host::Host;
use crate::netlink::conntrack::RECEIVE_BUFFER;

const CONNTRACK: &str = "proc/sys/net/netfilter/nf_conntrack";
/// Entries of conntrack's table in one bucket, from which on looking one up is slow.
const LONG_CHAIN: u64 = 8;

pub(super) fn findings(host: &Host<'_>, config: &Config, running: Option<&Running>) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(table(host));
    found.extend(buckets(host));
    found.extend(buffers(host, running));
    found.extend(reverse_path(host, config));
    found.extend(forwarding6(host, config));
    found.extend(vhost(host, config));
    found
}

/// Nearly as many connections as the kernel takes.
fn table(host: &Host<'_>) -> Option<Finding> {
    let count = host.number(&format!("{CONNTRACK}_count"))?;
    let max = host.number(&format!("{CONNTRACK}_max")).filter(|max| *max > 0)?;
    if count < max - max / 5 {
        return None;
    }
    let what = format!("the kernel tracks {count} connections, of {max} at most");
    let why = "beyond that it drops the packets of new ones (\"nf_conntrack: table full, dropping packet\")";
    let fix = format!("sysctl -w net.netfilter.nf_conntrack_max={}", 2 * max);
    let mends = vec![Mend::sysctl("net.netfilter.nf_conntrack_max", 2 * max)];
    Some(Finding::new(Severity::Warning, "conntrack", what, why, Some(&fix)).mended_by(mends))
}

fn buckets(host: &Host<'_>) -> Option<Finding> {
    let max = host.number(&format!("{CONNTRACK}_max"))?;
    let buckets = host.number(&format!("{CONNTRACK}_buckets")).filter(|buckets| *buckets > 0)?;
    if max / buckets < LONG_CHAIN {
        return None;
    }
    let wanted = max / 2;
    let what = format!("conntrack's table has {buckets} buckets for {max} connections");
    let why = "when it is full, each new connection and each packet in the kernel walks a long chain";
    let fix = format!("sysctl -w net.netfilter.nf_conntrack_buckets={wanted}");
    let mends = vec![Mend::sysctl("net.netfilter.nf_conntrack_buckets", wanted)];
    Some(Finding::new(Severity::Warning, "conntrack", what, why, Some(&fix)).mended_by(mends))
}

/// In a user namespace netlink's buffers are bounded.
fn buffers(host: &Host<'_>, running: Option<&Running>) -> Option<Finding> {
    let map = host.read("proc/self/uid_map")?;
    if map.split_whitespace().eq(["0", "0", "4294967295"]) {
        return None;
    }
    let wanted = RECEIVE_BUFFER as u64;
    let most = host.number("proc/sys/net/core/rmem_max").filter(|most| *most < wanted)?;
    let overruns = running.map_or(0, |running| running.overruns);
    let (severity, lost) = match overruns {
        0 => (Severity::Note, String::new()),
        _ => (Severity::Warning, format!(", and events were lost {overruns} times")),
    };
    let what = format!("in this user namespace a netlink socket has {most} bytes at the most{lost}");
    let why = "events of the kernel that find no room are lost, and conntrack is read anew";
    let fix = format!("sysctl -w net.core.rmem_max={wanted}  (as root, outside of the namespace)");
    Some(Finding::new(severity, "buffers", what, why, Some(&fix)))
}

/// Strict reverse path filtering, where packets may come and go by different ports. The stricter setting doesn't win: the
/// larger number does, and 2 is loose.
fn reverse_path(host: &Host<'_>, config: &Config) -> Option<Finding> {
    // Between two ports there is nothing to choose.
    if config.ports.len() < 3 {
        return None;
    }
    let setting = |name: &str| host.number(&format!("proc/sys/net/ipv4/conf/{name}/rp_filter"));
    let all = setting("all").unwrap_or_default();
    let names = config.ports.iter().map(|port| port.name.as_str());
    let strict: Vec<&str> = names.filter(|name| setting(name).is_some_and(|own| own.max(all) == 1)).collect();
    let what = format!("rp_filter is strict on {}", strict.join(", "));
    let why = "the kernel drops what comes in by another port than its answer would leave by: with several uplinks \
               such connections neither work nor fly";
    let each = strict.iter().map(|name| format!("net.ipv4.conf.{name}.rp_filter=2"));
    let fix = format!("sysctl -w {}  (if that is what you want)", each.collect::<Vec<_>>().join(" "));
    (!strict.is_empty()).then(|| Finding::new(Severity::Note, "rp_filter", what, why, Some(&fix)))
}

/// A twin with an IPv6 address, and no forwarding.
fn forwarding6(host: &Host<'_>, config: &Config) -> Option<Finding> {
    if host.read("proc/sys/net/ipv6/conf/all/forwarding").as_deref() != Some("0") {
        return None;
    }
    // Address, index, prefix length, scope (00 is global), flags, name.
    let list = host.read("proc/net/if_inet6")?;
    let global = list.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if *fields.get(3)? == "00" { fields.get(5).copied() } else { None }
    });
    let twins = |name: &&str| config.ports.iter().any(|port| port.name == *name);
    let twin = global.into_iter().find(twins)?;
    let what = format!("net.ipv6.conf.all.forwarding is 0, and {twin} has an IPv6 address");
    let why = "the kernel forwards no IPv6, so that no connection of it can ever be carried";
    let fix = "sysctl -w net.ipv6.conf.all.forwarding=1";
    Some(Finding::new(Severity::Warning, "forwarding", what, why, Some(fix)))
}

fn vhost(host: &Host<'_>, config: &Config) -> Option<Finding> {
    if host.has("dev/vhost-net") {
        return None;
    }
    let of = |wanted: TwinIo| {
        let ports = config.ports.iter().filter(|port| port.twin_io == wanted);
        ports.map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (told, auto) = (of(TwinIo::VhostNet), of(TwinIo::Auto));
    let fix = "modprobe vhost_net  (at each start: echo vhost_net > /etc/modules-load.d/flyover.conf)";
    let (severity, what, why) = match (told.as_str(), auto.as_str()) {
        ("", "") => return None,
        ("", _) => (
            Severity::Note,
            "there is no /dev/vhost-net: twins go by tap".to_owned(),
            "with it their frames go over shared rings, without a system call each",
        ),
        (told, _) => (
            Severity::Error,
            format!("there is no /dev/vhost-net, and twin_io of {told} is \"vhost-net\""),
            "the gateway does not start without",
        ),
    };
    Some(Finding::new(severity, "vhost", what, why, Some(fix)).mended_by(vec![Mend::Load("vhost_net")]))
}
