//! The whole page as people see it.

use super::*;
use crate::cli::login::Refresh;
use crate::cli::terminal::columns;
use crate::time::Timestamp;

const PLAIN: Terminal = Terminal::plain(80);

fn shown(status: admin::Status, public: bool, login: Option<End>) -> String {
    let public = public.then(|| "/run/slmd/slmd.sock".into());
    let seen = Seen {
        what: status,
        public,
    };
    page::page(&seen, Ok(login), PLAIN).join("\n")
}

/// From a daemon that leaves it to us to find what is wrong.
fn status() -> admin::Status {
    let mut status = admin::tests::status();
    status.problems = None;
    status
}

#[test]
fn the_whole_status_for_people() {
    let expected = "\
not ready, 14 problems: edge-1, slmd 1.2.3, up 1 h 1 min, 412 MB of memory
! draining: the daemon is going down and takes nothing new
  do: start it again where nobody meant that (systemctl start slmd)
! it is full /var/lib/slmd, so nothing can be recorded and nothing is answered
  do: make room there, and it goes on by itself
! realm prod has no keys that can be used: every token is refused
  do: run slmd keys pin prod FILE
! realm dev: the new deny-list isn't used, the old one stays: line 1
  do: mend the file; it is read again at once
! the fleet's signed list doesn't name the bundle of small, so it isn't run
  do: ask the fleet's managers to add the digest that slmd model show small
      prints
! the broker mqtts://broker.plant.example:8883 isn't connected: refused\u{fffd}
  do: check it, the network and [mqtt] of the configuration; it is tried again
      and again
! realm dev: Keycloak serves keys that none in force vouches for (f00d)
  do: if that is meant, run slmd keys pin dev --fetch
! realm dev: write stopped, because the keys are too old (for 12 hours)
  do: run slmd keys refresh dev, or pin them again
! the clock isn't synchronised
  do: check this machine's time source (timedatectl)
! an accepted token of realm dev has moved its time ahead of the clock, to
  2026-01-02 01:00 UTC, so older tokens count as expired
  do: if that is wrong, run slmd keys reset-time
! an accepted token of realm dev's client device-1 has moved its time ahead of
  the clock, to 2026-01-02 09:00 UTC, so older tokens count as expired
  do: if that is wrong, run slmd keys reset-time
! what the fleet has signed has ended, and no mirror has anything newer: its
  keys grow old (for 18 hours)
  do: ask the fleet's managers to run slmd fleet timestamp, and look at the
      mirrors
! the fleet's mirror mqtt has nothing that can be trusted: it is old\u{fffd}
  do: have whoever keeps it look at what it serves; the other mirrors go on
! the disk of /var/lib/slmd has 12 MB left, and the audit log may still take 56
  MB of them
  do: make room, or lower max_bytes under [audit]

realm     dev: https://k/dev
          1 key signed by the fleet, confirmed 25 hours ago, changed 14 hours
            ago, another set is held
          refresh: held 13 hours ago (2026-01-01 11:00 UTC), next now; deny-list
            of 2 entries
          unless confirmed, read stops in 24 hours, write stopped 12 hours ago
          endpoint slm: model small
realm     prod: https://k/prod
          no keys
queue     1 running, 2 waiting
model     small, neon-dotprod kernels, 4 threads, 23.5 tokens/s
requests  1204 permitted, 3 refused (2 expired, 1 token_missing); 1190 answers
            of 90000 tokens
broker    mqtts://broker.plant.example:8883: not connected, 3 reconnects
fleet     plant: root 1, timestamp 12, targets 5
          ended 18 hours ago (2026-01-01 06:00 UTC)
          revokes in dev: 1 entry
          mirror mqtt: 13 hours ago (2026-01-01 11:00 UTC), rollback: it is old\u{fffd}
          mirror /media/usb: not asked yet
clock     2026-01-01 00:00 UTC, not synchronised; never before 2026-01-02 00:00
            UTC, 24 hours ahead
          tokens of dev: never before 2026-01-02 01:00 UTC
          tokens of dev's client device-1: never before 2026-01-02 09:00 UTC
audit     9 records in all, 13 % of 64 MB full, back to 29 days ago
disk      12 MB of 8.0 GB free for /var/lib/slmd
listens   on /run/slmd/slmd.sock, /run/slmd/admin.sock, http://127.0.0.1:8080,
            https://0.0.0.0:8443
          the certificate ends in 29 days (2026-01-31 00:00 UTC)
login     yours: alice at https://k/dev, works offline until 2026-01-02 01:00
            UTC (in 60 min), ends in 8 hours (2026-01-02 08:00 UTC)";
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
        "listens ",
        "of memory",
        "tokens/s",
        "broker.plant",
        "% of",
        "disk of",
    ] {
        assert!(!page.contains(hidden), "{hidden}: {page}");
    }
    let said = page.replace("\n  ", " ");
    let said = said.replace(" do:", "\n  do:");
    for words in [
        "seen over the public socket /run/slmd/slmd.sock, which leaves out listeners",
        "sudo slmd status",
        "a token with the role audit",
        "! the broker isn't connected: refused\u{fffd}\n  do: check it, the network",
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
    assert!(ten_years.contains("until 2026-01-02 00:00 UTC every token counts as older"));
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
        "! the TLS certificate has less than 14 days left, until 2026-01-05 00:00 UTC (for 11 days) \
         do: renew its file",
        "! your login ended at 2025-12-29 09:20 UTC (for 3 days) do: run slmd login",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let mut well = status();
    well.mqtt = None;
    assert!(shown(well, false, None).contains("broker    none is configured"));
}

#[test]
fn what_the_daemon_tells_is_shown_whatever_it_is() {
    let mut newer = admin::tests::status();
    newer.store = None;
    newer.draining = false;
    let page = shown(newer, false, None);
    let expected = "\
not ready, 1 problem: edge-1, slmd 1.2.3, up 1 h 1 min, 412 MB of memory
! it went wrong\u{fffd} (for 12 hours)
  do: mend it

";
    assert!(page.starts_with(expected), "{page}");
    let mut unexplained = status();
    unexplained.problems = Some(Vec::new());
    let page = shown(unexplained, false, None);
    assert!(page.starts_with("not ready: edge-1, "), "{page}");
    assert!(page.contains("\n! draining\n\n"), "{page}");
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let mut long = status();
    long.realms[0].issuer = format!("https://keycloak.{}.example/realms/dev", "plant".repeat(30));
    long.fleet.as_mut().unwrap().root_fingerprint = Some("0123456789abcdef".repeat(4));
    for width in [40, 41, 60, 80, 100] {
        let seen = Seen {
            what: long.clone(),
            public: Some("/run/slmd/slmd.sock".into()),
        };
        let page = page::page(&seen, Ok(None), Terminal::plain(width));
        let wide = page.iter().find(|line| columns(line) > width);
        assert_eq!(wide, None, "of {width}");
    }
}

#[test]
fn scripts_are_told_of_the_login_beside_the_status() {
    let login = End {
        issuer: "https://k/dev".to_owned(),
        user: None,
        token: Timestamp::from_secs(1_767_312_000),
        refresh: Refresh::Open,
    };
    let json = |login| serde_json::to_value(told(&status(), login)).unwrap();
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
        assert_eq!(page::span(seconds), expected);
    }
}
