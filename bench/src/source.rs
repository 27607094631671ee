//! The cheap source: net_null gives empty packets, and a callback on its receive queue writes a frame of a connection
//! drawn at random into each.

use std::ffi::c_void;

use dpdk_sys as sys;

use dataplane::dpdk::RxQueue;

use crate::error::Error;
use crate::flows::{Family, Flows, Random, STRANGER};

/// How connections are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// All alike.
    Uniform,
    /// By Zipf's law with an exponent of 1: of each doubling of the rank equally many packets.
    Zipf,
}

/// How long frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// All of that length, from the Ethernet header on, with 4 bytes for the checksum that is not there.
    Fixed(u16),
    /// 7 of 64, 4 of 570 and 1 of 1518 bytes in 12.
    Imix,
}

/// What packets are marked with, by connection: as a NIC's driver does. Whether packets are marked or not, the marks are
/// read, so that this costs the same.
#[derive(Clone, Copy, Debug)]
pub enum Marking {
    /// There are no marks.
    None,
    /// Packets carry them.
    Told(&'static [u32]),
    /// Packets carry none.
    Kept(&'static [u32]),
}

/// What a source gives.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Whose packets.
    pub flows: Flows,
    /// Packets of the reply direction, or of the original one.
    pub reply: bool,
    /// Connections drawn from.
    pub connections: u32,
    /// How they are drawn.
    pub draw: Draw,
    /// Packets in a thousand that belong to no connection of the table.
    pub strangers: u32,
    /// Frame lengths.
    pub sizes: Sizes,
    /// Marks of packets.
    pub marks: Marking,
}

const BURST: usize = 64;
const L2: usize = 14;

/// The destination MAC of all frames.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];

#[derive(Debug)]
struct Source {
    traffic: Traffic,
    random: Random,
    template: [u8; 64],
    /// Sum of the IPv4 header's words without addresses.
    sum: u64,
    imix: usize,
}

impl Source {
    fn new(traffic: Traffic, seed: u64) -> Self {
        let mut template = [0; 64];
        template[..6].copy_from_slice(&MAC);
        template[6] = 2;
        let mut source = Self { traffic, random: Random(seed), template, sum: 0, imix: 0 };
        match traffic.flows.family {
            Family::V4 => {
                source.template[12] = 8;
                source.template[L2] = 0x45;
                source.template[L2 + 8..L2 + 10].copy_from_slice(&[64, 17]);
                source.template[L2 + 26] = 0x5a;
            }
            Family::V6 => {
                source.template[12..14].copy_from_slice(&[0x86, 0xdd]);
                source.template[L2] = 0x60;
                source.template[L2 + 6..L2 + 8].copy_from_slice(&[17, 64]);
                source.template[L2 + 46] = 0x5a;
            }
        }
        if let Sizes::Fixed(frame) = traffic.sizes {
            source.set_length(frame);
        }
        source
    }

    /// Writes the lengths of a frame into the template.
    fn set_length(&mut self, frame: u16) {
        let l3 = frame.saturating_sub(L2 as u16 + 4).max(46);
        let put = |template: &mut [u8; 64], at: usize, value: u16| {
            template[L2 + at..L2 + at + 2].copy_from_slice(&value.to_be_bytes());
        };
        match self.traffic.flows.family {
            Family::V4 => {
                put(&mut self.template, 2, l3);
                put(&mut self.template, 24, l3 - 20);
                let words = self.template[L2..L2 + 12].chunks_exact(2);
                self.sum = words.map(|w| u64::from(u16::from_ne_bytes([w[0], w[1]]))).sum();
            }
            Family::V6 => {
                let l3 = l3.max(48);
                put(&mut self.template, 4, l3 - 40);
                put(&mut self.template, 44, l3 - 40);
            }
        }
    }

    fn draw(&mut self, numbers: &mut [u32]) {
        let Traffic { connections, draw, strangers, .. } = self.traffic;
        for number in &mut *numbers {
            *number = match draw {
                Draw::Uniform => self.random.below(connections),
                Draw::Zipf => {
                    let octave = self.random.below(connections.ilog2().max(1));
                    (1 << octave) + self.random.below(1 << octave)
                }
            };
        }
        if strangers > 0 {
            for number in numbers {
                *number += if self.random.below(1000) < strangers { STRANGER } else { 0 };
            }
        }
    }

    fn fill(&mut self, packets: &mut [*mut sys::shim_mbuf]) {
        let mut numbers = [0; BURST];
        let numbers = &mut numbers[..packets.len().min(BURST)];
        self.draw(numbers);
        match self.traffic.marks {
            Marking::None => {}
            Marking::Told(marks) => mark(packets, numbers, marks, TOLD),
            Marking::Kept(marks) => mark(packets, numbers, marks, 0),
        }
        let Traffic { flows, reply, .. } = self.traffic;
        match (flows.family, self.traffic.sizes) {
            (_, Sizes::Imix) => {
                for (packet, number) in packets.iter().zip(numbers) {
                    let length = [64, 570, 64, 64, 570, 64, 1518, 64, 570, 64, 64, 570][self.imix % 12];
                    self.imix += 1;
                    self.set_length(length);
                    self.write(*packet, length, *number);
                }
            }
            (Family::V4, Sizes::Fixed(frame)) => {
                for (packet, number) in packets.iter().zip(numbers) {
                    let key = flows.key4(*number, reply);
                    self.write4(*packet, frame, key.src, key.dst, key.ports);
                }
            }
            (Family::V6, Sizes::Fixed(frame)) => {
                for (packet, number) in packets.iter().zip(numbers) {
                    self.write(*packet, frame, *number);
                }
            }
        }
    }

    fn write(&self, packet: *mut sys::shim_mbuf, frame: u16, number: u32) {
        let Traffic { flows, reply, .. } = self.traffic;
        match flows.family {
            Family::V4 => {
                let key = flows.key4(number, reply);
                self.write4(packet, frame, key.src, key.dst, key.ports);
            }
            Family::V6 => {
                let key = flows.key6(number, reply);
                let bytes = put(packet, &self.template, frame.max(66));
                let words = [key.src[0], key.src[1], key.dst[0], key.dst[1]];
                for (place, word) in bytes[L2 + 8..L2 + 40].chunks_exact_mut(8).zip(words) {
                    place.copy_from_slice(&word.to_ne_bytes());
                }
                bytes[L2 + 40..L2 + 44].copy_from_slice(&key.ports.to_ne_bytes());
            }
        }
    }

    #[inline(always)]
    fn write4(&self, packet: *mut sys::shim_mbuf, frame: u16, src: u32, dst: u32, ports: u32) {
        let mut sum = self.sum + u64::from(src) + u64::from(dst);
        sum = (sum >> 32) + (sum & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        let bytes = put(packet, &self.template, frame);
        bytes[L2 + 10..L2 + 12].copy_from_slice(&(!(sum as u16)).to_ne_bytes());
        bytes[L2 + 12..L2 + 16].copy_from_slice(&src.to_ne_bytes());
        bytes[L2 + 16..L2 + 20].copy_from_slice(&dst.to_ne_bytes());
        bytes[L2 + 20..L2 + 24].copy_from_slice(&ports.to_ne_bytes());
    }
}

/// Writes the first bytes of a frame, and its length; gives the bytes, to be changed in place. (Changed before, they
/// would have to be read back from where narrower stores have not arrived yet.)
#[inline(always)]
fn put<'a>(packet: *mut sys::shim_mbuf, bytes: &[u8; 64], frame: u16) -> &'a mut [u8; 64] {
    // SAFETY: `packet` is one that the driver has just received into a buffer of 2048 bytes behind the headroom, and
    // the callback alone has it as long as it uses the bytes; `shim_mbuf` is the head of its layout.
    unsafe {
        let packet = &mut *packet;
        let data = packet.buf_addr.cast::<u8>().add(usize::from(packet.data_off)).cast::<[u8; 64]>();
        *data = *bytes;
        packet.data_len = frame - 4;
        packet.pkt_len = u32::from(frame - 4);
        &mut *data
    }
}

/// What a driver sets for a packet that is marked.
const TOLD: u64 = sys::RTE_MBUF_F_RX_FDIR | sys::RTE_MBUF_F_RX_FDIR_ID;

fn mark(packets: &[*mut sys::shim_mbuf], numbers: &[u32], marks: &[u32], flags: u64) {
    for (packet, number) in packets.iter().zip(numbers) {
        let mark = marks.get(*number as usize).copied().unwrap_or(0);
        // SAFETY: as in `put`.
        unsafe {
            (**packet).ol_flags |= flags;
            (**packet).fdir_id = mark;
        }
    }
}

unsafe extern "C" fn fill(
    _port: u16,
    _queue: u16,
    packets: *mut *mut sys::rte_mbuf,
    received: u16,
    _most: u16,
    source: *mut c_void,
) -> u16 {
    // SAFETY: DPDK calls from the one thread that polls the queue, with the source that `feed` gave it and leaked, and
    // `received` packets.
    unsafe {
        let packets = std::slice::from_raw_parts_mut(packets.cast::<*mut sys::shim_mbuf>(), received.into());
        let source = &mut *source.cast::<Source>();
        for burst in packets.chunks_mut(BURST) {
            source.fill(burst);
        }
    }
    received
}

/// Makes a queue of a net_null port give such traffic from now on.
pub fn feed(queue: &RxQueue, traffic: Traffic, seed: u64) -> Result<(), Error> {
    // Leaked: some hundred bytes, that the queue's callback may use until the process ends.
    let source = Box::into_raw(Box::new(Source::new(traffic, seed)));
    let (port, queue) = (queue.port(), queue.queue());
    // SAFETY: the queue exists, and nobody polls it now, since it is borrowed; `fill` takes what is passed here.
    let callback = unsafe { sys::rte_eth_add_rx_callback(port, queue, Some(fill), source.cast()) };
    if callback.is_null() {
        return Err(Error::Peer("this DPDK is built without receive callbacks"));
    }
    Ok(())
}
