//! The table against a model, to its capacity, and under threads.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::burst::Kernel;
use super::*;

/// A small table on ordinary pages.
fn table(connections: usize) -> (Arc<FlowTable>, TableWriter) {
    FlowTable::create(TableConfig { ipv6_share: 100, ..TableConfig::new(connections) }).expect("memory")
}

fn key4(number: u32) -> Key {
    Key::V4(Key4 { src: number, dst: 0x0100_000a, ports: 0x3500_3930, proto: UDP.into() })
}

fn key6(number: u32) -> Key {
    let src = [0x0000_0000_b80d_0120, u64::from(number) << 32];
    Key::V6(Key6 { src, dst: [0x0000_0000_b80d_0120, 1], ports: 0xbb01_3930, proto: TCP.into() })
}

/// Connection `number`, of a family by its lowest bit, translated if the second lowest is set.
fn connection(number: u32) -> (Key, Key) {
    let key = if number & 1 == 0 { key4(number) } else { key6(number) };
    let mut reply = key.inverted();
    if number & 2 != 0 {
        match &mut reply {
            Key::V4(key) => key.dst = 0x6400_00c6 ^ number << 8,
            Key::V6(key) => key.dst[1] ^= 1 << 63,
        }
    }
    (key, reply)
}

/// Looks up in bursts, as workers do, and singly, and expects the same of both.
fn find_all(table: &FlowTable, keys: &[Key]) -> Vec<Option<Slot>> {
    let mut lookup = Lookup::default();
    let mut all = Vec::new();
    for burst in keys.chunks(MAX_BURST) {
        let (mut four, mut six) = (Vec::new(), Vec::new());
        for key in burst {
            match key {
                Key::V4(key) => four.push(*key),
                Key::V6(key) => six.push(*key),
            }
        }
        let (mut found4, mut found6) = ([None; MAX_BURST], [None; MAX_BURST]);
        table.lookup4(&four, &mut lookup, &mut found4);
        table.lookup6(&six, &mut lookup, &mut found6);
        let (mut found4, mut found6) = (found4.iter(), found6.iter());
        for key in burst {
            let found = if matches!(key, Key::V4(_)) { found4.next() } else { found6.next() };
            let found = *found.expect("a slot a key");
            assert_eq!(found, table.lookup(key));
            all.push(found);
        }
    }
    all
}

#[test]
fn a_connection_is_two_entries_that_know_each_other() {
    let (table, mut writer) = table(16);
    for number in 0..8 {
        let (orig, reply) = connection(number);
        let flows = writer.insert_pair(&orig, &reply, 700 + number).expect("room");
        let slots = flows.map(|flow| table.resolve(flow).expect("alive"));
        assert_eq!(find_all(&table, &[orig, reply]), slots.map(Some));
        for (slot, other, key, leaves_as) in
            [(slots[0], slots[1], orig, reply.inverted()), (slots[1], slots[0], reply, orig.inverted())]
        {
            let entry = table.entry(slot);
            assert_eq!((entry.key(), entry.leaves_as()), (key, leaves_as));
            assert_eq!((entry.state(), entry.adjacency()), (EntryState::Candidate, AdjacencyId::NONE));
            assert_eq!((table.peer(slot), writer.owner(slot)), (Some(other), Some(700 + number)));
        }
        assert_eq!(writer.insert_pair(&orig, &reply, 0), Err(InsertError::Exists(slots[0])));
    }
    assert_eq!(writer.len(), 8);
}

#[test]
fn every_processor_finds_the_same() {
    let config = TableConfig { ipv6_share: 100, ..TableConfig::new(400) };
    for (kernel4, kernel6) in Kernel::all().into_iter().zip(Kernel::all()) {
        let (table, mut writer) = FlowTable::with_kernels(config, kernel4, kernel6).expect("memory");
        let (mut keys, mut slots) = (Vec::new(), Vec::new());
        for number in 0..800 {
            let (orig, reply) = connection(number);
            let flows = (number % 2 == 0).then(|| writer.insert_pair(&orig, &reply, 0).expect("room"));
            keys.extend([orig, reply]);
            slots.extend([0, 1].map(|direction| flows.map(|flows| flows[direction].slot)));
        }
        assert_eq!(find_all(&table, &keys), slots, "{}", table.kernel());
    }
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    let (table, mut writer) = table(4);
    let loop_key = Key::V4(Key4 { src: 1, dst: 1, ports: 0x0101_0101, proto: UDP.into() });
    assert_eq!(writer.insert_pair(&loop_key, &loop_key.inverted(), 0), Err(InsertError::SameKey));
    assert_eq!(writer.insert_pair(&key4(1), &key6(1), 0), Err(InsertError::Family));
    assert_eq!(table.lookup(&loop_key), None);
    assert_eq!((writer.len(), writer.limbo(), writer.reclaim()), (0, 0, 0));
}

#[test]
fn entries_hold_what_is_put_into_them() {
    let (table, mut writer) = table(4);
    for number in 0..2 {
        let (orig, reply) = connection(number);
        let [flow, _] = writer.insert_pair(&orig, &reply, 0).expect("room");
        let entry = table.entry(flow.slot);
        writer.set_forwarding(flow.slot, 0xabcd, AdjacencyId(0x00fe_dcba), 0x5a);
        writer.set_proved_length(flow.slot, 1492);
        assert!(!entry.transition(EntryState::Software, EntryState::Closing));
        entry.set_state(EntryState::Software);
        assert!(entry.transition(EntryState::Software, EntryState::Closing));
        entry.set_last_ack(0xdead_beef);
        entry.count(60, 5);
        entry.count(1500, 7);
        assert_eq!(
            (entry.context(), entry.adjacency(), entry.flags()),
            (0xabcd, AdjacencyId(0x00fe_dcba), 0x5a)
        );
        assert_eq!((entry.state(), entry.proved_length()), (EntryState::Closing, 1492));
        assert_eq!((entry.packets(), entry.bytes(), entry.last_seen()), (2, 1560, 7));
        assert_eq!((entry.last_ack(), entry.generation()), (0xdead_beef, flow.generation));
        assert_eq!(entry.key(), orig, "the neighbours in the line are untouched");
    }
}

#[test]
fn a_slot_is_reused_only_after_its_grace_period_and_as_another_generation() {
    let (table, mut writer) = table(1);
    let reader = table.qsbr().register().expect("a place");
    let (orig, reply) = connection(2);
    let flows = writer.insert_pair(&orig, &reply, 0).expect("room");
    writer.remove_pair(flows);
    assert_eq!((table.lookup(&orig), table.lookup(&reply)), (None, None));
    assert_eq!(flows.map(|flow| table.resolve(flow)), [None, None]);
    assert_eq!((writer.len(), writer.limbo(), writer.reclaim()), (0, 2, 0));
    assert_eq!(table.entry(flows[0].slot).key(), orig, "a worker in the middle of a burst still reads it");
    let again = writer.insert_pair(&orig, &reply, 0).expect("room elsewhere");
    assert!(again.iter().zip(flows).all(|(new, old)| new.slot != old.slot));
    writer.remove_pair(flows);
    assert_eq!(writer.len(), 1, "what is gone is left alone");
    writer.remove_pair(again);
    reader.quiescent();
    assert_eq!(
        (writer.reclaim(), writer.limbo()),
        (2, 2),
        "the second removal came after the grace period began"
    );
    reader.quiescent();
    assert_eq!((writer.reclaim(), writer.limbo()), (2, 0));
    let reused = writer.insert_pair(&orig, &reply, 0).expect("room");
    assert_eq!(reused.map(|flow| flow.slot), flows.map(|flow| flow.slot));
    assert!(reused.iter().zip(flows).all(|(new, old)| new.generation == old.generation + 2));
    assert_eq!(flows.map(|flow| table.resolve(flow)), [None, None]);
    assert_eq!(table.resolve(reused[0]), Some(reused[0].slot));
}

#[test]
fn every_connection_asked_for_finds_room() {
    // Sizes around one line of tags, where chance weighs most, many times; then large ones.
    let sizes = (1..200).chain([1_000; 100]).chain([65_536; 4]).chain([if cfg!(miri) { 1 } else { 600_000 }]);
    for connections in sizes {
        let (_, mut writer) = table(connections);
        for number in 0..connections as u32 {
            let (orig, reply) = connection(4 * number + 2);
            assert!(writer.insert_pair(&orig, &reply, 0).is_ok(), "{number} of {connections}");
        }
        let (orig, reply) = connection(1);
        assert_eq!(
            writer.insert_pair(&orig, &reply, 0),
            Err(InsertError::Full),
            "capacity is a promise both ways"
        );
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32),
    Remove(u32),
    Quiescent,
    Reclaim,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u32..200).prop_map(Step::Insert),
        3 => (0u32..200).prop_map(Step::Remove),
        1 => Just(Step::Quiescent),
        1 => Just(Step::Reclaim),
    ]
}

proptest! {
    #[test]
    fn the_table_is_a_map(steps in proptest::collection::vec(step(), 0..600), connections in 1usize..120) {
        let (table, mut writer) = table(connections);
        let reader = table.qsbr().register().expect("a place");
        let mut model: HashMap<u32, [FlowRef; 2]> = HashMap::new();
        let mut stale = Vec::new();
        for step in steps {
            match step {
                Step::Insert(number) => {
                    let (orig, reply) = connection(number);
                    match (writer.insert_pair(&orig, &reply, number), model.get(&number)) {
                        (Ok(flows), None) => {
                            prop_assert!(model.len() < connections);
                            model.insert(number, flows);
                        }
                        (Err(InsertError::Exists(slot)), Some(flows)) => prop_assert_eq!(slot, flows[0].slot),
                        // Slots in limbo may fill buckets before the capacity is reached.
                        (Err(InsertError::Full), None) => {
                            prop_assert!(model.len() >= connections || writer.limbo() > 0);
                        }
                        (Err(InsertError::Full), Some(_)) => prop_assert_eq!(model.len(), connections),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Step::Remove(number) => {
                    if let Some(flows) = model.remove(&number) {
                        writer.remove_pair(flows);
                        stale.extend(flows);
                    }
                }
                Step::Quiescent => reader.quiescent(),
                Step::Reclaim => {
                    writer.reclaim();
                }
            }
            prop_assert_eq!(writer.len(), model.len());
        }
        let (mut keys, mut slots) = (Vec::new(), Vec::new());
        for number in 0..200 {
            let (orig, reply) = connection(number);
            let flows = model.get(&number);
            keys.extend([orig, reply]);
            slots.extend([0, 1].map(|direction| flows.map(|flows| flows[direction].slot)));
            for flow in flows.into_iter().flatten() {
                prop_assert_eq!(table.resolve(*flow), Some(flow.slot));
                prop_assert_eq!(writer.owner(flow.slot), Some(number));
            }
        }
        prop_assert_eq!(find_all(&table, &keys), slots);
        for flow in stale {
            prop_assert_eq!(table.resolve(flow), None);
        }
    }
}
