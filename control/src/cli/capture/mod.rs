//! `flyover capture`: packets at the gateway's ports, into a file that tcpdump and Wireshark open.

mod filter;
mod pcapng;
mod session;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dataplane::capture::What;
use serde::Serialize;

pub(super) use filter::{FilterError, compile};
pub(super) use session::{Session, Stop};

use super::args::{CaptureArguments, Point};
use super::format::count;
use crate::api::{CaptureRequest, Client, ClientError, Told};
use pcapng::{CaptureFile, Noted};

/// Why a capture failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaptureError {
    #[error("{0}")]
    Filter(#[from] FilterError),
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{what}: {error}")]
    File { what: String, error: io::Error },
    #[error("Ctrl-C can't be caught: {0}")]
    Signals(io::Error),
    #[error("can't write: {0}")]
    Output(#[from] io::Error),
    #[error("--json tells of a capture on standard output, where -w - writes it: choose another FILE")]
    TwiceStandardOutput,
}

impl CaptureError {
    /// Whether it was asked for wrongly.
    pub(super) const fn is_usage(&self) -> bool {
        matches!(self, Self::Filter(_) | Self::TwiceStandardOutput)
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Summary {
    packets: u64,
    lost: u64,
    points: ByPoint,
    seconds: f64,
}

/// Packets by the point that they were captured at.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct ByPoint {
    rx: u64,
    tx: u64,
    punt: u64,
    drop: u64,
}

/// Captures until enough have come, the time is up, or the user has had enough.
pub(super) fn run(client: Client, arguments: &CaptureArguments) -> Result<(), CaptureError> {
    let filter = arguments.filter.join(" ");
    let program = compile(&filter)?;
    let to_stdout = arguments.write == Path::new("-");
    if to_stdout && arguments.output.json {
        return Err(CaptureError::TwiceStandardOutput);
    }
    let stop = Stop::new(arguments.duration).map_err(CaptureError::Signals)?;
    let points = arguments.points();
    let request = CaptureRequest {
        program,
        points: points.iter().map(|point| point.name().to_owned()).collect(),
        ports: arguments.interface.clone(),
        bytes: arguments.snaplen,
        packets: None,
    };
    let (head, records) = client.capture(request)?;
    // A file that is there is replaced only when there is something to put into it.
    let out: Box<dyn Write> =
        if to_stdout { Box::new(io::stdout().lock()) } else { Box::new(create(&arguments.write)?) };
    let all = arguments.interface.is_empty();
    let chosen = |name: &String| !name.is_empty() && (all || arguments.interface.contains(name));
    let ports: Vec<(u16, &str)> = (0..)
        .zip(&head.ports)
        .filter(|(_, name)| chosen(name))
        .map(|(number, name)| (number, name.as_str()))
        .collect();
    let out = BufWriter::with_capacity(1 << 16, out);
    let mut file = CaptureFile::begin(out, &ports, &points, arguments.snaplen, &filter, head.epoch_ns)?;
    writeln!(io::stderr(), "flyover: capturing on {}; Ctrl-C ends it", names(&ports))?;
    let mut session = Session::new(records, stop);
    let begun = Instant::now();
    let outcome = take(&mut session, &mut file, arguments.count);
    let (points, lost) = file.counts();
    let summary = Summary {
        packets: points.rx + points.tx + points.punt + points.drop,
        lost,
        points,
        seconds: begun.elapsed().as_secs_f64(),
    };
    match outcome.and_then(|()| Ok(file.finish(now())?)) {
        // Whoever reads has seen enough: `flyover capture -w - | head`.
        Err(CaptureError::Output(error)) if to_stdout && error.kind() == io::ErrorKind::BrokenPipe => {}
        outcome => outcome?,
    }
    tell(&summary, arguments)
}

/// Writes what comes, until it is enough.
fn take(
    session: &mut Session,
    file: &mut CaptureFile<impl Write>,
    most: Option<u64>,
) -> Result<(), CaptureError> {
    let mut written = 0;
    loop {
        if session.is_over() {
            return Ok(());
        }
        let enough = most.is_some_and(|most| written >= most);
        if enough {
            session.end();
        }
        match session.next()? {
            // What was on its way when it was enough is not wanted; what was lost is told.
            Told::Record(record) if enough && !matches!(record.what, What::Lost { .. }) => {}
            Told::Record(record) => written += u64::from(file.note(&record)? == Noted::Packet),
            // For those who read along.
            Told::Nothing => file.flush()?,
            Told::End => return Ok(()),
        }
    }
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn create(path: &Path) -> Result<File, CaptureError> {
    File::create(path).map_err(|error| CaptureError::File { what: path.display().to_string(), error })
}

fn names(ports: &[(u16, &str)]) -> String {
    ports.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

fn tell(summary: &Summary, arguments: &CaptureArguments) -> Result<(), CaptureError> {
    if arguments.output.json {
        writeln!(io::stdout(), "{}", serde_json::to_string(summary).map_err(io::Error::from)?)?;
        return Ok(());
    }
    let Summary { packets, lost, points, seconds } = summary;
    let mut err = io::stderr();
    writeln!(
        err,
        "flyover: {} captured in {seconds:.1} s: rx {}, tx {}, punt {}, drop {}",
        count(*packets),
        count(points.rx),
        count(points.tx),
        count(points.punt),
        count(points.drop)
    )?;
    if *lost > 0 {
        writeln!(
            err,
            "flyover: {} more came faster than they could be written, and are not in it: they went their way all the same; \
             a narrower FILTER, fewer --points or a smaller --snaplen loses fewer",
            count(*lost)
        )?;
    }
    Ok(())
}

impl Point {
    /// As in requests, and in names of interfaces.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
            Self::Punt => "punt",
            Self::Drop => "drop",
        }
    }
}

/// A duration as people write it: `10s`, `5m`; seconds without a unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .or_else(|| humantime::parse_duration(text).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "a time, as 30, 30s or 5m".to_owned())
}
