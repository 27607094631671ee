//! Frames for people to read.

use std::fmt::Write;

use dataplane::packet::parse;

/// Names of the fields of an IPv4 header, by offset.
const IPV4: [(usize, &str); 10] = [
    (0, "IPv4 version, header length"),
    (1, "IPv4 TOS"),
    (2, "IPv4 total length"),
    (4, "IPv4 identification"),
    (6, "IPv4 flags, fragment offset"),
    (8, "IPv4 TTL"),
    (9, "IPv4 protocol"),
    (10, "IPv4 header checksum"),
    (12, "IPv4 source"),
    (16, "IPv4 destination"),
];
const IPV6: [(usize, &str); 6] = [
    (0, "IPv6 version, class, flow label"),
    (4, "IPv6 payload length"),
    (6, "IPv6 next header"),
    (7, "IPv6 hop limit"),
    (8, "IPv6 source"),
    (24, "IPv6 destination"),
];
const TCP: [(usize, &str); 10] = [
    (0, "TCP source port"),
    (2, "TCP destination port"),
    (4, "TCP sequence number"),
    (8, "TCP acknowledgement number"),
    (12, "TCP data offset"),
    (13, "TCP flags"),
    (14, "TCP window"),
    (16, "TCP checksum"),
    (18, "TCP urgent pointer"),
    (20, "TCP options or payload"),
];
const UDP: [(usize, &str); 5] = [
    (0, "UDP source port"),
    (2, "UDP destination port"),
    (4, "UDP length"),
    (6, "UDP checksum"),
    (8, "UDP payload"),
];

/// Hexadecimal digits without spaces.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of hexadecimal digits.
///
/// # Errors
/// When the text is anything else.
pub(super) fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0);
    let digits = digits.ok_or_else(|| format!("not hexadecimal: {text:.40}"))?;
    Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Where a frame of ours differs from one of theirs, by field, a line each.
pub(super) fn difference(ours: &[u8], theirs: &[u8]) -> String {
    let mut text = String::new();
    if ours.len() != theirs.len() {
        let _ = writeln!(text, "  length: {} here, {} there", ours.len(), theirs.len());
    }
    let differing = (0..ours.len().min(theirs.len())).filter(|at| ours[*at] != theirs[*at]);
    for at in differing.take(12) {
        let field = field(theirs, at);
        let _ = writeln!(text, "  byte {at} ({field}): {:02x} here, {:02x} there", ours[at], theirs[at]);
    }
    text
}

/// The field that a byte belongs to.
fn field(frame: &[u8], at: usize) -> &'static str {
    let Ok(headers) = parse(frame, 0) else { return "not a packet that flies" };
    let (l3, l4) = (usize::from(headers.l3), headers.l4());
    let (fields, start): (&[_], _) = match (at, headers.key.proto()) {
        (..6, _) => return "destination MAC",
        (6..12, _) => return "source MAC",
        (at, _) if at < l3 => return "tags, session or EtherType",
        (at, _) if at >= headers.frame_len() => return "padding",
        (at, _) if at < l4 => (if l4 - l3 == 20 { &IPV4 } else { &IPV6 }, l3),
        (_, dataplane::flow::TCP) => (&TCP, l4),
        _ => (&UDP, l4),
    };
    fields.iter().rev().find(|(from, _)| start + from <= at).map_or("header", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use dataplane::packet::testing::Frame;

    use super::*;

    #[test]
    fn hexadecimal_goes_both_ways() {
        assert_eq!(unhex(&hex(&[0, 0x7f, 0xff])), Ok(vec![0, 0x7f, 0xff]));
        assert!(unhex("0").is_err() && unhex("0g").is_err() && unhex("é0").is_err());
    }

    #[test]
    fn differences_are_named_by_field() {
        let theirs = Frame::tcp("10.0.0.1:1", "10.0.0.2:2").vlan(7).payload(b"x").build();
        let mut ours = theirs.clone();
        for at in [0, 14, 26, 28, 38 + 17, 38 + 20] {
            ours[at] ^= 1;
        }
        let text = difference(&ours, &theirs);
        for field in
            ["destination MAC", "tags, session", "IPv4 TTL", "header checksum", "TCP checksum", "payload"]
        {
            assert!(text.contains(field), "{field} in {text}");
        }
        assert!(difference(&ours[..50], &theirs).contains("length: 50 here"));
    }
}
