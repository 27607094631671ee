//! The state of one direction, as workers see it.

/// Where the packets of one direction go. Stored in the entry as one byte.
///
/// Control sets states; workers make the few moves that can't wait, by compare-exchange:
/// flying to [`Closing`](Self::Closing) (a plausible FIN, RST or SYN), [`Software`](Self::Software) to
/// [`Candidate`](Self::Candidate) (a longer packet than proved), [`Probing`](Self::Probing) to
/// [`Holding`](Self::Holding) (the probe is on its way), [`Holding`](Self::Holding) to
/// [`Candidate`](Self::Candidate) (it took too long).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryState {
    /// To the kernel, and fingerprinted: the kernel has not proved this direction yet.
    Candidate = 0,
    /// Proved, but earlier packets are still on their way through the kernel: workers hold packets back
    /// for some milliseconds, so that none overtakes.
    Holding = 1,
    /// Over the fast path.
    Software = 2,
    /// Over the fast path, but the next packet goes to the kernel as the probe.
    Probing = 3,
    /// To the kernel: a plausible FIN, RST or SYN was seen.
    Closing = 4,
}

impl EntryState {
    /// The state of a stored byte; anything unknown is given to the kernel.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Holding,
            2 => Self::Software,
            3 => Self::Probing,
            4 => Self::Closing,
            _ => Self::Candidate,
        }
    }

    /// The state's name, as users see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Holding => "holding",
            Self::Software => "software",
            Self::Probing => "probing",
            Self::Closing => "closing",
        }
    }
}
