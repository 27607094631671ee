//! What the punt thread sends: frames to workers, and then, what they prove, to control.
//!
//! A proof, or the word that a direction has settled, lets packets fly. The worker that carries them may be another
//! than the one that sends the kernel's frames, so control hears nothing before those are with the driver: else the
//! packets would overtake them.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::{FromKernel, KernelFrames, Observation};

/// Frames and observations on their way out, in this order.
#[derive(Debug)]
pub(super) struct Outbox {
    workers: Vec<Arc<KernelFrames>>,
    /// Frames given to each worker so far.
    given: Vec<u64>,
    /// The first `ripening` of `waiting` wait until each worker has sent so many.
    goal: Vec<u64>,
    ripening: usize,
    waiting: VecDeque<Observation>,
    control: Arc<ArrayQueue<Observation>>,
}

impl Outbox {
    /// Frames of port `i` go to worker `i % len`.
    pub(super) fn new(workers: Vec<Arc<KernelFrames>>, control: Arc<ArrayQueue<Observation>>) -> Self {
        let none = vec![0; workers.len()];
        Self { given: none.clone(), goal: none, workers, ripening: 0, waiting: VecDeque::new(), control }
    }

    /// Hands a frame to the worker of its port; false if that has no room for it.
    pub(super) fn send(&mut self, frame: FromKernel) -> bool {
        let worker = usize::from(frame.port) % self.workers.len().max(1);
        let (Some(frames), Some(given)) = (self.workers.get(worker), self.given.get_mut(worker)) else {
            return false;
        };
        let sent = frames.push(frame).is_ok();
        *given += u64::from(sent);
        sent
    }

    /// Has something to tell control, behind all that was said and sent before; false if there is no room for it.
    pub(super) fn tell(&mut self, observation: Observation) -> bool {
        let room = self.waiting.len() < self.control.capacity();
        if room {
            self.waiting.push_back(observation);
        }
        room
    }

    /// Tells control what may be told by now. Says how much there was, and how much of it control had no room for.
    pub(super) fn deliver(&mut self) -> (usize, u64) {
        let (mut told, mut lost) = (0, 0);
        loop {
            if self.ripening == 0 {
                self.ripening = self.waiting.len();
                self.goal.clone_from(&self.given);
            }
            if self.ripening == 0 || !self.is_ripe() {
                return (told, lost);
            }
            for observation in self.waiting.drain(..std::mem::take(&mut self.ripening)) {
                told += 1;
                lost += u64::from(self.control.push(observation).is_err());
            }
        }
    }

    /// Something could not be told yet.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn is_ripe(&self) -> bool {
        // A single worker fetches its frames after it has read the states, and so keeps the order by itself.
        self.workers.len() < 2
            || self.workers.iter().zip(&self.goal).all(|(worker, goal)| worker.sent() >= *goal)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::dpdk::testing::Bench;
    use crate::flow::{FlowRef, Slot};

    fn settled(number: u16) -> Observation {
        Observation::Settled(FlowRef { slot: Slot::from_bits(1).expect("not 0"), generation: number }, 0)
    }

    fn outbox(workers: usize, room: usize) -> (Outbox, Vec<Arc<KernelFrames>>, Arc<ArrayQueue<Observation>>) {
        let frames: Vec<_> = (0..workers).map(|_| Arc::new(KernelFrames::new(8))).collect();
        let control = Arc::new(ArrayQueue::new(room));
        (Outbox::new(frames.clone(), Arc::clone(&control)), frames, control)
    }

    fn told(control: &ArrayQueue<Observation>) -> Vec<u16> {
        let told = std::iter::from_fn(|| control.pop());
        told.map(|observation| match observation {
            Observation::Settled(flow, _) => flow.generation,
            other => panic!("{other:?}"),
        })
        .collect()
    }

    #[test]
    fn nothing_is_told_before_the_frames_ahead_of_it_are_sent() {
        let bench = Bench::new();
        let frame = |port| FromKernel { mbuf: bench.packet(&[1]), port };
        let (mut outbox, workers, control) = outbox(2, 8);
        assert!(outbox.send(frame(0)) && outbox.send(frame(3)) && outbox.send(frame(1)));
        assert!(outbox.tell(settled(1)));
        assert_eq!(outbox.deliver(), (0, 0));
        assert!(outbox.is_waiting());
        // What comes later is no reason to wait for longer.
        assert!(outbox.send(frame(0)) && outbox.tell(settled(2)));
        workers[0].set_sent(1);
        assert_eq!((outbox.deliver(), told(&control)), ((0, 0), vec![]), "the other worker is behind");
        workers[1].set_sent(2);
        assert_eq!((outbox.deliver(), told(&control)), ((1, 0), vec![1]));
        workers[0].set_sent(2);
        assert_eq!((outbox.deliver(), told(&control)), ((1, 0), vec![2]));
        assert!(!outbox.is_waiting());
    }

    #[test]
    fn a_single_worker_is_not_waited_for() {
        let bench = Bench::new();
        let (mut outbox, _workers, control) = outbox(1, 8);
        assert!(outbox.send(FromKernel { mbuf: bench.packet(&[1]), port: 1 }) && outbox.tell(settled(1)));
        assert_eq!((outbox.deliver(), told(&control)), ((1, 0), vec![1]));
    }

    #[test]
    fn what_has_no_room_is_said() {
        let bench = Bench::new();
        let (mut outbox, workers, control) = outbox(2, 1);
        for _ in 0..8 {
            assert!(outbox.send(FromKernel { mbuf: bench.packet(&[1]), port: 0 }));
        }
        assert!(!outbox.send(FromKernel { mbuf: bench.packet(&[1]), port: 0 }), "the ring is full");
        assert!(outbox.tell(settled(1)));
        assert!(!outbox.tell(settled(2)), "no more waits than control could take");
        workers[0].set_sent(8);
        assert_eq!(outbox.deliver(), (1, 0), "a frame that found no room is not waited for");
        assert!(outbox.tell(settled(3)));
        assert_eq!((outbox.deliver(), told(&control)), ((1, 1), vec![1]));
    }
}
