//! Explanations: the same verdict as the decision's, a way to mend it, and never a signature.

use proptest::prelude::*;
use serde_json::{Value, json};
use slmd::for_tests::auth::{Check, Decision, Explanation, Outcome, ToExplain, explain};
use slmd::for_tests::prompt::{Look, Operation, Scope, Transport};
use slmd::for_tests::reason::DenyReason::{self, *};
use slmd::for_tests::secret::Secret;
use slmd::for_tests::time::Timestamp;

use crate::case::Case;
use crate::dpop;
use crate::mint::{self, Issuer, NOW};
use crate::refusals::{PROVEN, Spoil, UNPROVEN};

pub(crate) fn explained(case: &Case) -> Explanation {
    let asked = ToExplain {
        token: Secret::new(case.token()),
        transport: case.origin.transport_kind(),
        model: case.model.map(str::to_owned),
        scope: Some(case.operation.scope()),
    };
    explain(&asked, &case.snapshot(), &case.clock)
}

fn verdict(case: &Case) -> Option<String> {
    match case.decide() {
        Decision::Permit(_) => None,
        Decision::Deny(denied) => Some(denied.reason.to_string()),
    }
}

fn failure(explanation: &Explanation) -> &Check {
    let failed = |check: &&Check| matches!(check.outcome, Outcome::Failed(_));
    explanation.checks.iter().find(failed).unwrap()
}

#[test]
fn a_sound_token_passes_every_check() {
    let explanation = explained(&Case::sound());
    assert_eq!(explanation.verdict, None);
    assert!(explanation.genuine);
    assert_eq!(explanation.checks.len(), 17);
    let passed = |check: &Check| check.outcome == Outcome::Passed;
    assert!(explanation.checks.iter().all(passed));
    assert_eq!(explanation.claims.unwrap()["azp"], json!("device-1"));
    assert_eq!(explanation.header.unwrap()["kid"], json!("key-1"));
}

#[test]
fn a_token_is_tried_by_the_socket_to_read_unless_told_otherwise() {
    let mut case = Case::sound();
    let plainly = |case: &Case| {
        let asked = json!({"token": case.token()});
        let asked: ToExplain = serde_json::from_value(asked).unwrap();
        explain(&asked, &case.snapshot(), &case.clock)
    };
    assert_eq!(plainly(&case).verdict, None);
    case.realm.policy.require_dpop = vec![Transport::Socket];
    assert_eq!(plainly(&case).verdict, Some(DpopRequired.to_string()));
    case.realm.policy.require_dpop.clear();
    case.realm.policy.roles = [("read".to_owned(), vec![Scope::Write])].into();
    assert_eq!(plainly(&case).verdict, Some(ScopeMissing.to_string()));
}

/// Over all cases of refusals: whoever trusts the explanation is not told otherwise by the door.
#[test]
fn the_verdict_is_the_decisions() {
    let mut tried = 0;
    for (place, (reason, spoil)) in UNPROVEN.iter().chain(PROVEN).enumerate() {
        let mut case = Case::sound();
        spoil(&mut case);
        // Credentials without a token, and proofs, are no matter of the token's.
        let plain = case.bound.is_none() && case.is_bearer();
        if !plain || matches!(case.operation, Operation::Look(Look::Models)) {
            continue;
        }
        tried += 1;
        let explanation = explained(&case);
        assert_eq!(explanation.verdict, Some(reason.to_string()));
        assert_eq!(explanation.verdict, verdict(&case));
        assert_eq!(explanation.genuine, place >= UNPROVEN.len(), "{reason}");
    }
    assert!(tried > 90, "{tried}");
}

#[test]
fn every_failure_after_the_first_is_told_as_well() {
    let mut case = Case::sound();
    case.claims["exp"] = json!(NOW - 60);
    case.drop_claim("aud");
    let explanation = explained(&case);
    assert_eq!(explanation.verdict, Some(Expired.to_string()));
    let tells = |reason: DenyReason| {
        let failed = Outcome::Failed(reason.to_string());
        explanation
            .checks
            .iter()
            .any(|check| check.outcome == failed)
    };
    assert!(tells(Expired) && tells(AudienceMismatch));
}

#[test]
fn what_cannot_be_checked_is_skipped() {
    let mut case = Case::sound();
    case.issuer = Issuer::new("ES256", "key-1");
    let explanation = explained(&case);
    assert!(!explanation.genuine);
    let outcomes: Vec<Outcome> = explanation.checks.into_iter().map(|c| c.outcome).collect();
    assert_eq!(outcomes.len(), 17);
    assert_eq!(outcomes[3], Outcome::Failed(SignatureInvalid.to_string()));
    assert!(outcomes[..3].iter().all(|o| *o == Outcome::Passed));
    assert!(outcomes[4..].iter().all(|o| *o == Outcome::Skipped));
}

/// The mistakes that people make in Keycloak, and a word that the advice must hold.
const MENDED: &[(DenyReason, &str, Spoil)] = &[
    (AudienceMismatch, "Audience", |c| {
        c.claims["aud"] = json!("account")
    }),
    (AudienceMismatch, "itself", |c| {
        c.claims["aud"] = json!("account");
        c.claims["azp"] = json!("slm");
    }),
    (RolesMissing, "lightweight", |c| {
        c.drop_claim("resource_access");
        c.drop_claim("realm_access");
    }),
    (RolesMissing, "client roles", |c| {
        c.drop_claim("resource_access")
    }),
    (ScopeMissing, "`read`", |c| {
        c.claims["resource_access"]["slm"]["roles"] = json!(["none"]);
    }),
    (ScopeMissing, "`asker`", |c| {
        c.realm.policy.roles = [("asker".to_owned(), vec![Scope::Read])].into();
    }),
    (IssuerUnknown, "keycloak.test", |c| {
        c.claims["iss"] = json!("https://else")
    }),
    (SubjectMissing, "`basic`", |c| c.drop_claim("sub")),
    (TypeRejected, "ID token", |c| c.claims["typ"] = json!("ID")),
    (TypeRejected, "refresh token", |c| {
        c.claims["typ"] = json!("Refresh")
    }),
    (
        TypeRejected,
        "client.use.lightweight.access.token.enabled",
        |c| c.drop_claim("typ"),
    ),
    (LifetimeTooLong, "access.token.lifespan", |c| {
        c.claims["exp"] = json!(NOW + 9000)
    }),
    (ProofMissing, "Authorization: DPoP", |c| {
        dpop::bind(c);
        c.bound = None;
    }),
    (KeyUnknown, "slmd keys refresh", |c| {
        c.header["kid"] = json!("new")
    }),
    (KeyUnusable, "`kid` of its own", |c| {
        let rivals = ["key-1", "key-2"].map(|kid| Issuer::new("EdDSA", kid));
        c.realm.keys = mint::realm(&[&c.issuer, &rivals[0], &rivals[1]]).keys;
    }),
    (Expired, "new token", |c| {
        c.clock.now = Timestamp::from_secs(NOW + 9000)
    }),
    (IssuedInFuture, "clocks", |c| {
        c.claims["iat"] = json!(NOW + 60)
    }),
];

#[test]
fn a_mistake_in_keycloak_is_told_how_to_mend() {
    for (reason, word, spoil) in MENDED {
        let mut case = Case::sound();
        spoil(&mut case);
        let explanation = explained(&case);
        assert_eq!(explanation.verdict, Some(reason.to_string()), "{word}");
        let mend = failure(&explanation).mend.clone().unwrap_or_default();
        assert!(mend.contains(word), "{reason}: {mend}");
    }
}

#[test]
fn the_signature_is_never_told() {
    let case = Case::sound();
    let token = case.token();
    let asked = json!({"token": token});
    let asked: ToExplain = serde_json::from_value(asked).unwrap();
    let explanation = explain(&asked, &case.snapshot(), &case.clock);
    let signature = token.rsplit('.').next().unwrap();
    let shown = json!(explanation);
    for text in [format!("{explanation:?}"), shown.to_string()] {
        assert!(text.contains("device-1") && !text.contains(&signature[..16]));
    }
    assert_eq!(shown["checks"][0]["outcome"], "passed");
    assert_eq!(shown["verdict"], Value::Null);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_is_wrong_the_verdict_is_the_decisions(
        ways in prop::collection::vec(0..UNPROVEN.len() + PROVEN.len(), 1..4),
    ) {
        let mut case = Case::sound();
        for way in ways {
            let (_, spoil) = UNPROVEN.iter().chain(PROVEN).nth(way).unwrap();
            spoil(&mut case);
        }
        prop_assume!(case.bound.is_none() && case.is_bearer());
        prop_assume!(!matches!(case.operation, Operation::Look(Look::Models)));
        prop_assert_eq!(explained(&case).verdict, verdict(&case));
    }
}
