//! `flyover top`: a live screen.
//!
//! Each second the gateway is asked what `status`, `stats`, `flows` and `events` show; two answers make rates. What is shown and
//! what keys do is decided without a terminal ([`App`]), and drawn by [`view`].

mod app;
mod rates;
mod sample;
mod view;

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::args::TopArguments;
use crate::api::{Client, ClientError, Explanation, Request};
use app::{App, Wish};

/// Why there is no screen.
#[derive(Debug, thiserror::Error)]
pub(super) enum TopError {
    #[error(
        "top draws on a terminal, and standard output is none; `flyover status` and `flyover flows` print"
    )]
    NoTerminal,
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("the terminal can't be drawn on: {0}")]
    Terminal(#[from] io::Error),
}

/// Shows the screen until the user has seen enough.
pub(super) fn run(socket: &Path, arguments: &TopArguments) -> Result<(), TopError> {
    if !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal);
    }
    // Before the screen is taken over: a gateway that is not there is told as ever.
    let mut client = Some(Client::connect(socket)?);
    let mut app = App::new();
    let mut terminal = ratatui::try_init()?;
    let outcome = follow(&mut terminal, socket, &mut client, &mut app, arguments.interval());
    ratatui::restore();
    outcome
}

fn follow(
    terminal: &mut ratatui::DefaultTerminal,
    socket: &Path,
    client: &mut Option<Client>,
    app: &mut App,
    interval: Duration,
) -> Result<(), TopError> {
    let mut due = Instant::now();
    loop {
        if Instant::now() >= due {
            due = Instant::now() + interval;
            look(socket, client, app);
        }
        terminal.draw(|frame| view::draw(frame, app))?;
        let patience = due.saturating_duration_since(Instant::now());
        if !event::poll(patience)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match app.key(key) {
            Wish::None => {}
            Wish::Quit => return Ok(()),
            Wish::Explain { proto, src, dst } => app.explained(explain(client, proto, src, dst)),
        }
    }
}

/// Asks the gateway; what goes wrong is shown, and tried again.
fn look(socket: &Path, client: &mut Option<Client>, app: &mut App) {
    let connected = match client {
        Some(client) => Ok(client),
        None => Client::connect(socket).map(|new| client.insert(new)),
    };
    match connected.and_then(|client| sample::take(client, app.seen())) {
        Ok(sample) => app.take(sample),
        Err(error) => {
            app.lost(error.to_string());
            *client = None;
        }
    }
}

fn explain(
    client: &mut Option<Client>,
    proto: String,
    src: SocketAddr,
    dst: SocketAddr,
) -> Result<Explanation, String> {
    let client = client.as_mut().ok_or("the gateway does not answer")?;
    client.ask(&Request::Explain { proto, src, dst }).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
