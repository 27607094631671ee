//! Filters: programs for the classic BPF machine, as libpcap compiles them, run on a packet.
//!
//! A program comes from elsewhere. It is judged as a whole before it runs: every operation is known, every jump goes
//! forward and stays inside, memory cells exist, and the end is a return. So it ends after as many steps as it has
//! instructions at the most, and touches nothing but the packet.

use thiserror::Error;

/// The longest program that is run on each packet.
pub const MOST_INSTRUCTIONS: usize = 512;

const CELLS: usize = 16;

/// An instruction of the classic BPF machine, as in `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip if a comparison holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// An operand.
    pub k: u32,
}

/// Why a program is not run.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FilterError {
    /// Too long.
    #[error(
        "the filter takes {0} instructions; at most {MOST_INSTRUCTIONS} are run on each packet: ask for less at a time"
    )]
    TooLong(usize),
    /// It does not end with a return.
    #[error("the program does not end with a return")]
    NoReturn,
    /// An operation that the machine does not have.
    #[error("instruction {0}: operation {1:#x} is unknown")]
    Unknown(usize, u16),
    /// A jump leads out of the program.
    #[error("instruction {0} jumps out of the program")]
    JumpsOut(usize),
    /// A memory cell that does not exist.
    #[error("instruction {0} uses memory cell {1}; there are {CELLS}")]
    NoCell(usize, u32),
    /// A division by the constant 0, or a shift by more than a word has bits.
    #[error("instruction {0} divides or shifts by {1}")]
    Operand(usize, u32),
}

/// How many bytes a load takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Word = 4,
    Half = 2,
    Byte = 1,
}

/// Operations on the accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    Or,
    And,
    Lsh,
    Rsh,
    Mod,
    Xor,
}

/// Comparisons with the accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    Greater,
    GreaterOrEqual,
    AnyBit,
}

/// The second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Constant(u32),
    Index,
}

/// An instruction, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    LoadAbsolute(Size, u32),
    LoadIndirect(Size, u32),
    LoadConstant(u32),
    LoadLength,
    LoadCell(u8),
    IndexConstant(u32),
    IndexLength,
    IndexCell(u8),
    IndexHeader(u32),
    StoreAccumulator(u8),
    StoreIndex(u8),
    Compute(Alu, Operand),
    Negate,
    Skip(u32),
    Branch(Compare, Operand, u8, u8),
    Return(u32),
    ReturnAccumulator,
    ToIndex,
    ToAccumulator,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub(super) steps: Box<[Step]>,
}

impl Filter {
    /// A filter that every packet passes.
    pub fn everything() -> Self {
        Self { steps: Box::new([Step::Return(u32::MAX)]) }
    }

    /// Judges a program.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(program: &[Instruction]) -> Result<Self, FilterError> {
        if program.len() > MOST_INSTRUCTIONS {
            return Err(FilterError::TooLong(program.len()));
        }
        let steps =
            program.iter().enumerate().map(|(at, instruction)| judge(at, *instruction, program.len()));
        let steps: Box<[Step]> = steps.collect::<Result<_, _>>()?;
        match steps.last() {
            Some(Step::Return(_) | Step::ReturnAccumulator) => Ok(Self { steps }),
            _ => Err(FilterError::NoReturn),
        }
    }

    /// Whether a packet passes, of which `packet` are the first bytes and `length` all.
    pub fn passes(&self, packet: &[u8], length: u32) -> bool {
        self.run(packet, length) != 0
    }

    /// What the program returns; 0 where it reads what the packet does not have.
    pub(super) fn run(&self, packet: &[u8], length: u32) -> u32 {
        let (mut a, mut x, mut cells) = (0_u32, 0_u32, [0_u32; CELLS]);
        let mut at = 0_usize;
        while let Some(step) = self.steps.get(at) {
            at += 1;
            let loaded = match *step {
                Step::LoadAbsolute(size, k) => load(packet, size, Some(k)),
                Step::LoadIndirect(size, k) => load(packet, size, x.checked_add(k)),
                Step::IndexHeader(k) => load(packet, Size::Byte, Some(k)).map(|byte| (byte & 0xf) << 2),
                Step::LoadConstant(k) | Step::IndexConstant(k) => Some(k),
                Step::LoadLength | Step::IndexLength => Some(length),
                Step::LoadCell(cell) | Step::IndexCell(cell) => cells.get(usize::from(cell)).copied(),
                Step::Compute(alu, operand) => compute(alu, a, operand.value(x)),
                Step::Negate => Some(a.wrapping_neg()),
                _ => Some(0),
            };
            let Some(loaded) = loaded else { return 0 };
            match *step {
                Step::LoadAbsolute(..)
                | Step::LoadIndirect(..)
                | Step::LoadConstant(_)
                | Step::LoadLength
                | Step::LoadCell(_)
                | Step::Compute(..)
                | Step::Negate => a = loaded,
                Step::IndexConstant(_) | Step::IndexLength | Step::IndexCell(_) | Step::IndexHeader(_) => {
                    x = loaded;
                }
                Step::StoreAccumulator(cell) => store(&mut cells, cell, a),
                Step::StoreIndex(cell) => store(&mut cells, cell, x),
                Step::Skip(by) => at += by as usize,
                Step::Branch(compare, operand, jt, jf) => {
                    at += usize::from(if compare.holds(a, operand.value(x)) { jt } else { jf });
                }
                Step::Return(value) => return value,
                Step::ReturnAccumulator => return a,
                Step::ToIndex => x = a,
                Step::ToAccumulator => a = x,
            }
        }
        0
    }
}

impl Operand {
    const fn value(self, x: u32) -> u32 {
        match self {
            Self::Constant(k) => k,
            Self::Index => x,
        }
    }
}

impl Compare {
    pub(super) const fn holds(self, a: u32, b: u32) -> bool {
        match self {
            Self::Equal => a == b,
            Self::Greater => a > b,
            Self::GreaterOrEqual => a >= b,
            Self::AnyBit => a & b != 0,
        }
    }
}

fn store(cells: &mut [u32; CELLS], cell: u8, value: u32) {
    if let Some(place) = cells.get_mut(usize::from(cell)) {
        *place = value;
    }
}

fn load(packet: &[u8], size: Size, offset: Option<u32>) -> Option<u32> {
    let bytes = packet.get(offset? as usize..)?;
    Some(match size {
        Size::Word => u32::from_be_bytes(*bytes.first_chunk()?),
        Size::Half => u32::from(u16::from_be_bytes(*bytes.first_chunk()?)),
        Size::Byte => u32::from(*bytes.first()?),
    })
}

/// `None`: a division by 0, by which no packet passes.
pub(super) const fn compute(alu: Alu, a: u32, b: u32) -> Option<u32> {
    Some(match alu {
        Alu::Add => a.wrapping_add(b),
        Alu::Sub => a.wrapping_sub(b),
        Alu::Mul => a.wrapping_mul(b),
        Alu::Div => return a.checked_div(b),
        Alu::Mod => return a.checked_rem(b),
        Alu::Or => a | b,
        Alu::And => a & b,
        Alu::Xor => a ^ b,
        // Where libpcap's own machine shifts by 32 or more, nothing is left.
        Alu::Lsh if b < 32 => a << b,
        Alu::Rsh if b < 32 => a >> b,
        Alu::Lsh | Alu::Rsh => 0,
    })
}

/// An instruction in its place; names as in `pcap/bpf.h`.
fn judge(at: usize, instruction: Instruction, len: usize) -> Result<Step, FilterError> {
    let Instruction { code, jt, jf, k } = instruction;
    let unknown = FilterError::Unknown(at, code);
    let cell = || match u8::try_from(k) {
        Ok(cell) if usize::from(cell) < CELLS => Ok(cell),
        _ => Err(FilterError::NoCell(at, k)),
    };
    let size = || match code & 0x18 {
        0x00 => Ok(Size::Word),
        0x08 => Ok(Size::Half),
        0x10 => Ok(Size::Byte),
        _ => Err(unknown),
    };
    let within = |by: u64| {
        if at as u64 + 1 + by < len as u64 { Ok(()) } else { Err(FilterError::JumpsOut(at)) }
    };
    let operand = if code & 0x08 == 0 { Operand::Constant(k) } else { Operand::Index };
    // The class, and within some the mode.
    Ok(match (code & 0x07, code & 0xe0) {
        _ if code > 0xff => return Err(unknown),
        (0x00, 0x20) => Step::LoadAbsolute(size()?, k),
        (0x00, 0x40) => Step::LoadIndirect(size()?, k),
        (0x00, 0x00) if code == 0x00 => Step::LoadConstant(k),
        (0x00, 0x60) if code == 0x60 => Step::LoadCell(cell()?),
        (0x00, 0x80) if code == 0x80 => Step::LoadLength,
        (0x01, 0x00) if code == 0x01 => Step::IndexConstant(k),
        (0x01, 0x60) if code == 0x61 => Step::IndexCell(cell()?),
        (0x01, 0x80) if code == 0x81 => Step::IndexLength,
        (0x01, 0xa0) if code == 0xb1 => Step::IndexHeader(k),
        (0x02, _) if code == 0x02 => Step::StoreAccumulator(cell()?),
        (0x03, _) if code == 0x03 => Step::StoreIndex(cell()?),
        (0x04, _) if code == 0x84 => Step::Negate,
        (0x04, _) => {
            let alu = match code & 0xf0 {
                0x00 => Alu::Add,
                0x10 => Alu::Sub,
                0x20 => Alu::Mul,
                0x30 => Alu::Div,
                0x40 => Alu::Or,
                0x50 => Alu::And,
                0x60 => Alu::Lsh,
                0x70 => Alu::Rsh,
                0x90 => Alu::Mod,
                0xa0 => Alu::Xor,
                _ => return Err(unknown),
            };
            match (alu, operand) {
                (Alu::Div | Alu::Mod, Operand::Constant(0))
                | (Alu::Lsh | Alu::Rsh, Operand::Constant(32..)) => {
                    return Err(FilterError::Operand(at, k));
                }
                _ => Step::Compute(alu, operand),
            }
        }
        (0x05, _) if code == 0x05 => {
            within(k.into())?;
            Step::Skip(k)
        }
        (0x05, _) => {
            let compare = match code & 0xf0 {
                0x10 => Compare::Equal,
                0x20 => Compare::Greater,
                0x30 => Compare::GreaterOrEqual,
                0x40 => Compare::AnyBit,
                _ => return Err(unknown),
            };
            within(jt.into())?;
            within(jf.into())?;
            Step::Branch(compare, operand, jt, jf)
        }
        (0x06, _) if code == 0x06 => Step::Return(k),
        (0x06, _) if code == 0x16 => Step::ReturnAccumulator,
        (0x07, _) if code == 0x07 => Step::ToIndex,
        (0x07, _) if code == 0x87 => Step::ToAccumulator,
        _ => return Err(unknown),
    })
}

#[cfg(test)]
pub(in crate::capture) mod tests {
    use super::*;

    const fn step(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    /// `tcpdump -dd -y EN10MB udp dst port 53 and ip`
    pub(in crate::capture) const DNS: [Instruction; 9] = [
        step(0x28, 0, 0, 12),
        step(0x15, 0, 6, 0x800),
        step(0x30, 0, 0, 23),
        step(0x15, 0, 4, 17),
        step(0xb1, 0, 0, 14),
        step(0x48, 0, 0, 16),
        step(0x15, 0, 1, 53),
        step(0x06, 0, 0, 0x40000),
        step(0x06, 0, 0, 0),
    ];

    #[test]
    fn a_packet_passes_by_its_bytes() {
        let filter = Filter::new(&DNS).expect("sound");
        let mut frame = vec![0; 60];
        (frame[12], frame[14], frame[23], frame[37]) = (8, 0x45, 17, 53);
        assert!(filter.passes(&frame, 60));
        frame[37] = 54;
        assert!(!filter.passes(&frame, 60));
        // Options move the ports.
        (frame[14], frame[41]) = (0x46, 53);
        assert!(filter.passes(&frame, 60));
        assert!(!filter.passes(&frame[..41], 60), "what is not there does not pass");
        assert!(Filter::everything().passes(&[], 0));
    }

    #[test]
    fn unsound_programs_are_refused() {
        let accept = step(0x06, 0, 0, 1);
        let refused = |program: &[Instruction]| Filter::new(program).expect_err("unsound");
        assert_eq!(refused(&[]), FilterError::NoReturn);
        assert_eq!(refused(&[step(0x00, 0, 0, 1)]), FilterError::NoReturn);
        assert_eq!(refused(&[step(0x05, 0, 0, 1), accept]), FilterError::JumpsOut(0));
        assert_eq!(refused(&[step(0x05, 0, 0, u32::MAX), accept]), FilterError::JumpsOut(0));
        assert_eq!(refused(&[step(0x15, 0, 1, 0), accept]), FilterError::JumpsOut(0));
        assert_eq!(refused(&[step(0x15, 1, 0, 0), accept]), FilterError::JumpsOut(0));
        assert_eq!(refused(&[step(0x60, 0, 0, 16), accept]), FilterError::NoCell(0, 16));
        assert_eq!(refused(&[step(0x02, 0, 0, 256), accept]), FilterError::NoCell(0, 256));
        assert_eq!(refused(&[step(0x34, 0, 0, 0), accept]), FilterError::Operand(0, 0));
        assert_eq!(refused(&[step(0x64, 0, 0, 32), accept]), FilterError::Operand(0, 32));
        assert_eq!(refused(&[step(0xff, 0, 0, 0), accept]), FilterError::Unknown(0, 0xff));
        assert_eq!(refused(&[step(0x128, 0, 0, 0), accept]), FilterError::Unknown(0, 0x128));
        assert_eq!(refused(&[accept; MOST_INSTRUCTIONS + 1]), FilterError::TooLong(MOST_INSTRUCTIONS + 1));
    }

    #[test]
    fn arithmetic_wraps_and_what_cannot_be_divided_does_not_pass() {
        let run = |program: &[Instruction]| Filter::new(program).expect("sound").run(&[1, 2, 3, 4], 4);
        let back = step(0x16, 0, 0, 0);
        assert_eq!(run(&[step(0x00, 0, 0, u32::MAX), step(0x04, 0, 0, 2), back]), 1);
        assert_eq!(run(&[step(0x00, 0, 0, 7), step(0x3c, 0, 0, 0), back]), 0, "divided by X, which is 0");
        assert_eq!(run(&[step(0x00, 0, 0, 7), step(0x84, 0, 0, 0), back]), 7_u32.wrapping_neg());
        // X + k beyond the end of the address space.
        assert_eq!(run(&[step(0x01, 0, 0, u32::MAX), step(0x50, 0, 0, 1), back]), 0);
        assert_eq!(run(&[step(0x80, 0, 0, 0), back]), 4);
        assert_eq!(run(&[step(0x20, 0, 0, 0), back]), 0x0102_0304);
        assert_eq!(run(&[step(0x20, 0, 0, 1), back]), 0, "a word that is cut short");
    }
}
