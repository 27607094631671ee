//! The kernel's connection tracking table, as `conntrack -L` tells it.

use std::net::Ipv4Addr;

use crate::{Namespace, Result};

/// One direction's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Source port, 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port, 0 where the protocol has none.
    pub destination_port: u16,
}

/// An entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `tcp`, `udp`, `icmp`.
    pub protocol: String,
    /// Seconds until it expires.
    pub timeout: u64,
    /// The TCP state.
    pub state: Option<String>,
    /// The first packet's direction.
    pub original: Tuple,
    /// What the kernel expects back.
    pub reply: Tuple,
    /// Whether it won't be dropped early.
    pub assured: bool,
    /// The kernel's id: the same as long as the entry lives.
    pub id: u64,
}

/// Reads the table of a namespace.
///
/// # Errors
/// When `conntrack` fails.
pub fn list(namespace: &Namespace) -> Result<Vec<Entry>> {
    Ok(namespace.run("conntrack -L -o id")?.lines().filter_map(parse).collect())
}

/// The entry of this protocol that came from `source_port`, if there is one.
///
/// # Errors
/// When `conntrack` fails.
pub fn find(namespace: &Namespace, protocol: &str, source_port: u16) -> Result<Option<Entry>> {
    let wanted = |entry: &Entry| entry.protocol == protocol && entry.original.source_port == source_port;
    Ok(list(namespace)?.into_iter().find(wanted))
}

/// The entry of a TCP connection, asked for by itself: the table may be large.
///
/// # Errors
/// When `conntrack` can't be started.
pub fn tcp(
    namespace: &Namespace,
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
) -> Result<Option<Entry>> {
    let ((source, sport), (destination, dport)) = (from, to);
    let line =
        format!("conntrack -G -p tcp -s {source} -d {destination} --sport {sport} --dport {dport} -o id");
    // It ends with an error where there is no entry.
    let output = namespace.output(&line)?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().find_map(parse))
}

/// Reads a line such as `tcp 6 431999 ESTABLISHED src=... dport=80 src=... [ASSURED] mark=0 use=1 id=7`.
fn parse(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace();
    let protocol = words.next()?.to_owned();
    let timeout = words.nth(1)?.parse().ok()?;
    let mut state = None;
    let mut assured = false;
    let mut id = None;
    let mut tuples = Vec::with_capacity(2);
    for word in words {
        match word.split_once('=') {
            Some(("src", address)) => tuples.push(Tuple {
                source: address.parse().ok()?,
                destination: Ipv4Addr::UNSPECIFIED,
                source_port: 0,
                destination_port: 0,
            }),
            Some(("dst", address)) => tuples.last_mut()?.destination = address.parse().ok()?,
            Some(("sport", port)) => tuples.last_mut()?.source_port = port.parse().ok()?,
            Some(("dport", port)) => tuples.last_mut()?.destination_port = port.parse().ok()?,
            Some(("id", number)) => id = number.parse().ok(),
            Some(_) => {}
            None if word == "[ASSURED]" => assured = true,
            None if word.starts_with('[') => {}
            None => state = Some(word.to_owned()),
        }
    }
    let [original, reply] = *tuples.as_slice() else { return None };
    Some(Entry { protocol, timeout, state, original, reply, assured, id: id? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_tcp_line_with_all_that_conntrack_prints() {
        let line = "tcp      6 86 TIME_WAIT src=192.168.1.10 dst=198.51.100.10 sport=40000 dport=80 \
                    src=198.51.100.10 dst=198.51.100.1 sport=80 dport=40000 [ASSURED] mark=0 use=1 id=123";
        let entry = parse(line).expect("an entry");
        assert_eq!(entry.state.as_deref(), Some("TIME_WAIT"));
        assert_eq!((entry.timeout, entry.id, entry.assured), (86, 123, true));
        assert_eq!(entry.original.source_port, 40000);
        assert_eq!(entry.reply.destination, Ipv4Addr::new(198, 51, 100, 1));
    }

    #[test]
    fn reads_an_unreplied_udp_line() {
        let line = "udp      17 29 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 [UNREPLIED] src=10.0.0.2 \
                    dst=10.0.0.1 sport=2 dport=1 mark=0 use=1 id=9";
        let entry = parse(line).expect("an entry");
        assert_eq!((entry.state, entry.assured, entry.id), (None, false, 9));
    }

    #[test]
    fn other_lines_are_no_entries() {
        assert_eq!(parse("conntrack v1.4.7 (conntrack-tools): 0 flow entries have been shown."), None);
        assert_eq!(parse(""), None);
    }
}
