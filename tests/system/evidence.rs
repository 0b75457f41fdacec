//! What the audit log tells afterwards, whatever clients do to it.

use serde_json::Value;

use crate::support::{Daemon, Issuer, Setup, chat, claims, http};

/// The records as they are in the log.
fn records(daemon: &Daemon) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line).expect("a record is JSON");
    daemon.audit(0).iter().map(parse).collect()
}

/// A token of another principal.
fn token_of(issuer: &Issuer, subject: &str) -> String {
    let mut claims = claims();
    claims["sub"] = subject.into();
    issuer.token(claims)
}

#[test]
fn two_principals_with_one_request_id_are_told_apart_to_the_end() {
    let issuer = Issuer::new("ES256", "a");
    let daemon = Daemon::start(Setup::new().issuer(&issuer));
    let answers = ["alice", "bob"].map(|subject| {
        let bearer = format!("Bearer {}", token_of(&issuer, subject));
        let headers = [("authorization", &*bearer), ("x-request-id", "SAME")];
        let body = chat(&format!("Say hello to {subject}."), 2, false);
        let answer = http(
            &daemon.socket(),
            "POST",
            "/v1/chat/completions",
            &headers,
            &body,
        );
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("x-request-id"), Some("SAME"));
        answer.json()["id"].as_str().expect("an id").to_owned()
    });
    let records = records(&daemon);
    let ids = ["alice", "bob"].map(|subject| {
        let access = records
            .iter()
            .find(|r| r["event"] == "access" && r["subject"] == subject);
        let access = access.expect("the access is on record");
        assert_eq!(access["client_request_id"], "SAME", "{access}");
        let id = &access["request_id"];
        let of = |r: &&Value| r["event"] == "finish" && r["request_id"] == *id;
        assert_eq!(records.iter().filter(of).count(), 1, "{id}");
        id.as_str().expect("text").to_owned()
    });
    assert_ne!(ids[0], ids[1]);
    for (answer, id) in answers.iter().zip(&ids) {
        assert!(answer.ends_with(id.as_str()), "{answer} is not of {id}");
    }
}
