//! Timers of connections: a hashed wheel with lazy cancellation.

/// A wheel of `SLOTS` ticks. A timer further away than that waits for the wheel to come around again.
///
/// Cancelling is not needed: the owner remembers the tick for which a timer is meant, and a timer that
/// fires for another tick is ignored.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: Vec<Vec<(u32, u32)>>,
    now: u32,
}

const SLOTS: usize = 4096;

impl Wheel {
    pub(super) fn new() -> Self {
        Self { slots: vec![Vec::new(); SLOTS], now: 0 }
    }

    /// Arms a timer for `owner` at `tick`; a tick that has passed fires at the next one.
    /// Returns the tick at which it fires.
    pub(super) fn arm(&mut self, owner: u32, tick: u32) -> u32 {
        let tick =
            if tick.wrapping_sub(self.now).cast_signed() <= 0 { self.now.wrapping_add(1) } else { tick };
        self.slots[tick as usize % SLOTS].push((tick, owner));
        tick
    }

    /// Advances to `tick` and appends the owners whose timers fired, with the ticks they were meant for.
    pub(super) fn advance(&mut self, tick: u32, fired: &mut Vec<(u32, u32)>) {
        while self.now.wrapping_sub(tick).cast_signed() < 0 {
            self.now = self.now.wrapping_add(1);
            let now = self.now;
            let slot = &mut self.slots[now as usize % SLOTS];
            if slot.iter().all(|(due, _)| *due == now) {
                fired.append(slot);
            } else {
                fired.extend(slot.extract_if(.., |(due, _)| *due == now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_once_at_its_tick_even_after_a_turn_of_the_wheel() {
        let mut wheel = Wheel::new();
        wheel.arm(7, 10);
        wheel.arm(8, 10 + 2 * SLOTS as u32);
        let mut fired = Vec::new();
        wheel.advance(9, &mut fired);
        assert!(fired.is_empty());
        wheel.advance(20, &mut fired);
        assert_eq!(fired, [(10, 7)]);
        fired.clear();
        wheel.advance(9 + 2 * SLOTS as u32, &mut fired);
        assert!(fired.is_empty());
        wheel.advance(10 + 2 * SLOTS as u32, &mut fired);
        assert_eq!(fired, [(10 + 2 * SLOTS as u32, 8)]);
    }

    #[test]
    fn a_tick_in_the_past_fires_at_the_next_one() {
        let mut wheel = Wheel::new();
        let mut fired = Vec::new();
        wheel.advance(100, &mut fired);
        assert_eq!(wheel.arm(1, 40), 101);
        wheel.advance(101, &mut fired);
        assert_eq!(fired, [(101, 1)]);
    }
}
