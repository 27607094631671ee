//! The conntrack zones in which entries have been seen: where one may be found of which nothing but a 5-tuple is known.

use crate::netlink::conntrack::Zones;

/// Zones beside the default one, at the most: each is a question more about every 5-tuple that is not known.
const MOST: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ZonesSeen(Vec<u16>);

impl ZonesSeen {
    /// An entry was told of.
    pub(super) fn note(&mut self, zones: Zones) {
        for zone in [zones.orig, zones.reply] {
            if zone != 0 && self.0.len() < MOST && !self.0.contains(&zone) {
                self.0.push(zone);
            }
        }
    }

    /// The default zone, and those that were seen.
    pub(super) fn iter(&self) -> impl Iterator<Item = u16> {
        std::iter::once(0).chain(self.0.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_remembered_once_and_not_too_many() {
        let mut seen = ZonesSeen::default();
        for zone in [0, 7, 7, 9] {
            seen.note(Zones { orig: zone, reply: 0 });
        }
        assert_eq!(seen.iter().collect::<Vec<_>>(), [0, 7, 9]);
        (0..1000).for_each(|zone| seen.note(Zones { orig: zone, reply: zone }));
        assert_eq!(seen.iter().count(), MOST + 1);
    }
}
