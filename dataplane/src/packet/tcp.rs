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

/// How much may be on its way in front of a FIN: what most stacks offer at most. One that is further ahead is sent
/// again when less is.
pub const FIN_AHEAD: u32 = 1 << 24;
/// How much the sender of a FIN may have received and not acknowledged before.
pub const ACK_AHEAD: u32 = 1 << 18;
/// How far its acknowledgement may lie behind: it may have been overtaken.
pub const ACK_BEHIND: u32 = 1 << 16;

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

/// Whether to believe a segment with FIN or RST, given the last acknowledgement that its receiver has sent
/// (`peer_ack`) and the last that its sender has sent (`own_ack`); 0 says that one is not known, and refuses nothing.
///
/// What is refused is dropped, so it must be what the kernel would not end a connection by, or what comes again:
///
/// - An **RST** must continue exactly where its receiver has acknowledged, as conntrack (since Linux 5.10) and receivers
///   (RFC 5961, section 3.2) want it. A genuine one that overtakes the acknowledgement of what was sent just before is
///   refused; that acknowledgement then finds nobody, and is answered by one that is exact.
/// - What a **FIN** ends, its receiver cannot have acknowledged beyond: its end is at or after `peer_ack`. Its start is
///   at most [`FIN_AHEAD`] ahead of it, its acknowledgement near `own_ack`. A FIN is sent until it is acknowledged.
/// - An RST's acknowledgement, where the ACK flag is set, is within a largest window of `own_ack` in either direction.
///   RST with ACK and a number of 0 is a known fault of some stacks, forgiven as conntrack forgives it
///   (`tcp_in_window`).
///
/// `peer_ack` must be current: take it from every segment seen, punted ones too, or pass 0.
#[must_use]
pub fn plausible_close(segment: &Segment, peer_ack: u32, own_ack: u32) -> bool {
    let flags = segment.flags;
    let acknowledges = own_ack != 0 && flags & ACK != 0;
    if flags & RST != 0 {
        let exact = peer_ack == 0 || segment.seq == peer_ack;
        let judged = acknowledges && segment.ack != 0;
        return exact && (!judged || within(segment.ack, own_ack, MAX_WINDOW, MAX_WINDOW));
    }
    if flags & FIN == 0 {
        return true;
    }
    // Its end is not before `peer_ack` if its start is at most its length behind.
    (peer_ack == 0 || within(segment.seq, peer_ack, segment.len(), FIN_AHEAD))
        && (!acknowledges || within(segment.ack, own_ack, ACK_BEHIND, ACK_AHEAD))
}

/// Whether `number` is at most so far behind or ahead of `of`.
const fn within(number: u32, of: u32, behind: u32, ahead: u32) -> bool {
    number.wrapping_sub(of).wrapping_add(behind) <= behind + ahead
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
        // The next one expected, and with as much as can be in flight before it.
        assert!(plausible_close(&fin(1000, 0, 0), 1000, 0));
        assert!(plausible_close(&fin(1000 + FIN_AHEAD, 0, 0), 1000, 0));
        assert!(!plausible_close(&fin(1001 + FIN_AHEAD, 0, 0), 1000, 0));
    }

    #[test]
    fn fins_acknowledge_what_was_acknowledged_or_a_little_more() {
        for (ack, plausible) in [
            (77, true),
            (77u32.wrapping_sub(ACK_BEHIND), true),
            (76u32.wrapping_sub(ACK_BEHIND), false),
            (77 + ACK_AHEAD, true),
            (78 + ACK_AHEAD, false),
        ] {
            assert_eq!(plausible_close(&fin(9, 0, ack), 9, 77), plausible, "{ack}");
            assert!(plausible_close(&fin(9, 0, ack), 9, 0), "nothing to compare with");
        }
    }

    #[test]
    fn rsts_are_exact() {
        assert!(plausible_close(&rst(5), 5, 0));
        for seq in [4, 6, 5 + MAX_WINDOW] {
            assert!(!plausible_close(&rst(seq), 5, 0), "{seq}");
        }
        let with_ack = |ack| Segment { flags: RST | ACK, ack, ..rst(9) };
        for distance in [0, MAX_WINDOW, MAX_WINDOW.wrapping_neg()] {
            assert!(plausible_close(&with_ack(77u32.wrapping_add(distance)), 9, 77));
        }
        for distance in [MAX_WINDOW + 1, (MAX_WINDOW + 1).wrapping_neg(), 1 << 31] {
            assert!(!plausible_close(&with_ack(77u32.wrapping_add(distance)), 9, 77));
        }
        assert!(plausible_close(&with_ack(0), 9, 1 << 31));
        // Without the flag the field means nothing.
        assert!(plausible_close(&Segment { flags: RST, ..with_ack(1 << 31) }, 9, 77));
    }

    #[test]
    fn where_nothing_is_known_all_is_plausible() {
        assert!(plausible_close(&fin(1 << 31, 0, 1 << 31), 0, 0));
        assert!(plausible_close(&rst(1 << 31), 0, 0));
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
        /// The receiver has acknowledged somewhere up to what was sent; an RST comes when it has all of it.
        #[test]
        fn a_genuine_close_is_never_refused(
            acknowledged: u32,
            in_flight in 0..=FIN_AHEAD,
            payload in 0u16..1460,
            own_ack: u32,
            newly_acknowledged in 0..=ACK_AHEAD,
        ) {
            let end = acknowledged.wrapping_add(in_flight);
            let ack = own_ack.wrapping_add(newly_acknowledged);
            let start = end.wrapping_sub(u32::from(payload)).wrapping_sub(1);
            prop_assert!(plausible_close(&fin(start, payload, ack), acknowledged, own_ack));
            let reset = Segment { flags: RST | ACK, ack, ..rst(end) };
            prop_assert!(plausible_close(&reset, end, own_ack));
        }

        /// Of FINs whose numbers are chosen blindly one in some three million is believed; RSTs must be exact.
        #[test]
        fn blind_numbers_are_refused(seq: u32, ack: u32, peer_ack in 1u32.., own_ack in 1u32..) {
            let ahead = seq.wrapping_sub(peer_ack).wrapping_add(1);
            prop_assume!(ahead > 1 + FIN_AHEAD || ack.wrapping_sub(own_ack) > ACK_AHEAD);
            prop_assume!(own_ack.wrapping_sub(ack) > ACK_BEHIND && seq != peer_ack);
            prop_assert!(!plausible_close(&fin(seq, 0, ack), peer_ack, own_ack));
            prop_assert!(!plausible_close(&rst(seq), peer_ack, own_ack));
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
