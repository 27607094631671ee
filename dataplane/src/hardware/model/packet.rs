//! Packets as the model NIC sees and changes them. Its own code throughout: what workers do with packets is compared with
//! it.

use super::rule::Step;
use crate::dpdk::Mbuf;

/// The bytes of a packet, to which tags can be added.
pub trait Packet {
    /// All bytes of the headers, and of what follows as much as there is.
    fn bytes(&self) -> &[u8];

    /// The same, to be changed.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Puts a tag behind the MAC addresses; `false` if there is no room.
    fn push_tag(&mut self, tag: [u8; 4]) -> bool;

    /// Takes off the tag behind the MAC addresses; `false` if there is none.
    fn pop_tag(&mut self) -> bool;
}

impl Packet for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }

    fn push_tag(&mut self, tag: [u8; 4]) -> bool {
        let fits = self.len() >= MACS;
        if fits {
            self.splice(MACS..MACS, tag);
        }
        fits
    }

    fn pop_tag(&mut self) -> bool {
        let fits = self.len() >= MACS + 4;
        if fits {
            self.drain(MACS..MACS + 4);
        }
        fits
    }
}

impl Packet for Mbuf {
    fn bytes(&self) -> &[u8] {
        self.data()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.data_mut()
    }

    fn push_tag(&mut self, tag: [u8; 4]) -> bool {
        if self.len() < MACS || self.prepend(4).is_none() {
            return false;
        }
        let data = self.data_mut();
        data.copy_within(4..MACS + 4, 0);
        data[MACS..MACS + 4].copy_from_slice(&tag);
        true
    }

    fn pop_tag(&mut self) -> bool {
        if self.len() < MACS + 4 {
            return false;
        }
        self.data_mut().copy_within(..MACS, 4);
        self.trim_front(4)
    }
}

const MACS: usize = 12;

/// Where the headers of a packet are, as a NIC's parser finds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Layers {
    /// VLAN tags, at most two.
    pub(super) tags: usize,
    /// The IP version and where its header is.
    pub(super) ip: Option<(u8, usize)>,
    /// An IPv6 fragment header was found.
    pub(super) fragment: bool,
    /// The IP protocol and where its header is. Also behind options, and in the first fragment: what must not be
    /// forwarded rules have to tell by themselves.
    pub(super) l4: Option<(u8, usize)>,
}

const TAGS: [u16; 2] = [0x8100, 0x88a8];
const TCP: u8 = 6;
const UDP: u8 = 17;

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

impl Layers {
    pub(super) fn of(frame: &[u8]) -> Self {
        let mut layers = Self::default();
        layers.walk(frame);
        layers
    }

    fn walk(&mut self, frame: &[u8]) -> Option<()> {
        let mut at = MACS;
        let mut kind = half(frame, at)?;
        while TAGS.contains(&kind) && self.tags < 2 {
            at += 4;
            kind = half(frame, at)?;
            self.tags += 1;
        }
        let ip = at + 2;
        match kind {
            0x0800 => self.walk_ipv4(frame, ip),
            0x86dd => self.walk_ipv6(frame, ip),
            _ => None,
        }
    }

    fn walk_ipv4(&mut self, frame: &[u8], ip: usize) -> Option<()> {
        let header = frame.get(ip..ip + 20)?;
        let length = usize::from(header[0] & 15) * 4;
        if header[0] >> 4 != 4 || length < 20 {
            return None;
        }
        self.ip = Some((4, ip));
        if half(header, 6)? & 0x1fff != 0 {
            return None;
        }
        self.find_l4(frame, header[9], ip + length)
    }

    fn walk_ipv6(&mut self, frame: &[u8], ip: usize) -> Option<()> {
        let header = frame.get(ip..ip + 40)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        self.ip = Some((6, ip));
        let (mut next, mut at) = (header[6], ip + 40);
        // As many extension headers as a parser may go over.
        for _ in 0..4 {
            match next {
                0 | 43 | 60 => {
                    let content = frame.get(at..at + 2)?;
                    (next, at) = (content[0], at + 8 + 8 * usize::from(content[1]));
                }
                44 => {
                    self.fragment = true;
                    if half(frame, at + 2)? & 0xfff8 != 0 {
                        return None;
                    }
                    (next, at) = (*frame.get(at)?, at + 8);
                }
                _ => break,
            }
        }
        self.find_l4(frame, next, at)
    }

    fn find_l4(&mut self, frame: &[u8], proto: u8, at: usize) -> Option<()> {
        let length = match proto {
            TCP => 20,
            UDP => 8,
            _ => return None,
        };
        frame.get(at..at + length)?;
        self.l4 = Some((proto, at));
        Some(())
    }

    /// The whole IP packet, without padding; none if it is cut short or its length is wrong.
    fn ip_packet<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let (version, ip) = self.ip?;
        let length = match version {
            4 => usize::from(half(frame, ip + 2)?),
            _ => 40 + usize::from(half(frame, ip + 4)?),
        };
        let least = if version == 4 { usize::from(frame.get(ip)? & 15) * 4 } else { 40 };
        frame.get(ip..ip + length).filter(|_| length >= least)
    }

    /// The length as the IP header has it.
    pub(super) fn ip_length(&self, frame: &[u8]) -> Option<u16> {
        let (version, ip) = self.ip?;
        half(frame, ip + if version == 4 { 2 } else { 4 })
    }

    /// Whether IP lengths are right.
    pub(super) fn l3_is_ok(&self, frame: &[u8]) -> bool {
        self.ip_packet(frame).is_some()
    }

    /// The L4 segment: from its header to the end of the IP packet.
    fn segment<'a>(&self, frame: &'a [u8]) -> Option<(u8, &'a [u8])> {
        let (_, ip) = self.ip?;
        let (proto, l4) = self.l4?;
        Some((proto, self.ip_packet(frame)?.get(l4 - ip..)?))
    }

    /// Whether lengths and offsets of the L4 header are right.
    pub(super) fn l4_is_ok(&self, frame: &[u8]) -> bool {
        match self.segment(frame) {
            Some((TCP, segment)) => {
                let offset = segment.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4);
                (20..=segment.len()).contains(&offset)
            }
            Some((_, segment)) => half(segment, 4).is_some_and(|length| usize::from(length) == segment.len()),
            None => false,
        }
    }

    /// Whether the IPv4 header's checksum is right.
    pub(super) fn ip_checksum_is_ok(&self, frame: &[u8]) -> bool {
        let Some((4, ip)) = self.ip else { return false };
        let length = frame.get(ip).map_or(0, |byte| usize::from(byte & 15) * 4);
        frame.get(ip..ip + length).is_some_and(|header| ones(&[header]) == 0xffff)
    }

    /// Whether the L4 checksum is right, or there is none.
    pub(super) fn l4_checksum_is_ok(&self, frame: &[u8]) -> bool {
        let (Some((version, ip)), Some((proto, segment))) = (self.ip, self.segment(frame)) else {
            return false;
        };
        if proto == UDP && half(segment, 6) == Some(0) {
            return true;
        }
        let addresses = if version == 4 { frame.get(ip + 12..ip + 20) } else { frame.get(ip + 8..ip + 40) };
        let length = (segment.len() as u32).to_be_bytes();
        addresses.is_some_and(|addresses| ones(&[addresses, &length, &[0, proto], segment]) == 0xffff)
    }
}

/// Ones' complement sum of all parts, each of which begins at an even place.
fn ones(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    sum as u16
}

/// A checksum field after bytes that it covers have been replaced (RFC 1624, equation 3).
fn mend(check: u16, old: &[u8], new: &[u8]) -> u16 {
    if old == new {
        return check;
    }
    let complement: Vec<u8> = old.iter().map(|byte| !byte).collect();
    !ones(&[&(!check).to_be_bytes(), &complement, new])
}

/// Does to a packet what a rule says; `false` if it could not.
pub(super) fn run(packet: &mut impl Packet, steps: &[Step], spoil_checksum: bool) -> bool {
    let mut done = true;
    for step in steps {
        done &= run_one(packet, step).is_some();
    }
    if spoil_checksum {
        let layers = Layers::of(packet.bytes());
        if let Some(byte) = check_at(&layers).and_then(|at| packet.bytes_mut().get_mut(at)) {
            *byte = byte.wrapping_add(1);
        }
    }
    done
}

fn run_one(packet: &mut impl Packet, step: &Step) -> Option<()> {
    match step {
        Step::Pop => packet.pop_tag().then_some(()),
        Step::Push(tpid) => {
            let [a, b] = tpid.to_be_bytes();
            packet.push_tag([a, b, 0, 0]).then_some(())
        }
        Step::VlanId(id) => {
            let tci = packet.bytes_mut().get_mut(14..16)?;
            let kept = u16::from_be_bytes([tci[0], tci[1]]) & 0xf000;
            tci.copy_from_slice(&(kept | id & 0x0fff).to_be_bytes());
            Some(())
        }
        Step::Priority(priority) => {
            let byte = packet.bytes_mut().get_mut(14)?;
            *byte = *byte & 0x1f | priority << 5;
            Some(())
        }
        Step::Mac { source, mac } => {
            let at = if *source { 6 } else { 0 };
            packet.bytes_mut().get_mut(at..at + 6)?.copy_from_slice(mac);
            Some(())
        }
        Step::Address4 { source, address } => {
            let layers = Layers::of(packet.bytes());
            let Some((4, ip)) = layers.ip else { return None };
            replace(packet, ip + if *source { 12 } else { 16 }, address, [Some(ip + 10), check_at(&layers)])
        }
        Step::Address6 { source, address } => {
            let layers = Layers::of(packet.bytes());
            let Some((6, ip)) = layers.ip else { return None };
            replace(packet, ip + if *source { 8 } else { 24 }, address, [None, check_at(&layers)])
        }
        Step::Port { source, port } => {
            let layers = Layers::of(packet.bytes());
            let (_, l4) = layers.l4?;
            replace(packet, l4 + if *source { 0 } else { 2 }, port, [None, check_at(&layers)])
        }
        Step::TtlLess(by) => change_ttl(packet, |ttl| ttl.wrapping_sub(*by)),
        Step::Ttl(new) => change_ttl(packet, |_| *new),
    }
}

/// Where the L4 checksum is.
fn check_at(layers: &Layers) -> Option<usize> {
    layers.l4.map(|(proto, l4)| l4 + if proto == TCP { 16 } else { 6 })
}

fn change_ttl(packet: &mut impl Packet, change: impl FnOnce(u8) -> u8) -> Option<()> {
    match Layers::of(packet.bytes()).ip? {
        (4, ip) => {
            // The word of TTL and protocol is what the checksum covers.
            let word: [u8; 2] = packet.bytes().get(ip + 8..ip + 10)?.try_into().ok()?;
            replace(packet, ip + 8, &[change(word[0]), word[1]], [Some(ip + 10), None])
        }
        (_, ip) => {
            let limit = packet.bytes_mut().get_mut(ip + 7)?;
            *limit = change(*limit);
            Some(())
        }
    }
}

/// Replaces bytes and mends the checksums that cover them. A UDP checksum of 0 says that there is none, and stays.
fn replace(packet: &mut impl Packet, at: usize, new: &[u8], checks: [Option<usize>; 2]) -> Option<()> {
    let udp = matches!(Layers::of(packet.bytes()).l4, Some((UDP, _)));
    let bytes = packet.bytes_mut();
    let old = bytes.get(at..at + new.len())?.to_vec();
    for (place, is_l4) in checks.into_iter().zip([false, true]) {
        let Some(place) = place else { continue };
        let check = half(bytes, place)?;
        if udp && is_l4 && check == 0 {
            continue;
        }
        let mended = match mend(check, &old, new) {
            0 if udp && is_l4 => 0xffff,
            mended => mended,
        };
        bytes.get_mut(place..place + 2)?.copy_from_slice(&mended.to_be_bytes());
    }
    bytes.get_mut(at..at + new.len())?.copy_from_slice(new);
    Some(())
}
