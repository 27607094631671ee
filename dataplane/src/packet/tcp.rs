//! TCP segments as far as a forwarder looks at them, and which FIN, RST and SYN to believe.

use super::wire;

/// FIN flag.
pub const FIN: u8 = 0x01;
/// SYN flag.
pub const SYN: u8 = 0x02;
/// RST flag.
pub const RST: u8 = 0x04;
/// PSH flag.
pub const PSH: u8 = 0x08;
/// ACK flag.
pub const ACK: u8 = 0x10;
/// URG flag.
pub const URG: u8 = 0x20;

/// The flag combinations that conntrack takes as valid, a bit each, PSH, ECE and CWR aside
/// (`tcp_valid_flags` in nf_conntrack_proto_tcp.c). Every other makes a packet INVALID.
const VALID_FLAGS: u64 = 1 << SYN
    | 1 << (SYN | URG)
    | 1 << (SYN | ACK)
    | 1 << RST
    | 1 << (RST | ACK)
    | 1 << (FIN | ACK)
    | 1 << (FIN | ACK | URG)
    | 1 << ACK
    | 1 << (ACK | URG);

/// Whether conntrack takes a combination of flags as valid.
#[inline(always)]
pub(super) const fn flags_are_valid(flags: u8) -> bool {
    VALID_FLAGS >> (flags & (FIN | SYN | RST | ACK | URG)) & 1 == 1
}

/// The largest window that TCP can offer: 65535 scaled by 14 (RFC 7323, section 2.3), just under 1 GiB.
pub const MAX_WINDOW: u32 = 65_535 << 14;

/// How far an RST may lie behind what its receiver has acknowledged: RSTs answer segments that were on
/// their way, and those carry older acknowledgements.
const RST_BEHIND: u32 = 1 << 16;

/// The numbers of a TCP segment, in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Segment {
    /// Flags: the byte with FIN, SYN, RST, PSH, ACK, URG, ECE and CWR.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; means nothing without the ACK flag.
    pub ack: u32,
    /// Window as it is in the header, not scaled.
    pub window: u16,
    /// Bytes of payload.
    pub payload: u16,
}

impl Segment {
    /// Reads a segment, TCP header first; the slice must end where the IP packet ends.
    ///
    /// `None` if it is shorter than its header says or than 20 bytes.
    pub fn read(l4: &[u8]) -> Option<Self> {
        let header: &[u8; wire::TCP_LEN] = l4.first_chunk()?;
        let length = usize::from(header[12] >> 4) * 4;
        let payload = l4.len().checked_sub(length.max(wire::TCP_LEN))?;
        Some(Self {
            flags: header[13],
            seq: wire::be32(header, 4)?,
            ack: wire::be32(header, 8)?,
            window: wire::be16(header, 14)?,
            payload: u16::try_from(payload).ok()?,
        })
    }

    /// Sequence space that the segment takes up: payload, SYN and FIN.
    const fn len(&self) -> u32 {
        self.payload as u32 + (self.flags & SYN != 0) as u32 + (self.flags & FIN != 0) as u32
    }
}

/// Whether a segment with FIN, RST or SYN can be genuine, given the last acknowledgement that its receiver
/// has sent (`peer_ack`) and the last that its sender has sent (`own_ack`); 0 says that one is not known.
///
/// Only what cannot be genuine is refused, so the bounds are those of the protocol, not those of the
/// connection, whose window scale a worker does not know:
///
/// - What a **FIN** ends, its receiver cannot have acknowledged beyond: its end is at or after `peer_ack`.
///   Its start is at most the largest window ahead of it.
/// - An **RST** is believed by a receiver at exactly, or in older stacks anywhere in the window from, what
///   it expects next (RFC 5961, section 3.2), and that is `peer_ack` or later. 64 KiB behind are allowed.
/// - The **acknowledgement** of either, where the ACK flag is set, is within a largest window of `own_ack` in
///   either direction. RST with ACK and a number of 0 is a known fault of some stacks, forgiven as conntrack
///   forgives it (`tcp_in_window`).
/// - A **SYN** can be genuine at any number: a host that rebooted takes up an old pair of ports. Conntrack
///   lets it pass and keeps its state, so nothing is lost by giving it to the kernel.
///
/// `peer_ack` must be current: take it from every segment seen, punted ones too, or pass 0.
#[must_use]
pub fn plausible_close(segment: &Segment, peer_ack: u32, own_ack: u32) -> bool {
    let flags = segment.flags;
    if flags & SYN != 0 || flags & (FIN | RST) == 0 {
        return true;
    }
    if peer_ack != 0 {
        // A FIN's end not before `peer_ack` is the same as its start at most its length behind.
        let behind = if flags & RST != 0 { RST_BEHIND } else { segment.len() };
        if segment.seq.wrapping_sub(peer_ack).wrapping_add(behind) > behind + MAX_WINDOW {
            return false;
        }
    }
    let zero_ack_reset = flags & RST != 0 && segment.ack == 0;
    if own_ack != 0 && flags & ACK != 0 && !zero_ack_reset {
        return segment.ack.wrapping_sub(own_ack).wrapping_add(MAX_WINDOW) <= 2 * MAX_WINDOW;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fin(seq: u32, payload: u16, ack: u32) -> Segment {
        Segment { flags: FIN | ACK, seq, ack, window: 0, payload }
    }

    fn rst(seq: u32) -> Segment {
        Segment { flags: RST, seq, ..Segment::default() }
    }

    #[test]
    fn fins_end_at_or_after_what_is_acknowledged() {
        // Just acknowledged, being retransmitted: 100 bytes and the FIN.
        assert!(plausible_close(&fin(1000, 100, 0), 1101, 0));
        assert!(!plausible_close(&fin(1000, 100, 0), 1102, 0));
        // The next one expected, and with a whole window in flight before it.
        assert!(plausible_close(&fin(1000, 0, 0), 1000, 0));
        assert!(plausible_close(&fin(1000 + MAX_WINDOW, 0, 0), 1000, 0));
        assert!(!plausible_close(&fin(1001 + MAX_WINDOW, 0, 0), 1000, 0));
    }

    #[test]
    fn rsts_are_within_a_window() {
        assert!(plausible_close(&rst(5), 5, 0));
        assert!(plausible_close(&rst(5u32.wrapping_sub(RST_BEHIND)), 5, 0));
        assert!(!plausible_close(&rst(4u32.wrapping_sub(RST_BEHIND)), 5, 0));
        assert!(plausible_close(&rst(5 + MAX_WINDOW), 5, 0));
        assert!(!plausible_close(&rst(6 + MAX_WINDOW), 5, 0));
    }

    #[test]
    fn acknowledgements_are_checked_where_there_are_any() {
        for distance in [MAX_WINDOW, MAX_WINDOW.wrapping_neg(), 0] {
            assert!(plausible_close(&fin(9, 0, 77u32.wrapping_add(distance)), 9, 77));
        }
        for distance in [MAX_WINDOW + 1, (MAX_WINDOW + 1).wrapping_neg(), 1 << 31] {
            assert!(!plausible_close(&fin(9, 0, 77u32.wrapping_add(distance)), 9, 77));
        }
        let with_ack = |ack| Segment { flags: RST | ACK, ack, ..rst(9) };
        assert!(!plausible_close(&with_ack(1 << 31), 9, 77));
        assert!(plausible_close(&with_ack(0), 9, 1 << 31));
        // Without the flag the field means nothing.
        assert!(plausible_close(&Segment { flags: RST, ..with_ack(1 << 31) }, 9, 77));
    }

    #[test]
    fn the_unknown_and_syns_are_plausible() {
        assert!(plausible_close(&fin(1 << 31, 0, 1 << 31), 0, 0));
        assert!(plausible_close(&rst(1 << 31), 0, 0));
        for flags in [SYN, SYN | ACK] {
            assert!(plausible_close(&Segment { flags, ..fin(1 << 31, 0, 1 << 31) }, 5, 5));
        }
        assert!(plausible_close(&Segment { flags: ACK, ..fin(1 << 31, 0, 1 << 31) }, 5, 5));
    }

    #[test]
    fn segments_are_read_as_far_as_they_go() {
        let mut bytes = [0; 30];
        bytes[4..8].copy_from_slice(&0x0102_0304u32.to_be_bytes());
        bytes[8..12].copy_from_slice(&0x0506_0708u32.to_be_bytes());
        bytes[12..16].copy_from_slice(&[6 << 4, FIN | ACK, 0x12, 0x34]);
        let segment =
            Segment { flags: FIN | ACK, seq: 0x0102_0304, ack: 0x0506_0708, window: 0x1234, payload: 6 };
        assert_eq!(Segment::read(&bytes), Some(segment));
        assert_eq!(segment.len(), 7);
        assert_eq!(Segment::read(&bytes[..23]), None);
        assert_eq!(Segment::read(&bytes[..19]), None);
    }

    proptest! {
        /// A connection as the protocol allows it: the receiver has acknowledged somewhere up to what was
        /// sent, and that is not further ahead than a window.
        #[test]
        fn a_genuine_close_is_never_refused(
            acknowledged: u32,
            in_flight in 0..=MAX_WINDOW,
            payload in 0u16..1460,
            own_ack: u32,
            newly_acknowledged in 0..=MAX_WINDOW,
        ) {
            let end = acknowledged.wrapping_add(in_flight);
            let ack = own_ack.wrapping_add(newly_acknowledged);
            let start = end.wrapping_sub(u32::from(payload)).wrapping_sub(1);
            prop_assert!(plausible_close(&fin(start, payload, ack), acknowledged, own_ack));
            let reset = Segment { flags: RST | ACK, ack, ..rst(end) };
            prop_assert!(plausible_close(&reset, acknowledged, own_ack));
        }

        /// Everything shifts with the sequence numbers: nothing happens at their wrap.
        #[test]
        fn numbers_wrap(seq: u32, payload: u16, peer_ack in 1u32.., shift: u32) {
            prop_assume!(peer_ack.wrapping_add(shift) != 0);
            for flags in [FIN | ACK, RST] {
                let here = Segment { flags, seq, ack: 0, window: 0, payload };
                let there = Segment { seq: seq.wrapping_add(shift), ..here };
                prop_assert_eq!(
                    plausible_close(&here, peer_ack, 0),
                    plausible_close(&there, peer_ack.wrapping_add(shift), 0)
                );
            }
        }
    }
}
