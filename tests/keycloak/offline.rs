//! Clocks that are wrong: that no expired token comes back.
//!
//! Tokens are a real Keycloak's; `tests/system/clocks.rs` has the cases that need none.

use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::fresh_realm;
use crate::appliance::{answered, ask, refused, said, section};
use crate::certificates::{Pair, rsa};
use crate::grants::{Realm, claims, header};
use crate::support::{Clock, Daemon, Kept, Setup, within};

pub const HOUR: u64 = 3600;
pub const DAY: u64 = 24 * HOUR;
const TICK: Duration = Duration::from_secs(60);

/// When this release was made: the floor that no clock goes below.
const RELEASED: u64 = 1_795_478_400;

/// A realm whose key the test has too, so that it can say what Keycloak would have said later.
pub struct Issuing {
    pub realm: Realm,
    pair: Pair,
    /// Keycloak's own, of `device-1`.
    pub token: String,
}

impl Issuing {
    fn new(name: &str) -> Issuing {
        let realm = fresh_realm(name);
        let pair = rsa(&realm.server.folder, name);
        realm.admin().import_key(&pair, 300);
        Issuing::with(realm, pair)
    }

    /// `pair` is the key that the realm signs with.
    pub fn with(realm: Realm, pair: Pair) -> Issuing {
        let token = realm.service("device-1", None).access;
        Issuing { realm, pair, token }
    }

    /// Keycloak's token, as issued at `iat` for five minutes, with every role.
    pub fn at(&self, iat: u64) -> String {
        let roles = json!(["read", "write", "fine-tune", "audit"]);
        self.again(&self.token, iat, 300, |claims| {
            claims["resource_access"]["slm-chat"]["roles"] = roles;
        })
    }

    /// A token of the realm, as issued at `iat` for so many seconds.
    pub fn again(
        &self,
        token: &str,
        iat: u64,
        seconds: u64,
        change: impl FnOnce(&mut Value),
    ) -> String {
        let mut claims = claims(token);
        claims["iat"] = iat.into();
        claims["exp"] = (iat + seconds).into();
        claims["jti"] = slmd::for_tests::identity::random_hex::<16>().into();
        change(&mut claims);
        self.pair.sign(&header(token), &claims)
    }
}

pub fn now() -> u64 {
    slmd::for_tests::time::now().as_secs()
}

fn floor(daemon: &Daemon) -> String {
    let status = daemon.status();
    let floor = status["clock"]["floor"].as_str();
    floor.expect("a status has it").to_owned()
}

/// Until the floor has followed the clock past a moment.
fn until_floor(daemon: &Daemon, seconds: u64) {
    let past = slmd::for_tests::time::Timestamp::from_secs(seconds).to_string();
    within(TICK, "the floor", || (floor(daemon) >= past).then_some(()));
}

#[test]
fn no_wrong_clock_brings_an_expired_token_back() {
    let issuing = Issuing::new("clocks");
    let clock = Clock::new();
    let name = &issuing.realm.name;
    let setup = Setup::new().with(&section(&issuing.realm, "offline_grace = \"none\""));
    let mut daemon = Daemon::start(clock.of(setup).keys(name, &issuing.realm.jwks()));
    let words = "Name a clock that is wrong.";
    let expired = |daemon: &Daemon, at: u64| {
        refused(&ask(daemon, &issuing.at(at), words), 401, "expired");
    };
    let good = |daemon: &Daemon, at: u64| answered(&ask(daemon, &issuing.at(at), words));
    until_floor(&daemon, now() - 30);
    good(&daemon, now());
    // Stepped back while it runs.
    clock.set("-3h");
    expired(&daemon, now() - HOUR);
    expired(&daemon, now() - 3 * HOUR);
    good(&daemon, now());
    daemon.terminate();

    // A box without a battery starts in 1970 and is told the time by nobody.
    clock.set("@1970-01-01 00:01:00");
    clock.keeps(Kept::ByNobody);
    daemon.restart();
    expired(&daemon, now() - HOUR);
    expired(&daemon, RELEASED - HOUR);
    expired(&daemon, 60);
    good(&daemon, now() - 60);
    daemon.terminate();

    // Ten years ahead, and believed.
    clock.set("+10y");
    clock.keeps(Kept::Synchronised);
    daemon.restart();
    let decade = now() + 3650 * DAY;
    until_floor(&daemon, decade - DAY);
    expired(&daemon, now());
    good(&daemon, decade);
    daemon.terminate();
    clock.set("+0");
    daemon.restart();
    expired(&daemon, now());
    let text = said(&daemon.slmd(&["keys", "reset-time"]));
    good(&daemon, now());
    expired(&daemon, now() - HOUR);
    assert!(
        daemon.audit(0).iter().any(|r| r.contains("time_reset")),
        "{text}"
    );
}

/// The release of a first start counts, whatever its clock says.
#[test]
fn a_first_start_in_1970_accepts_nothing_from_before_its_release() {
    let issuing = Issuing::new("first-start");
    let clock = Clock::new();
    clock.set("@1970-01-01 00:01:00");
    clock.keeps(Kept::ByNobody);
    let name = &issuing.realm.name;
    let setup = Setup::new().with(&section(&issuing.realm, ""));
    let daemon = Daemon::start(clock.of(setup).keys(name, &issuing.realm.jwks()));
    for at in [60, RELEASED - 10 * DAY, RELEASED - HOUR] {
        let response = ask(&daemon, &issuing.at(at), "Name a token of another age.");
        refused(&response, 401, "expired");
    }
    let response = ask(
        &daemon,
        &issuing.at(RELEASED),
        "Name the oldest good token.",
    );
    answered(&response);
}
