//! What the gateway has to do meanwhile.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lab::tcp::{Pair, Service, Way};
use lab::topology::{CLIENT, CLIENT6, SERVER, SERVER6};
use lab::{Lab, Result, udp};

/// Of a transfer; there is one after the other.
const FILE: u64 = 4_000_000;

/// Between two questions.
const BETWEEN: Duration = Duration::from_millis(150);

/// Streams and transfers that go on until they are told to stop.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    streams: Vec<(udp::Pair, udp::Stream)>,
    transfers: Vec<JoinHandle<()>>,
}

impl Traffic {
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut streams = Vec::new();
        for (client, server, port, interval) in [
            (IpAddr::from(CLIENT), IpAddr::from(SERVER), 443, 1),
            (CLIENT.into(), SERVER.into(), 3478, 5),
            (CLIENT.into(), SERVER.into(), 51820, 20),
            (CLIENT6.into(), SERVER6.into(), 443, 2),
            (CLIENT.into(), SERVER.into(), 123, 1000),
        ] {
            let to = SocketAddr::new(server, port);
            let pair = udp::Pair::open(lab.client(), client, to, udp::bind(lab.server(), server, port)?)?;
            let stream = udp::Stream::start(&pair, Duration::from_millis(interval), true)?;
            streams.push((pair, stream));
        }
        let mut transfers = Vec::new();
        for (server, port, way, pauses) in [
            (IpAddr::from(SERVER), 8080, Way::Down, [50, 50, 50, 1800]),
            (SERVER6.into(), 8443, Way::Down, [300, 300, 900, 2500]),
            (SERVER.into(), 22, Way::Up, [700; 4]),
        ] {
            let service = Service::listen(lab.server(), server, port)?;
            let pair = Pair::open(lab.client(), None, SocketAddr::new(server, port), &service)?;
            let stop = Arc::clone(&stop);
            transfers.push(thread::spawn(move || {
                for pause in pauses.into_iter().cycle() {
                    if stop.load(Ordering::Relaxed) || pair.transfer(way, FILE).is_err() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(pause));
                }
            }));
        }
        transfers.push(questions(lab, Arc::clone(&stop))?);
        Ok(Self { stop, streams, transfers })
    }

    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for (_pair, stream) in self.streams {
            stream.finish();
        }
        // One that failed has ended, which is all that is wanted here.
        self.transfers.into_iter().for_each(|transfer| drop(transfer.join()));
    }
}

/// One question after the other to a name server, each from a port of its own: they come and go in the kernel.
fn questions(lab: &Lab, stop: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
    let server = udp::bind(lab.server(), SERVER, 53)?;
    let client = lab.client().clone();
    Ok(thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let Ok(socket) = server.try_clone() else { break };
            let asked = udp::Pair::open(&client, CLIENT, SocketAddr::from((SERVER, 53)), socket);
            // One that gets lost is asked no second time.
            let _ = asked.and_then(|pair| pair.ping(1));
            thread::sleep(BETWEEN);
        }
    }))
}
