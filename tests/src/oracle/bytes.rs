//! Changes to a frame's bytes that its description has no words for.

use dataplane::flow::{FiveTuple, TCP, UDP};
use dataplane::packet::checksum;
use dataplane::packet::testing::Frame;
use dataplane::packet::wire::{IPV4_LEN, IPV6_LEN, be16};
use proptest::sample::Index;

/// So many bytes: all zeros, all ones, or any that the seed gives.
pub(super) fn filler(pattern: u8, seed: u64, length: usize) -> Vec<u8> {
    match pattern {
        0 => return vec![0; length],
        1 => return vec![0xff; length],
        _ => {}
    }
    // SplitMix64: the content matters to checksums alone.
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(length);
    bytes
}

/// Changes bits.
pub(super) fn flip(bytes: &mut [u8], flips: &[(Index, u8)]) {
    if bytes.is_empty() {
        return;
    }
    for (index, bits) in flips {
        bytes[index.index(bytes.len())] ^= bits;
    }
}

/// Makes the checksums of a packet come out as zero, as it is or as it leaves: what is free to choose takes what is
/// missing.
pub(super) fn absorb(frame: &mut Frame, leaves_as: Option<FiveTuple>) {
    let seen_as = |frame: &Frame| {
        let mut seen = frame.clone();
        if let Some(tuple) = leaves_as.filter(|tuple| tuple.proto == frame.tuple.proto) {
            seen.tuple = tuple;
            seen.ttl = seen.ttl.saturating_sub(1);
        }
        seen.ip()
    };
    let word = |packet: &[u8], at: usize| be16(packet, at).unwrap_or_default();
    let v4 = frame.tuple.src.is_ipv4();
    if !frame.options.is_empty() || !frame.extensions.is_empty() {
        return;
    }
    let l4 = if v4 { IPV4_LEN } else { IPV6_LEN };
    match frame.tuple.proto {
        TCP => {
            frame.tcp.urgent = 0;
            frame.tcp.urgent = word(&seen_as(frame), l4 + 16);
        }
        UDP => {
            if let Some(free) = frame.payload.first_chunk_mut::<2>() {
                *free = [0, 0];
                frame.udp_without_checksum = false;
                let missing = word(&seen_as(frame), l4 + 6).to_be_bytes();
                if let Some(free) = frame.payload.first_chunk_mut() {
                    *free = missing;
                }
            }
        }
        _ => {}
    }
    if v4 {
        frame.id = 0;
        frame.id = word(&seen_as(frame), 10);
    }
}

/// Writes checksums of zero in their other form, which is as right: 0xffff.
pub(super) fn other_zeros(bytes: &mut [u8], l3: usize) {
    let Some((l4, proto)) = layer4(bytes, l3) else { return };
    let mut places = Vec::new();
    if l4 == l3 + IPV4_LEN {
        places.push(l3 + 10);
    }
    if proto == TCP {
        places.push(l4 + 16);
    }
    for place in places {
        if let Some(check) = bytes.get_mut(place..place + 2).filter(|check| **check == [0, 0]) {
            check.fill(0xff);
        }
    }
}

/// Makes the checksums right, as far as there is a packet.
pub(super) fn mend(bytes: &mut [u8], l3: usize) {
    let Some((l4, proto)) = layer4(bytes, l3) else { return };
    let v4 = bytes[l3] >> 4 == 4;
    let length = if v4 { be16(bytes, l3 + 2) } else { be16(bytes, l3 + 4).map(|len| len.wrapping_add(40)) };
    let end = (l3 + usize::from(length.unwrap_or_default())).min(bytes.len());
    let addresses = bytes.get(if v4 { l3 + 12..l3 + 20 } else { l3 + 8..l3 + 40 }).map(<[u8]>::to_vec);
    let place = match proto {
        TCP => Some(16),
        UDP => Some(6),
        _ => None,
    };
    if let (Some(place), Some(addresses), Some(segment)) = (place, addresses, bytes.get_mut(l4..end))
        && segment.len() >= place + 2
    {
        segment[place..place + 2].fill(0);
        let check = match checksum::compute_l4(&addresses, proto, segment) {
            0 if proto == UDP => 0xffff,
            check => check,
        };
        segment[place..place + 2].copy_from_slice(&check.to_ne_bytes());
    }
    if let Some(header) = bytes.get_mut(l3..l4).filter(|_| v4) {
        header[10..12].fill(0);
        let check = checksum::compute(header);
        header[10..12].copy_from_slice(&check.to_ne_bytes());
    }
}

/// Where the L4 header is, by what the IP header says of itself, and its protocol.
fn layer4(bytes: &[u8], l3: usize) -> Option<(usize, u8)> {
    let header = bytes.get(l3..)?;
    match header.first()? >> 4 {
        4 => {
            let length = usize::from(header[0] & 15) * 4;
            (length >= IPV4_LEN && length <= header.len()).then(|| (l3 + length, header[9]))
        }
        6 => (header.len() >= IPV6_LEN).then(|| (l3 + IPV6_LEN, header[6])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> [Frame; 4] {
        [
            Frame::udp("10.0.0.1:1", "10.0.0.2:2"),
            Frame::tcp("10.0.0.1:1", "10.0.0.2:2"),
            Frame::udp("[2001:db8::1]:1", "[2001:db8::2]:2"),
            Frame::tcp("[2001:db8::1]:1", "[2001:db8::2]:2"),
        ]
        .map(|frame| frame.payload(b"some payload"))
    }

    #[test]
    fn mending_restores_checksums() {
        for frame in frames() {
            let whole = frame.build();
            let mut broken = Frame {
                faults: dataplane::packet::testing::Faults {
                    ip_checksum_error: 7,
                    l4_checksum_error: 9,
                    ..Default::default()
                },
                ..frame
            }
            .build();
            assert_ne!(whole, broken);
            mend(&mut broken, 14);
            assert_eq!(whole, broken);
        }
    }

    #[test]
    fn absorbing_makes_zeros_before_or_after_translation() {
        for mut frame in frames() {
            let v4 = frame.tuple.src.is_ipv4();
            let tcp = frame.tuple.proto == TCP;
            let l4 = if v4 { 20 } else { 40 };
            let check = |packet: &[u8]| be16(packet, l4 + if tcp { 16 } else { 6 });
            let zero = if tcp { Some(0) } else { Some(0xffff) };
            let other = FiveTuple { sport: 77, ..frame.tuple };
            absorb(&mut frame, Some(other));
            let after = Frame { tuple: other, ttl: frame.ttl - 1, ..frame.clone() }.ip();
            assert_eq!(check(&after), zero);
            assert!(!v4 || after[10..12] == [0, 0]);
            absorb(&mut frame, None);
            let mut bytes = frame.build();
            assert_eq!(check(&bytes[14..]), zero);
            other_zeros(&mut bytes, 14);
            assert_eq!(check(&bytes[14..]), Some(0xffff));
        }
    }
}
