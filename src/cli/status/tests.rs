//! The whole page as people see it.

use super::*;
use crate::admin::tests::status;
use crate::cli::login::Refresh;
use crate::cli::terminal::columns;

const PLAIN: Terminal = Terminal::plain(80);

fn shown(status: admin::Status, public: bool, login: Option<End>) -> String {
    let public = public.then(|| "/run/slmd/slmd.sock".into());
    let seen = Seen {
        what: status,
        public,
    };
    page(&seen, Ok(login), PLAIN).join("\n")
}

#[test]
fn the_whole_status_for_people() {
    let expected = "\
not ready: draining
slmd 1.2.3 on edge-1, up 1 h 1 min, 412 MB of memory
listens on: /run/slmd/slmd.sock, /run/slmd/admin.sock, http://127.0.0.1:8080,
  https://0.0.0.0:8443
certificate: ends in 29 days (2026-01-31 00:00 UTC)
clock: 2026-01-01 00:00 UTC, not synchronised; never before 2026-01-02 00:00
  UTC, 24 hours ahead
  tokens of dev: never before 2026-01-02 01:00 UTC
  tokens of dev's client device-1: never before 2026-01-02 09:00 UTC
engine: 1 running, 2 waiting; neon-dotprod kernels, 4 threads; 23.5 tokens/s
since the start: 1204 permitted, 3 refused (2 expired, 1 token_missing); 1190
  answers of 90000 tokens
mqtt: not connected, 3 reconnects
fleet: plant
  root version 1, fingerprint abcd
  timestamp 12, snapshot 12, targets 5, revocation none
  ended 18 hours ago (2026-01-01 06:00 UTC)
  revokes in dev: 1 entry
  mirror mqtt: 13 hours ago (2026-01-01 11:00 UTC), rollback: it is old\u{fffd}
  mirror /media/usb: not asked yet
audit: next record 9; 13 % of 64 MB full, the oldest of 29 days ago
your login: alice at https://k/dev, works offline until 2026-01-02 01:00 UTC (in
  60 min), ends in 8 hours (2026-01-02 08:00 UTC)
realm dev: https://k/dev
  endpoint slm: model small
  key t ES256 (kid a)
  left out: kid b\u{fffd}: it is weak
  left out: kid none: no kid
  keys changed 14 hours ago (2026-01-01 10:00 UTC)
    t came
    u left
    v left
  keys signed by the fleet
  keys confirmed 25 hours ago
  read stops in 24 hours (2026-01-03 00:00 UTC) unless the keys are confirmed
  write stopped 12 hours ago (2026-01-01 12:00 UTC)
  refresh: held 13 hours ago (2026-01-01 11:00 UTC), next now
  deny-list: 2 entries
realm prod: https://k/prod
  no keys
! the clock isn't synchronised; check this machine's time source
! an accepted token of realm dev has moved its time 60 min ahead of the clock,
  so older tokens count as expired; if that is wrong, run slmd keys reset-time
! an accepted token of realm dev's client device-1 has moved its time 9 hours
  ahead of the clock, so older tokens count as expired; if that is wrong, run
  slmd keys reset-time
! the broker mqtts://broker.plant.example:8883 isn't connected: refused\u{fffd}; it is
  tried again and again: check it, the network and [mqtt] of the configuration
! what the fleet has signed has ended, and no mirror has anything newer: its
  keys grow old; ask the fleet's managers to run slmd fleet timestamp, and look
  at the mirrors
! the fleet's mirror mqtt has nothing that can be trusted: it is old\u{fffd}
! realm dev: Keycloak serves keys that none in force vouches for (f00d); if that
  is meant, run slmd keys pin dev --fetch
! realm dev: the new deny-list isn't used, the old one stays: line 1
! realm dev: write stopped, because the keys are too old; run slmd keys refresh
  dev, or pin them again
! realm prod has no keys: every token is refused; run slmd keys pin prod FILE";
    let login = End {
        issuer: "https://k/dev".to_owned(),
        user: Some("alice".to_owned()),
        token: Timestamp::from_secs(1_767_315_600),
        refresh: Refresh::Until(Timestamp::from_secs(1_767_340_800)),
    };
    let page = shown(status(), false, Some(login));
    assert_eq!(page, expected);
}

#[test]
fn without_root_it_says_what_is_left_out_and_how_to_get_it() {
    let mut status = status();
    status.inside = None;
    let page = shown(status, true, None);
    assert!(page.lines().all(|line| columns(line) <= 80), "{page}");
    for hidden in [
        "listens on",
        "of memory",
        "tokens/s",
        "broker.plant",
        "% of",
    ] {
        assert!(!page.contains(hidden), "{hidden}: {page}");
    }
    let said = page.replace("\n  ", " ");
    for words in [
        "seen over the public socket /run/slmd/slmd.sock, which leaves out listeners",
        "sudo slmd status",
        "a token with the role audit",
        "! the broker isn't connected: refused\u{fffd};",
    ] {
        assert!(said.contains(words), "{words}: {page}");
    }
}

#[test]
fn a_floor_that_is_ahead_of_a_synchronised_clock_is_named_with_its_remedy() {
    let said = |synchronised: bool, ahead: u64| {
        let mut status = status();
        status.clock.realm_floors.clear();
        status.clock.client_floors.clear();
        status.clock.synchronised = synchronised;
        status.clock.floor_ahead_seconds = ahead;
        shown(status, false, None).replace("\n  ", " ")
    };
    let ten_years = said(true, 315_360_000);
    assert!(ten_years.contains("10 years older"), "{ten_years}");
    assert!(ten_years.contains("slmd keys reset-time"), "{ten_years}");
    assert!(!said(true, 60).contains("reset-time"));
    assert!(
        !said(false, 315_360_000).contains("reset-time"),
        "nobody knows"
    );
}

#[test]
fn what_ends_soon_or_has_ended_wants_somebody() {
    let mut ending = status();
    let inside = ending.inside.as_mut().unwrap();
    inside.certificate_ends_at = Some("2026-01-05T00:00:00.000Z".to_owned());
    let login = End {
        issuer: "https://k/dev".to_owned(),
        user: Some("alice".to_owned()),
        token: Timestamp::from_secs(1_767_000_000),
        refresh: Refresh::Never,
    };
    let page = shown(ending, false, Some(login)).replace("\n  ", " ");
    for words in [
        "! the TLS certificate ends in 3 days (2026-01-05 00:00 UTC); renew its file",
        "! your login ended 3 days ago (2025-12-29 09:20 UTC); run slmd login",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let mut well = status();
    well.mqtt = None;
    assert!(!shown(well, false, None).contains("broker"));
}

#[test]
fn scripts_are_told_of_the_login_beside_the_status() {
    let login = End {
        issuer: "https://k/dev".to_owned(),
        user: None,
        token: Timestamp::from_secs(1_767_312_000),
        refresh: Refresh::Open,
    };
    let json = |login| serde_json::to_value(told(status(), login)).unwrap();
    let with = json(Ok(Some(login)));
    assert_eq!(
        with["login"],
        serde_json::json!({
            "issuer": "https://k/dev",
            "user": null,
            "works_offline_until": "2026-01-02T00:00:00.000Z",
            "ends_at": null,
        })
    );
    let mut without = json(Ok(None));
    assert_eq!(without["login"], Value::Null);
    let members = without.as_object_mut().unwrap();
    members.remove("login");
    assert_eq!(without, serde_json::to_value(status()).unwrap());
}

#[test]
fn spans_are_short() {
    for (seconds, expected) in [
        (59, "59 s"),
        (61, "1 min 1 s"),
        (7200, "2 h 0 min"),
        (90_061, "1 d 1 h"),
    ] {
        assert_eq!(span(seconds), expected);
    }
}
