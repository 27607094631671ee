//! The HTTP side: few clients at a time, each for a few seconds at the most.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, oneshot};
use tokio::task;

use super::exposition::{Scrape, render};
use crate::api::{Client, ClientError, Request as Question, Status};
use crate::privilege;

/// Clients at a time; more wait.
const CLIENTS: usize = 8;
/// How long one may take for its request and the answer: more than the gateway may take for its own.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a request's header may take.
const HEADER: Duration = Duration::from_secs(2);

/// The address for metrics can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "metrics.listen = \"{listen}\": can't listen there; `ss -ltnp` shows who does, `ip address` the addresses of this machine"
)]
pub struct BindError {
    /// As configured.
    pub listen: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// The address, listened on; nobody is answered yet.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// The address is in use, or none of this machine's.
    pub fn bind(listen: SocketAddr) -> Result<Self, BindError> {
        let failed = |source| BindError { listen, source };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self(listener))
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Begins to answer with what the gateway at this API socket says.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn serve(self, socket: &Path) -> io::Result<Server> {
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(2)
            .build()?;
        let socket: Arc<Path> = socket.into();
        let body = move || {
            privilege::give_up();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(self.0, socket) => {}
                    _ = stopped => {}
                }
            });
            // One who waits for the gateway, which waits for this thread, is not waited for.
            runtime.shutdown_background();
        };
        let thread = Builder::new().name("metrics".to_owned()).spawn(body)?;
        Ok(Server { stop: Some(stop), thread: Some(thread) })
    }
}

/// The thread that answers. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, socket: Arc<Path>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "metrics can't be served"),
    };
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of descriptors, as a rule: there may be some again.
            Err(error) => {
                tracing::warn!(%error, "metrics: a client could not be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let socket = Arc::clone(&socket);
        task::spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&socket)));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER)
                .keep_alive(false)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever went away or took too long is no concern of ours.
            let _ = tokio::time::timeout(PATIENCE, connection).await;
            drop(place);
        });
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: Request<Incoming>, socket: Arc<Path>) -> Result<Answer, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD are answered\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refusal);
    }
    Ok(match request.uri().path() {
        "/metrics" => match ask(socket, scrape).await {
            Ok(scrape) => metrics(render(scrape)),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/healthz" => match ask(socket, |client| client.ask::<Status>(&Question::Status {})).await {
            Ok(Status { ready: true, .. }) => text(StatusCode::OK, "ready\n"),
            Ok(_) => text(StatusCode::SERVICE_UNAVAILABLE, "starting: conntrack is being read\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/" => text(StatusCode::OK, "flyover: /metrics for Prometheus, /healthz for health checks\n"),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
    })
}

/// Asks the gateway, on a thread that may wait for it.
async fn ask<T: Send + 'static>(
    socket: Arc<Path>,
    question: impl FnOnce(&mut Client) -> Result<T, ClientError> + Send + 'static,
) -> Result<T, String> {
    let asked =
        task::spawn_blocking(move || Client::connect(&socket).and_then(|mut client| question(&mut client)));
    match asked.await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn scrape(client: &mut Client) -> Result<Scrape, ClientError> {
    Ok(Scrape {
        status: client.ask(&Question::Status {})?,
        stats: client.ask(&Question::Stats {})?,
        hardware: client.ask(&Question::Hardware {})?,
    })
}

fn metrics(exposition: String) -> Answer {
    const OPEN_METRICS: HeaderValue =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    let mut answer = Response::new(Full::new(exposition.into()));
    answer.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
    answer
}

fn text(status: StatusCode, words: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(words.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
