//! `ADDRESS:PORT` and then `key=value`.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::Outcome;

/// What a client is told to do.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) server: SocketAddr,
    /// Bytes of a TCP connection, each way.
    pub(crate) bytes: u64,
    /// Datagrams, and bytes in each.
    pub(crate) count: u32,
    pub(crate) size: usize,
    /// Datagrams on the way at a time.
    pub(crate) window: u32,
    /// How long to talk in small messages first, which gives whoever forwards the time to notice the connection.
    pub(crate) warm: Duration,
    /// The TOS byte or traffic class.
    pub(crate) tos: u32,
    pub(crate) source: u16,
    /// End with a reset in place of a FIN.
    pub(crate) reset: bool,
}

impl Args {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Outcome<Self> {
        let server = words.next().ok_or("connect whereto?")?;
        let mut args = Self {
            server: number("ADDRESS:PORT", &server)?,
            bytes: 0,
            count: 1,
            size: 64,
            window: 32,
            warm: Duration::ZERO,
            tos: 0,
            source: 0,
            reset: false,
        };
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("{word}: not KEY=VALUE"))?;
            match key {
                "bytes" => args.bytes = number(key, value)?,
                "count" => args.count = number(key, value)?,
                "size" => args.size = number(key, value)?,
                "window" => args.window = number(key, value)?,
                "warm" => args.warm = Duration::from_millis(number(key, value)?),
                "tos" => args.tos = number(key, value)?,
                "source" => args.source = number(key, value)?,
                "end" => args.reset = value == "rst",
                _ => return Err(format!("there is no option {key}").into()),
            }
        }
        Ok(args)
    }
}

fn number<T: FromStr>(key: &str, text: &str) -> Outcome<T> {
    text.parse().map_err(|_| format!("{key}={text}: not understood").into())
}
