//! Counters by reason: every reason is present, zero included.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use dataplane::packet::{DropReason, PuntReason};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A closed list of reasons with stable names.
pub trait Reason: Copy + 'static {
    /// Every reason, in the order of its index.
    const ALL: &'static [Self];
    /// The stable name, a JSON key.
    fn name(self) -> &'static str;
    /// The place in [`Self::ALL`].
    fn index(self) -> usize;
}

impl Reason for PuntReason {
    const ALL: &'static [Self] = Self::ALL;
    fn name(self) -> &'static str {
        Self::name(self)
    }
    fn index(self) -> usize {
        self as usize
    }
}

impl Reason for DropReason {
    const ALL: &'static [Self] = Self::ALL;
    fn name(self) -> &'static str {
        Self::name(self)
    }
    fn index(self) -> usize {
        self as usize
    }
}

/// Packets by reason. In JSON an object that has every reason as a key.
#[derive(Clone, PartialEq, Eq)]
pub struct ByReason<R> {
    counts: Vec<u64>,
    reason: PhantomData<R>,
}

impl<R: Reason> ByReason<R> {
    /// Counts as they are by index; what is missing is 0.
    pub fn from_counts(counts: &[u64]) -> Self {
        let mut all = Self::default();
        all.counts.iter_mut().zip(counts).for_each(|(to, from)| *to = *from);
        all
    }

    /// Adds packets to a reason.
    pub fn add(&mut self, reason: R, packets: u64) {
        if let Some(count) = self.counts.get_mut(reason.index()) {
            *count = count.wrapping_add(packets);
        }
    }

    /// Adds every count of another.
    pub fn merge(&mut self, other: &Self) {
        for (reason, packets) in other.iter() {
            self.add(reason, packets);
        }
    }

    /// Packets of a reason.
    pub fn get(&self, reason: R) -> u64 {
        self.counts.get(reason.index()).copied().unwrap_or(0)
    }

    /// Every reason with its packets.
    pub fn iter(&self) -> impl Iterator<Item = (R, u64)> {
        R::ALL.iter().copied().zip(self.counts.iter().copied())
    }

    /// Packets of all reasons.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }
}

impl<R: Reason> Default for ByReason<R> {
    fn default() -> Self {
        Self { counts: vec![0; R::ALL.len()], reason: PhantomData }
    }
}

impl<R: Reason> fmt::Debug for ByReason<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(reason, packets)| (reason.name(), packets))).finish()
    }
}

impl<R: Reason> Serialize for ByReason<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(R::ALL.len()))?;
        for (reason, packets) in self.iter() {
            map.serialize_entry(reason.name(), &packets)?;
        }
        map.end()
    }
}

#[cfg(test)]
impl<R: Reason> schemars::JsonSchema for ByReason<R> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByReason".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let count = generator.subschema_for::<u64>();
        let names = || R::ALL.iter().map(|reason| reason.name());
        let properties: serde_json::Map<_, _> =
            names().map(|name| (name.to_owned(), count.clone().into())).collect();
        schemars::json_schema!({
            "type": "object",
            "properties": properties,
            "required": names().collect::<Vec<_>>(),
        })
    }
}

/// Reasons that this version doesn't know are left out: the gateway may be newer than its client.
impl<'de, R: Reason> Deserialize<'de> for ByReason<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<String, u64>::deserialize(deserializer)?;
        let mut all = Self::default();
        for reason in R::ALL {
            all.add(*reason, map.get(reason.name()).copied().unwrap_or(0));
        }
        Ok(all)
    }
}
