//! A realm's own floor: what its tokens tell of the time while nothing better does, and no more.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use slmd::auth::{Decision, RealmFloor};
use slmd::reason::DenyReason::{ClaimInvalid, Expired, IssuedInFuture};
use slmd::time::Timestamp;

use crate::case::Case;
use crate::mint::{ISSUER, NOW};

/// A device that restarted in 1970, with a floor of its realm `before` seconds before the tests'
/// time.
fn asleep(before: u64, headroom: u64) -> Case {
    let mut case = Case::sound();
    case.clock.now = Timestamp(0);
    case.clock.floor = Timestamp(0);
    case.clock.synchronised = false;
    floor(&mut case, ISSUER, before, headroom);
    case
}

fn floor(case: &mut Case, issuer: &str, before: u64, headroom: u64) {
    let floor = RealmFloor {
        floor: Timestamp::from_secs(NOW - before),
        headroom: Duration::from_secs(headroom),
    };
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
    let denied = asleep(1000, 669).denied();
    assert_eq!(denied.reason, IssuedInFuture);
    let issued = Some(Timestamp::from_secs(NOW - 300));
    assert_eq!(denied.issued_at, issued, "for the floor to rise by");
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

#[test]
fn when_a_genuine_token_was_issued_is_told_whatever_else_is_wrong() {
    let mut case = Case::sound();
    case.claims["jti"] = json!(7);
    let denied = case.denied();
    assert_eq!(denied.reason, ClaimInvalid);
    assert_eq!(denied.issued_at, Some(Timestamp::from_secs(NOW - 300)));
    case.spoil = |token| format!("{token}AA");
    assert_eq!(case.denied().issued_at, None);
}
