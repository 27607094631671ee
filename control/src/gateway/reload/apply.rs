//! The last step: new ports take their places, and settings their effect.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use dataplane::worker::{Errand, IdlePolicy};

use super::prepare::{Found, Ready, in_full};
use super::{Progress, Reload, Stage};
use crate::api::{ReloadOutcome, ReloadReport};
use crate::config::Config;
use crate::gateway::service::Keepers;
use crate::gateway::state::State;
use crate::metrics::Listener;
use crate::tracker::Changed;

impl Reload {
    /// Gives ports their places, as soon as there are numbers for all of them, and settings their effect.
    pub(super) fn place(
        &mut self,
        mut found: Box<Found>,
        now: u64,
        state: &mut State,
        keepers: &mut Keepers,
    ) -> Progress {
        while let Some(ready) = found.ready.pop() {
            let Some(number) = state.ports.vacant(now) else {
                found.ready.push(ready);
                self.stage = Stage::Placing(found);
                return Progress::None;
            };
            self.install(number, ready, now, state, keepers);
        }
        if found.report.outcome == ReloadOutcome::Failed {
            self.keep_metrics(state);
            // What could not be made again is to be added by the next reload.
            let State { config, ports, .. } = &mut *state;
            config.ports.retain(|port| ports.named(&port.name).is_some());
            return self.end(state, found.report);
        }
        self.settle(&mut found, now, state);
        self.end(state, found.report);
        Progress::Dump
    }

    fn install(&mut self, number: usize, ready: Ready, now: u64, state: &mut State, keepers: &mut Keepers) {
        let Ready { queues, way, rules, port, pool } = ready;
        let name = port.config.name.clone();
        if let Err(error) = port.twin.set_persistent(true) {
            tracing::warn!(port = name, %error, "its twin won't outlive a restart");
        }
        keepers.hold(&name, &port.twin);
        let bridged = state.links.get(&port.ifindex).is_some_and(|link| link.master.is_some());
        state.flags.set_bridged(number, bridged);
        state.ports.put(number, port);
        state.plane.offload.put(number, rules);
        if !state.pools.iter().any(|known| known.is(&pool)) {
            state.pools.push(pool.clone());
        }
        self.lent.insert(number, pool);
        if self.links.new_twins.push((number, way)).is_err() {
            tracing::error!(port = name, "the punt thread does not do what it is told");
        }
        self.links.bell.ring();
        for (worker, queue) in state.workers.iter().zip(queues) {
            worker.send(Errand::Take(number, queue));
        }
        state.tracker.changed(now, Changed::Port { port: number as u16 }, &mut state.plane);
        state.follow_interfaces(now);
    }

    fn settle(&mut self, found: &mut Found, now: u64, state: &mut State) {
        let Found { config, difference, timing, report, .. } = found;
        for (name, mtu) in &difference.mtus {
            let port = state.ports.named(name).and_then(|number| state.ports.get_mut(number));
            let Some(port) = port else { continue };
            // The port follows its twin.
            if let Err(error) = port.twin.set_mtu(u32::from(*mtu)) {
                report.notices.push(format!("the twin of {name} does not take the MTU {mtu}: {error}"));
            }
        }
        for (_, port) in state.ports.iter_mut() {
            if let Some(config) = config.ports.iter().find(|config| config.name == port.config.name) {
                port.config = config.clone();
            }
        }
        let longest = config.workers.idle_sleep;
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        self.links.longest_nap.store(nanos, Ordering::Relaxed);
        state.watchdog.expect_sleeps(longest);
        let hot = state.plane.offload.set_hardware(&config.hardware);
        for (worker, number) in state.workers.iter().zip(0..) {
            worker.send(Errand::Rest(IdlePolicy { longest }));
            worker.send(Errand::Tell(hot.of_worker(number)));
        }
        state.log.set_level(config.log.level);
        state.tracker.set_timing(*timing);
        let before: Config = std::mem::replace(&mut state.config, config.clone());
        if before.hardware.mark != config.hardware.mark {
            // What may not go into a NIC any more leaves it to prove itself again.
            state.tracker.changed(now, Changed::Ruleset, &mut state.plane);
        }
        for port in &before.ports {
            let name = &port.name;
            if !config.ports.iter().any(|other| other.name == *name) {
                report.notices.push(format!(
                    "the twin {name} stays, with its addresses and without carrier; it goes with: ip link del {name}"
                ));
            }
        }
        state.read_rules();
    }

    /// Metrics are served where the configuration says. Somebody listens there already: it may be the gateway itself, by
    /// another address with the same port, which then has to stop first.
    pub(super) fn serve_metrics(&mut self, found: &mut Found, state: &State) -> Result<(), String> {
        let listen = found.config.metrics.listen;
        let before = state.config.metrics.listen;
        let listener = match found.listener.take() {
            _ if listen == before => return Ok(()),
            Some(Ok(listener)) => listener,
            Some(Err(_)) => {
                self.metrics = None;
                match listen.map(Listener::bind).transpose() {
                    Ok(Some(listener)) => listener,
                    Ok(None) => return Ok(()),
                    Err(error) => {
                        self.listen_again(before, state);
                        return Err(in_full(&error));
                    }
                }
            }
            None => {
                self.metrics = None;
                return Ok(());
            }
        };
        let server = listener.serve(&state.config.api.socket);
        self.metrics = Some(server.map_err(|error| format!("metrics can't be served: {error}"))?);
        Ok(())
    }

    /// As it was, where it was changed before something failed.
    fn keep_metrics(&mut self, state: &State) {
        let before = state.config.metrics.listen;
        if self.metrics.as_ref().map(crate::metrics::Server::address) != before {
            self.metrics = None;
            self.listen_again(before, state);
        }
    }

    fn listen_again(&mut self, listen: Option<SocketAddr>, state: &State) {
        let Some(listen) = listen else { return };
        let listener = Listener::bind(listen).map_err(|error| in_full(&error));
        match listener.and_then(|l| l.serve(&state.config.api.socket).map_err(|error| in_full(&error))) {
            Ok(server) => self.metrics = Some(server),
            Err(error) => tracing::error!(%error, "metrics are not served any more"),
        }
    }

    /// It is done: told to who has asked, and logged.
    pub(super) fn end(&mut self, state: &State, report: ReloadReport) -> Progress {
        for change in &report.changed {
            if report.outcome == ReloadOutcome::Applied {
                let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
                tracing::info!(
                    key = change.key,
                    old = word(&change.old),
                    new = word(&change.new),
                    "configuration changed"
                );
            }
        }
        for change in &report.restart {
            let why = change.why.as_deref().unwrap_or_default();
            tracing::warn!(
                key = change.key,
                why,
                "a change of the configuration needs a restart: systemctl restart flyover"
            );
        }
        match report.outcome {
            ReloadOutcome::Failed => {
                let error = report.error.as_deref().unwrap_or("it failed");
                tracing::error!(error, "the configuration was not taken over");
            }
            ReloadOutcome::Refused => tracing::error!(
                "nothing of the configuration was taken over: `flyover reload --partial` takes over what can change at run time"
            ),
            ReloadOutcome::Applied | ReloadOutcome::Unchanged => tracing::info!("configuration read again"),
            ReloadOutcome::Checked => {}
        }
        state.desk.done(report);
        Progress::None
    }
}
