//! What a fleet's managers sign comes into force on a device, by a broker, a folder or a stick that
//! nobody has to trust.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use slmd::for_tests::time::{instant, now};

use crate::support::fleet::{TOPICS, fingerprint, retain};
use crate::support::{
    Daemon, Fleet, Issuer, Mosquitto, Response, Setup, chat, claims, http, report, retain_all, run,
    send, within,
};

const TIMESTAMP: &str = "metadata/timestamp.json";
const PATIENCE: Duration = Duration::from_secs(30);

/// Kills in the usual count, and with `SLMD_TEST_MORE`.
const ROUNDS: (u32, u32) = (20, 200);

fn by_broker(broker: &Mosquitto) -> Setup {
    let fleet = "[fleet]\nname = \"plant\"\nmirrors = [\"mqtt\"]\ninterval = \"1h\"\n";
    Setup::new().broker(broker).with(fleet)
}

fn by_folders(folders: &[&std::path::Path]) -> Setup {
    Setup::new().with(&format!(
        "[fleet]\nname = \"plant\"\nmirrors = {folders:?}\ninterval = \"1s\"\n"
    ))
}

/// Asks for something that costs no answer.
fn look(daemon: &Daemon, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    http(&daemon.socket(), "GET", "/v1/models", &headers, "")
}

fn look_by(daemon: &Daemon, issuer: &Issuer) -> Response {
    look(daemon, &issuer.token(claims()))
}

#[track_caller]
fn assert_refused(response: &Response, reason: &str) {
    let code = &response.json()["error"]["code"];
    assert_eq!(code, reason, "{}", response.body);
}

fn fleet_of(daemon: &Daemon) -> Value {
    daemon.status()["fleet"].clone()
}

/// Waits until this version of the timestamp is trusted.
fn until(daemon: &Daemon, versions: &Value) {
    within(PATIENCE, "the fleet's news", || {
        let timestamp = &fleet_of(daemon)["timestamp"];
        (*timestamp == versions["timestamp"]).then_some(())
    });
}

fn until_refused(daemon: &Daemon, reason: &str) {
    within(PATIENCE, reason, || {
        let mirrors = fleet_of(daemon)["mirrors"].clone();
        let mirrors = mirrors.as_array().expect("a list").clone();
        let found = mirrors.iter().find(|m| m["refused"]["reason"] == reason);
        found.map(drop)
    });
}

fn changes(daemon: &Daemon, what: &str) -> Vec<Value> {
    let lines = daemon.audit(0).into_iter();
    let records = lines.map(|line| serde_json::from_str::<Value>(&line).expect("JSON"));
    let of_it = records.filter(|record| record["what"] == what);
    of_it.map(|record| record["detail"].clone()).collect()
}

fn jwks(issuers: &[&Issuer]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({"keys": keys}).to_string()
}

#[test]
fn keys_come_by_the_broker_and_rotate_without_a_good_token_refused() {
    let (old, new) = (Issuer::new("ES256", "old"), Issuer::new("EdDSA", "new"));
    let (broker, mut fleet) = (Mosquitto::start(), Fleet::new());
    let mut daemon = Daemon::start(by_broker(&broker));
    fleet.keys(&old.jwks());
    fleet.broadcast(&broker);
    assert_refused(&look_by(&daemon, &old), "keys_missing");
    assert_eq!(fleet_of(&daemon)["root_fingerprint"], Value::Null);
    fleet.pin(&daemon);
    daemon.until_ready();
    assert_eq!(look_by(&daemon, &old).status, 200);
    assert_refused(&look_by(&daemon, &new), "key_unknown");

    // Both, then the new one alone: who holds a token of either is let in on the way.
    let versions = fleet.keys(&jwks(&[&old, &new]));
    fleet.broadcast(&broker);
    until(&daemon, &versions);
    assert_eq!(look_by(&daemon, &old).status, 200);
    assert_eq!(look_by(&daemon, &new).status, 200);
    let versions = fleet.keys(&new.jwks());
    fleet.broadcast(&broker);
    until(&daemon, &versions);
    assert_refused(&look_by(&daemon, &old), "key_unknown");
    assert_eq!(look_by(&daemon, &new).status, 200);

    // A new root, by the old one's keys.
    let rotated = json!({"root": true});
    let versions = fleet.publish(&rotated);
    fleet.broadcast(&broker);
    until(&daemon, &versions);
    assert_eq!(fleet_of(&daemon)["root"], versions["root"]);

    let told = changes(&daemon, "trust_updated");
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told[1]["keys"]["dev"]["removed"], json!([]));
    assert_eq!(told[2]["keys"]["dev"]["added"], json!([]));
    assert_eq!(changes(&daemon, "trust_pinned").len(), 1);
    let realm = daemon.status()["realms"][0].clone();
    assert_eq!(realm["keys_source"], "fleet");
    let shown = daemon.slmd(&["trust", "show"]);
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(
        shown.contains("fleet: plant") && shown.contains("mirror mqtt:"),
        "{shown}"
    );
    let metrics = daemon.admin_http("GET", "/metrics", "").body;
    for line in [
        format!("slmd_trust_version{{role=\"root\"}} {}", versions["root"]),
        format!(
            "slmd_trust_version{{role=\"targets\"}} {}",
            versions["targets"]
        ),
    ] {
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }

    // All of it is there without a broker.
    drop(broker);
    daemon.restart();
    assert_eq!(look_by(&daemon, &new).status, 200);
    assert_eq!(fleet_of(&daemon)["timestamp"], versions["timestamp"]);
}

/// A device that was away comes back; the broker was emptied and filled meanwhile.
#[test]
fn a_device_that_was_away_takes_up_where_the_fleet_is() {
    let (old, new) = (Issuer::new("ES256", "old"), Issuer::new("ES256", "new"));
    let (mut broker, mut fleet) = (Mosquitto::start(), Fleet::new());
    let mut daemon = Daemon::start(by_broker(&broker));
    fleet.pin(&daemon);
    let versions = fleet.keys(&old.jwks());
    fleet.broadcast(&broker);
    until(&daemon, &versions);
    daemon.terminate();
    broker.restart_empty();
    fleet.forget_told();
    for _ in 0..3 {
        fleet.publish(&json!({"root": true}));
    }
    fleet.revoke(&json!([{"sub": "nobody"}]));
    let versions = fleet.keys(&new.jwks());
    fleet.broadcast(&broker);
    daemon.restart();
    until(&daemon, &versions);
    assert_refused(&look_by(&daemon, &old), "key_unknown");
    assert_eq!(look_by(&daemon, &new).status, 200);
    assert_eq!(fleet_of(&daemon)["revoked"]["dev"], 1);
}

#[test]
fn a_revocation_counts_within_a_second_and_only_the_threshold_lifts_it() {
    let Scene {
        issuer,
        broker,
        mut fleet,
        daemon,
    } = Scene::quiet();
    let (claims, other) = (claims(), claims());
    let (token, good) = (issuer.token(&claims), issuer.token(&other));
    assert_eq!(look(&daemon, &token).status, 200);
    fleet.revoke(&json!([{"jti": claims["jti"]}]));
    fleet.broadcast(&broker);
    let begun = instant();
    within(PATIENCE, "the revocation", || {
        (look(&daemon, &token).status == 401).then_some(())
    });
    let took = instant().saturating_duration_since(begun);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_refused(&look(&daemon, &token), "revoked");
    assert_eq!(look(&daemon, &good).status, 200);
    // A list that lacks it lifts nothing.
    let versions = fleet.revoke(&json!([]));
    fleet.broadcast(&broker);
    until(&daemon, &versions);
    assert_refused(&look(&daemon, &token), "revoked");
    let lift = json!({"version": 1, "lifted": [{"jti": claims["jti"]}]}).to_string();
    let versions = fleet.publish(&json!({"targets": {"realms/dev/lift.json": lift}}));
    fleet.broadcast(&broker);
    until(&daemon, &versions);
    assert_eq!(look(&daemon, &token).status, 200);
}

/// An answer that runs ends with its right.
#[test]
fn a_running_answer_ends_within_a_second_of_the_message() {
    let Scene {
        issuer,
        broker,
        mut fleet,
        daemon,
    } = Scene::quiet();
    let claims = claims();
    let bearer = format!("Bearer {}", issuer.token(&claims));
    let headers = [("authorization", bearer.as_str())];
    let body = chat("Write a long story about a ship.", 400, true);
    let path = "/v1/chat/completions";
    let mut stream = send(&daemon.socket(), "POST", path, &headers, &body).expect("an answer");
    stream.chunk().expect("a piece").expect("a piece");
    fleet.revoke(&json!([{"jti": claims["jti"]}]));
    fleet.broadcast(&broker);
    let begun = instant();
    let mut rest = String::new();
    while let Some(piece) = stream.chunk().expect("the stream ends in order") {
        rest.push_str(&String::from_utf8_lossy(&piece));
    }
    let took = instant().saturating_duration_since(begun);
    assert!(rest.contains("revoked"), "{rest}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// A daemon that follows a fleet by a broker, whose issuer's key is in force.
struct Scene {
    issuer: Issuer,
    broker: Mosquitto,
    fleet: Fleet,
    daemon: Daemon,
}

impl Scene {
    fn new() -> Scene {
        let issuer = Issuer::new("ES256", "a");
        let (broker, mut fleet) = (Mosquitto::start(), Fleet::new());
        let mut daemon = Daemon::start(by_broker(&broker));
        fleet.keys(&issuer.jwks());
        fleet.broadcast(&broker);
        fleet.pin(&daemon);
        daemon.until_ready();
        Scene {
            issuer,
            broker,
            fleet,
            daemon,
        }
    }

    /// The broker's line is quiet: the next root is known not to be there.
    fn quiet() -> Scene {
        let scene = Scene::new();
        std::thread::sleep(Duration::from_secs(3));
        scene
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.fleet.folder().join(name)).expect("a file")
    }

    /// As somebody else does who may write to the broker.
    fn poison(&self, name: &str, content: &[u8]) {
        retain(&self.broker, &format!("{TOPICS}/{name}"), content);
    }

    /// What is trusted, whatever the mirrors have.
    fn trusted(&self) -> Value {
        let mut fleet = fleet_of(&self.daemon);
        fleet["mirrors"].take();
        assert_eq!(look_by(&self.daemon, &self.issuer).status, 200);
        fleet
    }
}

/// Each kind of poison is refused by its name, told at a bounded rate, and changes nothing.
#[test]
fn poisoned_messages_are_skipped_and_told() {
    let mut scene = Scene::new();
    let old = scene.file(TIMESTAMP);
    let versions = scene.fleet.revoke(&json!([{"sub": "nobody"}]));
    scene.fleet.broadcast(&scene.broker);
    until(&scene.daemon, &versions);
    let trusted = scene.trusted();

    scene.poison(TIMESTAMP, b"{\"signed\":");
    until_refused(&scene.daemon, "malformed");
    assert_eq!(scene.trusted(), trusted);
    scene.poison(TIMESTAMP, &old);
    until_refused(&scene.daemon, "rollback");
    assert_eq!(scene.trusted(), trusted);
    let foreign = Fleet::new();
    let theirs = fs::read(foreign.folder().join(TIMESTAMP)).expect("a file");
    scene.poison(TIMESTAMP, &theirs);
    until_refused(&scene.daemon, "foreign_signer");
    assert_eq!(scene.trusted(), trusted);
    // Over and over, it is recorded once.
    for n in 0..20 {
        scene.poison(TIMESTAMP, format!("{{\"{n}\":").as_bytes());
    }
    until_refused(&scene.daemon, "malformed");
    let told = changes(&scene.daemon, "trust_refused");
    let reasons: Vec<&Value> = told.iter().map(|told| &told["reason"]).collect();
    assert_eq!(
        reasons,
        ["malformed", "rollback", "foreign_signer"],
        "{told:?}"
    );
    // Nor does a flood end the line to the broker.
    let topic = format!("{TOPICS}/{TIMESTAMP}");
    let flood = (0..1000).map(|n| (topic.clone(), format!("[{n}").into_bytes()));
    retain_all(scene.broker.port(), flood);
    std::thread::sleep(Duration::from_secs(1));
    until_refused(&scene.daemon, "malformed");
    let metrics = scene.daemon.admin_http("GET", "/metrics", "").body;
    // How often depends on how many looks found it.
    let counted = r#"slmd_trust_refusals_total{reason="rollback"} "#;
    assert!(metrics.contains(counted), "{metrics}");
    assert!(!metrics.contains(r#"{reason="unreachable"}"#), "{metrics}");
    // Put right, it counts again.
    scene.fleet.forget_told();
    let versions = scene.fleet.publish(&json!({"stamp": true}));
    scene.fleet.broadcast(&scene.broker);
    until(&scene.daemon, &versions);
}

/// What is missing, and what isn't what was signed, ends the whole; what others write beneath the
/// fleet's topics never comes here.
#[test]
fn a_part_that_is_poisoned_spoils_the_whole_until_it_is_put_right() {
    let mut scene = Scene::new();
    let trusted = scene.trusted();
    let lines = format!("{}\n", "x".repeat(60)).repeat(1000);
    let mut flood = std::process::Command::new("mosquitto_pub");
    flood.args([
        "-V",
        "5",
        "-q",
        "0",
        "-l",
        "-p",
        &scene.broker.port().to_string(),
    ]);
    flood.args(["-t", &format!("{TOPICS}/metadata/99.root.json")]);
    let flooded = run(&mut flood, lines.as_bytes(), PATIENCE);
    assert!(flooded.status.success(), "{flooded:?}");

    let other = Issuer::new("ES256", "b");
    let versions = scene.fleet.keys(&jwks(&[&scene.issuer, &other]));
    scene.poison(TIMESTAMP, &scene.file(TIMESTAMP));
    until_refused(&scene.daemon, "missing");
    for role in ["snapshot", "targets", "revocation"] {
        let name = format!("metadata/{}.{role}.json", versions[role]);
        scene.poison(&name, &scene.file(&name));
    }
    let targets = fs::read_dir(scene.fleet.folder().join("targets/realms/dev"));
    for target in targets.expect("a folder") {
        let name = target.expect("an entry").file_name();
        let name = format!("targets/realms/dev/{}", name.to_str().expect("UTF-8"));
        let mut content = scene.file(&name);
        content[0] ^= 1;
        scene.poison(&name, &content);
    }
    scene.fleet.publish(&json!({"stamp": true}));
    scene.poison(TIMESTAMP, &scene.file(TIMESTAMP));
    until_refused(&scene.daemon, "hash");
    assert_eq!(scene.trusted(), trusted);

    scene.fleet.forget_told();
    let versions = scene.fleet.publish(&json!({"stamp": true}));
    scene.fleet.broadcast(&scene.broker);
    until(&scene.daemon, &versions);
    assert_eq!(look_by(&scene.daemon, &other).status, 200);
}

#[test]
fn a_bad_mirror_keeps_no_good_one_from_being_used() {
    let (first, second) = (Issuer::new("ES256", "1"), Issuer::new("ES256", "2"));
    let folders: Vec<_> = (0..4)
        .map(|_| tempfile::tempdir().expect("a folder"))
        .collect();
    let [gone, old, poisoned, good] = &folders[..] else {
        unreachable!("four were made");
    };
    let mut fleet = Fleet::new();
    fleet.keys(&first.jwks());
    fleet.copy_to(old.path());
    fleet.copy_to(poisoned.path());
    fs::write(poisoned.path().join("metadata/timestamp.json"), "{}").expect("a file");
    fleet.copy_to(good.path());
    let stick = gone.path().join("no-stick");
    let paths = [&stick, old.path(), poisoned.path(), good.path()];
    let mut daemon = Daemon::start(by_folders(&paths));
    fleet.pin(&daemon);
    daemon.until_ready();
    // A root that only one mirror has counts for all; what is newest does.
    let versions = fleet.publish(&json!({
        "targets": {"realms/dev/jwks.json": second.jwks()}, "root": true,
    }));
    fleet.copy_to(good.path());
    until(&daemon, &versions);
    assert_refused(&look_by(&daemon, &first), "key_unknown");
    assert_eq!(look_by(&daemon, &second).status, 200);
    until_refused(&daemon, "rollback");
    let mirrors = fleet_of(&daemon)["mirrors"].clone();
    let reasons: Vec<&Value> = (0..4).map(|n| &mirrors[n]["refused"]["reason"]).collect();
    assert_eq!(
        reasons,
        [
            &json!("unreachable"),
            &json!("rollback"),
            &json!("malformed"),
            &Value::Null
        ],
        "{mirrors}"
    );

    // What has ended blocks what is newer, and nothing that is in force.
    let past = now().as_secs() - 60;
    fleet.publish(&json!({"targets": {"realms/dev/jwks.json": first.jwks()}, "expires": past}));
    fleet.copy_to(good.path());
    within(PATIENCE, "the end", || {
        let reason = fleet_of(&daemon)["mirrors"][3]["refused"]["reason"].clone();
        (reason == "expired").then_some(())
    });
    assert_eq!(look_by(&daemon, &second).status, 200);
}

#[test]
fn the_fleets_policy_and_list_of_models_narrow_what_is_configured() {
    let issuer = Issuer::new("ES256", "a");
    let folder = tempfile::tempdir().expect("a folder");
    let mut fleet = Fleet::new();
    fleet.keys(&issuer.jwks());
    fleet.copy_to(folder.path());
    let setup = by_folders(&[folder.path()]).with("[fleet]\nrequire_listed_models = true");
    let mut daemon = Daemon::start(setup);
    fleet.pin(&daemon);
    daemon.until_ready();
    let token = issuer.token(claims());
    assert_refused(
        &daemon.chat(&token, &chat("Hi.", 1, false)),
        "model_not_listed",
    );
    let policy = |policy: Value| {
        let file = json!({"version": 1, "realms": {"dev": policy}}).to_string();
        json!({"targets": {"policy.json": file}})
    };
    let mut publish = |what: Value| {
        let versions = fleet.publish(&what);
        fleet.copy_to(folder.path());
        until(&daemon, &versions);
    };
    publish(policy(json!({"max_lifetime": 60})));
    assert_refused(&look(&daemon, &token), "lifetime_too_long");
    publish(policy(json!({"roles": {"other": ["read"]}})));
    assert_refused(&look(&daemon, &token), "scope_missing");
    publish(policy(json!({"require_dpop": ["socket"]})));
    assert_refused(&look(&daemon, &token), "dpop_required");
    publish(policy(json!({})));
    assert_eq!(look(&daemon, &token).status, 200);
}

/// Killed wherever it is, a device has the old or the new, whole.
#[test]
fn kill_9_leaves_the_old_or_the_new_whole() {
    let rounds = match std::env::var_os("SLMD_TEST_MORE") {
        Some(_) => ROUNDS.1,
        None => ROUNDS.0,
    };
    let begun = instant();
    let folder = tempfile::tempdir().expect("a folder");
    let mut fleet = Fleet::new();
    let mut daemon = Daemon::start(by_folders(&[folder.path()]));
    fleet.pin(&daemon);
    let mut known = Value::Null;
    let mut taken = 0;
    for round in 0..rounds {
        let issuer = Issuer::new("EdDSA", &round.to_string());
        let list = json!({"version": 1, "revoked": [{"sub": round.to_string()}]}).to_string();
        let versions = fleet.publish(&json!({
            "targets": {"realms/dev/jwks.json": issuer.jwks()},
            "revocation": {"realms/dev/deny.json": list},
        }));
        fleet.copy_to(folder.path());
        std::thread::sleep(Duration::from_millis(u64::from(round * 379 % 1300)));
        daemon.kill9();
        let trusted = json_of(&daemon, &["trust", "show", "--json"])["fleet"].clone();
        let realm = json_of(&daemon, &["keys", "list", "--json"])["realms"][0].clone();
        let targets = trusted["targets"].clone();
        assert!(
            targets == known || targets == versions["targets"],
            "{trusted}"
        );
        if targets == versions["targets"] {
            taken += 1;
            assert_eq!(realm["keys"][0]["kid"], round.to_string(), "{realm}");
            assert_eq!(trusted["revoked"]["dev"], round + 1, "{trusted}");
        }
        daemon.launch_again();
        until(&daemon, &versions);
        known = versions["targets"].clone();
        let recorded = changes(&daemon, "trust_updated");
        let of_it = recorded.iter().filter(|told| told["targets"] == known);
        assert!(of_it.count() >= 1, "{recorded:?}");
    }
    let facts = format!(
        "updates of a fleet, a kill -9 at a random point of each: {rounds} ({taken} after the news had come)\n\
         half states: 0\nfailed starts: 0\n"
    );
    println!("{facts}");
    let test = "fleet::kill_9_leaves_the_old_or_the_new_whole";
    report("fleet-kills.txt", test, &facts, begun);
}

fn json_of(daemon: &Daemon, args: &[&str]) -> Value {
    let output = daemon.slmd(args);
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_root_is_pinned_by_its_fingerprint_and_by_no_other() {
    let fleet = Fleet::new();
    let daemon = Daemon::start(by_folders(&[fleet.folder()]));
    let path = fleet.root();
    let path = path.to_str().expect("UTF-8");
    let wanted = fingerprint(&fs::read(path).expect("a root"));
    let asked = daemon.slmd(&["trust", "pin", path]);
    let said = String::from_utf8_lossy(&asked.stderr);
    assert_eq!(asked.status.code(), Some(2), "{said}");
    assert!(said.contains(&wanted), "{said}");
    let wrong = daemon.slmd(&["trust", "pin", path, "--fingerprint", "00"]);
    assert!(!wrong.status.success());
    let folder = tempfile::tempdir().expect("a folder");
    let other = folder.path().join("root.json");
    fs::write(&other, "{}").expect("a file");
    let other = other.to_str().expect("UTF-8");
    let none = daemon.slmd(&["trust", "pin", other, "--fingerprint", &fingerprint(b"{}")]);
    assert!(!none.status.success());
    assert_eq!(fleet_of(&daemon)["root_fingerprint"], Value::Null);
    fleet.pin(&daemon);
    within(PATIENCE, "the fleet's files", || {
        fleet_of(&daemon)["timestamp"].as_u64()
    });
}
