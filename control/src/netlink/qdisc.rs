//! Queueing disciplines: what the kernel does with packets that leave an interface, and Flyover does not.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::TcMessage;
use nix::libc;

use super::NetlinkError;
use super::message::{Attributes, Message, ne32};
use super::route::RouteSocket;

/// A queueing discipline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdisc {
    /// Its interface.
    pub ifindex: u32,
    /// Its kind, as `tc` writes it.
    pub kind: String,
}

impl Qdisc {
    /// Kinds that only queue: they neither delay nor drop by rate.
    const QUEUES: [&str; 10] =
        ["noqueue", "noop", "pfifo_fast", "pfifo", "bfifo", "fq_codel", "fq", "mq", "codel", "sfq"];

    /// Whether a kind only queues.
    pub fn only_queues(kind: &str) -> bool {
        Self::QUEUES.contains(&kind)
    }

    /// Whether a kind is a place for tc's filters, and does nothing else.
    pub fn only_filters(kind: &str) -> bool {
        matches!(kind, "ingress" | "clsact")
    }
}

/// Every queueing discipline of this process's network namespace, but for those that the kernel made unasked.
pub fn qdiscs() -> Result<Vec<Qdisc>, NetlinkError> {
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    RouteSocket::open()?.dump("list queueing disciplines", &request, parse)
}

/// `struct tcmsg` and its attributes.
fn parse(message: &Message<'_>) -> Option<Qdisc> {
    const HEADER: usize = 20;
    const KIND: u16 = 1;
    if message.kind != libc::RTM_NEWQDISC {
        return None;
    }
    let ifindex = ne32(message.payload.get(4..)?)?;
    let (_, kind) = Attributes(message.payload.get(HEADER..)?).find(|(kind, _)| *kind == KIND)?;
    let kind = String::from_utf8_lossy(kind.strip_suffix(&[0]).unwrap_or(kind)).into_owned();
    Some(Qdisc { ifindex, kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing::{in_namespace, run};

    #[test]
    fn what_tc_adds_is_listed() {
        in_namespace(|| {
            run("ip link add v0 type veth peer name v1");
            let ifindex = nix::net::if_::if_nametoindex("v0").expect("index");
            let of_v0 = || {
                let all = qdiscs().expect("listed").into_iter();
                all.filter(|qdisc| qdisc.ifindex == ifindex).map(|qdisc| qdisc.kind).collect::<Vec<_>>()
            };
            assert_eq!(of_v0(), ["noqueue"; 0]);
            run("tc qdisc add dev v0 root pfifo limit 10");
            assert_eq!(of_v0(), ["pfifo"]);
        });
    }
}
