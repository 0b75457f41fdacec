//! Bounded waiting: nothing in the tests may hang.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::Duration;

use slmd::for_tests::time::instant;

const STEP: Duration = Duration::from_millis(10);

/// Asks `ready` until it answers, and panics naming `what` when `limit` passes first.
pub fn within<T>(limit: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = instant() + limit;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(
            instant() < end,
            "gave up after {limit:?} waiting for {what}"
        );
        thread::sleep(STEP);
    }
}

/// Waits for the end of a process; kills it when it doesn't come in time.
pub fn exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = instant() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if instant() >= end {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(STEP);
    }
}

/// Runs a command to its end with `input` on its standard input; panics when it takes too long.
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("can't start {name}: {e}"));
    let mut stdin = child.stdin.take().expect("piped above");
    let input = input.to_vec();
    // A program that doesn't read its input to the end is not wrong.
    let feed = thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = drain(child.stdout.take().expect("piped above"));
    let stderr = drain(child.stderr.take().expect("piped above"));
    let status = exit(&mut child, limit);
    feed.join().expect("the feeding thread doesn't panic");
    let (stdout, stderr) = (
        stdout.join().expect("the reading thread doesn't panic"),
        stderr.join().expect("the reading thread doesn't panic"),
    );
    let Some(status) = status else {
        let text = String::from_utf8_lossy(&stderr);
        panic!("{name} took longer than {limit:?}; it said: {text}");
    };
    Output {
        status,
        stdout,
        stderr,
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}
