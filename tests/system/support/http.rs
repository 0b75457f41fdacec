//! A small HTTP/1.1 client over a Unix socket or any other stream, strict enough to notice a wrong server.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::secrets;

/// Longer than any answer of the tests takes on a busy machine.
const SILENCE: Duration = Duration::from_secs(120);

/// A whole answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// What a request can be sent over.
pub trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// An answer whose body is still coming.
pub struct Exchange {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    stream: BufReader<Box<dyn Stream>>,
    framing: Framing,
    /// Bytes of an event that isn't whole yet.
    partial: String,
}

enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
    Done,
}

/// Sends one request and reads the whole answer.
pub fn http(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let exchange = send(socket, method, path, headers, body)
        .unwrap_or_else(|e| panic!("{method} {path} on {}: {e}", socket.display()));
    exchange
        .finish()
        .unwrap_or_else(|e| panic!("the answer to {method} {path} broke off: {e}"))
}

/// Sends one request and reads the answer's head. Fails as the connection does.
pub fn send(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Exchange> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    exchange(stream, method, path, headers, body)
}

/// Sends one request over a connection of the caller's and reads the answer's head.
pub fn exchange(
    stream: impl Stream + 'static,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Exchange> {
    secrets::body(body.as_bytes());
    let mut stream: Box<dyn Stream> = Box::new(stream);
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    for (name, value) in headers {
        if name.eq_ignore_ascii_case("authorization") {
            secrets::authorization(value);
        }
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let names = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !names("host") {
        head.push_str("host: localhost\r\n");
    }
    if !body.is_empty() && !names("content-type") {
        head.push_str("content-type: application/json\r\n");
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    let sent = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body.as_bytes()));
    // A server may refuse by the head alone and close: its answer is there all the same.
    Exchange::read_head(BufReader::new(stream)).or_else(|unread| sent.and(Err(unread)))
}

impl Exchange {
    fn read_head(mut stream: BufReader<Box<dyn Stream>>) -> io::Result<Exchange> {
        let status_line = line(&mut stream)?;
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| bad(&format!("status line {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let text = line(&mut stream)?;
            if text.is_empty() {
                break;
            }
            let (name, value) = text
                .split_once(':')
                .ok_or_else(|| bad(&format!("header {text:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let framing = if header(&headers, "transfer-encoding") == Some("chunked") {
            Framing::Chunked
        } else if let Some(length) = header(&headers, "content-length") {
            Framing::Length(length.parse().map_err(|_| bad("content-length"))?)
        } else {
            Framing::UntilClose
        };
        Ok(Exchange {
            status,
            headers,
            stream,
            framing,
            partial: String::new(),
        })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The next bytes of the body as they come; `None` at its end.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match self.framing {
            Framing::Done => return Ok(None),
            Framing::Length(length) => {
                bytes.resize(
                    usize::try_from(length).map_err(|_| bad("content-length"))?,
                    0,
                );
                self.stream.read_exact(&mut bytes)?;
                self.framing = Framing::Done;
            }
            Framing::UntilClose => {
                self.stream.read_to_end(&mut bytes)?;
                self.framing = Framing::Done;
            }
            Framing::Chunked => {
                let size = line(&mut self.stream)?;
                let size = usize::from_str_radix(&size, 16).map_err(|_| bad("chunk size"))?;
                bytes.resize(size, 0);
                self.stream.read_exact(&mut bytes)?;
                if !line(&mut self.stream)?.is_empty() {
                    return Err(bad("chunk without its end"));
                }
                if size == 0 {
                    self.framing = Framing::Done;
                    return Ok(None);
                }
            }
        }
        Ok(Some(bytes))
    }

    /// The data of the next server-sent event; `None` at the end. Comments are passed over.
    pub fn event(&mut self) -> io::Result<Option<String>> {
        loop {
            while let Some((event, rest)) = self.partial.split_once("\n\n") {
                let data = data(event);
                self.partial = rest.to_owned();
                if data.is_some() {
                    return Ok(data);
                }
            }
            let Some(bytes) = self.chunk()? else {
                return Ok(None);
            };
            // An event is written whole, so a chunk ends at a character's boundary.
            self.partial
                .push_str(std::str::from_utf8(&bytes).map_err(|_| bad("UTF-8"))?);
        }
    }

    pub fn finish(mut self) -> io::Result<Response> {
        let mut body = self.partial.clone().into_bytes();
        while let Some(bytes) = self.chunk()? {
            body.extend(bytes);
        }
        let body = String::from_utf8(body).map_err(|_| bad("UTF-8"))?;
        Ok(Response {
            status: self.status,
            headers: self.headers,
            body,
        })
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|e| panic!("no JSON ({e}): {:?}", self.body))
    }

    /// The data of all server-sent events, `[DONE]` too.
    pub fn events(&self) -> Vec<String> {
        self.body.split("\n\n").filter_map(data).collect()
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

fn data(event: &str) -> Option<String> {
    let lines: Vec<&str> = event
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(str::trim_start)
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    if stream.read_line(&mut text)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = text
        .strip_suffix("\r\n")
        .ok_or_else(|| bad("line without CRLF"))?;
    Ok(text.to_owned())
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("bad HTTP: {what}"))
}
