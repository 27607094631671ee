//! Colours, on a terminal and where they are wanted.
//!
//! Whether they are is decided once, by `--color`, `NO_COLOR`, `CLICOLOR_FORCE` and what standard output is. What writes
//! asks [`paint`], and need not know.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use anstream::AutoStream;
use anstyle::{AnsiColor, Effects, Style};
use clap::ColorChoice;

/// Off until [`decide`] says otherwise.
static ON: AtomicBool = AtomicBool::new(false);

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// To be looked at.
    Warn,
    /// Not as it should be.
    Bad,
    /// In the NIC.
    Hardware,
    /// On its way to be as it should.
    Passing,
    /// Of less interest.
    Faint,
    /// Above what it names.
    Head,
}

impl Tone {
    const fn style(self) -> Style {
        let style = Style::new();
        match self {
            Self::Good => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green))),
            Self::Warn => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow))),
            Self::Bad => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red))),
            Self::Hardware => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Magenta))),
            Self::Passing => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan))),
            Self::Faint => style.effects(Effects::DIMMED),
            Self::Head => style.effects(Effects::BOLD),
        }
    }
}

/// Decides for this process.
pub(super) fn decide(choice: ColorChoice) {
    let on = match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never,
    };
    ON.store(on, Ordering::Relaxed);
}

/// The same for `flyover top`, which draws by itself: what it shows of other commands stays plain.
pub(super) fn decide_screen(choice: ColorChoice) {
    ON.store(false, Ordering::Relaxed);
    // What it draws with heeds NO_COLOR by itself.
    if choice != ColorChoice::Auto {
        ratatui::crossterm::style::force_color_output(choice == ColorChoice::Always);
    }
}

/// The text, in colour if colours are on.
pub(super) fn paint(tone: Tone, text: &str) -> String {
    paint_if(ON.load(Ordering::Relaxed), tone, text)
}

fn paint_if(on: bool, tone: Tone, text: &str) -> String {
    if on && !text.is_empty() {
        let style = tone.style();
        format!("{style}{text}{style:#}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_ended_and_off_by_default() {
        assert_eq!(paint_if(true, Tone::Bad, "down"), "\x1b[31mdown\x1b[0m");
        assert_eq!(paint_if(true, Tone::Head, ""), "");
        assert_eq!(paint(Tone::Bad, "down"), "down");
    }
}
