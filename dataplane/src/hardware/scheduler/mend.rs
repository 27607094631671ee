//! What goes otherwise than by orders and their ends.

use super::{Name, Scheduler, Stage};
use crate::dpdk::flow_rule::FlowError;

impl<K: Name> Scheduler<K> {
    /// Whether a direction was told to leave, and has a rule or may have.
    pub fn is_leaving(&self, name: K) -> bool {
        self.directions.get(&name).is_some_and(|direction| direction.leaving)
    }

    /// An order could not be given, as the NIC has no room for it at this moment. It will be given again.
    pub fn not_begun(&mut self, name: K) {
        let Some(mut direction) = self.directions.get(&name).cloned() else { return };
        match direction.stage {
            Stage::GoingIn if direction.leaving => {
                self.forget(name);
                self.freed.push(name);
                return;
            }
            Stage::GoingIn => direction.stage = Stage::Waiting,
            Stage::ComingOut => direction.stage = Stage::Doomed(0),
            _ => return,
        }
        self.replace(name, direction);
    }

    /// The NIC has lost the rule of a direction, which goes in again. `false`: it was not there, or on its way out, and its
    /// removal will tell.
    pub fn lost(&mut self, name: K) -> bool {
        let installed = |stage| matches!(stage, Stage::Installed(_));
        let Some(direction) = self.directions.get(&name).filter(|d| installed(d.stage)) else { return false };
        let mut direction = direction.clone();
        direction.stage = Stage::Waiting;
        self.replace(name, direction);
        true
    }

    /// The rule of a direction does not do what it should: it comes out, and the direction is put off, longer each time.
    pub fn withdraw(&mut self, name: K, why: FlowError) {
        let installed = |stage| matches!(stage, Stage::Installed(_));
        let Some(direction) = self.directions.get(&name).filter(|d| installed(d.stage)) else { return };
        let mut direction = direction.clone();
        (direction.stage, direction.error, direction.withdrawn) = (Stage::Doomed(0), Some(why), true);
        self.replace(name, direction);
    }
}
