//! Where the model NIC keeps its rules: by place, then by shape, then by the bytes that a shape compares.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Outcome;
use super::packet::{self, Layers, Packet};
use super::rule::{Checked, Fate, Moment, Place, Rule, Shape, key_of};

#[derive(Debug, Default)]
pub(super) struct Tables {
    groups: HashMap<Place, Vec<Shaped>>,
    len: usize,
    /// Rules whose end is known, to be swept.
    ending: Vec<Arc<Rule>>,
}

/// The rules of one shape.
#[derive(Debug)]
struct Shaped {
    shape: Shape,
    rules: HashMap<Vec<u8>, Vec<Arc<Rule>>>,
}

impl Tables {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.groups.values().flatten().flat_map(|shaped| shaped.rules.values().flatten())
    }

    /// Whether a rule compares the same bytes at the same place and priority.
    pub(super) fn has(&self, checked: &Checked, now: (u64, u64)) -> bool {
        let shaped =
            self.groups.get(&checked.place).into_iter().flatten().find(|one| one.shape == checked.shape);
        shaped.and_then(|shaped| shaped.rules.get(&checked.key)).is_some_and(|rules| {
            rules.iter().any(|rule| rule.checked.priority == checked.priority && !rule.until.has_come(now))
        })
    }

    pub(super) fn insert(&mut self, rule: &Arc<Rule>) {
        let shapes = self.groups.entry(rule.checked.place).or_default();
        let at = match shapes.iter().position(|shaped| shaped.shape == rule.checked.shape) {
            Some(at) => at,
            None => {
                shapes.push(Shaped { shape: rule.checked.shape.clone(), rules: HashMap::new() });
                shapes.len() - 1
            }
        };
        if let Some(shaped) = shapes.get_mut(at) {
            shaped.rules.entry(rule.checked.key.clone()).or_default().push(Arc::clone(rule));
            self.len += 1;
        }
    }

    /// The rule's end is known.
    pub(super) fn ends(&mut self, rule: &Arc<Rule>) {
        self.ending.push(Arc::clone(rule));
    }

    /// Takes out the rules whose end has come.
    pub(super) fn sweep(&mut self, now: (u64, u64)) {
        let Self { groups, len, ending } = self;
        ending.retain(|ended| {
            if !ended.until.has_come(now) {
                return true;
            }
            let Checked { place, shape, key, .. } = &ended.checked;
            let mut shapes = groups.get_mut(place).into_iter().flatten();
            if let Some(shaped) = shapes.find(|shaped| shaped.shape == *shape)
                && let Some(rules) = shaped.rules.get_mut(key)
            {
                rules.retain(|rule| rule.id != ended.id);
                *len -= 1;
                if rules.is_empty() {
                    shaped.rules.remove(key);
                }
            }
            false
        });
    }

    /// See [`super::Nic::process`].
    pub(super) fn process(
        &self,
        port: u16,
        packet: &mut impl Packet,
        now: (u64, u64),
        spoil_checksum: bool,
    ) -> Outcome {
        let layers = Layers::of(packet.bytes());
        let length = packet.bytes().len() as u64;
        // The switch comes before the port.
        for domain in [None, Some(port)] {
            let mut place = Place { port: domain, group: 0 };
            while let Some(rule) = self.find(place, port, packet.bytes(), &layers, now) {
                rule.hit(length, now.0);
                match rule.checked.fate {
                    // Always to a later group.
                    Fate::Jump(group) => place.group = group,
                    Fate::Drop => return Outcome::Dropped,
                    Fate::Software(queue) => return Outcome::Software { mark: rule.checked.mark, queue },
                    Fate::Port(to) => {
                        return match packet::run(packet, &rule.checked.steps, spoil_checksum) {
                            true => Outcome::Sent(to),
                            false => Outcome::Dropped,
                        };
                    }
                }
            }
        }
        Outcome::Software { mark: None, queue: None }
    }

    fn find(
        &self,
        place: Place,
        port: u16,
        frame: &[u8],
        layers: &Layers,
        now: (u64, u64),
    ) -> Option<&Arc<Rule>> {
        let shapes = self.groups.get(&place)?;
        let matching = shapes.iter().filter_map(|shaped| {
            let key = key_of(&shaped.shape, |layer| layer.of_packet(port, frame, layers))?;
            let rules = shaped.rules.get(&key)?.iter();
            let fits = |rule: &&Arc<Rule>| {
                let length = layers.ip_length(frame);
                rule.checked
                    .lengths
                    .is_none_or(|(least, most)| length.is_some_and(|is| (least..=most).contains(&is)))
            };
            let active =
                rules.filter(|rule| rule.from.has_come(now) && !rule.until.has_come(now)).filter(fits);
            active.min_by_key(|rule| rank(rule))
        });
        matching.min_by_key(|rule| rank(rule))
    }
}

/// By priority, then the newest.
fn rank(rule: &Rule) -> (u32, std::cmp::Reverse<u64>) {
    (rule.checked.priority, std::cmp::Reverse(rule.id))
}

impl Rule {
    fn hit(&self, bytes: u64, millis: u64) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.last_hit.fetch_max(millis, Ordering::Relaxed);
    }

    /// Counts its age from a moment on.
    pub(super) fn touch(&self, moment: &Moment) {
        self.last_hit.store(moment.millis.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Moment {
    pub(super) fn at(millis: u64, packets: u64) -> Self {
        Self { millis: millis.into(), packets: packets.into() }
    }

    pub(super) fn never() -> Self {
        Self::at(u64::MAX, u64::MAX)
    }

    pub(super) fn is_never(&self) -> bool {
        self.millis.load(Ordering::Relaxed) == u64::MAX
    }

    pub(super) fn has_come(&self, (millis, packets): (u64, u64)) -> bool {
        self.millis.load(Ordering::Relaxed) <= millis && self.packets.load(Ordering::Relaxed) <= packets
    }

    pub(super) fn set(&self, to: &Self) {
        self.millis.store(to.millis.load(Ordering::Relaxed), Ordering::Relaxed);
        self.packets.store(to.packets.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
