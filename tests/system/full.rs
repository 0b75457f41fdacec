//! A disk that fills while the daemon serves: what was told is on record, what can't be recorded is
//! refused with the reason, and all goes on by itself when there is room.

use std::fs;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Daemon, Disk, Issuer, Response, Setup, chat, claims, http, verified, within};

const REFUSED: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// Readers in a row, each a principal of its own.
const READERS: usize = 2000;

struct Scene {
    disk: Disk,
    issuer: Issuer,
    daemon: Daemon,
    token: String,
}

impl Scene {
    fn new() -> Scene {
        let disk = Disk::new("size=16m");
        let issuer = Issuer::new("ES256", "key-1");
        let state = format!("state_dir = {:?}", disk.path().join("state"));
        let daemon = Daemon::start(Setup::new().with(&state).issuer(&issuer));
        let token = issuer.token(claims());
        Scene {
            disk,
            issuer,
            daemon,
            token,
        }
    }

    fn ask(&self) -> Response {
        let body = chat("Hi.", 1, false);
        self.daemon.chat(&self.token, &body)
    }

    fn get(&self, path: &str) -> Response {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", bearer.as_str())];
        http(&self.daemon.socket(), "GET", path, &headers, "")
    }

    /// Reads a list as one principal after the other, and says who was answered, until one is refused:
    /// what that was told.
    fn readers(&self) -> (Receiver<String>, JoinHandle<Response>) {
        let reader = |n| {
            let (mut claims, name) = (claims(), format!("reader-{n}"));
            claims["sub"] = name.clone().into();
            (name, self.issuer.token(claims))
        };
        let readers: Vec<(String, String)> = (0..READERS).map(reader).collect();
        let socket = self.daemon.socket();
        let (tell, told) = channel();
        let reading = std::thread::spawn(move || {
            for (name, token) in readers {
                let bearer = format!("Bearer {token}");
                let headers = [("authorization", bearer.as_str())];
                let answer = http(&socket, "GET", "/v1/models", &headers, "");
                if answer.status != 200 {
                    return answer;
                }
                tell.send(name).expect("the test listens");
            }
            panic!("the disk never fills");
        });
        (told, reading)
    }
}

#[track_caller]
fn assert_unavailable(response: &Response) {
    assert_eq!(response.status, 503, "{response:?}");
    assert_eq!(response.json()["error"]["code"], "audit_unavailable");
    assert!(response.header("retry-after").is_some(), "{response:?}");
}

fn request_of(answer: &Response) -> String {
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    id.replace("chatcmpl-", "req_")
}

#[test]
fn a_full_disk_refuses_prompts_until_there_is_room_and_loses_nothing() {
    let mut scene = Scene::new();
    let first = scene.ask();
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(scene.get("/v1/models").status, 200);
    let signed = scene.daemon.admin_http("POST", "/audit/checkpoint", "");
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("checkpoint");
    fs::write(&kept, &signed.body).expect("a temporary file");

    let (told, reading) = scene.readers();
    let mut readers = vec![told.recv_timeout(PATIENCE).expect("a reader")];
    let ballast = scene.disk.path().join("ballast");
    scene.disk.fill(&ballast);
    assert_refusing(&scene);
    assert_unavailable(&reading.join().expect("the readers don't panic"));
    readers.extend(told);

    fs::remove_file(&ballast).expect("it is there");
    // Nobody asks: who waits for its readiness sends nothing before it is ready.
    within(PATIENCE, "readiness once there is room", || {
        (scene.get("/readyz").status == 200).then_some(())
    });
    let answered = within(PATIENCE, "an answer once there is room", || {
        let answer = scene.ask();
        match answer.status {
            200 => Some(answer),
            _ => {
                assert_unavailable(&answer);
                None
            }
        }
    });
    assert_eq!(answered.json()["object"], "chat.completion");
    assert_eq!(scene.get("/v1/models").status, 200);

    let lines = scene.daemon.audit(0);
    scene.daemon.terminate();
    assert_on_record(&lines, &[first, answered], &readers);
    let report = verified(&scene.disk.path().join("state"), &kept);
    assert_eq!(report["removed"], 0, "{report}");
    assert_eq!(report["unsigned"], 0, "{report}");
    assert!(
        report["next"].as_u64() >= Some(lines.len() as u64),
        "{report}"
    );
}

/// What needs a record is refused, all else is served.
fn assert_refusing(scene: &Scene) {
    within(PATIENCE, "a word that it isn't ready", || {
        (scene.get("/readyz").status == 503).then_some(())
    });
    let full = within(PATIENCE, "a refusal for want of room", || {
        let answer = scene.ask();
        (answer.status != 200).then_some(answer)
    });
    assert_unavailable(&full);
    // A read that would only be counted too.
    assert_unavailable(&scene.get("/v1/models"));
    // The socket still serves what needs no record, and says that it does.
    let live = scene.get("/livez");
    assert_eq!(live.status, 200, "{live:?}");
    within(PATIENCE, "a word that it isn't ready", || {
        let answer = scene.get("/readyz");
        (answer.status == 503 && answer.body.contains("no space left")).then_some(())
    });
    // Looking works, changing doesn't.
    for (look, shown) in [
        (&["status"][..], "! no space left"),
        (&["audit", "tail", "-n", "5000"], "keys_pinned"),
        (&["keys", "list"], "dev"),
    ] {
        let output = scene.daemon.slmd(look);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{look:?}: {output:?}");
        assert!(said.contains(shown), "{look:?}: {said}");
    }
    let reload = scene.daemon.slmd(&["reload"]);
    assert_eq!(reload.status.code(), Some(REFUSED), "{reload:?}");
    let said = String::from_utf8_lossy(&reload.stderr);
    assert!(
        said.contains("503") && said.contains("free space"),
        "{said}"
    );
}

/// No index is missing, who was answered is there once, and the refusals are told of.
fn assert_on_record(lines: &[String], answers: &[Response], readers: &[String]) {
    let parse = |line: &String| serde_json::from_str(line).expect("a record is JSON");
    let records: Vec<Value> = lines.iter().map(parse).collect();
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record["index"], index, "records are missing");
    }
    let permits = |member: &str, value: &str| {
        let permits = records.iter().filter(|r| r["decision"] == "permit");
        permits.filter(|r| r[member] == value).count()
    };
    for answer in answers {
        let id = request_of(answer);
        assert_eq!(permits("request_id", &id), 1, "{id}");
    }
    for reader in readers {
        assert_eq!(permits("subject", reader), 1, "{reader}");
    }
}
