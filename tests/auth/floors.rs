//! A realm's own floor: what its tokens tell of the time while nothing better does, and no more.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use slmd::for_tests::auth::{Decision, Moved, Outcome, RealmFloor};
use slmd::for_tests::prompt::Scope;
use slmd::for_tests::reason::DenyReason::{Expired, IssuedInFuture, KeysStale, TooOld};
use slmd::for_tests::time::{Mark, Moment, Timestamp, Uptime};

use crate::case::Case;
use crate::explain::explained;
use crate::mint::{ISSUER, NOW};

/// A device that restarted in 1970, with a floor of its realm `before` seconds before the tests'
/// time, and room for a token that was issued so many seconds later.
fn asleep(before: u64, headroom: u64) -> Case {
    let mut case = Case::sound();
    case.clock.now = Timestamp(0);
    case.clock.floor = Timestamp(0);
    case.clock.synchronised = false;
    floor(&mut case, ISSUER, before, headroom);
    case
}

fn floor(case: &mut Case, issuer: &str, before: u64, headroom: u64) {
    let floor = Timestamp::from_secs(NOW - before);
    let most = Timestamp::from_secs(NOW - before + headroom);
    set(case, issuer, floor, None, most);
}

fn set(
    case: &mut Case,
    issuer: &str,
    floor: Timestamp,
    ahead: Option<(&str, Timestamp)>,
    most: Timestamp,
) {
    let ahead = ahead.map(|(client, at)| (client.to_owned(), at));
    let floor = RealmFloor { floor, ahead, most };
    case.clock.realm_floors = Arc::new([(issuer.to_owned(), floor)].into());
}

fn permitted(case: &Case) -> bool {
    matches!(case.decide(), Decision::Permit(_))
}

/// The token was issued 300 s before the tests' time; the leeway is 30 s.
#[test]
fn a_token_raises_its_realms_time_by_the_headroom_at_most() {
    assert!(permitted(&asleep(300, 0)));
    assert!(permitted(&asleep(1000, 700)));
    assert!(permitted(&asleep(1000, 670)));
    assert_eq!(asleep(1000, 669).denied().reason, IssuedInFuture);
}

#[test]
fn a_synchronised_clock_takes_no_tokens_word() {
    let mut case = asleep(1000, 700);
    case.clock.synchronised = true;
    assert_eq!(case.denied().reason, IssuedInFuture);
}

#[test]
fn the_floor_of_another_realm_does_not_count() {
    let mut case = asleep(300, 0);
    floor(&mut case, "https://elsewhere.test", 0, 1_000_000);
    assert_eq!(case.denied().reason, IssuedInFuture);
}

#[test]
fn a_realms_floor_lets_tokens_expire() {
    let mut case = asleep(300, 0);
    case.claims["exp"] = json!(NOW - 200);
    assert!(permitted(&case));
    floor(&mut case, ISSUER, 170, 0);
    assert_eq!(case.denied().reason, Expired);
}

/// What one client's tokens say alone lets its own expire, and nobody else's.
#[test]
fn the_word_of_one_client_counts_for_that_client() {
    let mut case = asleep(300, 0);
    case.claims["exp"] = json!(NOW - 200);
    let (floor, ahead) = (NOW - 300, Timestamp::from_secs(NOW + 86_400));
    let own = case.claims["azp"].as_str().unwrap().to_owned();
    for (client, expired) in [("another", false), (own.as_str(), true)] {
        set(
            &mut case,
            ISSUER,
            Timestamp::from_secs(floor),
            Some((client, ahead)),
            ahead,
        );
        match expired {
            true => assert_eq!(case.denied().reason, Expired),
            false => assert!(permitted(&case)),
        }
    }
}

/// The clock is right, nobody keeps it, and tokens have told a time that is a day ahead.
fn moved(client: Option<&str>) -> Case {
    let mut case = Case::sound();
    case.clock.synchronised = false;
    let (clock, ahead) = (case.clock.now, Timestamp::from_secs(NOW + 86_400));
    let ahead_of = client.map(|client| (client, ahead));
    let floor = if client.is_some() { clock } else { ahead };
    set(&mut case, ISSUER, floor, ahead_of, ahead);
    case
}

/// Each check that looks at the time, failed by nothing but what earlier tokens have told.
#[test]
fn a_refusal_names_what_moved_the_time_and_how_to_mend_it() {
    let spoils: [fn(&mut Case); 3] = [
        |_| {},
        |case| {
            case.claims["auth_time"] = json!(NOW - 300);
            case.claims["exp"] = json!(NOW + 90_000);
            case.realm.policy.max_age = Some(Duration::from_secs(3600));
        },
        |case| {
            case.claims["exp"] = json!(NOW + 90_000);
            let grace = [(Scope::Read, Duration::from_secs(7200))];
            case.realm.policy.offline_grace = grace.into();
        },
    ];
    for client in [Some("device-1"), None] {
        for (spoil, reason) in spoils.iter().zip([Expired, TooOld, KeysStale]) {
            let mut case = moved(client);
            case.realm.policy.max_lifetime = Duration::from_secs(100_000);
            spoil(&mut case);
            let denied = case.denied();
            assert_eq!(denied.reason, reason);
            let told = Moved {
                to: Timestamp::from_secs(NOW + 86_400),
                clock: Timestamp::from_secs(NOW),
                client: client.map(str::to_owned),
            };
            assert_eq!(denied.moved, Some(told.clone()), "{reason}");
            // Who told it is no matter of whoever asks.
            let detail = denied.detail.unwrap();
            assert!(detail.contains("`slmd keys reset-time`"), "{detail}");
            assert!(!detail.contains("device-1"), "{detail}");
            let explanation = explained(&case);
            let failed = Outcome::Failed(reason.to_string());
            let mut checks = explanation.checks.iter();
            let check = checks.find(|check| check.outcome == failed).unwrap();
            let mend = check.mend.as_deref().unwrap();
            assert!(mend.starts_with(&told.to_string()), "{mend}");
        }
    }
}

#[test]
fn a_refusal_that_the_clock_alone_brings_blames_no_earlier_token() {
    let mut others = moved(Some("device-2"));
    others.claims["exp"] = json!(NOW - 60);
    let mut own = moved(Some("device-1"));
    own.claims["exp"] = json!(NOW - 60);
    let mut roleless = moved(None);
    roleless.claims["exp"] = json!(NOW + 90_000);
    roleless.realm.policy.max_lifetime = Duration::from_secs(100_000);
    roleless.drop_claim("aud");
    for case in [others, own, roleless] {
        let denied = case.denied();
        assert_eq!(denied.moved, None, "{denied:?}");
        let detail = denied.detail.unwrap();
        assert!(!detail.contains("reset-time"), "{detail}");
    }
}

/// Keys that this process has seen confirmed are as old as that, whatever a clock or a token says.
#[test]
fn what_a_clock_or_a_token_says_makes_no_confirmation_older_or_younger() {
    let confirmed = Moment {
        known: Timestamp(0),
        uptime: Uptime(1000),
    };
    let day = 86_400_000;
    for (clock, uptime, stale) in [
        (0, 1000, false),
        (NOW, 1000, false),
        (NOW, 1000 + 31 * day, true),
        (0, 1000 + 31 * day, true),
    ] {
        let mut case = Case::sound();
        case.realm.confirmed = Some(Mark::here(confirmed));
        case.clock.now = Timestamp::from_secs(clock);
        case.clock.floor = Timestamp::from_secs(NOW);
        case.clock.uptime = Uptime(uptime);
        match stale {
            true => assert_eq!(case.denied().reason, KeysStale),
            false => assert!(permitted(&case)),
        }
    }
}
