//! The admin socket: every use recorded before it is carried out, or not carried out.

use std::sync::Mutex;

use super::tests::{rest, send, settings};
use super::*;
use crate::reason::RefuseReason;

/// Notes what is done, in order; refuses to record when told so.
#[derive(Default)]
struct Notes {
    done: Mutex<Vec<String>>,
    unrecordable: bool,
}

impl Notes {
    fn note(&self, what: impl Into<String>) {
        self.done.lock().unwrap().push(what.into());
    }
}

impl Control for Notes {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
    fn status(&self) -> Status {
        panic!("only the public socket asks")
    }
    fn whole_status(&self) -> Status {
        crate::admin::tests::status()
    }
    fn metrics(&self, _: Format) -> String {
        String::new()
    }
    fn reload(&self) -> Result<Reloaded, Vec<String>> {
        self.note("reloaded");
        Err(vec!["line 1: a".to_owned(), "line 2: b".to_owned()])
    }
    fn keys(&self) -> Listed {
        panic!("nobody asks")
    }
    fn trust(&self) -> Trusted {
        unreachable!()
    }

    fn pin_root(&self, _: &[u8]) -> Result<RootPinned, Refused> {
        unreachable!()
    }

    fn pin_keys(&self, realm: &str, jwks: &[u8]) -> Result<Pinned, Refused> {
        self.note(format!("pinned {} bytes for {realm}", jwks.len()));
        Err(Refused::Fetch("none".to_owned()))
    }
    fn fetch_keys(&self, _: &str) -> Result<Fetched, Refused> {
        panic!("nobody asks")
    }
    fn pin_held_keys(&self, _: &str, _: &str) -> Result<Pinned, Refused> {
        panic!("nobody asks")
    }
    fn refresh_keys(&self, _: &str) -> Result<Refreshed, Refused> {
        panic!("nobody asks")
    }
    fn explain_token(&self, _: &ToExplain) -> Explanation {
        panic!("nobody asks")
    }
    fn reset_time(&self, _: ResetTo) -> Result<TimeReset, Refused> {
        panic!("nobody asks")
    }
    fn audit(&self) -> Log {
        panic!("the audit log is tested with the daemon")
    }
    fn record_refused(&self, _: Origin, what: String, _: &Refusal) -> bool {
        panic!("{what}: only the user of the test comes")
    }
    fn record(&self, origin: Origin, what: &What, is_look: bool) -> Result<(), Refusal> {
        assert!(matches!(origin, Origin::Admin { pid: Some(_), .. }));
        let how = if is_look { "counted" } else { "recorded" };
        self.note(format!("{how} {what}"));
        match self.unrecordable {
            true => Err(RefuseReason::AuditUnavailable.into()),
            false => Ok(()),
        }
    }
}

/// Starts an admin socket and sends it each request in turn.
async fn administer(notes: &Arc<Notes>, requests: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let listener = bind(&path, 0o600).unwrap();
    let control = Arc::clone(notes) as Arc<dyn Control>;
    let (metrics, shutdown) = (Metrics::default(), Shutdown::default());
    let run = serve_admin(
        listener,
        Arc::new(settings()),
        control,
        metrics,
        shutdown.clone(),
    );
    let task = tokio::spawn(run);
    let mut answers = Vec::new();
    for request in requests {
        let (line, body) = request.split_once('\n').unwrap_or((request, ""));
        let request = format!(
            "{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        answers.push(rest(send(&path, &request).await).await);
    }
    shutdown.end();
    task.await.unwrap();
    answers
}

#[tokio::test]
async fn administration_is_recorded_before_it_is_done() {
    let notes = Arc::new(Notes::default());
    let requests = [
        "PUT /keys/dev%201\n{}",
        "POST /reload",
        "GET /status",
        "GET /reload",
        "GET /x",
    ];
    let answers = administer(&notes, &requests).await;
    for (answer, status) in answers.iter().zip([400, 400, 200, 405, 404]) {
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    assert!(
        answers[1].contains(r#""errors":["line 1: a","line 2: b"]"#),
        "{}",
        answers[1]
    );
    assert!(answers[0].contains("bad_request: none"), "{}", answers[0]);
    assert!(answers[2].contains(r#""device":"edge-1""#));
    let expected = [
        "recorded keys pin dev 1",
        "pinned 2 bytes for dev 1",
        "recorded reload",
        "reloaded",
        "counted status",
    ];
    assert_eq!(*notes.done.lock().unwrap(), expected);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let notes = Arc::new(Notes {
        unrecordable: true,
        ..Notes::default()
    });
    let answers = administer(&notes, &["PUT /keys/dev\n{}"]).await;
    assert!(answers[0].starts_with("HTTP/1.1 503"), "{}", answers[0]);
    assert!(answers[0].contains("audit_unavailable"));
    assert_eq!(*notes.done.lock().unwrap(), ["recorded keys pin dev"]);
}
