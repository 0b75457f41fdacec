//! `slmd status --watch`: on a real terminal (tmux), which gets narrow, is suspended and outlives the
//! daemon; and without one.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Daemon, Issuer, Mosquitto, Setup, exit, run, signal, within};

const PATIENCE: Duration = Duration::from_secs(120);

/// A shell in a terminal of its own.
struct Window {
    folder: TempDir,
}

impl Window {
    fn open(columns: u16, rows: u16) -> Window {
        let window = Window {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        let size = [columns.to_string(), rows.to_string()];
        window.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &size[0],
            "-y",
            &size[1],
            "env PS1='> ' bash --norc --noprofile",
        ]);
        window
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.folder.path().join("socket"));
        command.env_remove("TMUX").args(args);
        let output = run(&mut command, b"", PATIENCE);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn types(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// A command line, and the key that sends it.
    fn runs(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.types(&["Enter"]);
    }

    fn resize(&self, columns: &str, rows: &str) {
        self.tmux(&["resize-window", "-x", columns, "-y", rows]);
    }

    /// What it shows, once `is_it` likes it.
    #[track_caller]
    fn shows(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        within(PATIENCE, what, || {
            let screen = self.tmux(&["capture-pane", "-p"]);
            is_it(&screen).then_some(screen)
        })
    }

    #[track_caller]
    fn says(&self, words: &str) -> String {
        self.shows(words, |screen| screen.contains(words))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.folder.path().join("socket"));
        let _ = run(command.arg("kill-server"), b"", PATIENCE);
    }
}

fn typed(daemon: &Daemon, args: &str) -> String {
    let binary = daemon.binary();
    let words = std::iter::once(binary.get_program()).chain(binary.get_args());
    let words: Vec<_> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    format!("{} {args}", words.join(" "))
}

#[test]
fn a_terminal_shows_it_in_place_and_gets_back_what_it_was() {
    let mut broker = Mosquitto::start();
    let issuer = Issuer::new("ES256", "key-1");
    let mut daemon = Daemon::start(Setup::new().issuer(&issuer).broker(&broker));
    let window = Window::open(80, 50);
    window.runs("echo what stood here before");
    window.says("> echo what");
    window.runs(&typed(&daemon, "status --watch"));
    let page = window.shows("the page", |screen| {
        screen.starts_with("ready") && screen.contains(": connected\n")
    });
    assert!(!page.contains("what stood here"), "{page}");
    for row in [
        "realm     dev: ",
        "queue     0 running",
        "clock     ",
        "audit     ",
        "disk      ",
    ] {
        assert!(page.contains(row), "{row}: {page}");
    }

    broker.stop();
    let away = window.says("! the broker mqtt://127.0.0.1:");
    assert!(away.contains("\n  do: check it, the network"), "{away}");
    window.says(" isn't connected: ");
    window.shows("how long that is so", |screen| screen.contains("(for "));
    let metrics = daemon.admin_http("GET", "/metrics", "").body;
    let named = "slmd_problems{problem=\"broker_away\",severity=\"critical\"} 1";
    assert!(metrics.contains(named), "{metrics}");

    // In a small window the worst is still in sight.
    window.resize("40", "8");
    let small = window.says(" lines more");
    assert!(small.starts_with("ready, "), "{small}");
    assert!(
        small.lines().all(|line| line.chars().count() <= 40),
        "{small}"
    );
    window.resize("80", "50");
    window.says("disk      ");

    daemon.terminate();
    window.says("no answer: ");
    window.says("no daemon listens on ");
    broker.restart();
    daemon.launch_again();
    window.shows("the daemon's return", |screen| {
        screen.starts_with("ready") && !screen.contains("isn't connected")
    });

    window.types(&["x", "C-z"]);
    let shell = window.says("what stood here before");
    assert!(!shell.contains("realm     dev: "), "{shell}");
    window.runs("fg; echo \"it ended with $?\"");
    window.says("disk      ");
    window.types(&["C-c"]);
    let shell = window.says("it ended with 0");
    assert!(shell.contains("what stood here before"), "{shell}");
    // The keyboard is seen again, and the cursor.
    window.runs("echo is seen");
    window.says("> echo is seen");
    assert_eq!(
        window.tmux(&["display", "-p", "#{cursor_flag} #{alternate_on}"]),
        "1 0\n"
    );
}

/// A watch without a terminal, whose lines come one by one.
struct Watch {
    process: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(daemon: &Daemon, args: &[&str]) -> Watch {
        let mut command = daemon.binary();
        command.args(["status", "--watch"]).args(args);
        let mut process = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("slmd is there");
        let output = process.stdout.take().expect("piped above");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Watch { process, lines }
    }

    /// The next line that `is_it` likes.
    #[track_caller]
    fn next(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect(what);
            if is_it(&line) {
                return line;
            }
        }
    }

    fn end(mut self) -> String {
        signal(&self.process, libc::SIGINT);
        let status = exit(&mut self.process, PATIENCE).expect("it ends when asked");
        assert_eq!(status.code(), Some(0));
        self.lines.iter().collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn without_a_terminal_it_tells_what_has_changed() {
    let issuer = Issuer::new("ES256", "key-1");
    let mut daemon = Daemon::start(Setup::new().issuer(&issuer));
    let (people, scripts) = (
        Watch::start(&daemon, &[]),
        Watch::start(&daemon, &["--json"]),
    );
    people.next("a page first", |line| line.starts_with("ready"));
    people.next("its rows", |line| line.starts_with("realm     dev: "));
    let json = |line: String| serde_json::from_str::<Value>(&line).expect("JSON");
    let first = json(scripts.next("a status", |_| true));
    assert_eq!(first["ready"], true, "{first}");
    assert!(first["problems"].is_array(), "{first}");

    daemon.terminate();
    // On its way down it may still say so.
    people.next("that it's gone", |line| {
        line.contains(" no answer: no daemon listens on ")
    });
    loop {
        let next = json(scripts.next("that it's gone", |_| true));
        if next["error"]["message"]
            .as_str()
            .is_some_and(|why| why.contains("no daemon listens"))
        {
            break;
        }
    }
    daemon.launch_again();
    people.next("that it's back", |line| line.ends_with(" ready"));
    scripts.next("that it's back", |line| line.contains("\"ready\":true"));

    for watch in [people, scripts] {
        let rest = watch.end();
        assert!(!rest.contains('\u{1b}'), "{rest:?}");
    }
}
