//! Which queue of a net_tap port gets a packet from the kernel.
//!
//! A multi-queue tap learns from what is written to it: a flow's packets come to the queue on which a packet of its
//! other direction was written last, whatever still waits in another queue ("we may get a very small possibility of OOO
//! during switching", drivers/net/tun.c: tun_get_user). With workers that carry a direction each the flow goes to and
//! fro. So a program chooses by the packet's addresses and ports alone, as the RSS of a NIC does.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{IFF_MULTI_QUEUE, c_int};
use nix::errno::Errno;

use super::{Port, PortError};
use crate::dpdk::netdev::Netdev;
use crate::dpdk::tun;

nix::ioctl_write_ptr_bad!(tun_set_steering, nix::request_code_read!(b'T', 224, size_of::<c_int>()), c_int);

impl Port {
    /// Has a net_tap port of several queues keep each flow on one of them. Other devices do that by themselves.
    ///
    /// # Errors
    /// When the kernel has no BPF for it, or does not permit it (CAP_BPF or CAP_SYS_ADMIN): then packets of a flow may
    /// leave out of order.
    pub fn keep_flows_on_queues(&self) -> Result<(), PortError> {
        let inner = &self.inner;
        let queues = inner.state().rx_queues;
        if inner.driver != "net_tap" || queues < 2 {
            return Ok(());
        }
        let index = inner.info()?.if_index;
        inner
            .within(|| steer(index))?
            .map_err(|source| PortError::Steering { device: inner.name.clone(), source })
    }
}

/// Sets the program for the device with this index of the calling thread's network namespace.
fn steer(index: u32) -> io::Result<()> {
    let name = Netdev::by_index(index)?.name().to_owned();
    let program = load(&program())?;
    // The driver keeps its descriptors to itself, and attaching another one would add a queue and set the tap's flags
    // anew. So they are looked for among the process's own.
    let mut found = false;
    for (fd, _) in tun::descriptors()?.filter(|(fd, _)| is_queue_of(*fd, &name)) {
        let program: c_int = program.as_raw_fd();
        // SAFETY: the kernel reads an int. A descriptor that is no tap's by now refuses.
        unsafe { tun_set_steering(fd, &raw const program) }?;
        found = true;
    }
    if found { Ok(()) } else { Err(Errno::ENODEV.into()) }
}

/// Whether a descriptor is a queue of a multi-queue tap of this name. One of the same name in another namespace is a
/// port's of this process as well, and gets the same program.
fn is_queue_of(fd: RawFd, name: &str) -> bool {
    tun::interface(fd).is_ok_and(|found| found.flags & IFF_MULTI_QUEUE != 0 && found.name == name)
}

/// linux/bpf.h: struct bpf_insn.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn op(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: src << 4 | dst, offset, immediate }
}

// Codes of linux/bpf_common.h and linux/bpf.h.
const LOAD_WORD: u8 = 0x40;
const LOAD_HALF: u8 = 0x48;
const LOAD_BYTE: u8 = 0x50;
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_ANY_BIT: u8 = 0x45;
const EXIT: u8 = 0x95;
const SET: u8 = 0xb7;
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;
const ADD_REGISTER: u8 = 0x0f;
const AND: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const COPY32: u8 = 0xbc;
const XOR32: u8 = 0xac;
const MULTIPLY32: u8 = 0x24;
const SHIFT_RIGHT32: u8 = 0x74;

const RESULT: u8 = 0;
/// Where packets are loaded from.
const CONTEXT: u8 = 6;
const HASH: u8 = 7;
/// Offsets of the headers.
const L4: u8 = 8;
const L3: u8 = 9;
/// 2^32 divided by the golden ratio spreads neighbouring numbers (Knuth, TAOCP 6.4).
const SPREAD: i32 = 0x9e37_79b1_u32.cast_signed();

/// Loads from behind an offset in a register into [`RESULT`]. A packet that is too short ends the program with 0.
const fn load_at(code: u8, register: u8, offset: i32) -> Instruction {
    op(code, 0, register, 0, offset)
}

const fn mix(register: u8) -> Instruction {
    op(XOR32, HASH, register, 0, 0)
}

/// Addresses and, of TCP and UDP that is no fragment, ports make a number. The kernel divides it by the number of
/// queues and takes the rest.
fn program() -> Vec<Instruction> {
    let spread = op(MULTIPLY32, HASH, 0, 0, SPREAD);
    let ports = [spread, load_at(LOAD_WORD, L4, 0), mix(RESULT)];
    let end = [
        op(COPY32, L4, HASH, 0, 0),
        op(SHIFT_RIGHT32, L4, 0, 0, 16),
        mix(L4),
        spread,
        op(SHIFT_RIGHT32, HASH, 0, 0, 16),
        op(COPY32, RESULT, HASH, 0, 0),
        op(EXIT, 0, 0, 0, 0),
    ];
    let protocol = [
        op(JUMP_EQUAL, RESULT, 0, 2, libc::IPPROTO_TCP),
        op(JUMP_EQUAL, RESULT, 0, 1, libc::IPPROTO_UDP),
        op(JUMP, 0, 0, ports.len() as i16, 0),
    ];
    let mut ipv6 = Vec::new();
    for word in 0..8 {
        ipv6.extend([load_at(LOAD_WORD, L3, 8 + 4 * word), mix(RESULT)]);
    }
    ipv6.extend([op(COPY, L4, L3, 0, 0), op(ADD, L4, 0, 0, 40), load_at(LOAD_BYTE, L3, 6)]);
    let mut ipv4 = vec![
        load_at(LOAD_WORD, L3, 12),
        mix(RESULT),
        load_at(LOAD_WORD, L3, 16),
        mix(RESULT),
        load_at(LOAD_BYTE, L3, 0),
        op(AND, RESULT, 0, 0, 0x0f),
        op(SHIFT_LEFT, RESULT, 0, 0, 2),
        op(COPY, L4, RESULT, 0, 0),
        op(ADD_REGISTER, L4, L3, 0, 0),
        load_at(LOAD_HALF, L3, 6),
    ];
    let rest = 2 + ipv6.len() + protocol.len() + ports.len();
    ipv4.push(op(JUMP_ANY_BIT, RESULT, 0, rest as i16, 0x3fff));
    ipv4.extend([load_at(LOAD_BYTE, L3, 9), op(JUMP, 0, 0, ipv6.len() as i16, 0)]);
    let start = [
        op(COPY, CONTEXT, 1, 0, 0),
        op(SET, HASH, 0, 0, 0),
        // Behind one VLAN tag; what has more is one flow.
        op(SET, L3, 0, 0, 14),
        load_at(LOAD_HALF, L3, -2),
        op(JUMP_NOT_EQUAL, RESULT, 0, 2, libc::ETH_P_8021Q),
        op(SET, L3, 0, 0, 18),
        load_at(LOAD_HALF, L3, -2),
        op(JUMP_EQUAL, RESULT, 0, 3, libc::ETH_P_IP),
        op(JUMP_EQUAL, RESULT, 0, 2 + ipv4.len() as i16, libc::ETH_P_IPV6),
        op(SET, RESULT, 0, 0, 0),
        op(EXIT, 0, 0, 0, 0),
    ];
    [&start[..], &ipv4, &ipv6, &protocol, &ports, &end].concat()
}

/// The first members of linux/bpf.h: union bpf_attr, as BPF_PROG_LOAD reads them.
#[repr(C)]
#[derive(Debug)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

const BPF_PROG_LOAD: c_int = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = LoadAttributes {
        kind: BPF_PROG_TYPE_SOCKET_FILTER,
        count: program.len() as u32,
        instructions: program.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the attributes are as long as is said, and what they point to lives until the call returns.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<LoadAttributes>())
    };
    match RawFd::try_from(fd) {
        // SAFETY: the descriptor is new, and nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::testing::Frame;

    /// linux/bpf.h: union bpf_attr, as BPF_PROG_TEST_RUN reads it.
    #[repr(C)]
    #[derive(Debug, Default)]
    struct RunAttributes {
        program: u32,
        result: u32,
        size_in: u32,
        size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }

    /// The kernel skips an Ethernet header before it runs a socket filter, and a tap does not.
    fn queue(program: &OwnedFd, frame: &[u8], queues: u32) -> u32 {
        let data = [&[0; 14][..], frame].concat();
        let mut run = RunAttributes {
            program: program.as_raw_fd().cast_unsigned(),
            size_in: data.len() as u32,
            data_in: data.as_ptr().addr() as u64,
            ..RunAttributes::default()
        };
        // SAFETY: as in `load`.
        let ret = unsafe { libc::syscall(libc::SYS_bpf, 10, &raw mut run, size_of::<RunAttributes>()) };
        assert_eq!(ret, 0, "{}", io::Error::last_os_error());
        run.result % queues
    }

    #[test]
    fn a_flow_has_a_queue_and_flows_have_all() {
        let program = match load(&program()) {
            // A container's root may not load programs: nothing to see then.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
            program => program.expect("the kernel takes it"),
        };
        let families = [("10.0.0.2", "192.0.2.9"), ("[fd00::2]", "[2001:db8::9]")];
        for (from, to) in families {
            let mut flows = [0; 4];
            for port in 0..400 {
                let [from, to] = [format!("{from}:{}", 4000 + port), format!("{to}:80")];
                let flow = |payload: &[u8]| Frame::udp(&from, &to).payload(payload).build();
                let first = queue(&program, &flow(&[1]), 4);
                assert_eq!(first, queue(&program, &flow(&[2; 500]), 4));
                flows[first as usize] += 1;
            }
            assert!(flows.iter().all(|flows| (50..150).contains(flows)), "{flows:?}");
        }
        assert_eq!(queue(&program, &[0xff; 60], 4), 0);
    }
}
