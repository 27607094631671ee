//! What is found, in words for an operator.

use super::found::{Warning, What};
use super::judgement::Location;
use super::model::Family;
use crate::config::Construct;

/// What would differ for the user if the flows went past the kernel.
pub(super) const fn differs(what: What) -> &'static str {
    match what {
        What::Keeps(construct) => match construct {
            Construct::Queue => {
                "the program behind the queue (an IPS, say) would see a connection's first packets and no more"
            }
            Construct::Quota => {
                "the bytes of accelerated connections would not be counted, and the quota never be used up"
            }
            Construct::Limit => {
                "packets of accelerated connections would not be counted against the rate, and pass it unchecked"
            }
            Construct::CtBytes => {
                "conntrack's counters would stand still, so that the rule would go on deciding as at the connection's beginning"
            }
            Construct::CtCount => {
                "a number of connections that is reached later would be noticed up to 30 s late"
            }
            Construct::CtExpiration => {
                "Flyover sets the timeouts of accelerated connections, so that the rule would see those"
            }
            Construct::Dup => "the copies of a connection would end after its first packets",
            Construct::Time => {
                "the hour at which the rule begins or ceases to match would be noticed up to 30 s late"
            }
            Construct::EtherAddress => {
                "a packet from another MAC address would be forwarded like the rest of its connection"
            }
            Construct::Length => "packets of a connection would be treated alike, whatever their length",
            Construct::Dscp => "packets of a connection would be treated alike, whatever their DSCP or ECN",
            Construct::Ttl => {
                "packets of a connection would be treated alike, whatever their TTL, which Flyover lowers by one and never sets"
            }
            Construct::TcpFlags => {
                "data packets of a connection would be treated alike, whatever their flags"
            }
            Construct::TcpOption => {
                "data packets of a connection would be treated alike, and their TCP options left as they are"
            }
            Construct::Payload => {
                "packets of a connection would be treated alike, whatever is in those bytes, which are left as they are"
            }
            Construct::Numgen => {
                "all packets of a connection would be treated as the ones that happened to prove it"
            }
            Construct::Set => {
                "elements would expire although their connection is alive, as few of its packets refresh them"
            }
            Construct::Notrack => {
                "packets of a connection from before the rule would go on as conntrack knows it, and keep it from being forgotten"
            }
            Construct::Unknown => {
                "this version of Flyover does not know the expression, and can't say whether it must see each packet"
            }
        },
        What::Warns(Warning::Log) => {
            "of an accelerated connection only the first packets, and a few each 30 s, are logged"
        }
        What::Warns(Warning::Counter) => {
            "packets of accelerated connections are not counted here; `flyover flows` counts them"
        }
        What::Warns(Warning::Netdev) => "packets of accelerated connections do not pass it",
    }
}

/// The lines that change it.
pub(super) fn remedy(what: What, location: &Location) -> String {
    let Location { family, table, chain, .. } = location;
    let construct = match what {
        What::Keeps(construct) => construct,
        What::Warns(Warning::Log) => return for_new_connections(location),
        What::Warns(Warning::Counter) => return "none needed where the numbers are for people".to_owned(),
        What::Warns(Warning::Netdev) => {
            return format!("nft delete chain {family} {table} {chain}  (if packets need not pass it)");
        }
    };
    let own = match construct {
        Construct::Limit
        | Construct::CtCount
        | Construct::Numgen
        | Construct::Time
        | Construct::TcpFlags
        | Construct::Length => for_new_connections(location),
        Construct::Queue | Construct::Dup | Construct::Quota | Construct::CtBytes => {
            "narrow the rule's matches to the connections that it is for".to_owned()
        }
        _ => without(location),
    };
    format!("{own}; or accept_loss = [\"{}\"] under [policy]", construct.name())
}

/// The rule again, for the packets that begin a connection. At a device there are no states yet.
fn for_new_connections(location: &Location) -> String {
    let Location { family, table, chain, handle, .. } = location;
    match handle {
        Some(handle) if *family != Family::Netdev => format!(
            "if it is meant for new connections: nft replace rule {family} {table} {chain} handle {handle} ct state new ...  (... is the rule as it stands)"
        ),
        _ => without(location),
    }
}

fn without(location: &Location) -> String {
    let Location { family, table, chain, handle, .. } = location;
    match handle {
        Some(handle) => {
            format!("if it is not needed: nft delete rule {family} {table} {chain} handle {handle}")
        }
        None => format!("nft list chain {family} {table} {chain}  (shows what there is)"),
    }
}
