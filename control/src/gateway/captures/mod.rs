//! Captures and traces: who looks on, and what for.
//!
//! One at a time: each worker has one recorder. A thread of its own carries the records from the workers' rings to the
//! client, so that a client that is slow delays neither control nor a worker: what it does not take in time finds no room
//! in the rings, and is counted.

mod stream;

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dataplane::capture::{Door, Filter, Instruction, Points, Recorder, Wanted};
use dataplane::clock::Clock;
use dataplane::worker::PortFlags;

use super::offload::Offload;
use crate::api::{CaptureClient, CaptureHead, CaptureRequest};
use crate::privilege;
use stream::Stream;

/// Room for records of each worker, in bytes: some 2,500 of the longest ordinary packets.
const ROOM: usize = 4 << 20;

/// See the module.
pub(super) struct Captures {
    doors: Vec<Arc<Door>>,
    flags: Arc<PortFlags>,
    clock: Clock,
    /// Has control look again.
    wake: Arc<dyn Fn() + Send + Sync>,
    current: Option<Current>,
    /// One that came while the last one was ending.
    waiting: Option<CaptureClient>,
}

/// The one that is under way.
struct Current {
    thread: JoinHandle<()>,
    stream: Arc<stream::State>,
    since: Instant,
    process: Option<i32>,
}

impl std::fmt::Debug for Captures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captures").field("under_way", &self.current.is_some()).finish_non_exhaustive()
    }
}

impl Captures {
    pub(super) fn new(
        doors: Vec<Arc<Door>>,
        flags: Arc<PortFlags>,
        clock: Clock,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self { doors, flags, clock, wake, current: None, waiting: None }
    }

    /// Serves a client, if nobody else is served.
    pub(super) fn add(&mut self, client: CaptureClient, ports: &[&str], offload: &mut Offload) {
        match &self.current {
            None => self.start(client, ports, offload),
            Some(current) if current.stream.is_ending() && self.waiting.is_none() => {
                self.waiting = Some(client);
            }
            Some(current) => {
                let by = current.process.map(|pid| format!(", by process {pid}")).unwrap_or_default();
                let since = current.since.elapsed().as_secs();
                client.refuse(format!(
                    "packets are captured or traced already, since {since} s{by}: one at a time; end that one, or wait for it"
                ));
            }
        }
    }

    /// Puts things back when one has ended, and begins with the next.
    pub(super) fn advance(&mut self, ports: &[&str], offload: &mut Offload) {
        let Some(current) = self.current.take_if(|current| current.thread.is_finished()) else { return };
        // It has said why, if it failed.
        let _ = current.thread.join();
        offload.set_captured(None);
        tracing::info!(seconds = current.since.elapsed().as_secs(), "packets are captured no more");
        if let Some(client) = self.waiting.take() {
            self.start(client, ports, offload);
        }
    }

    fn start(&mut self, client: CaptureClient, ports: &[&str], offload: &mut Offload) {
        let wanted = match wanted(&client.request, ports) {
            Ok(wanted) => Arc::new(wanted),
            Err(why) => return client.refuse(why),
        };
        // A worker that did not give its recorder back is stuck, or gone.
        if !self.doors.iter().all(|door| door.is_shut()) {
            return client.refuse("a worker has not ended the last capture yet: try again".to_owned());
        }
        let recorders: Result<Vec<_>, _> = (0..)
            .zip(&self.doors)
            .map(|(worker, _)| Recorder::new(Arc::clone(&wanted), worker, self.clock, ROOM))
            .collect();
        let (recorders, readers): (Vec<_>, Vec<_>) = match recorders {
            Ok(recorders) => recorders.into_iter().unzip(),
            Err(error) => return client.refuse(error.to_string()),
        };
        let process = client.process();
        let Ok(connection) = client.begin(&self.head(ports)) else { return };
        let state = Arc::new(stream::State::default());
        let stream = Stream {
            connection,
            readers,
            doors: self.doors.clone(),
            flags: Arc::clone(&self.flags),
            state: Arc::clone(&state),
            wake: Arc::clone(&self.wake),
        };
        // Before anything is recorded: what a NIC carries is seen by nobody.
        offload.set_captured(Some(wanted));
        for (door, recorder) in self.doors.iter().zip(recorders) {
            // They are shut.
            let _ = door.send(Box::new(recorder));
        }
        self.flags.set_recording(true);
        let body = move || {
            privilege::give_up();
            stream.run();
        };
        match Builder::new().name("capture".to_owned()).spawn(body) {
            Ok(thread) => {
                tracing::info!(process, "packets are captured");
                self.current = Some(Current { thread, stream: state, since: Instant::now(), process });
            }
            Err(error) => {
                tracing::warn!(%error, "no thread for a capture");
                self.flags.set_recording(false);
                offload.set_captured(None);
            }
        }
    }

    fn head(&self, ports: &[&str]) -> CaptureHead {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        CaptureHead {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ports: ports.iter().map(|port| (*port).to_owned()).collect(),
            epoch_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).saturating_sub(self.clock.nanos()),
        }
    }
}

impl Drop for Captures {
    fn drop(&mut self) {
        if let Some(current) = self.current.take() {
            current.stream.stop();
            let _ = current.thread.join();
        }
    }
}

/// What a request asks for, judged.
fn wanted(request: &CaptureRequest, ports: &[&str]) -> Result<Wanted, String> {
    let filter = if request.program.is_empty() {
        Filter::everything()
    } else {
        Filter::new(&program(&request.program)?).map_err(|error| error.to_string())?
    };
    let mut points = Points::default();
    for point in &request.points {
        match point.as_str() {
            "rx" => points.rx = true,
            "tx" => points.tx = true,
            "punt" => points.punt = true,
            "drop" => points.drop = true,
            "decisions" => points.decisions = true,
            other => return Err(format!("{other}: a point is one of rx, tx, punt, drop and decisions")),
        }
    }
    let number = |name: &String| {
        let number = ports.iter().position(|port| port == name);
        number.ok_or_else(|| format!("{name}: no such port; there are {}", ports.join(", ")))
    };
    let numbers = request.ports.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    let bits =
        if numbers.is_empty() { u32::MAX } else { numbers.iter().fold(0, |bits, port| bits | 1 << port) };
    Ok(Wanted { filter, points, ports: bits, bytes: request.bytes, packets: request.packets })
}

fn program(text: &str) -> Result<Vec<Instruction>, String> {
    let instruction = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.len() == 16)?;
        let bits = u64::from_str_radix(digits, 16).ok()?;
        let [a, b, jt, jf, k @ ..] = bits.to_be_bytes();
        Some(Instruction { code: u16::from_be_bytes([a, b]), jt, jf, k: u32::from_be_bytes(k) })
    };
    let program: Option<Vec<_>> = text.as_bytes().chunks(16).map(instruction).collect();
    program.ok_or_else(|| "program: 16 hexadecimal digits an instruction".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [&str; 2] = ["wan0", "lan0"];

    fn request() -> CaptureRequest {
        CaptureRequest { bytes: 100, ..CaptureRequest::default() }
    }

    #[test]
    fn a_request_is_judged() {
        let all = wanted(&request(), &PORTS).expect("all");
        assert_eq!((all.ports, all.points, all.bytes), (u32::MAX, Points::default(), 100));
        assert_eq!(all.filter, Filter::everything());
        let some = CaptureRequest {
            program: "00060000000000ff".to_owned(),
            points: vec!["tx".to_owned(), "drop".to_owned()],
            ports: vec!["lan0".to_owned()],
            packets: Some(3),
            ..request()
        };
        let some = wanted(&some, &PORTS).expect("some");
        assert_eq!(some.points, Points { tx: true, drop: true, ..Points::default() });
        assert_eq!((some.ports, some.packets), (0b10, Some(3)));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let refused = |request: &CaptureRequest| wanted(request, &PORTS).expect_err("refused");
        let with = |program: &str| CaptureRequest { program: program.to_owned(), ..request() };
        assert_eq!(
            refused(&CaptureRequest { ports: vec!["dmz0".to_owned()], ..request() }),
            "dmz0: no such port; there are wan0, lan0"
        );
        assert!(refused(&CaptureRequest { points: vec!["up".to_owned()], ..request() }).starts_with("up: "));
        for program in ["0006", "zz06000000000000", "00060000000000ff0", "+006000000000000é"] {
            assert!(refused(&with(program)).contains("hexadecimal"), "{program}");
        }
        // A load, and no return.
        assert!(refused(&with("0028000000000000")).contains("return"));
    }
}
