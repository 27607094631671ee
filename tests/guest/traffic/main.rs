//! Traffic for shell scripts: an echo service, and connections to it that check every byte that comes back. Also picks
//! values out of JSON, so that scripts need no other tool.
#![forbid(unsafe_code)]

mod args;
mod echo;
mod flood;
mod tcp;
mod udp;

use std::error::Error;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use args::Args;

const USAGE: &str = "\
usage: guest-traffic serve PORT
       guest-traffic tcp ADDRESS:PORT [bytes=N] [warm=MS] [tos=N] [source=PORT] [end=fin|rst]
       guest-traffic udp ADDRESS:PORT [count=N] [size=N] [warm=MS] [tos=N] [source=PORT]
       guest-traffic flood ADDRESS:PORT [count=N] [size=N] [window=N] [source=PORT]
       guest-traffic json POINTER... < FILE";

/// How long one read may take: a few retransmission timeouts on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The length of what both ends send over and over. A prime, so that no multiple of a packet's length repeats it.
const PATTERN: usize = 65_521;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let outcome = match words.next().as_deref() {
        Some("serve") => echo::serve(words.next()),
        Some("tcp") => Args::parse(words).and_then(|args| tcp::run(&args)),
        Some("udp") => Args::parse(words).and_then(|args| udp::run(&args)),
        Some("flood") => Args::parse(words).and_then(|args| flood::run(&args)),
        Some("json") => json(words),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // There is nobody else to tell when this fails.
            let _ = writeln!(std::io::stderr(), "guest-traffic: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Bytes that look like nothing in particular, the same at both ends.
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..PATTERN).map(|_| next()).collect()
}

/// Prints the value at each JSON pointer (RFC 6901) of the document on standard input, a line each.
fn json(pointers: impl Iterator<Item = String>) -> Outcome<bool> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let document: serde_json::Value = serde_json::from_str(&text)?;
    let mut all = true;
    for pointer in pointers {
        match document.pointer(&pointer) {
            Some(serde_json::Value::String(text)) => println!("{text}"),
            Some(value) => println!("{value}"),
            None => {
                println!();
                all = false;
            }
        }
    }
    Ok(all)
}
