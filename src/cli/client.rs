//! HTTP over the daemon's Unix sockets: ureq with a transport of our own.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ureq::http::{Request, Response, StatusCode};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Agent, Body, Timeout};

use super::exit::{Exit, Failure};
use crate::admin::{Call, Operation};
use crate::secret::Secret;

/// Longer than any silence of a healthy daemon, which sends a comment line every `keep_alive`.
const SILENCE: Duration = Duration::from_secs(120);
/// Until the daemon takes the connection: a full backlog blocks.
const CONNECT: Duration = Duration::from_secs(10);
/// Until what only looks is answered: nothing of that waits for the network or the engine.
const LOOK: Duration = Duration::from_secs(30);
/// No answer of the admin socket that isn't a stream comes near.
const MAX_BODY: u64 = 64 << 20;

/// Speaks to one socket.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
    agent: Agent,
}

/// What a request shows of its sender.
#[derive(Debug)]
pub(super) enum Shown {
    Nothing,
    Bearer(Secret<String>),
    /// RFC 9449 section 7.1.
    Dpop {
        token: Secret<String>,
        proof: Secret<String>,
    },
}

/// An answer whose status was good and whose body is still to come.
pub(super) struct Answer(Response<Body>);

/// Why there is no good answer.
#[derive(Debug)]
pub(super) enum Problem {
    /// Nobody listens: the daemon isn't running.
    Down(Failure),
    Other(Failure),
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("slmd/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector = UnixConnector(socket.clone());
        let agent = Agent::with_parts(config, connector, NoResolver);
        Client { socket, agent }
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, Problem> {
        self.send("GET", path, &Shown::Nothing, Vec::new())
    }

    /// Asks the admin socket for what is of no realm and needs no body.
    pub(super) fn call<A: DeserializeOwned>(&self, call: Call<A>) -> Result<A, Problem> {
        self.call_with(call, "", Vec::new())
    }

    pub(super) fn call_with<A: DeserializeOwned>(
        &self,
        call: Call<A>,
        realm: &str,
        body: Vec<u8>,
    ) -> Result<A, Problem> {
        let operation = call.operation();
        let (method, path) = (operation.route().method, operation.path(realm));
        let answer = self.send(method, &path, &Shown::Nothing, body)?;
        answer.json().map_err(Problem::Other)
    }

    /// Lines of the audit log.
    pub(super) fn audit(&self, query: &str) -> Result<Answer, Problem> {
        self.get(&format!("{}?{query}", Operation::Audit.path("")))
    }

    /// An answer in JSON, whatever its status: `/readyz` tells even when it says no.
    pub(super) fn tell<A: DeserializeOwned>(&self, path: &str) -> Result<A, Problem> {
        let response = self.exchange("GET", path, &Shown::Nothing, Vec::new())?;
        Answer(response).json().map_err(Problem::Other)
    }

    /// Sends `body` as JSON, with what is shown of the sender.
    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        shown: &Shown,
        body: Vec<u8>,
    ) -> Result<Answer, Problem> {
        let response = self.exchange(method, path, shown, body)?;
        if response.status().is_success() {
            Ok(Answer(response))
        } else {
            Err(Problem::Other(refused(response)))
        }
    }

    fn exchange(
        &self,
        method: &str,
        path: &str,
        shown: &Shown,
        body: Vec<u8>,
    ) -> Result<Response<Body>, Problem> {
        let failed = |error: String| Problem::Other(Failure::failed(error));
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://localhost{path}"));
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        match shown {
            Shown::Nothing => {}
            Shown::Bearer(token) => {
                request = request.header("authorization", format!("Bearer {}", token.expose()));
            }
            Shown::Dpop { token, proof } => {
                request = request
                    .header("authorization", format!("DPoP {}", token.expose()))
                    .header("dpop", proof.expose());
            }
        }
        let request = request.body(body).map_err(|_| {
            failed("the token can't be sent in a header; check its file".to_owned())
        })?;
        let patience = match method == "GET" {
            true => LOOK,
            false => SILENCE,
        };
        let request = self.agent.configure_request(request);
        let request = request.timeout_recv_response(Some(patience)).build();
        self.agent.run(request).map_err(|e| self.unreachable(e))
    }

    fn unreachable(&self, error: ureq::Error) -> Problem {
        let socket = self.socket.display();
        let fail = |what: String| Failure::new(Exit::Unreachable, what);
        let silent = format!(
            "{socket}: the daemon doesn't answer; it may be stuck or out of open files: see its log \
             (journalctl -u slmd)"
        );
        let error = match error {
            ureq::Error::Io(error) => error,
            ureq::Error::Timeout(_) => return Problem::Other(fail(silent)),
            error => return Problem::Other(fail(format!("{socket}: {error}"))),
        };
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Problem::Down(fail(format!(
                "no daemon listens on {socket}; start it (systemctl start slmd) or name its socket"
            ))),
            ErrorKind::PermissionDenied => Problem::Other(fail(format!(
                "{socket}: permission denied; the admin socket is for root and the daemon's user \
                 (try sudo), the public one for members of its group"
            ))),
            ErrorKind::WouldBlock => Problem::Other(fail(silent)),
            _ => Problem::Other(fail(format!("{socket}: {error}"))),
        }
    }
}

/// The JSON of a request.
pub(super) fn body(request: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(request).map_err(Failure::failed)
}

impl Answer {
    pub(super) fn json<A: DeserializeOwned>(self) -> Result<A, Failure> {
        let text = self.text()?;
        serde_json::from_str(&text)
            .map_err(|e| Failure::failed(format!("the daemon's answer can't be read: {e}")))
    }

    fn text(mut self) -> Result<String, Failure> {
        let body = self.0.body_mut().with_config().limit(MAX_BODY);
        let text = body.read_to_string();
        text.map_err(|e| Failure::failed(format!("the daemon's answer broke off: {e}")))
    }

    /// The body's lines as they come.
    pub(super) fn lines(self) -> impl Iterator<Item = io::Result<String>> {
        let body = self.0.into_body().into_with_config().limit(u64::MAX);
        BufReader::new(body.reader()).lines()
    }
}

impl Problem {
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Problem::Down(failure) | Problem::Other(failure) => failure,
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        problem.into_failure()
    }
}

/// The daemon's own words, and when to try again.
fn refused(response: Response<Body>) -> Failure {
    let status = response.status();
    let retry = response.headers().get("retry-after");
    let retry = retry
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let body = Answer(response).text().unwrap_or_default();
    let mut message = explain(status, &body);
    if let Some(seconds) = retry {
        message.push_str(&format!("; try again in {seconds} s"));
    }
    Failure::new(Exit::Refused, message)
}

/// OpenAI's error object; a reload has more than one error.
#[derive(Default, Deserialize)]
struct Told {
    error: Option<Said>,
    #[serde(default)]
    errors: Vec<String>,
}

#[derive(Deserialize)]
struct Said {
    message: String,
}

fn explain(status: StatusCode, body: &str) -> String {
    let told: Told = serde_json::from_str(body).unwrap_or_default();
    let mut lines = vec![match told.error {
        Some(Said { message }) => format!("refused ({}): {message}", status.as_u16()),
        None => format!("refused: {status}"),
    }];
    lines.extend(told.errors);
    lines.join("\n      ")
}

/// Opens the one socket, whatever the URL says.
#[derive(Debug)]
struct UnixConnector(PathBuf);

impl Connector for UnixConnector {
    type Out = UnixTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<UnixTransport>, ureq::Error> {
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        let stream = connect(&self.0, CONNECT)?;
        Ok(Some(UnixTransport { stream, buffers }))
    }
}

/// A blocking connect waits for room in the backlog, for as long as it may wait to send (unix(7)).
fn connect(socket: &Path, limit: Duration) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
    let flags = SocketFlags::CLOEXEC;
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let stream = rustix::net::socket_with(family, kind, flags, None)?;
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(limit))?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(stream.into())
}

struct UnixTransport {
    stream: UnixStream,
    buffers: LazyBuffers,
}

impl fmt::Debug for UnixTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnixTransport")
    }
}

impl Transport for UnixTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.set_write_timeout(limit(&timeout))?;
        let output = &self.buffers.output()[..amount];
        self.stream
            .write_all(output)
            .map_err(|error| timed_out(error, timeout.reason))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.set_read_timeout(limit(&timeout))?;
        let input = self.buffers.input_append_buf();
        let amount = self
            .stream
            .read(input)
            .map_err(|error| timed_out(error, timeout.reason))?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// Each command asks once or twice; a connection is never worth keeping.
    fn is_open(&mut self) -> bool {
        false
    }
}

/// What ureq allows, and never more than [`SILENCE`] without a byte.
fn limit(timeout: &NextTimeout) -> Option<Duration> {
    let asked = timeout.not_zero().map(|limit| *limit);
    Some(asked.unwrap_or(SILENCE).min(SILENCE))
}

fn timed_out(error: io::Error, reason: Timeout) -> ureq::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => ureq::Error::Timeout(reason),
        _ => error.into(),
    }
}

/// There is nothing to look up: the socket is a path.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        _: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(([127, 0, 0, 1], 80).into());
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc::channel;

    /// Answers one request with `head`, then one chunk whenever the test says so.
    fn served(
        head: &'static str,
    ) -> (
        tempfile::TempDir,
        Client,
        std::sync::mpsc::Sender<&'static str>,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let (tell, told) = channel::<&str>();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            for chunk in told {
                write!(stream, "{:x}\r\n{chunk}\r\n", chunk.len()).unwrap();
            }
            let _ = stream.write_all(b"0\r\n\r\n");
        });
        (folder, Client::new(path), tell)
    }

    #[test]
    fn lines_come_before_the_answer_has_ended() {
        let (_folder, client, tell) =
            served("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let mut lines = client.get("/x").ok().unwrap().lines();
        for line in ["one\n", "two\n"] {
            tell.send(line).unwrap();
            assert_eq!(lines.next().unwrap().unwrap(), line.trim_end());
        }
        drop(tell);
        assert!(lines.next().is_none());
    }

    #[test]
    fn a_refusal_carries_the_daemons_words() {
        let (_folder, client, tell) = served(
            "HTTP/1.1 401 Unauthorized\r\nretry-after: 7\r\ntransfer-encoding: chunked\r\n\r\n",
        );
        tell.send(r#"{"error":{"message":"expired: get a new one"}}"#)
            .unwrap();
        drop(tell);
        let failure = client.get("/x").err().unwrap().into_failure();
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(
            failure.message,
            "refused (401): expired: get a new one; try again in 7 s"
        );
    }

    #[test]
    fn a_full_backlog_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let limit = Duration::from_millis(50);
        let mut waiting = Vec::new();
        let full = loop {
            match connect(&path, limit) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock, "{full}");
        let told = Client::new(path).unreachable(ureq::Error::Io(full));
        let told = told.into_failure();
        assert_eq!(told.exit, Exit::Unreachable);
        assert!(
            told.message.contains("out of open files"),
            "{}",
            told.message
        );
    }

    #[test]
    fn nobody_listening_is_down() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Client::new(folder.path().join("none"))
            .get("/")
            .err()
            .unwrap();
        assert!(matches!(missing, Problem::Down(_)), "{missing:?}");
        let path = folder.path().join("stale");
        drop(UnixListener::bind(&path).unwrap());
        let stale = Client::new(path).get("/").err().unwrap();
        assert!(matches!(stale, Problem::Down(_)), "{stale:?}");
    }
}
