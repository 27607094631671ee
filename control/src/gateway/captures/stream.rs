//! The thread that carries records from workers to a client.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::capture::{Door, Reader, Record, What};
use dataplane::worker::Errands;

/// Between two looks at rings that were empty.
const PACE: Duration = Duration::from_millis(2);
/// A client that takes nothing for so long is given up: flows are kept out of NICs for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one attempt to write lasts.
const ATTEMPT: Duration = Duration::from_millis(100);
/// How long workers have to give back what they record in: those asleep wake up first.
const SOON: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Stream {
    pub(super) connection: UnixStream,
    pub(super) readers: Vec<Reader>,
    pub(super) doors: Vec<Arc<Door>>,
    pub(super) errands: Vec<Arc<Errands>>,
    pub(super) state: Arc<State>,
    pub(super) wake: Arc<dyn Fn() + Send + Sync>,
}

/// What the thread and control tell each other.
#[derive(Debug, Default)]
pub(super) struct State {
    stop: AtomicBool,
    ending: AtomicBool,
}

impl State {
    /// The thread is to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The thread is about to end.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }
}

impl Stream {
    pub(super) fn run(mut self) {
        let outcome = self.carry();
        self.state.ending.store(true, Ordering::Release);
        self.errands.iter().for_each(|errands| errands.set_recording(false));
        let begun = Instant::now();
        while !self.doors.iter().all(|door| door.is_shut()) && begun.elapsed() < SOON {
            thread::sleep(PACE);
        }
        let outcome = outcome.and_then(|()| self.conclude());
        if let Err(error) = outcome {
            tracing::info!(%error, "a capture ended before its client asked for it");
        }
        let Self { connection, wake, .. } = self;
        drop(connection);
        wake();
    }

    /// Carries what there is until the client has had enough.
    fn carry(&mut self) -> io::Result<()> {
        self.connection.set_write_timeout(Some(ATTEMPT))?;
        self.connection.set_read_timeout(Some(PACE))?;
        while !self.state.stop.load(Ordering::Relaxed) {
            let found = self.pass()?;
            if self.has_ended(!found)? {
                break;
            }
        }
        Ok(())
    }

    /// Hands on what workers have recorded by now; whether there was anything.
    fn pass(&mut self) -> io::Result<bool> {
        let mut records = Vec::new();
        for reader in &mut self.readers {
            reader.read(&mut records);
        }
        if records.is_empty() {
            return Ok(false);
        }
        if self.readers.len() > 1 {
            records = in_order(&records);
        }
        self.write(&records)?;
        Ok(true)
    }

    /// What was recorded last, and the end.
    fn conclude(&mut self) -> io::Result<()> {
        self.pass()?;
        let mut end = Vec::new();
        let nothing =
            Record { what: What::End, port: 0, worker: 0, packet: 0, nanos: 0, length: 0, bytes: &[] };
        nothing.write(&mut end);
        self.write(&end)
    }

    /// Whether the client has ended its side, or is gone; waits a moment for that if there is nothing else to do.
    fn has_ended(&mut self, wait: bool) -> io::Result<bool> {
        self.connection.set_nonblocking(!wait)?;
        let outcome = self.connection.read(&mut [0; 64]);
        self.connection.set_nonblocking(false)?;
        match outcome {
            Ok(0) => Ok(true),
            // It has nothing to say.
            Ok(_) => Ok(false),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut last = Instant::now();
        while !bytes.is_empty() {
            match self.connection.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    last = Instant::now();
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    if self.state.stop.load(Ordering::Relaxed) || last.elapsed() > PATIENCE {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Records of several workers, by time.
fn in_order(records: &[u8]) -> Vec<u8> {
    let (mut at, mut parts) = (0, Vec::new());
    while let Some(Ok(Some((record, len)))) = records.get(at..).map(Record::read) {
        parts.push((record.nanos, at..at + len));
        at += len;
    }
    parts.sort_by_key(|(nanos, _)| *nanos);
    parts.into_iter().flat_map(|(_, part)| records.get(part).unwrap_or_default()).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_several_workers_are_put_in_the_order_of_time() {
        let record = |nanos, packet| {
            let mut bytes = Vec::new();
            let what = What::Received;
            Record { what, port: 0, worker: 0, packet, nanos, length: 3, bytes: &[1, 2, 3] }
                .write(&mut bytes);
            bytes
        };
        let mixed = [record(5, 1), record(9, 2), record(3, 3), record(9, 4)].concat();
        let sorted = in_order(&mixed);
        assert_eq!(sorted, [record(3, 3), record(5, 1), record(9, 2), record(9, 4)].concat());
    }
}
