//! Numbers, durations and ends of connections as people read them.

use std::net::SocketAddr;

use crate::api::TupleInfo;

/// A count, exact with thousands apart below ten million: `1,234,567`, `12.3 M`.
pub(super) fn count(value: u64) -> String {
    if value >= 10_000_000 {
        return scaled(value, 1000.0, &["", " K", " M", " G", " T", " P", " E"]);
    }
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in binary units: `1.5 MiB`.
pub(super) fn bytes(value: u64) -> String {
    scaled(value, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

fn scaled(value: u64, step: f64, units: &[&str]) -> String {
    let mut scaled = value as f64;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    let mut whole = true;
    for larger in units {
        if scaled < step {
            break;
        }
        (scaled, unit, whole) = (scaled / step, larger, false);
    }
    if whole { format!("{value}{unit}") } else { format!("{scaled:.1}{unit}") }
}

/// Seconds: `0.5s`, `12s`, `3m20s`, `5h07m`, `2d03h`.
pub(super) fn seconds(value: f64) -> String {
    if value < 10.0 {
        return format!("{:.1}s", value.max(0.0));
    }
    let whole = value as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86400 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86400, whole / 3600 % 24),
    }
}

/// A link's speed.
pub(super) fn speed(mbps: Option<u32>) -> String {
    match mbps {
        None => "-".to_owned(),
        Some(mbps) if mbps >= 1000 && mbps % 1000 == 0 => format!("{} Gbit/s", mbps / 1000),
        Some(mbps) if mbps >= 1000 => format!("{:.1} Gbit/s", f64::from(mbps) / 1000.0),
        Some(mbps) => format!("{mbps} Mbit/s"),
    }
}

/// A direction: `10.0.0.2:4242 > 192.0.2.1:443`.
pub(super) fn tuple(tuple: &TupleInfo) -> String {
    let (src, dst) = (SocketAddr::new(tuple.src, tuple.sport), SocketAddr::new(tuple.dst, tuple.dport));
    format!("{src} > {dst}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!((count(0), count(1234567)), ("0".to_owned(), "1,234,567".to_owned()));
        assert_eq!((count(999), count(12_345_678)), ("999".to_owned(), "12.3 M".to_owned()));
        assert_eq!(count(u64::MAX), "18.4 E");
        assert_eq!((bytes(1023), bytes(1536)), ("1023 B".to_owned(), "1.5 KiB".to_owned()));
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn times_are_short() {
        let times = [0.04, 59.9, 200.0, 18_420.0, 183_600.0].map(seconds);
        assert_eq!(times, ["0.0s", "59s", "3m20s", "5h07m", "2d03h"]);
        assert_eq!(seconds(-1.0), "0.0s");
        assert_eq!(seconds(f64::NAN), "0s");
    }

    #[test]
    fn speeds_are_rates() {
        assert_eq!(
            [None, Some(100), Some(2500), Some(10000)].map(speed),
            ["-", "100 Mbit/s", "2.5 Gbit/s", "10 Gbit/s"]
        );
    }
}
