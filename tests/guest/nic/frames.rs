//! Frames to a NIC.

use std::io;

use etherparse::{PacketBuilder, VlanId};

const FROM: [u8; 6] = [0x02, 0, 0, 0, 0xee, 0x01];
pub(crate) const SRC: [u8; 4] = [192, 0, 2, 1];
pub(crate) const DST: [u8; 4] = [192, 0, 2, 2];
const SRC6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DST6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub(crate) const PORT: u16 = 9;
/// Without the frame check sequence.
const SHORTEST: usize = 60;
const IP_CHECKSUM: usize = 14 + 10;
const UDP_CHECKSUM: usize = 14 + 20 + 6;

type Bytes = Result<Vec<u8>, Box<dyn std::error::Error>>;

/// Which checksum is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spoilt {
    Ip,
    L4,
}

/// Frames to one address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    to: [u8; 6],
}

impl Frame {
    pub(crate) fn to(to: [u8; 6]) -> Self {
        Self { to }
    }

    /// UDP from this source port, with so many bytes in it.
    pub(crate) fn udp(self, source: u16, length: usize) -> Bytes {
        let builder = PacketBuilder::ethernet2(FROM, self.to).ipv4(SRC, DST, 64).udp(source, PORT);
        padded(|to| builder.write(to, &filling(length)).map_err(io::Error::other))
    }

    pub(crate) fn udp6(self, source: u16, length: usize) -> Bytes {
        let builder = PacketBuilder::ethernet2(FROM, self.to).ipv6(SRC6, DST6, 64).udp(source, PORT);
        padded(|to| builder.write(to, &filling(length)).map_err(io::Error::other))
    }

    pub(crate) fn tcp(self, source: u16, length: usize) -> Bytes {
        let builder =
            PacketBuilder::ethernet2(FROM, self.to).ipv4(SRC, DST, 64).tcp(source, PORT, 1, 1000).ack(1);
        padded(|to| builder.write(to, &filling(length)).map_err(io::Error::other))
    }

    pub(crate) fn vlan(self, source: u16, length: usize) -> Bytes {
        let tag = VlanId::try_new(10)?;
        let builder =
            PacketBuilder::ethernet2(FROM, self.to).single_vlan(tag).ipv4(SRC, DST, 64).udp(source, PORT);
        padded(|to| builder.write(to, &filling(length)).map_err(io::Error::other))
    }

    pub(crate) fn two_vlans(self, source: u16, length: usize) -> Bytes {
        let (outer, inner) = (VlanId::try_new(10)?, VlanId::try_new(20)?);
        let builder = PacketBuilder::ethernet2(FROM, self.to)
            .double_vlan(outer, inner)
            .ipv4(SRC, DST, 64)
            .udp(source, PORT);
        padded(|to| builder.write(to, &filling(length)).map_err(io::Error::other))
    }

    /// UDP with a checksum that is wrong by one bit.
    pub(crate) fn spoilt(self, what: Spoilt) -> Bytes {
        let mut frame = self.udp(50, 300)?;
        let at = match what {
            Spoilt::Ip => IP_CHECKSUM,
            Spoilt::L4 => UDP_CHECKSUM,
        };
        *frame.get_mut(at).ok_or("a short frame")? ^= 1;
        Ok(frame)
    }
}

fn padded(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Bytes {
    let mut frame = Vec::new();
    write(&mut frame)?;
    frame.resize(frame.len().max(SHORTEST), 0);
    Ok(frame)
}

fn filling(length: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(length).collect()
}
