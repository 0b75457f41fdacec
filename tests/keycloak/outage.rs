//! Keycloak's process is stopped for good: what the appliance still decides, over the socket and
//! over MQTT, and how each scope ends with its grace.
//!
//! Only `read` and `audit` have requests of their own. `write` and `fine-tune` are told by what the
//! running daemon says of a token (`slmd keys explain`) and of its realms (`/readyz?verbose`).

use std::time::Duration;

use serde_json::Value;

use crate::appliance::{answered, ask, explained, jwks, refused, said, section};
use crate::certificates::rsa;
use crate::dpop::{Device, answer, nonce, publish};
use crate::grants::Realm;
use crate::offline::{DAY, HOUR, Issuing, now};
use crate::proof::ProofKey;
use crate::server::Keycloak;
use crate::support::{Clock, Daemon, Mosquitto, Setup, Subscriber, http, within};

const REPLY: &str = "slm/edge-1/reply/device-2/1";
const SOON: Duration = Duration::from_secs(60);
const MINUTE: u64 = 60;

/// The grace of a scope where the configuration says nothing.
const GRACES: [(&str, u64); 4] = [
    ("read", 30 * DAY),
    ("write", DAY),
    ("fine-tune", HOUR),
    ("audit", 30 * DAY),
];

/// How long Keycloak has been gone, in seconds and in libfaketime's words: before and after each
/// end.
const STEPS: [(u64, &str); 7] = [
    (0, "+0"),
    (50 * MINUTE, "+50m"),
    (65 * MINUTE, "+65m"),
    (23 * HOUR, "+23h"),
    (25 * HOUR, "+25h"),
    (29 * DAY, "+29d"),
    (31 * DAY, "+31d"),
];

/// A realm and one of its devices, which has a bound token for a day.
struct Site {
    issuing: Issuing,
    device: Device,
}

impl Site {
    fn new(realm: Realm, pair: crate::certificates::Pair) -> Site {
        let key = ProofKey::new();
        let token = realm.service("device-2", Some(&key)).access;
        Site {
            issuing: Issuing::with(realm, pair),
            device: Device {
                token,
                key,
                nonce: String::new(),
            },
        }
    }

    fn name(&self) -> &str {
        &self.issuing.realm.name
    }
}

#[test]
fn with_keycloak_stopped_each_scope_goes_on_until_its_grace_ends() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [staging, dev] = ["staging", "dev"].map(|name| rsa(folder.path(), name));
    let keys = [("staging", &staging), ("dev", &dev)];
    let server = Keycloak::of_one_test("outage", &keys);
    let (clock, broker) = (Clock::new(), Mosquitto::start());
    let realms = ["staging", "dev"].map(|name| Realm::of(server, name));
    let sections = realms
        .each_ref()
        .map(|realm| section(realm, "") + &jwks(realm, "1s"));
    let setup = Setup::new().with(&sections.concat()).broker(&broker);
    let mut daemon = Daemon::start(clock.of(setup));
    for realm in &realms {
        let text = said(&daemon.slmd(&["keys", "pin", &realm.name, "--fetch", "--yes"]));
        assert!(text.contains("pinned for realm"), "{text}");
    }
    daemon.until_ready();
    let [first, second] = realms;
    let mut sites = [Site::new(first, staging), Site::new(second, dev)];
    daemon.terminate();
    server.stop();

    let replies = broker.subscribe("slm/edge-1/reply/#");
    let mut seen = String::new();
    for (gone, time) in STEPS {
        clock.set(time);
        daemon.restart();
        seen = new_nonce(&broker, &seen);
        for site in &mut sites {
            site.device.nonce.clone_from(&seen);
            let good = gone < 30 * DAY;
            over_the_socket(&daemon, site, gone, good);
            over_mqtt(&broker, &replies, site, gone, good);
            scopes(&daemon, &site.issuing, gone);
        }
        if gone == 0 {
            nobody_is_there(&daemon);
        }
        daemon.terminate();
    }
}

/// Keycloak's own tokens right after its end, later ones as it would have issued them.
fn over_the_socket(daemon: &Daemon, site: &Site, gone: u64, good: bool) {
    let token = match gone {
        0 => site.issuing.token.clone(),
        _ => site.issuing.at(now() + gone),
    };
    let response = ask(daemon, &token, &words("a realm", site, gone));
    match good {
        true => answered(&response),
        false => refused(&response, 403, "keys_stale"),
    }
    let old = site.issuing.at(now() + gone - HOUR);
    let response = ask(daemon, &old, &words("an old token", site, gone));
    refused(&response, 401, "expired");
}

/// The device's own token lives for a day; the one that it would have got next, for the next.
fn over_mqtt(broker: &Mosquitto, replies: &Subscriber, site: &mut Site, gone: u64, good: bool) {
    let own = site.device.token.clone();
    let next = site.issuing.again(&own, now() + gone, DAY, |_| ());
    let lives = gone < DAY;
    for (which, token, status, code) in [
        ("own", &own, if lives { "200" } else { "401" }, "expired"),
        (
            "next",
            &next,
            if good { "200" } else { "403" },
            "keys_stale",
        ),
    ] {
        site.device.token.clone_from(token);
        let correlation = format!("{}-{which}-{gone}", site.name());
        let words = words(&format!("a device's {which} token"), site, gone);
        publish(broker, &site.device.sent(REPLY, &correlation, &words));
        let message = answer(replies, &correlation);
        assert_eq!(
            message.user("status"),
            Some(status),
            "{correlation}: {message:?}"
        );
        if status != "200" {
            assert_eq!(message.json()["error"]["code"], code, "{message:?}");
        }
    }
    site.device.token = own;
}

/// What the running daemon says of each scope.
fn scopes(daemon: &Daemon, issuing: &Issuing, gone: u64) {
    let token = issuing.at(now() + gone);
    let status = http(&daemon.socket(), "GET", "/readyz?verbose", &[], "").json();
    let mut realms = status["realms"].as_array().expect("a list").iter();
    let realm = realms.find(|realm| realm["name"] == issuing.realm.name.as_str());
    let realm = realm.expect("the realm is configured");
    let text = |value: &Value| value.as_str().expect("a time").to_owned();
    for (scope, grace) in GRACES {
        let good = gone < grace;
        let (said, _) = explained(daemon, &token, &["--scope", scope]);
        let expected = if good {
            Value::Null
        } else {
            "keys_stale".into()
        };
        assert_eq!(
            said["verdict"], expected,
            "{scope} after {gone} s: {said:#}"
        );
        let stops_at = text(&realm["scope_stops_at"][scope]);
        let told = stops_at > text(&status["clock"]["now"]);
        assert_eq!(told, good, "{scope} after {gone} s: {realm:#}");
    }
}

/// Both realms' refreshes have failed since the daemon's start.
fn nobody_is_there(daemon: &Daemon) {
    within(SOON, "a refresh that fails", || {
        let status = daemon.status();
        let mut realms = status["realms"].as_array().expect("a list").iter();
        let failed = realms.all(|realm| realm["refresh"]["last_outcome"] == "failed");
        failed.then_some(())
    });
}

/// A nonce that isn't the one of the daemon's run before, which the broker has kept.
fn new_nonce(broker: &Mosquitto, old: &str) -> String {
    within(SOON, "a new nonce", || {
        let nonce = nonce(broker);
        (nonce != old).then_some(nonce)
    })
}

/// No question is asked twice, because the answer of its first time could be given again.
fn words(of: &str, site: &Site, gone: u64) -> String {
    format!(
        "Name {of} of {} that has been alone for {gone} s.",
        site.name()
    )
}
