//! Clocks that are wrong: whatever a clock says, and whoever keeps it, no expired token comes back,
//! no sound one is stopped for long, and keys are as old as they are.
//!
//! `tests/keycloak/offline.rs` has the same with a real Keycloak's tokens, `dpop.rs` the proofs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::keys::Certs;
use crate::support::{Clock, Daemon, Issuer, Kept, Response, Setup, chat, claims, http, within};

const PATIENCE: Duration = Duration::from_secs(120);
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// When this release was made: the floor that no clock goes below.
const RELEASED: u64 = 1_795_478_400;

fn now() -> u64 {
    slmd::for_tests::time::now().as_secs()
}

/// A token of `client`, issued at `iat` for so many seconds.
fn token(issuer: &Issuer, client: &str, iat: u64, seconds: u64) -> String {
    let mut says = claims();
    says["azp"] = client.into();
    says["iat"] = iat.into();
    says["exp"] = (iat + seconds).into();
    issuer.token(says)
}

fn ask(daemon: &Daemon, token: &str) -> Response {
    daemon.chat(token, &chat("Name one clock.", 2, false))
}

#[track_caller]
fn assert_answered(response: &Response) {
    assert_eq!(response.status, 200, "{response:?}");
}

#[track_caller]
fn assert_refused(response: &Response, code: &str) {
    assert_eq!(response.json()["error"]["code"], code, "{response:?}");
}

struct Scene {
    clock: Clock,
    issuer: Issuer,
    daemon: Daemon,
}

impl Scene {
    fn start(kept: Kept, realm: &str) -> Scene {
        Scene::at("+0", kept, realm)
    }

    fn at(time: &str, kept: Kept, realm: &str) -> Scene {
        let (clock, issuer) = (Clock::new(), Issuer::new("ES256", "clocks"));
        clock.set(time);
        clock.keeps(kept);
        let setup = clock.of(Setup::new().issuer(&issuer).realm(realm));
        Scene {
            daemon: Daemon::start(setup),
            clock,
            issuer,
        }
    }

    /// A token for five minutes.
    fn token(&self, client: &str, iat: u64) -> String {
        token(&self.issuer, client, iat, 5 * MINUTE)
    }

    fn ask(&self, client: &str, iat: u64) -> Response {
        ask(&self.daemon, &self.token(client, iat))
    }

    /// As a power cut does.
    fn cut(&mut self) {
        self.daemon.kill9();
        self.daemon.restart();
    }

    fn clock_status(&self) -> Value {
        self.daemon.status()["clock"].clone()
    }

    fn until_floor(&self, seconds: u64) {
        let past = slmd::for_tests::time::Timestamp::from_secs(seconds).to_string();
        within(PATIENCE, "the floor", || {
            let floor = self.clock_status()["floor"].as_str()?.to_owned();
            (floor >= past).then_some(())
        });
    }

    /// The log's lines on time that tokens have moved.
    fn moved_lines(&self) -> String {
        let log = self.daemon.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("have moved the realm's time"));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn keys_age(&self) -> u64 {
        let age = &self.daemon.status()["realms"][0]["keys_age_seconds"];
        age.as_u64().expect("keys are pinned")
    }

    fn slmd(&self, args: &[&str]) -> String {
        let output = self.daemon.slmd(args);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }
}

/// Every pair of who keeps the clock, where it jumps by an hour, and whether the daemon restarts
/// meanwhile; then it is set right again.
#[test]
fn a_clock_that_jumps_brings_nothing_back_and_ages_no_key() {
    for kept in [Kept::Synchronised, Kept::WithoutRtc, Kept::ByNobody] {
        for forward in [true, false] {
            for restart in [true, false] {
                println!("{kept:?}, forward {forward}, restart {restart}");
                jump(kept, forward, restart);
            }
        }
    }
}

fn jump(kept: Kept, forward: bool, restart: bool) {
    let mut scene = Scene::start(kept, "offline_grace = { read = \"30m\" }");
    let (start, is_kept) = (now(), kept != Kept::ByNobody);
    assert_eq!(scene.clock_status()["synchronised"], is_kept);
    let first = scene.token("device-1", start);
    assert_answered(&ask(&scene.daemon, &first));
    if is_kept {
        scene.until_floor(start - 5);
    }
    scene.clock.set(if forward { "+1h" } else { "-1h" });
    if restart {
        scene.cut();
    }
    if forward {
        assert_refused(&ask(&scene.daemon, &first), "expired");
        // By another client: a word of its own would count for the first one.
        let next = scene.ask("device-2", start + HOUR);
        match restart {
            // Nothing but the clock tells how long the daemon was gone.
            true => assert_refused(&next, "keys_stale"),
            false => assert_answered(&next),
        }
    } else {
        assert_answered(&ask(&scene.daemon, &first));
        assert_refused(&scene.ask("device-1", start - HOUR), "expired");
        assert!(scene.keys_age() < MINUTE);
    }
    if forward && is_kept {
        scene.until_floor(start + HOUR);
    }
    scene.clock.set("+0");
    if restart {
        scene.cut();
    }
    assert!(scene.keys_age() < if is_kept && forward { 2 * HOUR } else { MINUTE });
    let believed = forward && is_kept;
    let again = scene.ask("device-1", now());
    match believed {
        true => assert_refused(&again, "expired"),
        false => assert_answered(&again),
    }
    let told = scene.slmd(&["status"]);
    // What only a client's token has said is told as well.
    let ahead = believed || forward && !restart;
    assert_eq!(told.contains("run slmd keys reset-time"), ahead, "{told}");
    scene.slmd(&["keys", "reset-time"]);
    assert_answered(&scene.ask("device-1", now()));
    assert!(scene.keys_age() < MINUTE, "{}", scene.keys_age());
    assert!(!scene.slmd(&["status"]).contains("reset-time"));
}

/// A site without a time source: the refresh is what confirms keys, and counts when it happens.
#[test]
fn a_refresh_confirms_keys_while_nobody_keeps_the_clock() {
    let (clock, issuer) = (Clock::new(), Issuer::new("ES256", "lan"));
    clock.keeps(Kept::ByNobody);
    let certs = Certs::serving(&[&issuer]);
    let realm = format!(
        "offline_grace = {{ read = \"1d\" }}\n\
         jwks = {{ uri = \"{}\", plain_http_trusts_this_host = true, refresh_interval = \"1h\" }}",
        certs.uri
    );
    let setup = clock.of(Setup::new().issuer(&issuer).realm(&realm));
    let mut scene = Scene {
        daemon: Daemon::start(setup),
        clock,
        issuer,
    };
    // Each of a client of its own: what one has said of the time binds it for good.
    for (client, time, passed) in [
        ("device-1", "+40d", 40 * DAY),
        ("device-2", "+3d", 3 * DAY),
        ("device-3", "+80d", 80 * DAY),
    ] {
        scene.clock.set(time);
        scene.cut();
        scene.slmd(&["keys", "refresh", "dev"]);
        assert!(scene.keys_age() < MINUTE, "{time}: {}", scene.keys_age());
        assert_answered(&scene.ask(client, now() + passed));
    }
}

/// Keys that were confirmed by a clock ten years ahead grow old from when that was mended.
#[test]
fn a_confirmation_from_the_future_ends_the_grace_of_no_scope() {
    let realm = "offline_grace = { read = \"1d\" }";
    let mut scene = Scene::at("+10y", Kept::Synchronised, realm);
    scene.until_floor(now() + 3640 * DAY);
    scene.clock.set("+0");
    scene.cut();
    let told = scene.slmd(&["keys", "reset-time"]);
    assert_answered(&scene.ask("device-1", now()));
    scene.clock.set("+2d");
    scene.cut();
    assert_refused(&scene.ask("device-1", now() + 2 * DAY), "keys_stale");
    let audited = scene.daemon.audit(0);
    assert!(audited.iter().any(|r| r.contains("time_reset")), "{told}");
}

#[test]
fn the_year_of_a_reset_is_one_of_four_digits() {
    let scene = Scene::start(Kept::Synchronised, "");
    let (now, year_584556019) = (now(), u64::MAX.to_string());
    for (to, good) in [
        (year_584556019.as_str(), false),
        ("253402300800", false),
        // The clock is known.
        (&(now + 2 * DAY).to_string(), false),
        (&(now - DAY).to_string(), true),
    ] {
        let output = scene.daemon.slmd(&["keys", "reset-time", "--to", to]);
        assert_eq!(output.status.success(), good, "{to}: {output:?}");
        let body = format!("{{\"to\":{to}}}");
        let answer = scene.daemon.admin_http("POST", "/time/reset", &body);
        assert_eq!(answer.status == 200, good, "{to}: {answer:?}");
    }
    assert_answered(&scene.ask("device-1", now));
}

/// A field box with a good clock of its own and no time source is always in this state.
#[test]
fn one_token_from_the_future_stops_nobody_but_its_client() {
    let mut scene = Scene::start(Kept::ByNobody, "");
    let (start, ahead) = (now(), now() + 20 * HOUR);
    // What is refused tells nothing, nor does another type.
    let mut id_token = claims();
    (id_token["iat"], id_token["exp"]) = (ahead.into(), (ahead + 60).into());
    id_token["typ"] = "ID".into();
    let refused = ask(&scene.daemon, &scene.issuer.token(&id_token));
    assert_refused(&refused, "type_rejected");
    assert_refused(&scene.ask("device-3", start + 30 * DAY), "issued_in_future");
    assert_answered(&scene.ask("device-3", start));
    // What is accepted tells its own client.
    assert_answered(&scene.ask("device-1", ahead));
    for _ in 0..2 {
        assert_refused(&scene.ask("device-1", now()), "expired");
        assert_answered(&scene.ask("device-2", now()));
        let floors = scene.clock_status()["client_floors"]["dev"].clone();
        assert_eq!(floors["client"], "device-1", "{floors}");
        scene.cut();
    }
    let lines = scene.moved_lines();
    let who = lines
        .split_once("ends what a token of client")
        .map(|(_, who)| who);
    assert!(who.is_some_and(|who| who.contains("device-1")), "{lines}");
    // A second client that agrees tells everybody, up to the lower of both.
    assert_answered(&scene.ask("device-2", now() + 2 * HOUR));
    assert!(
        scene
            .moved_lines()
            .contains("ends what earlier tokens said")
    );
    for _ in 0..2 {
        let refused = scene.ask("device-3", now());
        assert_refused(&refused, "expired");
        assert!(
            refused.body.contains("`slmd keys reset-time`"),
            "{refused:?}"
        );
        assert!(!refused.body.contains("device-"), "{refused:?}");
        assert_answered(&scene.ask("device-3", now() + 2 * HOUR));
        scene.cut();
    }
    // The administrator finds it in the log, the audit and the explanation.
    let lines = scene.moved_lines();
    assert!(lines.lines().count() < 8, "{lines}");
    let why = "where the clock is right, `slmd keys reset-time` ends what earlier tokens said";
    let audit = scene.daemon.audit(0);
    let found = audit
        .iter()
        .any(|r| r.contains("device-3") && r.contains(why));
    assert!(found, "{audit:?}");
    let explained = json!({"token": scene.token("device-3", now())}).to_string();
    let explained = scene.daemon.admin_http("POST", "/keys/explain", &explained);
    assert!(explained.body.contains(why), "{explained:?}");
    // A clock that is kept knows better.
    scene.clock.keeps(Kept::WithoutRtc);
    within(PATIENCE, "the clock to count", || {
        (scene.ask("device-1", now()).status == 200).then_some(())
    });
}

/// In 1970 a token's own `iat` is all that tells the time. It ends all the same.
#[test]
fn a_token_that_tells_the_time_expires_and_stays_expired() {
    let mut scene = Scene::at("@1970-01-01 00:01:00", Kept::ByNobody, "leeway = \"0s\"");
    let short = token(&scene.issuer, "device-1", RELEASED + 2 * HOUR, 4);
    assert_answered(&ask(&scene.daemon, &short));
    within(PATIENCE, "its end", || {
        (ask(&scene.daemon, &short).status == 401).then_some(())
    });
    assert_refused(&ask(&scene.daemon, &short), "expired");
    scene.cut();
    assert_refused(&ask(&scene.daemon, &short), "expired");
    // What a later token has told survives as well.
    let old = token(&scene.issuer, "device-1", RELEASED + 2 * HOUR, HOUR);
    assert_answered(&ask(&scene.daemon, &old));
    assert_answered(&scene.ask("device-1", RELEASED + 4 * HOUR));
    assert_refused(&ask(&scene.daemon, &old), "expired");
    scene.cut();
    assert_refused(&ask(&scene.daemon, &old), "expired");
    let explained = json!({"token": old, "transport": "socket", "scope": "read"});
    let explained = scene
        .daemon
        .admin_http("POST", "/keys/explain", &explained.to_string());
    assert_eq!(explained.json()["verdict"], "expired", "{explained:?}");
}

/// After the first, reads of the model list are counted rather than recorded one by one.
#[test]
fn a_read_that_is_only_counted_tells_the_time_too() {
    let scene = Scene::start(Kept::ByNobody, "");
    let read = |iat| {
        let bearer = format!("Bearer {}", scene.token("device-1", iat));
        let headers = [("authorization", &*bearer)];
        http(&scene.daemon.socket(), "GET", "/v1/models", &headers, "")
    };
    assert_answered(&read(now()));
    assert_answered(&read(now() + 20 * HOUR));
    assert_refused(&read(now()), "expired");
    let floors = scene.clock_status()["client_floors"]["dev"].clone();
    assert_eq!(floors["client"], "device-1", "{floors}");
}
