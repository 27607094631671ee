//! Readers on threads of their own while the writer churns: nobody ever sees half an entry or another's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

const KEYS: u32 = 512;

/// Connection `number`, which stands in every part of its entries, so that a reader can tell what belongs together.
fn connection(number: u32) -> (Key4, Key4) {
    let orig = Key4 { src: number, dst: 0x0100_000a, ports: 0x3500_3930, proto: UDP.into() };
    let reply = Key4 { src: orig.dst, dst: number ^ 0x6400_00c6, ports: 0x3930_3500, proto: UDP.into() };
    (orig, reply)
}

fn read(table: &FlowTable, stop: &AtomicBool, seed: u32) -> u64 {
    let reader = table.qsbr().register().expect("a place");
    let (mut lookup, mut found) = (Lookup::default(), [None; MAX_BURST]);
    let (mut random, mut hits) = (seed, 0);
    while !stop.load(Ordering::Relaxed) {
        let keys: [(u32, Key4); MAX_BURST] = std::array::from_fn(|position| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = (random >> 8) % KEYS;
            let (orig, reply) = connection(number);
            (number, if position % 2 == 0 { orig } else { reply })
        });
        table.lookup4(&keys.map(|(_, key)| key), &mut lookup, &mut found);
        for ((number, key), slot) in keys.iter().zip(found) {
            let Some(slot) = slot else { continue };
            hits += 1;
            let entry = table.entry4(slot);
            let generation = entry.generation();
            let (orig, reply) = connection(*number);
            let leaves_as = if *key == orig { reply } else { orig };
            assert_eq!(entry.leaves_as(), Key::V4(leaves_as).inverted());
            if entry.state() == EntryState::Software {
                // Control sets these before the state.
                assert_eq!((u32::from(entry.context()), entry.adjacency().0), (number + 1, number + 1));
            }
            entry.count(64, 1);
            let _ = entry.transition(EntryState::Software, EntryState::Closing);
            let peer = table.peer(slot).expect("a peer");
            assert_eq!(
                table.entry4(peer).key(),
                Key::V4(leaves_as),
                "the peer is not reused before we are quiescent"
            );
            assert_eq!(entry.key(), Key::V4(*key));
            let gone_meanwhile = entry.generation().wrapping_sub(generation);
            assert!(gone_meanwhile <= 1, "another flow is there already");
        }
        reader.quiescent();
        if random % 97 == 0 {
            reader.offline();
            thread::yield_now();
            reader.online();
        }
    }
    hits
}

#[test]
fn readers_see_whole_entries_while_the_writer_churns() {
    let (table, mut writer) = FlowTable::create(TableConfig::new(KEYS as usize)).expect("memory");
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|seed| {
            let (table, stop) = (Arc::clone(&table), Arc::clone(&stop));
            thread::spawn(move || read(&table, &stop, seed))
        })
        .collect();
    let mut present = vec![None; KEYS as usize];
    let (mut random, mut reused) = (1u32, 0);
    for _ in 0..if cfg!(miri) { 300 } else { 400_000 } {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let number = (random >> 8) % KEYS;
        let place = &mut present[number as usize];
        *place = match *place {
            Some(flows) => {
                writer.remove_pair(flows);
                reused += writer.reclaim();
                None
            }
            None => {
                let (orig, reply) = connection(number);
                match writer.insert_pair(&Key::V4(orig), &Key::V4(reply), number) {
                    Ok(flows) => {
                        for flow in flows {
                            writer.set_forwarding(flow.slot, number as u16 + 1, AdjacencyId(number + 1), 0);
                            table.entry4(flow.slot).set_state(EntryState::Software);
                        }
                        Some(flows)
                    }
                    Err(InsertError::Full) => {
                        thread::yield_now();
                        None
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
    }
    stop.store(true, Ordering::Relaxed);
    let hits: u64 =
        readers.into_iter().map(|reader| reader.join().expect("no reader saw anything wrong")).sum();
    assert!(hits > 0 && reused > 0, "{hits} hits, {reused} slots reused");
}
