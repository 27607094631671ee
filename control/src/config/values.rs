//! Values that are more than a number or a string, and how they are written.

use std::time::Duration;

use schemars::JsonSchema;

use super::error::nearest;

/// Declares an enum of the values that a key takes.
macro_rules! choices {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
        pub enum $name { $($(#[$doc])* #[schemars(rename = $text)] $variant,)+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The value as it is written in the configuration.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            pub(super) fn parse(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|value| value.name() == text).ok_or_else(|| {
                    one_of(text, &[$($text,)+])
                })
            }
        }
    };
}

choices! {
    /// Which connections may fly.
    Accelerate {
        /// As `"flowtable"` where the ruleset has a flowtable, else as `"established"`.
        Auto => "auto",
        /// All that the ruleset lets through.
        Established => "established",
        /// Those whose conntrack mark matches `policy.mark`.
        Marked => "marked",
        /// Those that the ruleset's [flowtables](policy.md#flowtables) select.
        Flowtable => "flowtable",
    }
}

choices! {
    /// Whether NICs may carry flows.
    Offload {
        /// Where the NIC was proved to carry flows rightly.
        Auto => "auto",
        /// Never.
        Off => "off",
        /// A software model of such a NIC behind every port, for trying out and for tests.
        Model => "model",
    }
}

choices! {
    /// What the model NIC can do.
    Tier {
        /// Carry flows alone.
        Full => "full",
        /// Mark packets for software.
        Assist => "assist",
        /// Nothing.
        None => "none",
    }
}

choices! {
    /// How frames go between a twin and Flyover.
    TwinIo {
        /// By vhost-net where `/dev/vhost-net` can be opened, else as a tap.
        Auto => "auto",
        /// By a system call a frame.
        Tap => "tap",
        /// Over rings shared with the kernel's vhost-net; an error where that can't be.
        VhostNet => "vhost-net",
    }
}

choices! {
    /// How much is said on standard error, or in the journal.
    LogLevel {
        /// What fails.
        Error => "error",
        /// And what an operator should look at.
        Warn => "warn",
        /// And what happens to ports and the ruleset.
        Info => "info",
        /// And what happens to connections.
        Debug => "debug",
        /// Everything.
        Trace => "trace",
    }
}

choices! {
    /// How it is said.
    LogFormat {
        /// For people; under systemd in the journal, with fields.
        Text => "text",
        /// A JSON object a line.
        Json => "json",
    }
}

choices! {
    /// Who takes a port's NIC from its kernel driver, and when it goes back.
    Bind {
        /// You, before the start, by [`flyover bind`](operators-guide.md#flyover-bind-unbind).
        Manual => "manual",
        /// `run`, at the start, without any force. It goes back when the gateway fails, at its start or later, and stays when
        /// the gateway is told to stop, for the next start.
        Auto => "auto",
        /// The same, and it goes back when the gateway is told to stop, too.
        WhileRunning => "while-running",
    }
}

choices! {
    /// A construct of a ruleset that sees fewer packets once a flow flies.
    Construct {
        /// `queue`: packets handed to user space.
        Queue => "queue",
        /// `quota`: bytes counted against a limit.
        Quota => "quota",
        /// `limit`: rates.
        Limit => "limit",
        /// `ct bytes`, `ct packets`, `ct avgpkt`: conntrack's own counters.
        CtBytes => "ct bytes",
        /// `ct count`: connections counted against a limit.
        CtCount => "ct count",
        /// `ct expiration`: how long conntrack will keep the entry.
        CtExpiration => "ct expiration",
        /// `dup`: copies of packets.
        Dup => "dup",
        /// `meta time`, `meta hour`, `meta day`.
        Time => "time",
        /// `ether saddr` and the like.
        EtherAddress => "ether saddr",
        /// `meta length`, `ip length`, `ip6 length`, `udp length`.
        Length => "length",
        /// `ip dscp`, `ip6 dscp`, ECN, and `meta priority`, which follows from them.
        Dscp => "dscp",
        /// `ip ttl`, `ip6 hoplimit`, tested or set.
        Ttl => "ttl",
        /// `tcp flags` by which packets of a running connection differ.
        TcpFlags => "tcp flags",
        /// `tcp option`: those that data packets have.
        TcpOption => "tcp option",
        /// Anything else in a header, and the data behind it.
        Payload => "payload",
        /// `numgen`, `meta random`, `meta cpu`.
        Numgen => "numgen",
        /// `add @set`, `update @set`: elements that go unless packets refresh them.
        Set => "set",
        /// `notrack`: connections that conntrack is not to see any more.
        Notrack => "notrack",
        /// An expression that this version does not know.
        Unknown => "unknown",
    }
}

/// A conntrack mark under a mask, written `VALUE/MASK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The bits as they must be; none outside of the mask.
    pub value: u32,
    /// The bits that count; not zero.
    pub mask: u32,
}

impl Default for Mark {
    fn default() -> Self {
        Self { value: 0x10000, mask: 0x10000 }
    }
}

impl Mark {
    /// Whether a conntrack mark is selected.
    pub const fn matches(self, mark: u32) -> bool {
        mark & self.mask == self.value
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let shape = || "write VALUE/MASK in hexadecimal or decimal, as in \"0x10000/0x10000\"".to_owned();
        let (value, mask) = text.split_once('/').ok_or_else(shape)?;
        let (value, mask) = (number(value).ok_or_else(shape)?, number(mask).ok_or_else(shape)?);
        if mask == 0 {
            return Err("a mask of 0 selects every connection: use accelerate = \"established\"".to_owned());
        }
        if value & !mask != 0 {
            return Err(format!(
                "{value:#x} has bits outside of the mask {mask:#x}, so that no mark matches"
            ));
        }
        Ok(Self { value, mask })
    }
}

fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // `from_str_radix` alone would take a sign.
        Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => u32::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}

/// A duration such as `5s`, `500ms`, `1m 30s`; a bare `0` is zero.
pub(super) fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let range =
        || format!("from {} to {}", humantime::format_duration(least), humantime::format_duration(most));
    let parsed = match text.trim() {
        "0" => Duration::ZERO,
        text => humantime::parse_duration(text).map_err(|error| {
            format!("{error}; write a number and a unit, as in \"5s\" or \"500ms\", {}", range())
        })?,
    };
    if parsed < least || parsed > most {
        return Err(format!("must be {}", range()));
    }
    Ok(parsed)
}

/// "one of …", with the likeliest first if the text looks like one of them.
pub(super) fn one_of(text: &str, names: &[&str]) -> String {
    let list = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    match nearest(text, names.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"? It must be one of {list}"),
        None => format!("it must be one of {list}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_in_both_bases() {
        assert_eq!(Mark::parse("0x10000/0x10000"), Ok(Mark::default()));
        assert_eq!(Mark::parse("1/255"), Ok(Mark { value: 1, mask: 255 }));
        for bad in
            ["", "1", "/", "1/", "/1", "0x/0x", "-1/1", "+1/1", "0x+1/1", "1/0x100000000", "2/1", "0/0"]
        {
            assert!(Mark::parse(bad).is_err(), "{bad}");
        }
        assert!(Mark::default().matches(0x1_0001) && !Mark::default().matches(1));
    }

    #[test]
    fn durations_have_units_and_bounds() {
        let within = |text| duration(text, Duration::ZERO, Duration::from_secs(60));
        assert_eq!(within("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(within("0"), Ok(Duration::ZERO));
        assert_eq!(within("1m"), Ok(Duration::from_secs(60)));
        for bad in ["", "5", "5 parsecs", "-1s", "61s", "99999999999999999999s"] {
            assert!(within(bad).is_err(), "{bad}");
        }
    }
}
