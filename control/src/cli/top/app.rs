//! What the screen shows, and what keys do.

use std::collections::VecDeque;
use std::net::SocketAddr;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rates::{FlowRates, Rates};
use super::sample::Sample;
use crate::api::{EventInfo, Explanation};
use crate::cli::explain;
use crate::cli::format::tuple;

/// Events that are remembered.
const EVENTS: usize = 100;

/// By what connections are ordered, the most first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// Bits a second.
    #[default]
    Bits,
    /// Packets a second.
    Packets,
    /// Bytes since the start.
    Total,
    /// How long they have been known.
    Age,
}

impl Order {
    const ALL: [Self; 4] = [Self::Bits, Self::Packets, Self::Total, Self::Age];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bits => "bit/s",
            Self::Packets => "packets/s",
            Self::Total => "bytes",
            Self::Age => "age",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|order| *order == self).unwrap_or(0);
        Self::ALL.get(at + 1).copied().unwrap_or_default()
    }

    fn value(self, flow: &FlowRates) -> f64 {
        match self {
            Self::Bits => flow.rate.bits,
            Self::Packets => flow.rate.packets,
            Self::Total => flow.flow.bytes.both() as f64,
            Self::Age => flow.flow.age_s,
        }
    }
}

/// What a key asks for beyond the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    None,
    Quit,
    Explain { proto: String, src: SocketAddr, dst: SocketAddr },
}

/// What lies over the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Over {
    #[default]
    Nothing,
    Help,
    /// The lines of an explanation.
    Explanation(String),
}

/// The screen.
#[derive(Debug, Default)]
pub(super) struct App {
    pub(super) last: Option<Sample>,
    pub(super) rates: Rates,
    pub(super) events: VecDeque<EventInfo>,
    pub(super) order: Order,
    /// Words that a connection's line has to have.
    pub(super) filter: String,
    /// Keys go to the filter.
    pub(super) typing: bool,
    pub(super) paused: bool,
    /// The selected connection's place.
    pub(super) selected: usize,
    pub(super) over: Over,
    /// Lines of it that are above the first one shown.
    pub(super) scrolled: u16,
    /// Why the gateway does not answer.
    pub(super) trouble: Option<String>,
    seen: u64,
}

impl App {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Number of the latest event that is known.
    pub(super) const fn seen(&self) -> u64 {
        self.seen
    }

    /// The gateway has answered.
    pub(super) fn take(&mut self, sample: Sample) {
        self.trouble = None;
        let restarted = self.last.as_ref().is_some_and(|last| sample.status.uptime_s < last.status.uptime_s);
        self.seen = if restarted { 0 } else { sample.seen };
        self.events.extend(sample.events.iter().cloned());
        while self.events.len() > EVENTS {
            self.events.pop_front();
        }
        if self.paused {
            return;
        }
        if let Some(last) = &self.last {
            self.rates = Rates::between(last, &sample, &self.rates);
        }
        self.last = Some(sample);
        self.selected = self.selected.min(self.flows().len().saturating_sub(1));
    }

    /// It has not.
    pub(super) fn lost(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// Connections that pass the filter, in order.
    pub(super) fn flows(&self) -> Vec<&FlowRates> {
        let mut flows: Vec<&FlowRates> = self.rates.flows.iter().filter(|flow| self.passes(flow)).collect();
        flows.sort_by(|a, b| self.order.value(b).total_cmp(&self.order.value(a)));
        flows
    }

    fn passes(&self, FlowRates { flow, .. }: &FlowRates) -> bool {
        let port = |port: &Option<String>| port.clone().unwrap_or_default();
        let (orig, reply) = (tuple(&flow.orig), tuple(&flow.reply));
        let line = format!(
            "{} {} {orig} {reply} {} {}",
            flow.proto,
            flow.state.name(),
            port(&flow.in_port),
            port(&flow.out_port)
        );
        self.filter.split_whitespace().all(|word| line.contains(word))
    }

    /// The answer to [`Wish::Explain`].
    pub(super) fn explained(&mut self, answer: Result<Explanation, String>) {
        let text = answer.map_or_else(
            |why| why,
            |found| {
                let mut text = Vec::new();
                // Writing into memory does not fail.
                let _ = explain::show(&mut text, &found);
                String::from_utf8_lossy(&text).into_owned()
            },
        );
        (self.over, self.scrolled) = (Over::Explanation(text), 0);
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Wish::Quit;
        }
        if self.typing {
            self.type_into_filter(key.code);
            return Wish::None;
        }
        if self.over != Over::Nothing {
            self.look_over(key.code);
            return Wish::None;
        }
        let last = self.flows().len().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('s') => (self.order, self.selected) = (self.order.next(), 0),
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('?' | 'h') => self.over = Over::Help,
            KeyCode::Down | KeyCode::Char('j') => self.selected = (self.selected + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::PageDown => self.selected = (self.selected + 10).min(last),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(10),
            KeyCode::Home => self.selected = 0,
            KeyCode::Enter | KeyCode::Char('e') => return self.explain(),
            _ => {}
        }
        Wish::None
    }

    /// Scrolls what lies over the screen; any other key takes it away.
    fn look_over(&mut self, code: KeyCode) {
        let lines = match &self.over {
            Over::Explanation(text) => u16::try_from(text.lines().count()).unwrap_or(u16::MAX),
            Over::Help | Over::Nothing => 0,
        };
        self.scrolled = match code {
            KeyCode::Down | KeyCode::Char('j') => self.scrolled.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scrolled.saturating_sub(1),
            KeyCode::PageDown => self.scrolled.saturating_add(10),
            KeyCode::PageUp => self.scrolled.saturating_sub(10),
            _ => {
                (self.over, self.scrolled) = (Over::Nothing, 0);
                return;
            }
        }
        .min(lines);
    }

    fn type_into_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.typing = false;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) => self.filter.push(character),
            _ => {}
        }
        self.selected = 0;
    }

    fn explain(&self) -> Wish {
        let Some(FlowRates { flow, .. }) = self.flows().get(self.selected).copied() else {
            return Wish::None;
        };
        Wish::Explain {
            proto: flow.proto.clone(),
            src: SocketAddr::new(flow.orig.src, flow.orig.sport),
            dst: SocketAddr::new(flow.orig.dst, flow.orig.dport),
        }
    }
}
