//! Any bytes as a filter's program and a packet.

use arbitrary::Unstructured;

use super::{Filter, Instruction, Template};
use crate::packet::{L2Header, parse};

/// Bytes of an instruction: code, two skips, operand.
const INSTRUCTION: usize = 7;

/// A number of instructions, these, then a packet: what is taken ends, and what passes of a flow may pass.
pub fn filter(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let count = input.arbitrary::<u8>().unwrap_or_default();
    let mut program = Vec::new();
    for _ in 0..count & 0x7f {
        let Ok([code, jt, jf, k @ ..]) = input.arbitrary::<[u8; INSTRUCTION]>() else { break };
        program.push(Instruction { code: code.into(), jt, jf, k: u32::from_be_bytes(k) });
    }
    if count & 0x80 != 0 {
        // Two ends, which a fuzzer finds late.
        program.extend([0, u32::MAX].map(|k| Instruction { code: 6, jt: 0, jf: 0, k }));
    }
    let packet = input.take_rest();
    let Ok(filter) = Filter::new(&program) else { return };
    let returned = filter.run(packet, packet.len() as u32);
    assert_eq!(returned, simply(&program, packet));
    let passes = filter.passes(packet, packet.len() as u32);
    assert_eq!(passes, returned != 0);
    let (Ok(headers), Some(header)) = (parse(packet, 0), L2Header::learn(packet)) else { return };
    let received = Template::received(&headers.ingress, &headers.key);
    let leaving = Template::leaving(header.bytes(), header.pppoe_length_offset(), &headers.key);
    // Both ways are asked, whatever the answer, to see that they end.
    let may = [received, leaving].map(|template| filter.may_pass(&template));
    assert!(!passes || may == [true, true], "{program:?} of {headers:?}");
}

/// The machine as `bpf(4)` has it, instruction by instruction. The program is one that was taken.
fn simply(program: &[Instruction], packet: &[u8]) -> u32 {
    let (mut a, mut x, mut cells, mut at) = (0_u32, 0_u32, [0_u32; 16], 0);
    let read = |offset: u64, bytes: u64| -> Option<u32> {
        let bytes = packet.get(usize::try_from(offset).ok()?..usize::try_from(offset + bytes).ok()?)?;
        Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    };
    let size = |code: u16| [4, 2, 1, 8][usize::from(code >> 3 & 3)];
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let operand = if code & 8 == 0 { k } else { x };
        let loaded = match code {
            0x20 | 0x28 | 0x30 => read(k.into(), size(code)),
            0x40 | 0x48 | 0x50 => read(u64::from(x) + u64::from(k), size(code)),
            0xb1 => read(k.into(), 1).map(|byte| 4 * (byte & 15)),
            0x34 | 0x3c | 0x94 | 0x9c if operand == 0 => None,
            _ => Some(0),
        };
        let Some(loaded) = loaded else { return 0 };
        match code {
            0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 => a = loaded,
            0xb1 => x = loaded,
            0x00 => a = k,
            0x01 => x = k,
            0x60 => a = cells[k as usize],
            0x61 => x = cells[k as usize],
            0x80 => a = packet.len() as u32,
            0x81 => x = packet.len() as u32,
            0x02 => cells[k as usize] = a,
            0x03 => cells[k as usize] = x,
            0x84 => a = 0_u32.wrapping_sub(a),
            0x04 | 0x0c => a = (u64::from(a) + u64::from(operand)) as u32,
            0x14 | 0x1c => a = a.wrapping_sub(operand),
            0x24 | 0x2c => a = (u64::from(a) * u64::from(operand)) as u32,
            0x34 | 0x3c => a /= operand,
            0x44 | 0x4c => a |= operand,
            0x54 | 0x5c => a &= operand,
            0x64 | 0x6c => a = a.checked_shl(operand).unwrap_or(0),
            0x74 | 0x7c => a = a.checked_shr(operand).unwrap_or(0),
            0x94 | 0x9c => a %= operand,
            0xa4 | 0xac => a ^= operand,
            0x05 => at += k as usize,
            0x15 | 0x1d => at += usize::from(if a == operand { jt } else { jf }),
            0x25 | 0x2d => at += usize::from(if a > operand { jt } else { jf }),
            0x35 | 0x3d => at += usize::from(if a >= operand { jt } else { jf }),
            0x45 | 0x4d => at += usize::from(if a & operand != 0 { jt } else { jf }),
            0x06 => return k,
            0x16 => return a,
            0x07 => x = a,
            0x87 => a = x,
            _ => panic!("{code:#x} was taken"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::filter::tests::DNS;
    use crate::fuzz::replay;
    use crate::packet::fuzz::tests::frames;

    #[test]
    fn corpus_of_filter() {
        let bytes =
            |one: &Instruction| [&[one.code as u8, one.jt, one.jf], &one.k.to_be_bytes()[..]].concat();
        let program: Vec<u8> = DNS.iter().flat_map(bytes).collect();
        let mut seeds: Vec<_> = frames()
            .iter()
            .map(|frame| [&[DNS.len() as u8], &program[..], &frame.build()].concat())
            .collect();
        // One instruction of each kind, behind loads of both registers.
        for code in 0..=u8::MAX {
            let one = [
                0x28, 0, 0, 0, 0, 0, 12, 0x01, 0, 0, 0, 0, 0, 3, code, 1, 0, 0, 0, 0, 2, 0x16, 0, 0, 0, 0, 0,
                0,
            ];
            if Filter::new(&[Instruction { code: code.into(), jt: 0, jf: 0, k: 1 }, DNS[7], DNS[8]]).is_ok() {
                seeds.push([&[4 | 0x80], &one[..], &frames()[0].build()].concat());
            }
        }
        replay(env!("CARGO_MANIFEST_DIR"), "filter", filter, &seeds);
    }
}
