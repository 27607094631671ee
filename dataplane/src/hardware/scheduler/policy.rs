//! By what directions are chosen.

/// How directions are chosen. Rates are packets a second, times milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// From this rate on a direction may go in.
    pub hot: u64,
    /// Below this rate it comes out again.
    pub cold: u64,
    /// A direction that is to replace another must have so many percent of its rate.
    pub better_percent: u64,
    /// A rule stays at least so long.
    pub residence: u64,
    /// Rules made a second at most.
    pub budget: u64,
    /// Orders that may be under way at a time.
    pub in_flight: usize,
    /// The most rules.
    pub capacity: usize,
    /// So long after the NIC was full, a little more is tried.
    pub relearn: u64,
    /// A direction that is refused is put off for so long; then twice as long each time,
    pub retry: u64,
    /// and at most so long.
    pub retry_most: u64,
    /// A rule that does not go is tried to be removed at least so often: its packets go by it meanwhile.
    pub removal_most: u64,
    /// Directions that wait for their turn, at most; and as many that are only watched.
    pub waiting: usize,
    /// A direction of which nothing was heard for so long is not put in.
    pub forget: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            hot: 1000,
            cold: 100,
            better_percent: 150,
            residence: 5_000,
            budget: 10_000,
            in_flight: 256,
            capacity: 1 << 20,
            relearn: 10_000,
            retry: 1_000,
            retry_most: 300_000,
            removal_most: 4_000,
            waiting: 1 << 16,
            forget: 3_000,
        }
    }
}
