//! Matches and targets of xtables, which iptables-nft puts into rules as they are.

use super::evaluate::Split;
use super::field::{Field, Part};
use super::ranges::Ranges;
use super::state::State;
use crate::config::Construct;

/// How a match divides packets, and the constructs that its outcome depends on.
pub(super) fn test(name: &str, revision: u32, info: &[u8], state: &State) -> (Split, Vec<Construct>) {
    let construct = match name {
        "conntrack" => return (conntrack(revision, info, state), conntrack_constructs(info)),
        "state" => return (ct_state(state, number32(info, 0).unwrap_or(u32::MAX)), Vec::new()),
        "tcp" => return tcp(info, state),
        "udp" => return (ports(info, number8(info, 8).unwrap_or(0), state), Vec::new()),
        // A comment says nothing; the others say something of the connection, or of what never flies.
        "comment" => return (Split::always(state), Vec::new()),
        "tcpmss" | "osf" | "icmp" | "icmp6" | "owner" | "socket" | "frag" | "rt" | "hbh" | "dst" | "ah"
        | "esp" | "ipv6header" | "sctp" | "dccp" | "eui64" => return (never_or(name, state), Vec::new()),
        "addrtype" | "mark" | "connmark" | "connlabel" | "helper" | "iprange" | "multiport" | "physdev"
        | "devgroup" | "set" | "policy" | "realm" | "rpfilter" | "cgroup" | "pkttype" | "cluster"
        | "standard" => {
            return (Split::unknown(state), Vec::new());
        }
        "limit" | "hashlimit" | "rateest" => Construct::Limit,
        "quota" => Construct::Quota,
        "connbytes" => Construct::CtBytes,
        "connlimit" => Construct::CtCount,
        "time" => Construct::Time,
        "mac" => Construct::EtherAddress,
        "length" => Construct::Length,
        "dscp" | "tos" | "ecn" => Construct::Dscp,
        "ttl" | "hl" => Construct::Ttl,
        "statistic" | "cpu" => Construct::Numgen,
        "recent" => Construct::Set,
        "string" | "u32" | "bpf" | "l2tp" => Construct::Payload,
        _ => Construct::Unknown,
    };
    (Split::unknown(state), vec![construct])
}

/// Matches that no packet passes which Flyover would carry.
fn never_or(name: &str, state: &State) -> Split {
    // A socket here may have a forwarded packet's addresses.
    if matches!(name, "socket" | "rt" | "eui64") { Split::unknown(state) } else { Split::never(state) }
}

fn number8(info: &[u8], at: usize) -> Option<u8> {
    info.get(at).copied()
}

/// In this machine's byte order, as all of xtables' structures are.
fn number16(info: &[u8], at: usize) -> Option<u16> {
    info.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn number32(info: &[u8], at: usize) -> Option<u32> {
    info.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// `XT_CONNTRACK_STATE_BIT`: bits as those of `ct state`.
fn ct_state(state: &State, mask: u32) -> Split {
    let Some(values) = state.get(Field::CtState).values(16) else { return Split::unknown(state) };
    let (yes, no): (Vec<u128>, Vec<u128>) =
        values.into_iter().partition(|value| u128::from(mask) & value != 0);
    let of = |values: Vec<u128>| {
        if values.is_empty() {
            return None;
        }
        state.narrowed(Field::CtState, &Ranges::of(values.into_iter().map(|value| (value, value))))
    };
    Split { yes: of(yes), no: of(no) }
}

/// Of `struct xt_conntrack_mtinfo1` to 3: what is matched and inverted, and the states.
const MATCH_AT: usize = 146;
const INVERT_AT: usize = 148;
const STATES_AT: usize = 150;
/// `XT_CONNTRACK_STATE`, `XT_CONNTRACK_EXPIRES`.
const BY_STATE: u16 = 1;
const BY_EXPIRATION: u16 = 1 << 7;

fn conntrack(revision: u32, info: &[u8], state: &State) -> Split {
    let states =
        if revision < 2 { number8(info, STATES_AT).map(u16::from) } else { number16(info, STATES_AT) };
    let (Some(matched), Some(inverted), Some(states)) =
        (number16(info, MATCH_AT), number16(info, INVERT_AT), states)
    else {
        return Split::unknown(state);
    };
    if matched & BY_STATE == 0 {
        return Split::unknown(state);
    }
    /// States that are not `ct state`'s: translated source or destination, untracked.
    const OTHERS: u16 = !0x0f;
    let split = if states & OTHERS & 0xff != 0 && inverted & BY_STATE != 0 {
        Split::unknown(state)
    } else {
        let split = ct_state(state, (states & !OTHERS).into());
        // What does not match by these may by the others.
        let split =
            if states & OTHERS & 0xff != 0 { Split { yes: Some(state.clone()), ..split } } else { split };
        split.inverted(inverted & BY_STATE != 0)
    };
    // All that is matched must hold: what does not match by state may be more than this.
    if matched == BY_STATE { split } else { Split { no: Some(state.clone()), ..split } }
}

fn conntrack_constructs(info: &[u8]) -> Vec<Construct> {
    let expires = number16(info, MATCH_AT).is_some_and(|matched| matched & BY_EXPIRATION != 0);
    if expires { vec![Construct::CtExpiration] } else { Vec::new() }
}

/// `struct xt_tcp`: ports as `struct xt_udp`, an option, flags.
fn tcp(info: &[u8], state: &State) -> (Split, Vec<Construct>) {
    const BY_FLAGS_NOT: u8 = 0x04;
    let (Some(option), Some(mask), Some(wanted), Some(inverted)) =
        (number8(info, 8), number8(info, 9), number8(info, 10), number8(info, 11))
    else {
        return (Split::unknown(state), Vec::new());
    };
    let by_ports = ports(info, inverted, state);
    let Some(yes) = by_ports.yes.clone() else { return (by_ports, Vec::new()) };
    let mut constructs = Vec::new();
    if option != 0 {
        constructs.push(Construct::TcpOption);
    }
    if mask == 0 {
        return (by_ports, constructs);
    }
    let values = yes.get(Field::TcpFlags).values(256).unwrap_or_default();
    let holds = |flags: &u128| (*flags as u8 & mask == wanted) != (inverted & BY_FLAGS_NOT != 0);
    match values.iter().filter(|flags| holds(flags)).count() {
        0 => (Split::never(state), Vec::new()),
        all if all == values.len() => (by_ports, constructs),
        _ => {
            constructs.push(Construct::TcpFlags);
            (Split { no: Some(state.clone()), ..by_ports }, constructs)
        }
    }
}

/// Ranges of source and destination ports, each of which may be inverted.
fn ports(info: &[u8], inverted: u8, state: &State) -> Split {
    let mut yes = Some(state.clone());
    let mut depends = false;
    for (at, part, invert) in [(0, Part::Sport, 1), (4, Part::Dport, 2)] {
        let (Some(first), Some(last)) = (number16(info, at), number16(info, at + 2)) else {
            return Split::unknown(state);
        };
        if (first, last) == (0, u16::MAX) && inverted & invert == 0 {
            continue;
        }
        let wanted = Ranges::between(first.into(), last.into());
        let wanted = if inverted & invert != 0 { wanted.not() } else { wanted };
        depends = true;
        yes = yes.and_then(|state| state.narrowed(Field::Packet(part), &wanted));
    }
    Split { yes, no: depends.then(|| state.clone()) }
}

/// What a target does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Ends the packet's way.
    Drops,
    /// Hands it to user space.
    Queues,
    /// Sends a copy.
    Copies,
    /// Writes it down.
    Logs,
    /// Changes something that all packets of a connection have alike, or that Flyover learns.
    Changes,
    /// Keeps conntrack from seeing the packet.
    Untracks,
    /// Changes nothing.
    Nothing,
    /// Changes what may differ from packet to packet.
    PerPacket(Construct),
}

/// `XT_CT_NOTRACK` of linux/netfilter/xt_CT.h, in the 16 bits that the structure begins with.
const CT_NOTRACK: u16 = 1;

/// What a target of a name does.
pub(super) fn target(name: &str, info: &[u8]) -> Target {
    match name {
        "NOTRACK" => Target::Untracks,
        "CT" if number16(info, 0).is_none_or(|flags| flags & CT_NOTRACK != 0) => Target::Untracks,
        "REJECT" => Target::Drops,
        "NFQUEUE" | "QUEUE" => Target::Queues,
        "TEE" => Target::Copies,
        "LOG" | "NFLOG" | "ULOG" | "TRACE" | "AUDIT" | "LED" => Target::Logs,
        "MARK" | "CONNMARK" | "CT" | "DSCP" | "TOS" | "CLASSIFY" | "SECMARK" | "CONNSECMARK" | "TCPMSS"
        | "SET" | "TPROXY" | "SYNPROXY" | "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP"
        | "HMARK" => Target::Changes,
        "TTL" | "HL" => Target::PerPacket(Construct::Ttl),
        "RATEEST" => Target::Nothing,
        "CHECKSUM" | "ECN" | "TCPOPTSTRIP" => Target::PerPacket(Construct::Payload),
        _ => Target::PerPacket(Construct::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conntrack_info(states: u16, inverted: bool) -> Vec<u8> {
        let mut info = vec![0; 164];
        let mut put = |at: usize, value: u16| info[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        put(MATCH_AT, BY_STATE);
        put(INVERT_AT, if inverted { BY_STATE } else { 0 });
        put(STATES_AT, states);
        info
    }

    fn states() -> State {
        State::default().narrowed(Field::CtState, &Ranges::of([(2, 2), (4, 4), (8, 8)])).expect("some")
    }

    fn values(state: Option<State>) -> Vec<u128> {
        state.map_or(Vec::new(), |state| state.get(Field::CtState).values(16).expect("few"))
    }

    #[test]
    fn ctstate_is_understood() {
        let (split, constructs) = test("conntrack", 3, &conntrack_info(0x06, false), &states());
        assert_eq!((values(split.yes), values(split.no)), (vec![2, 4], vec![8]));
        assert_eq!(constructs, []);
        let (split, _) = test("conntrack", 3, &conntrack_info(0x06, true), &states());
        assert_eq!((values(split.yes), values(split.no)), (vec![8], vec![2, 4]));
        let (split, _) = test("conntrack", 3, &conntrack_info(0x01, false), &states());
        assert_eq!(split, Split::never(&states()));
        // --ctstate ESTABLISHED,DNAT: a new connection may match by the latter.
        let (split, _) = test("conntrack", 3, &conntrack_info(0x82, false), &states());
        assert_eq!((values(split.yes), values(split.no)), (vec![2, 4, 8], vec![4, 8]));
        let (split, _) = test("conntrack", 3, &[], &states());
        assert_eq!(split, Split::unknown(&states()));
    }

    #[test]
    fn tcp_flags_that_data_never_has_match_nothing() {
        let info = |mask, wanted, inverted| {
            let mut info =
                [0_u16.to_ne_bytes(), [0xff; 2], 80_u16.to_ne_bytes(), 80_u16.to_ne_bytes()].concat();
            info.extend([0, mask, wanted, inverted]);
            info
        };
        let tcp = State::default().narrowed(Field::L4Proto, &Ranges::one(6)).expect("TCP");
        let (split, _) = test("tcp", 0, &info(0x17, 0x02, 0), &tcp);
        assert_eq!(split, Split::never(&tcp));
        let (split, constructs) = test("tcp", 0, &info(0x17, 0x02, 4), &tcp);
        assert_eq!(constructs, []);
        assert_eq!(split.yes.map(|state| state.get(Field::Packet(Part::Dport))), Some(Ranges::one(80)));
        let (_, constructs) = test("tcp", 0, &info(0x08, 0x08, 0), &tcp);
        assert_eq!(constructs, [Construct::TcpFlags]);
    }

    #[test]
    fn what_is_not_known_is_a_construct() {
        assert_eq!(test("limit", 0, &[], &states()).1, [Construct::Limit]);
        assert_eq!(test("novelty", 0, &[], &states()).1, [Construct::Unknown]);
        assert_eq!(test("multiport", 1, &[], &states()).1, []);
        assert_eq!(target("CT", &1_u16.to_ne_bytes()), Target::Untracks);
        assert_eq!(target("CT", &[0; 64]), Target::Changes);
        assert_eq!(target("NOVELTY", &[]), Target::PerPacket(Construct::Unknown));
    }
}
