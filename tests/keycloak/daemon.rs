//! The daemon that fetches its keys from the real Keycloak: pinned once by a person, followed from
//! there.

use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::{State, fresh_realm};
use crate::appliance::{
    PATIENCE, answered, ask, ask_bound, jwks, proof, refused, said, section, succeeded,
};
use crate::grants::{Realm, header, realm};
use crate::proof::ProofKey;
use crate::support::{Daemon, Response, Setup, run, within};

/// More than a loaded machine takes for a fetch.
const SOON: Duration = Duration::from_secs(60);

/// A daemon that fetches the keys of these realms, which have none yet.
fn following(realms: &[&Realm]) -> Daemon {
    let sections = realms
        .iter()
        .map(|realm| section(realm, "") + &jwks_after(realm));
    Daemon::start(Setup::new().with(&sections.collect::<String>()))
}

fn jwks_after(realm: &Realm) -> String {
    jwks(realm, "1s")
}

fn keys(daemon: &Daemon, realm: &str) -> Value {
    let response = daemon.admin_http("GET", "/keys", "");
    let listed = response.json();
    let mut realms = listed["realms"].as_array().expect("a list").iter();
    let found = realms.find(|found| found["name"] == realm || found["realm"] == realm);
    found
        .unwrap_or_else(|| panic!("{realm}: {listed:#}"))
        .clone()
}

/// Pins what Keycloak serves by the fingerprint that a second source has told.
#[track_caller]
fn pin(daemon: &Daemon, realm: &Realm) {
    let set = slmd::for_tests::auth::KeySet::parse(realm.jwks().as_bytes()).expect("usable keys");
    let mut command = daemon.binary();
    command.args(["keys", "pin", &realm.name, "--fetch", "--fingerprint"]);
    command.arg(set.fingerprint());
    let text = succeeded(command);
    assert!(text.contains("pinned for realm"), "{text}");
}

/// Asks again while the daemon says that it fetches keys, as its clients shall.
fn patiently(daemon: &Daemon, token: &str, words: &str) -> Response {
    within(SOON, "the keys", || {
        let response = ask(daemon, token, words);
        (response.status != 503).then_some(response)
    })
}

#[test]
fn keys_are_pinned_by_fingerprint_over_https() {
    let (staging, dev) = (realm("staging"), realm("dev"));
    let mut daemon = following(&[&staging, &dev]);
    let words = "Name a key that a person has pinned.";
    let token = dev.service("device-1", None).access;
    refused(&ask(&daemon, &token, words), 503, "keys_missing");
    let mut wrong = daemon.binary();
    wrong.args([
        "keys",
        "pin",
        "dev",
        "--fetch",
        "--fingerprint",
        &"0".repeat(64),
    ]);
    let output = run(&mut wrong, b"", PATIENCE);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("nothing was changed"),
        "{}",
        said(&output)
    );
    pin(&daemon, &dev);
    pin(&daemon, &staging);
    daemon.until_ready();
    for realm in [&staging, &dev] {
        answered(&ask(
            &daemon,
            &realm.service("device-1", None).access,
            words,
        ));
    }
    let text = said(&daemon.slmd(&["keys", "refresh", "dev"]));
    assert!(text.contains("confirmed"), "{text}");
}

#[test]
fn a_rotation_is_followed_without_a_refusal() {
    let realm = fresh_realm("followed");
    let admin = realm.admin();
    let mut daemon = following(&[&realm]);
    pin(&daemon, &realm);
    daemon.until_ready();
    let token = || realm.service("device-1", None).access;
    let words = "Name a key that was changed.";
    let first = token();
    answered(&ask(&daemon, &first, words));
    let [old] = admin.rsa_keys().try_into().expect("a new realm has one");

    let config = json!({"priority": ["300"], "algorithm": ["RS256"]});
    admin.generate_key("rsa", &config);
    let second = token();
    assert_ne!(header(&first)["kid"], header(&second)["kid"]);
    // No more than one fetch a second for unknown keys.
    std::thread::sleep(Duration::from_millis(1100));
    answered(&ask(&daemon, &second, words));
    answered(&ask(&daemon, &first, words));
    let known = keys(&daemon, "followed").to_string();
    assert!(
        known.contains(header(&second)["kid"].as_str().expect("a kid")),
        "{known}"
    );

    admin.set_key(&old, State::Passive);
    for token in [&first, &second, &token()] {
        answered(&ask(&daemon, token, words));
    }
    admin.remove_key(&old);
    answered(&ask(&daemon, &token(), words));
    daemon.slmd(&["keys", "refresh"]);
    let gone = patiently(&daemon, &first, words);
    refused(&gone, 401, "key_unknown");
    answered(&ask(&daemon, &second, words));
}

#[test]
fn a_foreign_key_set_at_the_realms_address_is_held() {
    let (own, other) = (fresh_realm("held"), realm("staging"));
    let text = section(&own, "") + &jwks_after(&other);
    let setup = Setup::new().with(&text).keys("held", &own.jwks());
    let daemon = Daemon::start(setup);
    // The fetch at the start may have come before the pin, which settles what was held until then.
    let text = said(&daemon.slmd(&["keys", "refresh", "held"]));
    assert!(text.contains("held"), "{text}");
    let state = keys(&daemon, "held");
    let words = "Name a key that waits for a person.";
    let set = slmd::for_tests::auth::KeySet::parse(other.jwks().as_bytes()).expect("usable keys");
    assert_eq!(state["held"]["fingerprint"], set.fingerprint(), "{state:#}");
    answered(&ask(&daemon, &own.service("device-1", None).access, words));
    let foreign = other.service("device-1", None).access;
    refused(&ask(&daemon, &foreign, words), 401, "issuer_unknown");
}

#[test]
fn a_lifetime_counts_by_the_client_that_got_the_token() {
    let realm = realm("staging");
    let words = "Name a token that lives too long.";
    let key = ProofKey::new();
    let token = realm.service("device-2", Some(&key)).access;
    for (hours, status) in [("24h", 200), ("23h", 401)] {
        let text =
            section(&realm, "").replace("device-2 = \"24h\"", &format!("device-2 = {hours:?}"));
        let daemon = Daemon::start(Setup::new().with(&text).keys("staging", &realm.jwks()));
        let response = ask_bound(&daemon, &token, &proof(&key, &token), words);
        assert_eq!(response.status, status, "{}", response.body);
        if status != 200 {
            refused(&response, status, "lifetime_too_long");
        }
    }
}

#[test]
fn limits_that_the_token_carries_bind() {
    let realm = fresh_realm("limits");
    let admin = realm.admin();
    let claim = json!({
        "claim.name": "slmd_tokens_per_minute", "claim.value": "80", "jsonType.label": "int",
    });
    admin.add_mapper("reports", "oidc-hardcoded-claim-mapper", &claim);
    let daemon = Daemon::start(crate::appliance::setup(&[&realm]));
    let limited = realm.service("reports", None).access;
    let words = "Name a limit that goes along with a token.";
    answered(&ask(&daemon, &limited, words));
    let over = within(SOON, "the limit", || {
        let response = ask(&daemon, &limited, words);
        (response.status != 200).then_some(response)
    });
    assert_eq!(over.status, 429, "{}", over.body);
    // Another client's limit is its own.
    let other = realm.service("device-1", None).access;
    answered(&ask(&daemon, &other, words));
}
