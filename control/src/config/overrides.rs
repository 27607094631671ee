//! What the command line says of what a file may say too: it goes first, at the start and whenever the file is read again.

use std::path::PathBuf;

use super::{Config, LogFormat, LogLevel};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--log-level`
    pub log_level: Option<LogLevel>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
}

impl Overrides {
    /// Puts it in place of what the file says.
    pub fn apply(&self, config: &mut Config) {
        if let Some(socket) = &self.socket {
            config.api.socket.clone_from(socket);
        }
        for (option, given, said) in [
            ("--log-level", self.log_level.map(LogLevel::name), config.log.level.name()),
            ("--log-format", self.log_format.map(LogFormat::name), config.log.format.name()),
        ] {
            // What was left out in the file is no contradiction: its default is the option's.
            let default = matches!(said, "warn" | "text");
            if let Some(given) = given.filter(|given| *given != said && !default) {
                config.notices.push(format!(
                    "the file says \"{said}\" where {option} {given} on the command line goes first"
                ));
            }
        }
        config.log.level = self.log_level.unwrap_or(config.log.level);
        config.log.format = self.log_format.unwrap_or(config.log.format);
    }
}
