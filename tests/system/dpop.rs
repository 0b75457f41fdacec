//! Tokens bound to a key (RFC 9449): over HTTP a proof is good for one request, over MQTT for one
//! message, and nobody else who has seen both can use them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Clock, Daemon, Holder, Issuer, Kept, Message, Mosquitto, Publish, Response, Setup, Subscriber,
    bound, chat, claims, http, message_hash, within,
};

const CHAT: &str = "/v1/chat/completions";
const TARGET: &str = "http://edge-1/v1/chat/completions";
const REQUESTS: &str = "slm/edge-1/v1/chat/completions";
const CANCELS: &str = "slm/edge-1/v1/chat/completions/cancel";
const REPLY: &str = "slm/edge-1/reply/device-1/dpop";
const PATIENCE: Duration = Duration::from_secs(60);
const LONG: &str = "Write a very long story about the sea, the lighthouse and the old fishermen.";

fn start() -> (Daemon, Issuer, Holder) {
    let issuer = Issuer::new("ES256", "dpop-1");
    let daemon = Daemon::start(Setup::new().issuer(&issuer));
    (daemon, issuer, Holder::new())
}

fn ask(daemon: &Daemon, token: &str, proof: &str) -> Response {
    let bound = format!("DPoP {token}");
    let headers = [("authorization", bound.as_str()), ("dpop", proof)];
    let body = chat("What is the largest desert?", 4, false);
    http(&daemon.socket(), "POST", CHAT, &headers, &body)
}

#[track_caller]
fn assert_refused(response: &Response, code: &str) {
    assert_eq!(response.status, 401, "{response:?}");
    assert_eq!(response.json()["error"]["code"], code, "{response:?}");
    let challenge = response.header("www-authenticate").unwrap_or_default();
    let is_dpop = challenge.starts_with("DPoP ");
    assert!(
        is_dpop && challenge.contains(r#"error="invalid_dpop_proof""#),
        "{challenge}"
    );
}

/// A daemon whose clock the test moves.
fn with_a_clock(kept: Kept) -> (Clock, Issuer, Setup) {
    let (clock, issuer) = (Clock::new(), Issuer::new("ES256", "dpop-4"));
    clock.keeps(kept);
    let setup = clock.of(Setup::new().issuer(&issuer).realm("max_lifetime = \"1d\""));
    (clock, issuer, setup)
}

/// A token that lives through all that happens to the clock.
fn long_lived(holder: &Holder, issuer: &Issuer) -> String {
    let mut says = claims();
    says["exp"] = (slmd::for_tests::time::now().as_secs() + 80_000).into();
    issuer.token(bound(says, &holder.thumbprint()))
}

#[test]
fn a_used_proof_stays_used_when_the_clock_is_set_forward_and_back_over_restarts() {
    for kept in [Kept::Synchronised, Kept::ByNobody] {
        let (clock, issuer, setup) = with_a_clock(kept);
        let (mut daemon, holder) = (Daemon::start(setup), Holder::new());
        let token = long_lived(&holder, &issuer);
        let proof = holder.sign(&holder.claims("POST", TARGET, &token));
        assert_eq!(ask(&daemon, &token, &proof).status, 200);
        clock.set("+11m");
        assert_refused(&ask(&daemon, &token, &proof), "proof_invalid");
        daemon.kill9();
        daemon.restart();
        assert_refused(&ask(&daemon, &token, &proof), "proof_invalid");
        // Where the floor follows the clock its time stays over, else the proof is remembered.
        let code = match kept {
            Kept::Synchronised => {
                let ahead = daemon.status()["clock"]["now"].as_str().map(str::to_owned);
                within(PATIENCE, "the floor to follow", || {
                    (daemon.status()["clock"]["floor"].as_str() >= ahead.as_deref()).then_some(())
                });
                "proof_invalid"
            }
            _ => "proof_replayed",
        };
        clock.set("+0");
        assert_refused(&ask(&daemon, &token, &proof), code);
        daemon.restart();
        assert_refused(&ask(&daemon, &token, &proof), code);
    }
}

#[test]
fn a_used_message_stays_used_when_the_clock_is_set_forward_and_back_over_restarts() {
    for kept in [Kept::Synchronised, Kept::ByNobody] {
        let (clock, issuer, setup) = with_a_clock(kept);
        let broker = Mosquitto::start();
        let setup = setup.broker(&broker);
        let mut scene = Scene::of(issuer, broker, setup);
        let token = long_lived(&scene.holder, &scene.issuer);
        let sent = scene.message_with(token, REQUESTS, Some(REPLY), None, &short(), |_| {});
        scene.assert_answered(&sent);
        clock.set("+11m");
        scene.assert_refused(&sent, "use_dpop_nonce");
        scene.daemon.kill9();
        scene.daemon.restart();
        scene.until_connected();
        scene.assert_refused(&sent, "use_dpop_nonce");
        clock.set("+0");
        scene.daemon.restart();
        scene.until_connected();
        // Where the floor has followed the clock its nonce is over, else the proof is remembered.
        let code = match kept {
            Kept::Synchronised => "use_dpop_nonce",
            _ => "proof_replayed",
        };
        scene.assert_refused(&sent, code);
        assert_eq!(scene.accesses(|r| r["decision"] == "permit").len(), 1);
    }
}

#[test]
fn a_proof_is_good_for_one_request_and_never_again() {
    let (mut daemon, issuer, holder) = start();
    let token = holder.token(&issuer);
    let proof = holder.sign(&holder.claims("POST", TARGET, &token));
    let first = ask(&daemon, &token, &proof);
    assert_eq!(first.status, 200, "{first:?}");
    assert_refused(&ask(&daemon, &token, &proof), "proof_replayed");
    daemon.restart();
    assert_refused(&ask(&daemon, &token, &proof), "proof_replayed");
    daemon.kill9();
    daemon.restart();
    assert_refused(&ask(&daemon, &token, &proof), "proof_replayed");
    let next = holder.sign(&holder.claims("POST", TARGET, &token));
    assert_eq!(ask(&daemon, &token, &next).status, 200);
}

#[test]
fn a_proof_for_anything_else_is_refused() {
    let (daemon, issuer, holder) = start();
    let token = holder.token(&issuer);
    let good = || holder.claims("POST", TARGET, &token);
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        holder.sign(&claims)
    };
    let now = slmd::for_tests::time::now().as_secs();
    let other_token = holder.token(&issuer);
    let cases = [
        ("htm", with("htm", json!("GET"))),
        ("htu", with("htu", json!("http://edge-1/v1/models"))),
        (
            "htu",
            with("htu", json!(TARGET.replace("edge-1", "edge-2"))),
        ),
        (
            "ath",
            holder.sign(&holder.claims("POST", TARGET, &other_token)),
        ),
        ("jwk", Holder::new().sign(&good())),
        ("iat", with("iat", json!(now - 300))),
        ("jti", with("jti", json!(""))),
        ("form", "a.b.c".to_owned()),
    ];
    for (which, proof) in cases {
        let refused = ask(&daemon, &token, &proof);
        assert_refused(&refused, "proof_invalid");
        let json = refused.json();
        let message = json["error"]["message"].as_str().expect("a message");
        assert!(message.contains(&format!("{which}: ")), "{message}");
    }
    let body = chat("What is the largest desert?", 4, false);
    assert_refused(&daemon.chat(&token, &body), "proof_missing");
    let bound = format!("DPoP {token}");
    let headers = [("authorization", bound.as_str())];
    let bare = http(&daemon.socket(), "POST", CHAT, &headers, &body);
    assert_refused(&bare, "proof_missing");
    // None of that has used anything up.
    assert_eq!(ask(&daemon, &token, &holder.sign(&good())).status, 200);
}

/// Looking at the log by a bound token takes a proof for each look, of its own path.
#[test]
fn the_log_is_shown_to_a_bound_token_for_a_proof_of_each_path() {
    let (issuer, holder) = (Issuer::new("ES256", "dpop-5"), Holder::new());
    let anywhere = "unsynchronised_scopes = [\"read\", \"audit\"]";
    let daemon = Daemon::start(Setup::new().issuer(&issuer).realm(anywhere));
    let signed = daemon.slmd(&["audit", "checkpoint", "--now"]);
    assert!(signed.status.success(), "{signed:?}");
    let mut says = claims();
    says["resource_access"] = json!({"slm": {"roles": ["audit"]}});
    let token = issuer.token(bound(says, &holder.thumbprint()));
    let proof_of = |path: &str| {
        let target = format!("http://edge-1{path}");
        holder.sign(&holder.claims("GET", &target, &token))
    };
    let get = |path: &str, scheme: &str, proof: Option<&str>| {
        let shown = format!("{scheme} {token}");
        let mut headers = vec![("authorization", shown.as_str())];
        headers.extend(proof.map(|proof| ("dpop", proof)));
        http(&daemon.socket(), "GET", path, &headers, "")
    };
    // RFC 9449 section 4.2: `htu` is without the query.
    let places = [
        ("/v1/audit?limit=1", "/v1/audit"),
        ("/v1/audit/checkpoint", "/v1/audit/checkpoint"),
        ("/v1/audit/proof/0", "/v1/audit/proof/0"),
        ("/v1/audit/consistency/1", "/v1/audit/consistency/1"),
    ];
    for (at, (path, proven)) in places.into_iter().enumerate() {
        assert_refused(&get(path, "Bearer", None), "proof_missing");
        assert_refused(&get(path, "DPoP", None), "proof_missing");
        let (_, other) = places[(at + 1) % places.len()];
        let misled = get(path, "DPoP", Some(&proof_of(other)));
        assert_refused(&misled, "proof_invalid");
        let proof = proof_of(proven);
        let shown = get(path, "DPoP", Some(&proof));
        assert_eq!(shown.status, 200, "{path}: {shown:?}");
        let again = get(path, "DPoP", Some(&proof));
        assert_refused(&again, "proof_replayed");
    }
    let of_log = [
        "audit",
        "search",
        "--where",
        "dpop=true",
        "--decision",
        "permit",
        "--count",
    ];
    let counted = daemon.slmd(&of_log);
    assert_eq!(String::from_utf8_lossy(&counted.stdout).trim(), "4");
}

/// A daemon at a broker, and who listens for its answers.
struct Scene {
    issuer: Issuer,
    holder: Holder,
    broker: Mosquitto,
    daemon: Daemon,
    answers: Subscriber,
}

/// One message as it goes to the broker, so that others may send it again.
#[derive(Clone)]
struct Sent {
    topic: &'static str,
    body: String,
    reply: Option<&'static str>,
    correlation: Option<String>,
    token: String,
    proof: String,
}

impl Scene {
    fn start(toml: &str) -> Scene {
        let issuer = Issuer::new("ES256", "dpop-2");
        let broker = Mosquitto::start();
        let setup = Setup::new().issuer(&issuer).broker(&broker).with(toml);
        Scene::of(issuer, broker, setup)
    }

    fn of(issuer: Issuer, broker: Mosquitto, setup: Setup) -> Scene {
        let daemon = Daemon::start(setup);
        let answers = broker.subscribe("slm/edge-1/reply/#");
        let scene = Scene {
            issuer,
            holder: Holder::new(),
            broker,
            daemon,
            answers,
        };
        scene.until_connected();
        scene
    }

    fn until_connected(&self) {
        within(PATIENCE, "the broker connection", || {
            (self.daemon.status()["mqtt"]["connected"] == true).then_some(())
        });
    }

    /// What the device publishes for its clients.
    fn nonce(&self) -> String {
        let watcher = self.broker.subscribe("slm/edge-1/nonce");
        let message = watcher.next(PATIENCE).expect("a nonce is retained");
        let nonce = message.json();
        let now = slmd::for_tests::time::now().as_secs();
        assert!(nonce["expires"].as_u64() > Some(now), "{nonce}");
        nonce["nonce"].as_str().expect("a nonce").to_owned()
    }

    /// A request with its proof; `change` is what is wrong with that.
    fn request(&self, correlation: &str, body: &str, change: impl FnOnce(&mut Value)) -> Sent {
        let correlation = (!correlation.is_empty()).then(|| correlation.to_owned());
        self.message(REQUESTS, Some(REPLY), correlation, body, change)
    }

    fn message(
        &self,
        topic: &'static str,
        reply: Option<&'static str>,
        correlation: Option<String>,
        body: &str,
        change: impl FnOnce(&mut Value),
    ) -> Sent {
        let token = self.holder.token(&self.issuer);
        self.message_with(token, topic, reply, correlation, body, change)
    }

    fn message_with(
        &self,
        token: String,
        topic: &'static str,
        reply: Option<&'static str>,
        correlation: Option<String>,
        body: &str,
        change: impl FnOnce(&mut Value),
    ) -> Sent {
        let mut says = self
            .holder
            .claims("PUBLISH", &format!("mqtt://edge-1/{topic}"), &token);
        says["nonce"] = self.nonce().into();
        let data = correlation.as_deref().unwrap_or_default();
        says["msh"] = message_hash(topic, reply.unwrap_or_default(), data, body).into();
        change(&mut says);
        Sent {
            topic,
            body: body.to_owned(),
            reply,
            correlation,
            token,
            proof: self.holder.sign(&says),
        }
    }

    /// Each call is another MQTT client's.
    fn send(&self, sent: &Sent) {
        self.send_with(sent, None);
    }

    fn send_with(&self, sent: &Sent, user: Option<(&str, &str)>) {
        self.broker.publish(&Publish {
            topic: sent.topic,
            payload: &sent.body,
            response_topic: sent.reply,
            correlation: sent.correlation.as_deref(),
            token: Some(&sent.token),
            proof: Some(&sent.proof),
            user,
            ..Publish::default()
        });
    }

    #[track_caller]
    fn last(&self) -> Message {
        loop {
            let message = self.answers.next(PATIENCE).expect("an answer in time");
            if message.user("final") == Some("true") {
                return message;
            }
        }
    }

    #[track_caller]
    fn assert_answered(&self, sent: &Sent) -> Message {
        self.send(sent);
        let answer = self.last();
        assert_eq!(answer.user("status"), Some("200"), "{answer:?}");
        answer
    }

    /// No refusal to a stranger goes where an answer was just told, until that is on record.
    #[track_caller]
    fn assert_refused(&self, sent: &Sent, code: &str) -> Message {
        let told = |_| {
            self.send(sent);
            let mut messages = std::iter::from_fn(|| self.answers.next(PATIENCE / 6));
            messages.find(|message| message.user("final") == Some("true"))
        };
        let answer = (0..6).find_map(told).expect("told in the end");
        assert_eq!(answer.json()["error"]["code"], code, "{answer:?}");
        assert_eq!(answer.user("status"), Some("401"), "{answer:?}");
        answer
    }

    /// How many the daemon remembers.
    fn proofs_used(&self) -> u64 {
        proofs_used(&self.daemon)
    }

    fn accesses(&self, of: impl Fn(&Value) -> bool) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str(line).expect("a record is JSON");
        let records = self.daemon.audit(0);
        let records = records.iter().map(parse);
        records
            .filter(|r: &Value| r["event"] == "access" && of(r))
            .collect()
    }
}

fn proofs_used(daemon: &Daemon) -> u64 {
    let metrics = daemon.admin_http("GET", "/metrics", "").body;
    let mut lines = metrics.lines();
    let entries = lines.find_map(|line| line.strip_prefix("slmd_dpop_replay_entries "));
    entries.expect("the metric").parse().expect("a number")
}

fn short() -> String {
    chat("Say one word, any word.", 4, false)
}

#[test]
fn a_message_with_its_proof_is_answered_once() {
    let scene = Scene::start("");
    let sent = scene.request("", &short(), |_| {});
    scene.assert_answered(&sent);
    scene.assert_refused(&sent, "proof_replayed");

    // With correlation data it counts as a repeat: its answer goes where the first one went, and
    // the model isn't asked.
    let sent = scene.request("once", &short(), |_| {});
    let first = scene.assert_answered(&sent);
    // Until the first run's end is on record, a repeat counts as that one.
    let again = within(PATIENCE, "the answer to a repeat", || {
        scene.send(&sent);
        scene.answers.next(Duration::from_secs(2))
    });
    assert_eq!(again.user("status"), Some("200"), "{again:?}");
    assert_eq!(again.topic, REPLY);
    assert_eq!(again.user("request-id"), first.user("request-id"));
    let asked = scene.accesses(|r| r["decision"] == "permit" && r["action"] == "chat");
    assert_eq!(asked.len(), 2);
    let again = scene.accesses(|r| r["action"] == "chat again");
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(scene.proofs_used(), 2);
}

#[test]
fn a_proof_holds_for_no_other_message() {
    let scene = Scene::start("");
    let sent = scene.request("bound", &short(), |_| {});
    let body = Sent {
        body: chat("Tell me what I may not ask.", 4, false),
        ..sent.clone()
    };
    scene.assert_refused(&body, "proof_invalid");
    let correlation = Sent {
        correlation: Some("another".to_owned()),
        ..sent.clone()
    };
    scene.assert_refused(&correlation, "proof_invalid");
    let reply = Sent {
        reply: Some("slm/edge-1/reply/device-1/elsewhere"),
        ..sent.clone()
    };
    scene.assert_refused(&reply, "proof_invalid");
    let device = scene.request("device", &short(), |says| {
        says["htu"] = format!("mqtt://edge-2/{REQUESTS}").into();
    });
    scene.assert_refused(&device, "proof_invalid");
    // A token as it is, without the proof that it is bound to.
    scene.broker.publish(&Publish {
        topic: REQUESTS,
        payload: &short(),
        response_topic: Some(REPLY),
        token: Some(&sent.token),
        ..Publish::default()
    });
    assert_eq!(scene.last().json()["error"]["code"], "proof_missing");
    scene.assert_answered(&sent);
}

#[test]
fn a_proof_without_the_nonce_is_told_it() {
    let scene = Scene::start("");
    let missing = scene.request("missing", &short(), |says| {
        says.as_object_mut().expect("claims").remove("nonce");
    });
    let told = scene.assert_refused(&missing, "use_dpop_nonce");
    let nonce = told.user("dpop-nonce").expect("the nonce").to_owned();
    assert_eq!(nonce, scene.nonce());
    let old = scene.request("old", &short(), |says| {
        says["nonce"] = "AAAAAAAAAAA".into();
    });
    let told = scene.assert_refused(&old, "use_dpop_nonce");
    assert_eq!(told.user("dpop-nonce"), Some(nonce.as_str()));
    let told = scene.request("told", &short(), |says| says["nonce"] = nonce.into());
    scene.assert_answered(&told);
}

#[test]
fn a_cancel_wants_a_proof_of_its_own() {
    let scene = Scene::start("");
    let running = scene.request("running", &chat(LONG, 1500, true), |_| {});
    scene.send(&running);
    scene.answers.next(PATIENCE).expect("it begins");
    let cancel = |change: fn(&mut Value)| {
        let correlation = Some("running".to_owned());
        scene.message(CANCELS, None, correlation, "{}", change)
    };
    // The proof of the request itself is none for the cancel.
    let borrowed = Sent {
        topic: CANCELS,
        body: "{}".to_owned(),
        reply: None,
        ..running.clone()
    };
    scene.send(&borrowed);
    within(PATIENCE, "the refused cancel's record", || {
        let refused = scene.accesses(|r| r["action"] == "cancel" && r["decision"] == "deny");
        (refused.first()?["reason"] == "proof_invalid").then_some(())
    });
    scene.send(&cancel(|_| {}));
    let last = scene.last();
    assert_eq!(last.user("status"), Some("499"), "{last:?}");
}

#[test]
fn a_realm_can_demand_bound_tokens_of_one_transport() {
    let issuer = Issuer::new("ES256", "dpop-3");
    let broker = Mosquitto::start();
    let mut realm = Setup::new().issuer(&issuer).broker(&broker);
    realm = realm.realm("require_dpop = [\"mqtt\"]");
    let daemon = Daemon::start(realm);
    let answers = broker.subscribe("slm/edge-1/reply/#");
    let bearer = issuer.token(claims());
    assert_eq!(daemon.chat(&bearer, &short()).status, 200);
    within(PATIENCE, "the broker connection", || {
        (daemon.status()["mqtt"]["connected"] == true).then_some(())
    });
    broker.publish(&Publish {
        topic: REQUESTS,
        payload: &short(),
        response_topic: Some(REPLY),
        token: Some(&bearer),
        ..Publish::default()
    });
    let refused = answers.next(PATIENCE).expect("an answer");
    assert_eq!(refused.json()["error"]["code"], "dpop_required");
}

#[test]
fn a_redelivery_after_a_crash_is_no_replay() {
    let mut scene = Scene::start("");
    let sent = scene.request("crash", &chat(LONG, 240, true), |_| {});
    scene.send(&sent);
    let first = scene.answers.next(PATIENCE).expect("it begins");
    assert_eq!(first.user("status"), Some("200"), "{first:?}");
    scene.daemon.kill9();
    scene.daemon.restart();
    let last = scene.last();
    assert_eq!(last.user("status"), Some("200"), "{last:?}");
    let of_it = scene.accesses(|r| r["decision"] == "permit");
    let attempts: Vec<&Value> = of_it.iter().map(|r| &r["attempt"]).collect();
    assert_eq!(attempts, [1, 2]);
}

/// A broker passes user properties on as they are, so one that differs makes another message of the
/// same question: it joins a run, but a run of its own wants a proof of its own.
#[test]
fn a_repeat_with_another_property_needs_a_proof_of_its_own_to_run() {
    let mut scene = Scene::start("");
    let body = chat(LONG, 240, true);
    let sent = scene.request("again", &body, |_| {});
    scene.send(&sent);
    scene.answers.next(PATIENCE).expect("it begins");
    let again = Some(("traceparent", "00-1-2-00"));
    scene.send_with(&sent, again);
    within(PATIENCE, "the repeat", || {
        let metrics = scene.daemon.admin_http("GET", "/metrics", "").body;
        metrics
            .contains("slmd_mqtt_duplicates_total 1")
            .then_some(())
    });
    // Without the session, nothing but its publisher brings it again.
    scene.daemon.kill9();
    scene.broker.restart_empty();
    scene.daemon.restart();
    scene.until_connected();
    scene.answers = scene.broker.subscribe("slm/edge-1/reply/#");
    scene.send_with(&sent, again);
    assert_eq!(scene.last().json()["error"]["code"], "proof_replayed");
    let fresh = scene.request("again", &body, |_| {});
    scene.send_with(&fresh, again);
    let last = scene.last();
    assert_eq!(last.user("status"), Some("200"), "{last:?}");
    let of_it = scene.accesses(|r| r["decision"] == "permit");
    let attempts: Vec<&Value> = of_it.iter().map(|r| &r["attempt"]).collect();
    assert_eq!(attempts, [1, 2]);
}
