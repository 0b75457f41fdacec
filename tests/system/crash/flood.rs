//! `kill -9` in the middle of a flood: who was answered is on record, the log has grown from what was
//! read and signed before, and the daemon starts.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use slmd::for_tests::time::instant;

use super::Seen;
use crate::support::{
    Daemon, Exchange, Issuer, Setup, chat, claims, report, send, verified, within,
};

/// Kills in the usual count, and with `SLMD_TEST_MORE`.
const ROUNDS: (usize, usize) = (20, 300);
/// Clients that ask prompts, and clients that read lists.
const CLIENTS: (usize, usize) = (3, 2);
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn kill_9_in_a_flood_leaves_the_evidence_whole() {
    let begun = instant();
    let rounds = match std::env::var_os("SLMD_TEST_MORE") {
        Some(_) => ROUNDS.1,
        None => ROUNDS.0,
    };
    let issuer = Issuer::new("ES256", "flood");
    let setup = Setup::new().issuer(&issuer).with(
        "[admission]\nprompts_per_minute = 100000\noperations_per_minute = 100000\n\
         [audit]\nrefusals_per_minute = 100000\ncheckpoint_records = 10\ncheckpoint_interval = \"1s\"",
    );
    let mut daemon = Daemon::start(setup);
    let (mut seen, mut told) = (Seen::default(), Told::default());
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("checkpoint");
    for round in 0..rounds {
        let flood = Flood::begin(&daemon, &issuer, round);
        flood.until(round * 7 % 30);
        seen.look(&daemon);
        let signed = daemon.admin_http("POST", "/audit/checkpoint", "");
        assert_eq!(signed.status, 200, "{signed:?}");
        fs::write(&kept, &signed.body).expect("a temporary file");
        std::thread::sleep(Duration::from_millis(round as u64 * 37 % 100));
        daemon.kill9();
        let answered = flood.end();

        let verified = verified(&daemon.state_dir(), &kept);
        let next = verified["next"].as_u64().expect("a number");
        assert!(next >= seen.lines.len() as u64, "{verified}");
        let before = seen.lines.len();
        daemon.restart();
        seen.look(&daemon);
        told.check(&seen.lines[seen.from..], &answered);
        told.unread += next - before as u64;
        seen.from = before;
    }
    // All of it once more, from the first record on.
    seen.from = 0;
    seen.look(&daemon);
    let facts = format!(
        "kills of the daemon in a flood of prompts, lists and refusals: {rounds}\n\
         records: {} ({} of them came between the last reading and the kill)\n\
         answered prompts: {}\nanswered lists: {}\nacknowledged and lost: 0\n\
         logs that didn't verify: 0\nfailed starts: 0\n",
        seen.lines.len(),
        told.unread,
        told.prompts,
        told.lists,
    );
    println!("{facts}");
    assert!(told.prompts >= rounds && told.lists >= rounds, "{facts}");
    let test = "crash::flood::kill_9_in_a_flood_leaves_the_evidence_whole";
    report("audit-kills.txt", test, &facts, begun);
}

/// What clients were told, of all rounds.
#[derive(Default)]
struct Told {
    prompts: usize,
    lists: usize,
    unread: u64,
}

impl Told {
    /// Each that was answered has its record.
    fn check(&mut self, lines: &[String], answered: &[String]) {
        let permits: Vec<Value> = lines.iter().map(|line| super::parse(line)).collect();
        let permits = permits
            .iter()
            .filter(|record| record["decision"] == "permit");
        let ids: Vec<&str> = permits
            .filter_map(|record| record["client_request_id"].as_str())
            .collect();
        for id in answered {
            let times = ids.iter().filter(|on_record| *on_record == id).count();
            assert_eq!(times, 1, "{id} was answered");
            match id.starts_with('p') {
                true => self.prompts += 1,
                false => self.lists += 1,
            }
        }
    }
}

/// Clients that ask on and on until the daemon is gone.
struct Flood {
    /// Prompts and lists that were answered, and all else.
    answers: Arc<[AtomicUsize; 3]>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Flood {
    fn begin(daemon: &Daemon, issuer: &Issuer, round: usize) -> Flood {
        let answers = Arc::new([const { AtomicUsize::new(0) }; 3]);
        let client = |name: String, ask: fn(&mut Client) -> io::Result<bool>| {
            let kind = usize::from(!name.starts_with('p'));
            let token = |subject: &str| {
                let mut claims = claims();
                claims["sub"] = subject.into();
                issuer.token(claims)
            };
            let mut client = Client {
                socket: daemon.socket(),
                tokens: (0..40).map(|n| token(&format!("{name}-{n}"))).collect(),
                id: String::new(),
                asked: 0,
            };
            let answers = answers.clone();
            std::thread::spawn(move || {
                let mut answered = Vec::new();
                loop {
                    client.id = format!("{name}-{}", client.asked);
                    let Ok(is_answered) = ask(&mut client) else {
                        return answered;
                    };
                    let kind = if is_answered { kind } else { 2 };
                    answers[kind].fetch_add(1, Ordering::Relaxed);
                    answered.extend(is_answered.then(|| client.id.clone()));
                    client.asked += 1;
                }
            })
        };
        let prompts = (0..CLIENTS.0).map(|n| client(format!("p{round}-{n}"), Client::prompt));
        let lists = (0..CLIENTS.1).map(|n| client(format!("l{round}-{n}"), Client::list));
        let clients = prompts.chain(lists);
        let clients = clients
            .chain([client(format!("r{round}"), Client::refused)])
            .collect();
        Flood { answers, clients }
    }

    /// Waits for a prompt and a list that were answered, and so many answers more.
    fn until(&self, more: usize) {
        within(PATIENCE, "a flood's answers", || {
            let count = |kind: usize| self.answers[kind].load(Ordering::Relaxed);
            let all = count(0) + count(1) + count(2);
            (count(0) > 0 && count(1) > 0 && all >= more + 2).then_some(())
        });
    }

    /// The ids that were answered, when the daemon is gone.
    fn end(self) -> Vec<String> {
        let clients = self.clients.into_iter();
        let answered = clients.map(|client| client.join().expect("a client doesn't panic"));
        answered.flatten().collect()
    }
}

struct Client {
    socket: PathBuf,
    /// Of principals of their own.
    tokens: Vec<String>,
    /// What it calls its request.
    id: String,
    asked: usize,
}

impl Client {
    /// Of every other one the head is answer enough, and it is cancelled; the rest are read to their
    /// end, the kill's mostly.
    fn prompt(&mut self) -> io::Result<bool> {
        let (body, path) = (chat(&self.id, 1, true), "/v1/chat/completions");
        let exchange = self.send("POST", path, &self.tokens[0], &body)?;
        let is_answered = exchange.status == 200;
        if is_answered && !self.asked.is_multiple_of(2) {
            // The kill may cut it: that it was answered is seen already.
            let _ = exchange.finish();
        }
        Ok(is_answered)
    }

    /// A principal's first is on record by itself; the others are counted.
    fn list(&mut self) -> io::Result<bool> {
        let token = self.tokens.get(self.asked);
        let exchange = self.send("GET", "/v1/models", token.unwrap_or(&self.tokens[0]), "")?;
        let is_answered = exchange.status == 200;
        exchange.finish()?;
        Ok(is_answered && token.is_some())
    }

    fn refused(&mut self) -> io::Result<bool> {
        let exchange = self.send("GET", "/v1/models", "no.to.ken", "")?;
        assert_eq!(exchange.status, 401);
        exchange.finish()?;
        Ok(false)
    }

    fn send(&self, method: &str, path: &str, token: &str, body: &str) -> io::Result<Exchange> {
        let bearer = format!("Bearer {token}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("x-request-id", &self.id),
        ];
        send(&self.socket, method, path, &headers, body)
    }
}
