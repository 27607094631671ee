//! The service manager: told of the gateway's state, and asked to hold the twins over a restart.

use std::os::fd::AsFd;

use dataplane::dpdk::{Keeper, Tap};
use sd_notify::NotifyState;

/// Tells the service manager, if one waits for it.
pub(super) fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// What holds the twins while no gateway runs.
#[derive(Debug)]
pub(super) struct Keepers(Vec<Keeper>);

impl Keepers {
    /// Those that an earlier process left with the service manager.
    pub(super) fn inherited() -> Self {
        Self(Keeper::inherited())
    }

    /// Whether there is anybody to hold them.
    fn are_wanted() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// The twins that have one.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(|keeper| keeper.interface().to_owned()).collect()
    }

    /// Whether the twin of this name has one.
    pub(super) fn has(&self, twin: &str) -> bool {
        self.0.iter().any(|keeper| keeper.interface() == twin)
    }

    /// Has the service manager hold a twin over a restart, if there is one and it does not yet.
    pub(super) fn hold(&mut self, name: &str, twin: &Tap) {
        if !Self::are_wanted() || self.has(name) {
            return;
        }
        match twin.keeper() {
            Ok(keeper) => self.store(keeper),
            Err(error) => tracing::warn!(port = name, %error, "its neighbours won't outlive a restart"),
        }
    }

    /// Lets go of that of a twin which is gone.
    pub(super) fn lose(&mut self, name: &str) {
        let others: Vec<String> =
            self.0.iter().map(|keeper| keeper.interface().to_owned()).filter(|other| other != name).collect();
        self.retain(&others.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Has the service manager hold a new one, and keeps it as long as the gateway runs.
    fn store(&mut self, keeper: Keeper) {
        let name = keeper.stored_name();
        // A detached queue polls as an error, for which systemd would throw it away.
        let state = [NotifyState::FdStore, NotifyState::Custom("FDPOLL=0"), NotifyState::FdName(&name)];
        match sd_notify::notify_with_fds(&state, &[keeper.as_fd()]) {
            Ok(()) => self.0.push(keeper),
            Err(error) => tracing::warn!(
                twin = keeper.interface(),
                %error,
                "the service manager does not hold the twin: its neighbours are learned anew after a restart"
            ),
        }
    }

    /// Lets go of those whose twin is not among these.
    pub(super) fn retain(&mut self, twins: &[&str]) {
        self.0.retain(|keeper| {
            let wanted = twins.contains(&keeper.interface());
            if !wanted
                && let Err(error) = sd_notify::notify(&[
                    NotifyState::FdStoreRemove,
                    NotifyState::FdName(&keeper.stored_name()),
                ])
            {
                tracing::warn!(twin = keeper.interface(), %error, "the service manager goes on holding a twin");
            }
            wanted
        });
    }
}
