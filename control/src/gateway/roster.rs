//! The gateway's ports by their numbers, which the flow table, workers and the punt thread know them by.
//!
//! A port keeps its number as long as it is there; one that is taken away leaves its number free for another.

use super::ports::GatewayPort;
use crate::config::MAX_PORTS;

/// How long a number rests before another port gets it, in milliseconds. What waits in rings, or is remembered, by the
/// number of the port that had it before waits there for milliseconds.
const REST: u64 = 3_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ports {
    places: Vec<Place>,
    /// Numbers that are free now stay so.
    kept: bool,
}

#[derive(Debug)]
struct Place {
    port: Option<GatewayPort>,
    /// When it was taken away.
    since: u64,
}

impl Ports {
    /// Those of the start.
    pub(super) fn new(ports: Vec<GatewayPort>) -> Self {
        let places = ports.into_iter().map(|port| Place { port: Some(port), since: 0 }).collect();
        Self { places, kept: false }
    }

    /// Numbers ever given.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn get(&self, number: usize) -> Option<&GatewayPort> {
        self.places.get(number)?.port.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut GatewayPort> {
        self.places.get_mut(number)?.port.as_mut()
    }

    /// Those that are there, with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &GatewayPort)> {
        self.places.iter().enumerate().filter_map(|(number, place)| Some((number, place.port.as_ref()?)))
    }

    /// The same, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut GatewayPort)> {
        self.places.iter_mut().enumerate().filter_map(|(number, place)| Some((number, place.port.as_mut()?)))
    }

    /// Indices of their twins, by number; 0, which no interface has, where there is no port.
    pub(super) fn twins(&self) -> Vec<u32> {
        self.places.iter().map(|place| place.port.as_ref().map_or(0, |port| port.ifindex)).collect()
    }

    /// Their names, by number; empty where there is no port.
    pub(super) fn names(&self) -> Vec<&str> {
        self.places
            .iter()
            .map(|place| place.port.as_ref().map_or("", |port| port.config.name.as_str()))
            .collect()
    }

    /// Whether a number that is free now is given to no other port: somebody knows ports by their numbers.
    pub(super) fn keep_numbers(&mut self, kept: bool) {
        self.kept = kept;
    }

    /// The port with this twin.
    pub(super) fn of_twin(&self, ifindex: u32) -> Option<usize> {
        self.iter().find(|(_, port)| port.ifindex == ifindex).map(|(number, _)| number)
    }

    /// The port of this name.
    pub(super) fn named(&self, name: &str) -> Option<usize> {
        self.iter().find(|(_, port)| port.config.name == name).map(|(number, _)| number)
    }

    /// So many numbers are free, or will be.
    pub(super) fn free(&self) -> usize {
        MAX_PORTS.saturating_sub(self.iter().count())
    }

    /// A number for another port; none: wait.
    pub(super) fn vacant(&self, now: u64) -> Option<usize> {
        let rests = |place: &Place| self.kept || now < place.since + REST;
        let rested = self.places.iter().position(|place| place.port.is_none() && !rests(place));
        rested.or_else(|| (self.places.len() < MAX_PORTS).then_some(self.places.len()))
    }

    /// Gives a port a number that is [vacant](Self::vacant).
    pub(super) fn put(&mut self, number: usize, port: GatewayPort) {
        if number == self.places.len() {
            self.places.push(Place { port: None, since: 0 });
        }
        if let Some(place) = self.places.get_mut(number) {
            place.port = Some(port);
        }
    }

    /// Takes a port away.
    pub(super) fn take(&mut self, number: usize, now: u64) -> Option<GatewayPort> {
        let place = self.places.get_mut(number)?;
        place.since = now;
        place.port.take()
    }
}
