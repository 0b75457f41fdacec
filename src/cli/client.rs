//! HTTP over the daemon's Unix sockets: what is asked, and what a refusal means.

mod connection;

use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::exit::{Exit, Failure};
use crate::admin::{Call, Operation};
use crate::audit::TextOf;
use crate::reason::Reason;
use crate::secret::Secret;
use connection::{Broken, Exchange, SILENCE};

/// Until what only looks is answered: nothing of that waits for the network or the engine.
const LOOK: Duration = Duration::from_secs(30);
/// No answer of the admin socket that isn't a stream comes near, and no line of one that is.
const MAX_BODY: u64 = 64 << 20;
const AGENT: &str = concat!("slmd/", env!("CARGO_PKG_VERSION"));

/// Speaks to one socket.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
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
pub(super) struct Answer(Exchange);

/// Why there is no good answer.
#[derive(Debug)]
pub(super) enum Problem {
    /// Nobody listens: the daemon isn't running.
    Down(Failure),
    /// It runs, and this socket isn't for this user.
    Denied(Failure),
    /// The daemon said no, for a reason that this release may not know.
    Refused(Option<Reason>, Failure),
    Other(Failure),
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Client {
        Client { socket }
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
        let answer = self.exchange(method, &path, &Shown::Nothing, body)?;
        match answer.head.status {
            status if status.is_success() => Answer(answer).json().map_err(Problem::Other),
            // The admin socket forbids nothing but its own use.
            StatusCode::FORBIDDEN => Err(Problem::Denied(refused(answer).into_failure())),
            _ => Err(refused(answer)),
        }
    }

    /// Lines of the audit log.
    pub(super) fn audit(&self, query: &str) -> Result<Answer, Problem> {
        self.get(&format!("{}?{query}", Operation::Audit.path("")))
    }

    /// An encrypted text, where there is one.
    pub(super) fn text(&self, of: &TextOf) -> Result<Option<Vec<u8>>, Problem> {
        let path = format!("{}?of={of}", Operation::AuditText.path(""));
        let answer = self.exchange("GET", &path, &Shown::Nothing, Vec::new())?;
        match answer.head.status {
            status if status.is_success() => {
                Answer(answer).bytes().map(Some).map_err(Problem::Other)
            }
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::FORBIDDEN => Err(Problem::Denied(refused(answer).into_failure())),
            _ => Err(refused(answer)),
        }
    }

    /// An answer in JSON, whatever its status: `/readyz` tells even when it says no.
    pub(super) fn tell<A: DeserializeOwned>(&self, path: &str) -> Result<A, Problem> {
        let answer = self.exchange("GET", path, &Shown::Nothing, Vec::new())?;
        Answer(answer).json().map_err(Problem::Other)
    }

    /// Sends `body` as JSON, with what is shown of the sender.
    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        shown: &Shown,
        body: Vec<u8>,
    ) -> Result<Answer, Problem> {
        let answer = self.exchange(method, path, shown, body)?;
        if answer.head.status.is_success() {
            Ok(Answer(answer))
        } else {
            Err(refused(answer))
        }
    }

    fn exchange(
        &self,
        method: &str,
        path: &str,
        shown: &Shown,
        body: Vec<u8>,
    ) -> Result<Exchange, Problem> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("user-agent", AGENT);
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
        let request = request.body(Full::new(Bytes::from(body))).map_err(|_| {
            let what = "the token can't be sent in a header; check its file";
            Problem::Other(Failure::failed(what))
        })?;
        let patience = match method == "GET" {
            true => LOOK,
            false => SILENCE,
        };
        Exchange::begin(&self.socket, request, patience).map_err(|e| self.unreachable(e))
    }

    fn unreachable(&self, error: Broken) -> Problem {
        let socket = self.socket.display();
        let fail = |what: String| Failure::new(Exit::Unreachable, what);
        let silent = format!(
            "{socket}: the daemon doesn't answer; it may be stuck or out of open files: see its log \
             (journalctl -u slmd)"
        );
        let error = match error {
            Broken::Io(error) => error,
            Broken::Silent => return Problem::Other(fail(silent)),
            error @ Broken::Http(_) => return Problem::Other(fail(format!("{socket}: {error}"))),
        };
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Problem::Down(fail(format!(
                "no daemon listens on {socket}; start it (systemctl start slmd) or name its socket"
            ))),
            ErrorKind::PermissionDenied => Problem::Denied(fail(format!(
                "{socket}: permission denied; the admin socket is for root and the daemon's user \
                 (try sudo), the public one for members of its group"
            ))),
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

    fn bytes(self) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let read = self.0.take(MAX_BODY + 1).read_to_end(&mut bytes);
        match read.map_err(broke_off)? as u64 {
            0..=MAX_BODY => Ok(bytes),
            _ => Err(broke_off("it is too long")),
        }
    }

    pub(super) fn text(self) -> Result<String, Failure> {
        let mut text = String::new();
        let read = self.0.take(MAX_BODY + 1).read_to_string(&mut text);
        match read.map_err(broke_off)? as u64 {
            0..=MAX_BODY => Ok(text),
            _ => Err(broke_off("it is too long")),
        }
    }

    /// The body's lines as they come.
    pub(super) fn lines(self) -> impl Iterator<Item = Result<String, Failure>> {
        let mut body = BufReader::new(self.0);
        std::iter::from_fn(move || line(&mut body).transpose())
    }
}

fn line(body: &mut impl BufRead) -> Result<Option<String>, Failure> {
    let mut line = String::new();
    let read = body.take(MAX_BODY).read_line(&mut line);
    match read.map_err(broke_off)? as u64 {
        0 => Ok(None),
        MAX_BODY => Err(broke_off("a line is too long")),
        _ => Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned())),
    }
}

fn broke_off(why: impl fmt::Display) -> Failure {
    Failure::failed(format!("the daemon's answer broke off: {why}"))
}

impl Problem {
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Problem::Down(failure)
            | Problem::Denied(failure)
            | Problem::Refused(_, failure)
            | Problem::Other(failure) => failure,
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Problem::Other(failure)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        problem.into_failure()
    }
}

/// The daemon's own words, and when to try again.
fn refused(answer: Exchange) -> Problem {
    let status = answer.head.status;
    let retry = answer.head.headers.get("retry-after");
    let retry = retry
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let body = Answer(answer).text().unwrap_or_default();
    let told: Told = serde_json::from_str(&body).unwrap_or_default();
    let code = told.error.as_ref().and_then(|said| said.code.as_deref());
    let reason = code.and_then(Reason::parse);
    let mut message = told.into_message(status);
    if let Some(seconds) = retry {
        message.push_str(&format!("; try again in {seconds} s"));
    }
    Problem::Refused(reason, Failure::new(Exit::Refused, message))
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
    code: Option<String>,
}

impl Told {
    fn into_message(self, status: StatusCode) -> String {
        let mut lines = vec![match self.error {
            Some(Said { message, .. }) => format!("refused ({}): {message}", status.as_u16()),
            None => format!("refused: {status}"),
        }];
        lines.extend(self.errors);
        lines.join("\n      ")
    }
}

#[cfg(test)]
mod tests {
    use super::connection::connect;
    use super::*;
    use std::io::Write;
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
    fn a_refusal_that_comes_before_the_body_is_read_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            let said = r#"{"error":{"message":"too long"}}"#;
            let length = said.len();
            write!(
                stream,
                "HTTP/1.1 413 X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{said}"
            )
            .unwrap();
        });
        let body = vec![b' '; 8 << 20];
        let client = Client::new(path);
        let refused = client.send("PUT", "/x", &Shown::Nothing, body);
        let failure = refused.err().unwrap().into_failure();
        assert_eq!(failure.message, "refused (413): too long");
        served.join().unwrap();
    }

    #[test]
    fn a_line_and_an_answer_have_an_end() {
        let mut endless = BufReader::new(std::io::repeat(b'a'));
        assert!(line(&mut endless).is_err());
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
        let told = Client::new(path).unreachable(full.into());
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
