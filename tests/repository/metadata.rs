//! python-tuf follows a fleet from its founding through rotation of a realm's keys and of its own.

use std::fs;

use slmd::for_tests::time::instant;

use crate::broker::retained;
use crate::fleet::{Fleet, jwks};
use crate::support::Mosquitto;

const JWKS: &str = "realms/prod/jwks.json";
const DENY: &str = "realms/prod/deny.json";

#[test]
fn python_tuf_follows_a_fleet_through_all_of_its_changes() {
    let fleet = Fleet::new();
    let mirror = fleet.place().join("mirror");
    let to = mirror.display().to_string();
    fleet.ok(&["publish", "--to", &to]);
    let read = |targets: &[&str]| fleet.read("cache", &mirror, targets);
    let versions = |of: &serde_json::Value| {
        ["root", "targets", "snapshot", "timestamp"].map(|role| of["versions"][role].as_u64())
    };
    let first = read(&[JWKS, DENY, "policy.json"]);
    assert_eq!(versions(&first), [Some(1); 4]);
    assert_eq!(first["versions"]["revocation"], 1);
    assert!(first["targets"][JWKS].is_null());

    let one = fleet.file("one.json", &jwks(&["a"]));
    let said = fleet.ok(&["rotate", "prod", "--jwks", &one]);
    assert!(said.contains("+ ") && said.contains("(kid a)"), "{said}");
    assert!(said.contains("next: slmd fleet sign --key NAME"), "{said}");
    let said = fleet.ok(&["publish", "--to", &to]);
    assert!(
        said.contains("still staged: targets 2: signed by nobody yet"),
        "{said}"
    );
    assert_eq!(versions(&read(&[])), versions(&first));
    let said = fleet.ok(&["sign", "--key", "offline-3", "--yes"]);
    assert!(
        said.contains("targets of the fleet plant, version 2"),
        "{said}"
    );
    assert!(said.contains("realms/prod/jwks.json (new)"), "{said}");
    assert!(said.contains("1 signature is missing"), "{said}");
    let said = fleet.ok(&["sign", "--key", "offline-1", "--yes"]);
    assert!(
        said.contains("complete") && said.contains("next: slmd fleet publish"),
        "{said}"
    );
    fleet.ok(&["publish", "--to", &to]);
    let second = read(&[JWKS]);
    assert_eq!(versions(&second), [Some(1), Some(2), Some(2), Some(2)]);
    let set = second["targets"][JWKS].as_str().expect("it is there");
    assert!(
        set.contains("\"kid\":\"a\"") && !set.contains("x5c"),
        "{set}"
    );

    // Keycloak has another key now: both are in the fleet.
    let other = fleet.file("other.json", &jwks(&["b"]));
    let rotated = fleet.json(&["rotate", "prod", "--jwks", &other]);
    assert_eq!(rotated["added"][0]["kid"], "b");
    assert_eq!(rotated["kept"][0]["kid"], "a");
    fleet.publish();
    fleet.ok(&["publish", "--to", &to]);
    let both = read(&[JWKS]);
    let set = both["targets"][JWKS].as_str().expect("it is there");
    assert!(
        set.contains("\"kid\":\"a\"") && set.contains("\"kid\":\"b\""),
        "{set}"
    );

    // An emergency takes one command, and nobody's offline key.
    let said = fleet.ok(&["revoke", "prod", "--sub", "mallory"]);
    assert!(said.contains("revocation 2, under timestamp 4"), "{said}");
    fleet.ok(&["publish", "--to", &to]);
    let revoked = read(&[DENY]);
    assert_eq!(revoked["versions"]["revocation"], 2);
    let list = revoked["targets"][DENY].as_str().expect("it is there");
    assert!(list.contains(r#"{"sub":"mallory"}"#), "{list}");

    // A lift takes the offline keys.
    fleet.ok(&["lift", "prod", "--sub", "mallory"]);
    fleet.publish();
    fleet.ok(&["publish", "--to", &to]);
    let lifted = read(&[DENY, "realms/prod/lift.json"]);
    let list = lifted["targets"]["realms/prod/lift.json"]
        .as_str()
        .expect("it is there");
    assert!(list.contains("mallory"), "{list}");
    assert!(
        !lifted["targets"][DENY]
            .as_str()
            .expect("it is there")
            .contains("mallory")
    );

    // And revoked again, at once on the list and with two signatures off the lifts.
    let said = fleet.ok(&["revoke", "prod", "--sub", "mallory"]);
    assert!(said.contains("! it was lifted before"), "{said}");
    fleet.publish();
    fleet.ok(&["publish", "--to", &to]);
    let again = read(&[DENY, "realms/prod/lift.json"]);
    let list = |path: &str| {
        again["targets"][path]
            .as_str()
            .expect("it is there")
            .to_owned()
    };
    assert!(list(DENY).contains("mallory"));
    assert!(!list("realms/prod/lift.json").contains("mallory"));
}

#[test]
fn python_tuf_follows_new_roots() {
    let fleet = Fleet::new();
    let mirror = fleet.folder();
    let root = |cache: &str| fleet.read(cache, &mirror, &[])["versions"]["root"].as_u64();
    assert_eq!(root("old"), Some(1));
    fleet.ok(&["key", "new", "carol"]);
    fleet.ok(&[
        "add-key",
        "carol.pub.json",
        "--for",
        "offline",
        "--replace",
        "offline-1",
    ]);
    let said = fleet.ok(&["review"]);
    assert!(said.contains("+ root may be signed by carol"), "{said}");
    assert!(
        said.contains("- targets may no longer be signed by offline-1"),
        "{said}"
    );
    fleet.sign(&["offline-2", "carol.pem"]);
    fleet.ok(&["publish"]);
    assert_eq!(
        root("old"),
        Some(1),
        "one of the old root's two hasn't signed"
    );
    fleet.sign(&["offline-3"]);
    fleet.ok(&["publish"]);
    assert_eq!(root("old"), Some(2));

    // A stolen online key: it is replaced, and what it has signed counts no more.
    fleet.ok(&["key", "new", "fleet/keys/online-2"]);
    let file = "fleet/keys/online-2.pub.json";
    fleet.ok(&["add-key", file, "--for", "online", "--replace", "online"]);
    fleet.sign(&["offline-2", "offline-3"]);
    fs::remove_file(fleet.folder().join("keys/online.pem")).expect("it is there");
    fleet.ok(&["publish"]);
    assert_eq!((root("old"), root("new")), (Some(3), Some(3)));

    // The key for revocation, too.
    fleet.ok(&["key", "new", "fleet/keys/revocation-2"]);
    let file = "fleet/keys/revocation-2.pub.json";
    fleet.ok(&[
        "add-key",
        file,
        "--for",
        "revocation",
        "--replace",
        "revocation",
    ]);
    fleet.sign(&["offline-2", "carol.pem", "revocation-2"]);
    fleet.ok(&["publish"]);
    fleet.ok(&["revoke", "prod", "--jti", "t", "--expires", "4000000000"]);
    fleet.ok(&["publish"]);
    let read = fleet.read("old", &mirror, &["realms/prod/deny.json"]);
    let list = read["targets"]["realms/prod/deny.json"]
        .as_str()
        .expect("it is there");
    assert!(list.contains("4000000000"), "{list}");
}

#[test]
fn the_online_roles_are_renewed_and_people_are_told_what_ends() {
    let fleet = Fleet::new();
    let said = fleet.ok(&["timestamp"]);
    assert!(
        said.contains("timestamp 2, snapshot 1, targets 1"),
        "{said}"
    );
    assert_eq!(
        fleet.read("c", &fleet.folder(), &[])["versions"]["timestamp"],
        2
    );
    let settings = fleet.folder().join("fleet.toml");
    let text = fs::read_to_string(&settings).expect("it is there");
    let short = text.replace("targets = \"90d\"", "targets = \"3d\"");
    fs::write(&settings, short).expect("it is ours");
    fleet.ok(&["renew", "targets"]);
    let said = fleet.ok(&["review"]);
    assert!(said.contains("nothing but a later end"), "{said}");
    fleet.sign(&["offline-1", "offline-2"]);
    let said = fleet.ok(&["publish"]);
    assert!(
        said.contains("! targets ends on") && said.contains("fleet renew targets"),
        "{said}"
    );
    assert_eq!(
        fleet.read("c", &fleet.folder(), &[])["versions"]["targets"],
        2
    );
}

#[test]
fn policy_and_models_are_what_devices_understand() {
    let fleet = Fleet::new();
    let bad = fleet.file("bad.json", r#"{"version":1,"realms":{"prod":{"role":{}}}}"#);
    let said = fleet.refused(&["policy", &bad]);
    assert!(
        said.contains("the policy can't be used") && said.contains("role"),
        "{said}"
    );
    let text = r#"{"version":1,"realms":{"prod":{"max_lifetime":3600}}}"#;
    let good = fleet.file("policy.json", text);
    fleet.ok(&["policy", &good]);
    let digest = format!("sha256:{}", "0f".repeat(32));
    fleet.ok(&["models", "small", &digest]);
    assert!(
        fleet
            .refused(&["models", "small", "sha256:0f"])
            .contains("slmd model show")
    );
    fleet.publish();
    let read = fleet.read("c", &fleet.folder(), &["policy.json", "models/small.json"]);
    assert_eq!(read["targets"]["policy.json"], text);
    let allowed = read["targets"]["models/small.json"]
        .as_str()
        .expect("it is there");
    assert!(allowed.contains(&digest), "{allowed}");
    assert_eq!(
        fleet.json(&["models", "small"])["digests"][0],
        digest.as_str()
    );
    fleet.ok(&["models", "small", "--remove", &digest]);
    fleet.ok(&["policy", "--remove"]);
    fleet.publish();
    let read = fleet.read("c", &fleet.folder(), &["policy.json", "models/small.json"]);
    assert!(read["targets"]["policy.json"].is_null());
}

#[test]
fn every_command_can_be_run_twice() {
    let fleet = Fleet::new();
    assert!(fleet.refused(&["init", "plant"]).contains("isn't empty"));
    let set = fleet.file("set.json", &jwks(&["a"]));
    let digest = format!("sha256:{}", "0f".repeat(32));
    let policy = fleet.file("policy.json", r#"{"version":1}"#);
    for words in [
        &["rotate", "prod", "--jwks", &set][..],
        &["policy", &policy],
        &["models", "small", &digest],
        &["revoke", "prod", "--azp", "app"],
        &["sign", "--key", "offline-1", "--yes"],
    ] {
        fleet.ok(words);
        let state = fs::read(fleet.folder().join("staged/targets.json")).expect("it is staged");
        fleet.ok(words);
        let again = fs::read(fleet.folder().join("staged/targets.json")).expect("it is staged");
        assert_eq!(again, state, "{words:?}");
    }
    fleet.sign(&["offline-2"]);
    fleet.ok(&["publish"]);
    let stamp = fs::read(fleet.folder().join("metadata/timestamp.json")).expect("it is there");
    fleet.ok(&["publish"]);
    let again = fs::read(fleet.folder().join("metadata/timestamp.json")).expect("it is there");
    assert_eq!(again, stamp, "nothing was staged, so nothing is new");
    assert!(
        fleet
            .refused(&["sign", "--key", "offline-1", "--yes"])
            .contains("nothing is staged")
    );
    for _ in 0..2 {
        fleet.ok(&["timestamp"]);
        fleet.ok(&["renew", "root"]);
        fleet.ok(&["export", "stick"]);
    }
    let stick = fleet.read("c", &fleet.place().join("stick"), &["policy.json"]);
    assert_eq!(stick["targets"]["policy.json"], r#"{"version":1}"#);
}

#[test]
fn a_publish_that_is_killed_anywhere_is_completed_by_the_next() {
    let fleet = Fleet::new();
    let broker = Mosquitto::start();
    let mirror = fleet.place().join("mirror");
    let to = mirror.display().to_string();
    let and = format!("mqtt://127.0.0.1:{}", broker.port());
    let publish = ["publish", "--to", &to, "--to", &and];
    let begun = instant();
    fleet.ok(&["timestamp"]);
    fleet.ok(&publish);
    let whole = begun.elapsed();
    for round in 0..8_u32 {
        let policy = format!(r#"{{"version":1,"realms":{{"r{round}":{{}}}}}}"#);
        let file = fleet.file("policy.json", &policy);
        fleet.ok(&["policy", &file]);
        fleet.sign(&["offline-1", "offline-2"]);
        let mut killed = fleet.command(&publish);
        let mut killed = killed.spawn().expect("it starts");
        // The key takes the first half; the files come after.
        std::thread::sleep(whole / 3 + whole * round / 10);
        killed.kill().expect("it is our child");
        killed.wait().expect("it is our child");
        // What is there is whole: the old or the new.
        fleet.read("cache", &mirror, &["policy.json"]);
        fleet.ok(&publish);
        let read = fleet.read("cache", &mirror, &["policy.json"]);
        assert_eq!(
            read["targets"]["policy.json"],
            policy.as_str(),
            "round {round}"
        );
    }
    let seen = fleet.place().join("seen");
    retained(&broker, &seen);
    let read = fleet.read("cache", &seen, &["policy.json"]);
    assert!(
        read["targets"]["policy.json"]
            .as_str()
            .is_some_and(|text| text.contains("r7"))
    );
}
