//! Whether any packet of a flow can pass a filter, of which only addresses, ports and the like are known.
//!
//! The program is run on what is known. Where a comparison depends on what is not, both ways are taken: so the answer may
//! be yes though no packet passes, and is never no though one does.

use std::net::IpAddr;

use super::Filter;
use super::filter::{Alu, Operand, Size, Step, compute};
use crate::flow::Key;
use crate::packet::Ingress;
use crate::packet::wire::{ETHER_IPV4, ETHER_IPV6, ETHER_PPPOE_SESSION, PPP_IPV4, PPP_IPV6};

/// Steps after which the answer is yes.
const PATIENCE: usize = 4096;

const CELLS: usize = 16;

/// The frames of one direction at one place, as far as they are all alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Option<u8>>);

impl Template {
    /// As they come in.
    pub fn received(ingress: &Ingress, key: &Key) -> Self {
        let mut frame = Self::default();
        frame.known(&ingress.dst_mac());
        frame.unknown(6);
        for (tpid, tci) in ingress.tags().into_iter().flatten() {
            frame.known(&tpid.to_be_bytes());
            frame.known(&tci.to_be_bytes());
        }
        if let Some(session) = ingress.pppoe() {
            frame.known(&ETHER_PPPOE_SESSION.to_be_bytes());
            frame.known(&[0x11, 0]);
            frame.known(&session.to_be_bytes());
            frame.unknown(2);
            let protocol = if matches!(key, Key::V4(_)) { PPP_IPV4 } else { PPP_IPV6 };
            frame.known(&protocol.to_be_bytes());
        } else {
            let kind = if matches!(key, Key::V4(_)) { ETHER_IPV4 } else { ETHER_IPV6 };
            frame.known(&kind.to_be_bytes());
        }
        frame.packet(key);
        frame
    }

    /// As they leave, behind this L2 header; `length` is where it holds a length that is each packet's own.
    pub fn leaving(header: &[u8], length: Option<u8>, key: &Key) -> Self {
        let mut frame = Self::default();
        frame.known(header);
        for byte in length.iter().flat_map(|at| usize::from(*at)..usize::from(*at) + 2) {
            if let Some(place) = frame.0.get_mut(byte) {
                *place = None;
            }
        }
        frame.packet(key);
        frame
    }

    /// From the IP header on.
    fn packet(&mut self, key: &Key) {
        let tuple = key.tuple();
        match (tuple.src, tuple.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                self.known(&[0x45]);
                self.unknown(8);
                self.known(&[tuple.proto]);
                self.unknown(2);
                self.known(&src.octets());
                self.known(&dst.octets());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                self.unknown(6);
                self.known(&[tuple.proto]);
                self.unknown(1);
                self.known(&src.octets());
                self.known(&dst.octets());
            }
            _ => {}
        }
        self.known(&tuple.sport.to_be_bytes());
        self.known(&tuple.dport.to_be_bytes());
    }

    fn known(&mut self, bytes: &[u8]) {
        self.0.extend(bytes.iter().copied().map(Some));
    }

    fn unknown(&mut self, bytes: usize) {
        self.0.extend(std::iter::repeat_n(None, bytes));
    }

    /// `None`: it is not known.
    fn load(&self, size: Size, offset: Option<u32>) -> Option<u32> {
        let from = offset? as usize;
        let bytes = self.0.get(from..from.checked_add(size as usize)?)?;
        bytes.iter().try_fold(0, |value, byte| byte.map(|byte| value << 8 | u32::from(byte)))
    }
}

/// The machine on one of the ways through the program.
#[derive(Clone)]
struct Way {
    at: usize,
    a: Option<u32>,
    x: Option<u32>,
    cells: [Option<u32>; CELLS],
}

impl Filter {
    /// Whether one of these frames may pass.
    pub fn may_pass(&self, frames: &Template) -> bool {
        let mut ways = vec![Way { at: 0, a: Some(0), x: Some(0), cells: [Some(0); CELLS] }];
        let mut left = PATIENCE;
        while let Some(mut way) = ways.pop() {
            while let Some(step) = self.steps.get(way.at) {
                if left == 0 {
                    return true;
                }
                left -= 1;
                way.at += 1;
                match way.step(*step, frames) {
                    Next::On => {}
                    Next::Ends(passes) => {
                        if passes {
                            return true;
                        }
                        break;
                    }
                    Next::Either(one, other) => {
                        ways.push(Way { at: way.at + usize::from(other), ..way.clone() });
                        way.at += usize::from(one);
                    }
                }
            }
        }
        false
    }
}

enum Next {
    On,
    Ends(bool),
    Either(u8, u8),
}

impl Way {
    fn step(&mut self, step: Step, frames: &Template) -> Next {
        match step {
            Step::LoadAbsolute(size, k) => self.a = frames.load(size, Some(k)),
            Step::LoadIndirect(size, k) => {
                self.a = frames.load(size, self.x.and_then(|x| x.checked_add(k)));
            }
            Step::IndexHeader(k) => {
                self.x = frames.load(Size::Byte, Some(k)).map(|byte| (byte & 0xf) << 2);
            }
            Step::LoadConstant(k) => self.a = Some(k),
            Step::IndexConstant(k) => self.x = Some(k),
            Step::LoadLength => self.a = None,
            Step::IndexLength => self.x = None,
            Step::LoadCell(cell) => self.a = self.cells.get(usize::from(cell)).copied().flatten(),
            Step::IndexCell(cell) => self.x = self.cells.get(usize::from(cell)).copied().flatten(),
            Step::StoreAccumulator(cell) => self.store(cell, self.a),
            Step::StoreIndex(cell) => self.store(cell, self.x),
            Step::Compute(alu, operand) => match (self.a, self.operand(operand)) {
                (Some(a), Some(b)) => match compute(alu, a, b) {
                    Some(value) => self.a = Some(value),
                    None => return Next::Ends(false),
                },
                (_, Some(0)) if alu == Alu::And => self.a = Some(0),
                (_, Some(0)) if matches!(alu, Alu::Div | Alu::Mod) => return Next::Ends(false),
                _ => self.a = None,
            },
            Step::Negate => self.a = self.a.map(u32::wrapping_neg),
            Step::Skip(by) => self.at += by as usize,
            Step::Branch(compare, operand, jt, jf) => match (self.a, self.operand(operand)) {
                (Some(a), Some(b)) => self.at += usize::from(if compare.holds(a, b) { jt } else { jf }),
                _ if jt == jf => self.at += usize::from(jt),
                _ => return Next::Either(jt, jf),
            },
            Step::Return(value) => return Next::Ends(value != 0),
            Step::ReturnAccumulator => return Next::Ends(self.a != Some(0)),
            Step::ToIndex => self.x = self.a,
            Step::ToAccumulator => self.a = self.x,
        }
        Next::On
    }

    const fn operand(&self, operand: Operand) -> Option<u32> {
        match operand {
            Operand::Constant(k) => Some(k),
            Operand::Index => self.x,
        }
    }

    fn store(&mut self, cell: u8, value: Option<u32>) {
        if let Some(place) = self.cells.get_mut(usize::from(cell)) {
            *place = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Instruction;
    use super::*;
    use crate::flow::{FiveTuple, UDP};

    const fn step(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    /// Frames of UDP from 10.0.0.1:1000 to a port.
    fn to_port(dport: u16) -> Template {
        let [src, dst] = [[10, 0, 0, 1], [192, 0, 2, 1]].map(IpAddr::from);
        let tuple = FiveTuple { proto: UDP, src, dst, sport: 1000, dport };
        let key = Key::from_tuple(&tuple).expect("one family");
        Template::received(&Ingress::untagged(0, [2; 6]), &key)
    }

    /// `udp dst port 53`, and if `short` frames of up to 100 bytes alone.
    fn dns(short: bool) -> Filter {
        let mut program = vec![step(0x80, 0, 0, 0), step(0x25, 7, 0, if short { 100 } else { u32::MAX })];
        program.extend([
            step(0x30, 0, 0, 23),
            step(0x15, 0, 5, 17),
            step(0x28, 0, 0, 20),
            step(0x45, 3, 0, 0x1fff),
            step(0xb1, 0, 0, 14),
            step(0x48, 0, 0, 16),
            step(0x15, 0, 1, 53),
            step(0x06, 0, 0, 1),
            step(0x06, 0, 0, 0),
        ]);
        // The jumps above lead to the last but one, or the last.
        program[1].jt = 8;
        program[3].jf = 6;
        program[5].jt = 4;
        Filter::new(&program).expect("sound")
    }

    #[test]
    fn what_is_known_decides_and_what_is_not_may_be_either() {
        for short in [false, true] {
            assert!(dns(short).may_pass(&to_port(53)));
            assert!(!dns(short).may_pass(&to_port(54)));
        }
        assert!(Filter::everything().may_pass(&to_port(1)));
        let never = Filter::new(&[step(0x06, 0, 0, 0)]).expect("sound");
        assert!(!never.may_pass(&to_port(53)));
        // What the payload begins with.
        let payload = [step(0x30, 0, 0, 42), step(0x15, 0, 1, 7), step(0x06, 0, 0, 1), step(0x06, 0, 0, 0)];
        assert!(Filter::new(&payload).expect("sound").may_pass(&to_port(53)));
    }

    #[test]
    fn a_program_with_too_many_ways_may_pass() {
        let mut program: Vec<Instruction> = Vec::new();
        for _ in 0..200 {
            program.extend([step(0x30, 0, 0, 42), step(0x15, 0, 1, 7), step(0x04, 0, 0, 1)]);
        }
        program.truncate(500);
        program.push(step(0x06, 0, 0, 0));
        // The last jump may lead beyond the end now.
        program[499] = step(0x04, 0, 0, 1);
        let filter = Filter::new(&program).expect("sound");
        assert!(filter.may_pass(&to_port(53)));
    }
}
