//! The orders in which workers and control can meet, by loom's model checker.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p dataplane --lib loom_tests`
//!
//! Budget: two or three threads and at most three preemptions (four in the smallest tests); orders that need more are
//! not looked at. All of them together take some seconds.

#![allow(unsafe_code)]

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;

use super::sync::{AtomicU64, Ordering};
use super::tags::Mask;
use super::*;

fn model(preemptions: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(test);
}

fn table() -> (Arc<FlowTable>, TableWriter) {
    FlowTable::create(TableConfig { ipv6_share: 0, ..TableConfig::new(8) }).expect("memory")
}

fn connection(number: u32) -> (Key4, Key4) {
    let orig = Key4 { src: number, dst: 0x0100_000a, ports: 0x3500_3930, proto: UDP.into() };
    (orig, Key4 { src: orig.dst, dst: number ^ 0x6400_00c6, ports: 0x3930_3500, proto: UDP.into() })
}

fn insert(writer: &mut TableWriter, number: u32) -> [FlowRef; 2] {
    let (orig, reply) = connection(number);
    writer.insert_pair(&Key::V4(orig), &Key::V4(reply), number).expect("room")
}

/// Looks a connection up as a worker does. What is found must be all of it, and stay until we are quiescent.
fn look(table: &FlowTable, number: u32) -> bool {
    let (orig, reply) = connection(number);
    let (mut lookup, mut found) = (Lookup::default(), [None; 1]);
    table.lookup4(&[orig], &mut lookup, &mut found);
    let Some(slot) = found[0] else { return false };
    let entry = table.entry4(slot);
    assert_eq!(entry.leaves_as(), Key::V4(reply).inverted());
    if entry.state() == EntryState::Software {
        assert_eq!((entry.context(), entry.adjacency()), (7, AdjacencyId(9)));
    }
    assert_eq!(entry.key(), Key::V4(orig));
    true
}

#[test]
fn an_entry_appears_whole() {
    model(3, || {
        let (table, mut writer) = table();
        let reader = thread::spawn(move || {
            let _reader = table.qsbr().register().expect("a place");
            look(&table, 1);
        });
        let [flow, _] = insert(&mut writer, 1);
        writer.set_forwarding(flow.slot, 7, AdjacencyId(9), 0);
        writer.table().entry4(flow.slot).set_state(EntryState::Software);
        reader.join().expect("reader");
    });
}

/// A connection whose original direction would take the very slot that connection 1's leaves.
fn successor(table: &FlowTable) -> u32 {
    let place = |number: u32| {
        let probe = table.v4.probe(&connection(number).0);
        probe.first(probe.home(), Mask::MAX)
    };
    (2..).find(|&number| place(number) == place(1)).expect("some connection")
}

#[test]
fn a_slot_is_reused_behind_nobodys_back() {
    model(3, || {
        let (table, mut writer) = table();
        let next = successor(&table);
        let flows = insert(&mut writer, 1);
        let place = table.qsbr().register().expect("a place");
        let reader = thread::spawn(move || {
            look(&table, 1);
            place.quiescent();
            look(&table, next);
            look(&table, 1);
        });
        writer.remove_pair(flows);
        writer.reclaim();
        let reused = insert(&mut writer, next);
        if reused[0].slot == flows[0].slot {
            assert_eq!(reused[0].generation, flows[0].generation + 2);
        }
        reader.join().expect("reader");
        assert!(!look(writer.table(), 1) && look(writer.table(), next));
    });
}

/// Follows a mark as a worker does, for a packet of this connection. What is found must be all of it.
fn look_at(table: &FlowTable, mark: Mark, number: u32) -> bool {
    let (orig, reply) = connection(number);
    let mut lookup = Lookup::default();
    table.v4.follow(0, mark, &mut lookup);
    let Some((index, entry)) = table.v4.marked_guess(0, &orig, &lookup) else { return false };
    assert_eq!(Slot::v4(index).index4(), mark.index() as usize);
    assert_eq!((entry.view().key(), entry.view().leaves_as()), (Key::V4(orig), Key::V4(reply).inverted()));
    true
}

#[test]
fn a_mark_leads_to_its_flow_whole_or_nowhere() {
    model(3, || {
        let (table, mut writer) = table();
        let next = successor(&table);
        let flows = insert(&mut writer, 1);
        let mark = Mark::of(flows[0].slot).expect("a mark");
        let place = table.qsbr().register().expect("a place");
        let reader = thread::spawn(move || {
            look_at(&table, mark, 1);
            place.quiescent();
            let (new, old) = (look_at(&table, mark, next), look_at(&table, mark, 1));
            assert!(!(new && old), "one flow at a time");
        });
        writer.remove_pair(flows);
        writer.reclaim();
        let reused = insert(&mut writer, next);
        reader.join().expect("reader");
        assert!(!look_at(writer.table(), mark, 1));
        assert_eq!(look_at(writer.table(), mark, next), reused[0].slot == flows[0].slot);
    });
}

#[test]
fn a_worker_and_control_change_one_word() {
    model(3, || {
        let (table, mut writer) = table();
        let slot = insert(&mut writer, 1)[0].slot;
        table.entry4(slot).set_state(EntryState::Software);
        let worker =
            thread::spawn(move || table.entry4(slot).transition(EntryState::Software, EntryState::Closing));
        writer.set_forwarding(slot, 7, AdjacencyId(9), 3);
        let control = writer.table().entry4(slot).transition(EntryState::Software, EntryState::Probing);
        let worker = worker.join().expect("worker");
        assert!(worker != control, "exactly one of them moves it");
        let entry = writer.table().entry4(slot);
        let expected = if worker { EntryState::Closing } else { EntryState::Probing };
        assert_eq!((entry.state(), entry.context(), entry.flags()), (expected, 7, 3));
        assert_eq!(entry.key(), Key::V4(connection(1).0));
    });
}

/// A thing that is visible or not, and is destroyed after its grace period. Its value is an ordinary cell, so that loom
/// complains not only of a wrong order but of any order that nothing guarantees.
struct Thing {
    visible: AtomicU64,
    value: UnsafeCell<u64>,
}

const ALIVE: u64 = 1;
const DESTROYED: u64 = 2;

// SAFETY: loom itself checks that the cell is never written while another thread may read it.
unsafe impl Sync for Thing {}
// SAFETY: as above.
unsafe impl Send for Thing {}

impl Thing {
    fn new() -> Arc<Self> {
        Arc::new(Self { visible: AtomicU64::new(1), value: UnsafeCell::new(ALIVE) })
    }

    fn look(&self) {
        if self.visible.load(Ordering::Relaxed) == 1 {
            // SAFETY: checked by loom.
            self.value.with(|value| assert_eq!(unsafe { *value }, ALIVE));
        }
    }

    /// Hides it, and destroys it if the grace period passes while we look, as reclaim does: without waiting.
    fn remove(&self, qsbr: &Qsbr) {
        self.visible.store(0, Ordering::Relaxed);
        let token = qsbr.start();
        for _ in 0..2 {
            if qsbr.passed(token) {
                // SAFETY: checked by loom.
                self.value.with_mut(|value| unsafe { *value = DESTROYED });
                return;
            }
            thread::yield_now();
        }
    }
}

#[test]
fn a_grace_period_waits_for_readers() {
    model(3, || {
        let (qsbr, thing) = (Arc::new(Qsbr::new()), Thing::new());
        let readers = [0, 1].map(|_| {
            let (place, thing) = (qsbr.register().expect("a place"), Arc::clone(&thing));
            thread::spawn(move || {
                thing.look();
                place.quiescent();
                thing.look();
            })
        });
        thing.remove(&qsbr);
        for reader in readers {
            reader.join().expect("reader");
        }
    });
}

#[test]
fn a_reader_may_sleep_and_wake() {
    model(4, || {
        let (qsbr, thing) = (Arc::new(Qsbr::new()), Thing::new());
        let (place, seen) = (qsbr.register().expect("a place"), Arc::clone(&thing));
        let reader = thread::spawn(move || {
            seen.look();
            place.offline();
            place.online();
            seen.look();
        });
        thing.remove(&qsbr);
        reader.join().expect("reader");
    });
}

#[test]
fn a_reader_may_come_and_go() {
    model(4, || {
        let (qsbr, thing) = (Arc::new(Qsbr::new()), Thing::new());
        let (registry, seen) = (Arc::clone(&qsbr), Arc::clone(&thing));
        let reader = thread::spawn(move || {
            for _ in 0..2 {
                let _place = registry.register().expect("a place");
                seen.look();
            }
        });
        thing.remove(&qsbr);
        reader.join().expect("reader");
    });
}
