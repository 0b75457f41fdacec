//! A table of what must be refused, and why. It fails when a reason has no case.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use slmd::for_tests::auth::{Credential, Decision, Denied, KeySet, NonceRule, decide, recheck};
use slmd::for_tests::prompt::{Look, Operation, Origin, Scope, Transport};
use slmd::for_tests::reason::DenyReason::{self, *};
use slmd::for_tests::time::Timestamp;

use crate::case::{Case, segments};
use crate::dpop::{self, Bound};
use crate::mint::{self, ALGORITHMS, ISSUER, Issuer, NOW, chat, encode};

pub(crate) type Spoil = fn(&mut Case);

/// Before the signature: nothing may be told of the token.
pub(crate) const UNPROVEN: &[(DenyReason, Spoil)] = &[
    (TokenMissing, |c| c.wrap = |_| Credential::None),
    (TokenMissing, |c| {
        c.wrap = |_| Credential::LocalPeer {
            uid: 0,
            gid: 0,
            groups: vec![0],
        };
    }),
    (TokenTooLarge, |c| {
        c.spoil = |t| format!("{t}{}", "A".repeat(16 * 1024))
    }),
    (TokenTooLarge, |c| {
        c.claims["pad"] = json!("x".repeat(13_000))
    }),
    (TokenMalformed, |c| c.spoil = |_| String::new()),
    (TokenMalformed, |c| c.spoil = |t| format!(" {t}")),
    (TokenMalformed, |c| c.spoil = |t| format!("{t}=")),
    (TokenMalformed, |c| c.spoil = |t| format!("{t}.")),
    (TokenMalformed, |c| c.spoil = |t| format!("{t}\n")),
    (TokenMalformed, |c| c.spoil = |t| t.replace('.', "..")),
    (TokenMalformed, |c| {
        c.spoil = |t| segments(&t, |s| s[2].clear())
    }),
    (TokenMalformed, |c| {
        c.spoil = |t| segments(&t, |s| s[1].clear())
    }),
    (TokenMalformed, |c| {
        c.spoil = |t| segments(&t, |s| s[0] = encode("[]"))
    }),
    (TokenMalformed, |c| {
        c.spoil = |t| segments(&t, |s| s[1] = encode("\"x\""))
    }),
    (TokenMalformed, |c| {
        c.spoil = |t| segments(&t, |s| s[1] = encode("{} {}"))
    }),
    (TokenMalformed, |c| {
        c.spoil = |t| segments(&t, |s| s[0] = encode(r#"{"alg":"ES256","alg":"none"}"#));
    }),
    (TokenMalformed, |c| c.header["kid"] = json!(1)),
    (TokenMalformed, |c| c.header["alg"] = json!(["ES256"])),
    (CriticalHeader, |c| c.header["crit"] = json!(["exp"])),
    (CriticalHeader, |c| c.header["crit"] = json!([])),
    (CriticalHeader, |c| c.header["crit"] = Value::Null),
    (TypeRejected, |c| c.drop_header("typ")),
    (TypeRejected, |c| c.header["typ"] = json!("logout+jwt")),
    (TypeRejected, |c| c.header["typ"] = json!("dpop+jwt")),
    (AlgorithmRejected, |c| c.header["alg"] = json!("none")),
    (AlgorithmRejected, |c| c.header["alg"] = json!("HS256")),
    (AlgorithmRejected, |c| c.header["alg"] = json!("es256")),
    (AlgorithmRejected, |c| c.header["alg"] = json!("ES512")),
    (AlgorithmRejected, |c| c.drop_header("alg")),
    (AlgorithmRejected, |c| c.header["alg"] = json!("RS256")),
    (AlgorithmRejected, |c| c.header["alg"] = json!("ES384")),
    (AlgorithmRejected, |c| c.header["kid"] = json!("key-2")),
    (KeyIdMissing, |c| c.drop_header("kid")),
    (IssuerMissing, |c| c.drop_claim("iss")),
    (ClaimInvalid, |c| c.claims["iss"] = json!([ISSUER])),
    (IssuerUnknown, |c| {
        c.claims["iss"] = json!(format!("{ISSUER}/"))
    }),
    (IssuerUnknown, |c| {
        c.claims["iss"] = json!(ISSUER.to_uppercase())
    }),
    (KeysMissing, |c| c.realm.keys = KeySet::default()),
    (KeyUnknown, |c| c.header["kid"] = json!("key-3")),
    (KeyUnknown, |c| c.header["kid"] = json!("")),
    (KeyUnusable, |c| {
        let rivals = ["key-1", "key-2"].map(|kid| Issuer::new("EdDSA", kid));
        c.realm.keys = mint::realm(&[&c.issuer, &rivals[0], &rivals[1]]).keys;
    }),
    (SignatureInvalid, |c| {
        c.spoil = |t| segments(&t, |s| s[2] = encode([0; 64]))
    }),
    (SignatureInvalid, |c| {
        c.spoil = |t| segments(&t, |s| s[2] = encode([1]))
    }),
    (SignatureInvalid, |c| {
        c.issuer = Issuer::new("ES256", "key-1")
    }),
    (SignatureInvalid, |c| {
        c.spoil = |t| segments(&t, |s| s[1] = encode(mint::claims().to_string() + " "));
    }),
];

/// After the signature: the refusal names the realm.
pub(crate) const PROVEN: &[(DenyReason, Spoil)] = &[
    (TypeRejected, |c| c.claims["typ"] = json!("ID")),
    (TypeRejected, |c| c.claims["typ"] = json!("Refresh")),
    (TypeRejected, |c| c.claims["typ"] = json!("Offline")),
    (TypeRejected, |c| c.claims["typ"] = json!("Logout")),
    (TypeRejected, |c| c.claims["typ"] = json!("bearer")),
    (TypeRejected, |c| c.claims["typ"] = json!("DPoP")),
    (TypeRejected, |c| c.drop_claim("typ")),
    (TypeRejected, |c| c.claims["cnf"] = json!({"jkt": "x"})),
    (TypeRejected, |c| {
        c.header["typ"] = json!("at+jwt");
        c.claims["typ"] = json!("ID");
    }),
    (ClaimInvalid, |c| c.claims["typ"] = json!(1)),
    (ConfirmationUnsupported, |c| {
        c.claims["cnf"] = json!({"x5t#S256": "x"})
    }),
    (ConfirmationUnsupported, |c| {
        c.claims["cnf"] = json!({"jkt": "x", "jwk": {}})
    }),
    (ConfirmationUnsupported, |c| {
        c.claims["cnf"] = json!({"jkt": 1})
    }),
    (ConfirmationUnsupported, |c| {
        c.claims["cnf"] = json!({"kc-jkt-type": "DPoP"})
    }),
    (ConfirmationUnsupported, |c| {
        c.claims["cnf"] = json!({"jkt": "x", "kc-jkt-type": "mTLS"});
    }),
    (ConfirmationUnsupported, |c| c.claims["cnf"] = json!({})),
    (ConfirmationUnsupported, |c| c.claims["cnf"] = Value::Null),
    (ProofMissing, bind),
    (ProofMissing, |c| {
        c.header["typ"] = json!("at+jwt");
        bind(c);
    }),
    (ProofInvalid, |c| c.bound = Some(Bound::sound("ES256"))),
    (ProofInvalid, |c| {
        dpop::bind(c);
        c.bound.as_mut().unwrap().spoil = |_| "proof".to_owned();
    }),
    (UseDpopNonce, |c| {
        dpop::bind(c);
        let bound = c.bound.as_mut().unwrap();
        bound.binding.nonce = NonceRule::OneOf(vec!["n".to_owned()]);
    }),
    (DpopRequired, |c| {
        c.realm.policy.require_dpop = vec![Transport::Socket];
        c.origin = Origin::Socket {
            uid: 1,
            gid: 1,
            pid: None,
        };
    }),
    (PeerNotAllowed, |c| {
        c.realm.policy.local_groups = [(7, vec![Scope::Read])].into();
        c.wrap = |_| Credential::LocalPeer {
            uid: 0,
            gid: 0,
            groups: vec![0],
        };
    }),
    (ClaimInvalid, |c| {
        c.realm.policy.limit_claims.priority = Some("slmd_priority".to_owned());
        c.claims["slmd_priority"] = json!(10);
    }),
    (SubjectMissing, |c| c.drop_claim("sub")),
    (ClaimInvalid, |c| c.claims["sub"] = json!("")),
    (ClientMissing, |c| c.drop_claim("azp")),
    (ClaimInvalid, |c| c.claims["azp"] = json!(["device-1"])),
    (IssuedAtMissing, |c| c.drop_claim("iat")),
    (ExpiryMissing, |c| c.drop_claim("exp")),
    (ClaimInvalid, |c| c.claims["exp"] = json!(NOW.to_string())),
    (ClaimInvalid, |c| c.claims["exp"] = json!(1e16)),
    (ClaimInvalid, |c| c.claims["iat"] = json!(-0.5)),
    // Less than a second apart, and the same when each is rounded its way.
    (ClaimInvalid, |c| {
        c.claims["iat"] = json!(NOW as f64 - 300.5);
        c.claims["exp"] = json!(NOW as f64 - 299.5);
    }),
    (ClaimInvalid, |c| c.claims["exp"] = json!(u64::MAX)),
    (ClaimInvalid, |c| c.claims["exp"] = c.claims["iat"].clone()),
    (ClaimInvalid, |c| c.claims["iat"] = json!(-1)),
    (ClaimInvalid, |c| c.claims["nbf"] = Value::Null),
    (ClaimInvalid, |c| c.claims["jti"] = json!(7)),
    (ClaimInvalid, |c| c.claims["sid"] = json!(7)),
    (ClaimInvalid, |c| c.claims["aud"] = json!({"slm": true})),
    (ClaimInvalid, |c| c.claims["aud"] = json!(["slm", 1])),
    (ClaimInvalid, |c| c.claims["resource_access"] = json!([])),
    (ClaimInvalid, |c| {
        c.claims["resource_access"] = json!({"slm": ["read"]})
    }),
    (ClaimInvalid, |c| {
        c.claims["resource_access"] = json!({"slm": {"roles": "read"}})
    }),
    (Expired, |c| c.claims["exp"] = json!(NOW - 30)),
    (Expired, |c| c.claims["exp"] = json!(NOW as f64 - 29.25)),
    (Expired, |c| c.clock.now = Timestamp::from_secs(NOW + 3330)),
    (Expired, |c| {
        c.clock.now = Timestamp(0);
        c.clock.floor = Timestamp::from_secs(NOW + 3330);
    }),
    (NotYetValid, |c| c.claims["nbf"] = json!(NOW + 31)),
    (NotYetValid, |c| c.claims["nbf"] = json!(NOW as f64 + 30.25)),
    (IssuedInFuture, |c| c.claims["iat"] = json!(NOW + 31)),
    (IssuedInFuture, |c| {
        c.claims["iat"] = json!(NOW as f64 + 30.25)
    }),
    (IssuedInFuture, |c| {
        c.clock.now = Timestamp(0);
        c.clock.floor = Timestamp(0);
    }),
    (LifetimeTooLong, |c| c.claims["exp"] = json!(NOW + 3301)),
    (LifetimeTooLong, |c| {
        c.claims["iat"] = json!(NOW as f64 - 300.5)
    }),
    (LifetimeTooLong, |c| {
        let short = Duration::from_secs(3599);
        let own = &mut c.realm.policy.max_lifetime_by_client;
        own.insert("device-1".to_owned(), short);
    }),
    (TooOld, |c| {
        c.realm.policy.max_age = Some(Duration::from_secs(269))
    }),
    (TooOld, |c| {
        c.realm.policy.max_age = Some(Duration::from_secs(270));
        issued_a_little_earlier(c);
    }),
    (Revoked, |c| {
        let thumbprint = c.realm.keys.keys()[0].thumbprint.clone();
        c.revoked.thumbprints.insert(thumbprint, None);
    }),
    (Revoked, |c| {
        let subject = c.claims["sub"].as_str().unwrap().to_owned();
        c.revoked.subjects.insert(subject, None);
    }),
    (Revoked, |c| {
        c.revoked.sessions.insert("s-1".to_owned(), None);
    }),
    (Revoked, |c| {
        c.revoked.token_ids.insert("onrtac:1f0c".to_owned(), None);
    }),
    (Revoked, |c| {
        c.revoked.clients.insert("device-1".to_owned(), None);
    }),
    (Revoked, |c| {
        c.revoked.not_before = Timestamp::from_secs(NOW - 299)
    }),
    (Revoked, |c| {
        let from = Timestamp::from_secs(NOW - 299);
        let own = &mut c.revoked.not_before_by_client;
        own.insert("device-1".to_owned(), from);
    }),
    (Revoked, |c| {
        c.revoked.not_before = Timestamp::from_secs(NOW - 300);
        issued_a_little_earlier(c);
    }),
    (Revoked, |c| {
        let from = Timestamp::from_secs(NOW - 300);
        let own = &mut c.revoked.not_before_by_client;
        own.insert("device-1".to_owned(), from);
        issued_a_little_earlier(c);
    }),
    (TrustUnread, |c| c.unknown = true),
    (EndpointMissing, |c| c.realm.policy.default_endpoint = None),
    (EndpointUnknown, |c| c.model = Some("smollm2-135m-instruct")),
    (EndpointUnknown, |c| {
        c.realm.policy.default_endpoint = Some("gone".to_owned())
    }),
    (AudienceMismatch, |c| c.drop_claim("aud")),
    (AudienceMismatch, |c| c.claims["aud"] = json!("account")),
    (AudienceMismatch, |c| c.claims["aud"] = json!("slm2")),
    (AudienceMismatch, |c| c.model = Some("other")),
    (AudienceMismatch, |c| {
        c.operation = Operation::Look(Look::Models);
        c.claims["aud"] = json!([]);
    }),
    (RolesMissing, |c| c.drop_claim("resource_access")),
    (RolesMissing, |c| {
        c.model = Some("other");
        c.claims["aud"] = json!(["slm", "other"]);
    }),
    (RolesMissing, |c| {
        c.claims["resource_access"] = json!({"slm": {}});
        c.claims["realm_access"] = json!({"roles": ["read"]});
    }),
    (ScopeMissing, |c| {
        c.operation = Operation::Look(Look::Metrics)
    }),
    (ScopeMissing, |c| {
        c.claims["resource_access"] = json!({"slm": {"roles": ["Read"]}})
    }),
    (ScopeMissing, |c| {
        c.realm.policy.roles = [("asker".to_owned(), vec![Scope::Read])].into();
    }),
    (KeysStale, |c| c.realm.confirmed = None),
    (KeysStale, |c| {
        c.realm.confirmed = mint::confirmed(NOW - 30 * 86_400 - 1);
    }),
    (ClockUnsynchronised, |c| {
        c.clock.synchronised = false;
        c.realm.policy.unsynchronised_scopes = vec![Scope::Read];
        c.operation = Operation::Look(Look::Metrics);
        c.claims["resource_access"] = json!({"slm": {"roles": ["audit"]}});
    }),
];

/// By less than a second, and for no longer than is allowed.
fn issued_a_little_earlier(case: &mut Case) {
    case.claims["iat"] = json!(NOW as f64 - 300.25);
    case.claims["exp"] = json!(NOW + 3299);
}

/// As Keycloak 26.7 binds a token to a DPoP key.
fn bind(case: &mut Case) {
    case.claims["typ"] = json!("DPoP");
    case.claims["cnf"] = json!({
        "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "kc-jkt-type": "DPoP"
    });
}

/// What `decide` doesn't say: the door waits for keys and remembers proofs, and only a transport
/// knows what its messages can carry.
const ELSEWHERE: [DenyReason; 3] = [KeysRefreshing, ProofReplayed, ProofUnsupported];

#[test]
fn each_reason_has_its_case() {
    for (place, (reason, spoil)) in UNPROVEN.iter().enumerate() {
        let mut case = Case::sound();
        spoil(&mut case);
        let denied = case.denied();
        // What is wrong with a key of the realm's is no word of the token's.
        let why = case.realm.keys.skipped().first().map(|key| key.why.clone());
        let expected = Denied {
            detail: why.filter(|_| *reason == KeyUnusable),
            ..Denied::from(*reason)
        };
        assert_eq!(denied, expected, "unproven case {place}");
    }
    for (place, (reason, spoil)) in PROVEN.iter().enumerate() {
        let mut case = Case::sound();
        spoil(&mut case);
        let denied = case.denied();
        assert_eq!(denied.reason, *reason, "proven case {place}: {denied:?}");
        assert_eq!(denied.realm.as_deref(), Some("dev"), "proven case {place}");
        let who = [SubjectMissing, ClientMissing, ClaimInvalid].contains(reason);
        assert!(who || denied.principal.is_some(), "proven case {place}");
    }
    let covered = UNPROVEN.iter().chain(PROVEN).map(|(reason, _)| *reason);
    let covered: HashSet<DenyReason> = covered.chain(ELSEWHERE).collect();
    let all = DenyReason::ALL.iter();
    let without: Vec<_> = all.filter(|reason| !covered.contains(reason)).collect();
    assert!(without.is_empty(), "reasons without a case: {without:?}");
}

/// What stands just inside each limit passes.
#[test]
fn the_edge_of_what_is_allowed() {
    let sound: &[Spoil] = &[
        |_| {},
        |c| c.header["typ"] = json!("jwt"),
        |c| c.header["typ"] = json!("at+jwt"),
        |c| {
            c.header["typ"] = json!("Application/AT+JWT");
            c.drop_claim("typ");
        },
        |c| c.header["jwk"] = json!({"kty": "oct", "k": "AA"}),
        |c| c.header["jku"] = json!("https://attacker.test/keys"),
        |c| c.claims["aud"] = json!("slm"),
        |c| c.claims["exp"] = json!(NOW - 29),
        |c| c.claims["exp"] = json!(NOW as f64 - 28.75),
        |c| c.claims["nbf"] = json!(NOW + 30),
        |c| c.claims["nbf"] = json!(NOW as f64 + 29.75),
        |c| c.claims["iat"] = json!(NOW + 30),
        |c| c.claims["iat"] = json!(NOW as f64 + 29.75),
        // What a token says of other clients is theirs to read.
        |c| c.claims["resource_access"]["grafana"] = json!({"roles": "admin"}),
        |c| c.claims["resource_access"]["grafana"] = json!(["admin"]),
        |c| c.claims["resource_access"]["grafana"] = json!({"roles": [1]}),
        |c| c.claims["azp"] = json!("dev/1+#\u{7}"),
        |c| c.drop_claim("jti"),
        |c| c.drop_claim("sid"),
        |c| c.realm.policy.max_age = Some(Duration::from_secs(270)),
        |c| c.revoked.not_before = Timestamp::from_secs(NOW - 300),
        |c| c.model = Some("slm"),
        |c| c.clock.synchronised = false,
        |c| {
            c.clock.now = Timestamp(0);
            c.clock.floor = Timestamp::from_secs(NOW - 330);
        },
        |c| {
            c.realm.confirmed = None;
            c.realm.policy.offline_grace.clear();
        },
        |c| {
            c.operation = Operation::Look(Look::Models);
            c.realm.policy.default_endpoint = None;
        },
        |c| {
            c.claims["resource_access"] = json!({"slm": {"roles": ["asker"]}});
            c.realm.policy.roles = [("asker".to_owned(), vec![Scope::Read])].into();
        },
        |c| {
            let own = &mut c.realm.policy.max_lifetime_by_client;
            own.insert("device-1".to_owned(), Duration::from_secs(86_400));
            c.claims["exp"] = json!(NOW - 300 + 86_400);
        },
    ];
    for (place, spoil) in sound.iter().enumerate() {
        let mut case = Case::sound();
        spoil(&mut case);
        let decision = case.decide();
        assert!(
            matches!(decision, Decision::Permit(_)),
            "case {place}: {decision:?}"
        );
    }
}

/// The nearest binary fraction is the next whole second, at which the token would still be good.
#[test]
fn a_fraction_is_rounded_by_its_text() {
    let issuer = Issuer::new("ES256", "key-1");
    let snapshot = mint::snapshot(&[&issuer]);
    let mut claims = mint::claims();
    claims["exp"] = json!(NOW - 30);
    let claims = claims.to_string();
    let decided = |exp: &str| {
        let claims = claims.replace(&format!("\"exp\":{}", NOW - 30), &format!("\"exp\":{exp}"));
        let token = issuer.token_of(&issuer.header().to_string(), &claims);
        let request = mint::request(None, chat());
        decide(
            None,
            &mint::bearer(token),
            &request,
            &snapshot,
            &mint::clock(),
        )
    };
    let almost = decided(&format!("{}.99999999999999999999", NOW - 30));
    assert!(
        matches!(&almost, Decision::Deny(denied) if denied.reason == Expired),
        "{almost:?}"
    );
    let just = decided(&format!("{}.00000000000000000001", NOW - 29));
    assert!(matches!(just, Decision::Permit(_)), "{just:?}");
}

#[test]
fn every_algorithm_verifies() {
    // RFC 9864 gives EdDSA with this curve a name of its own.
    let names = ALGORITHMS.map(|alg| (alg, alg));
    for (alg, name) in names.into_iter().chain([("EdDSA", "Ed25519")]) {
        let issuer = Issuer::new(alg, "key");
        let mut header = issuer.header();
        header["alg"] = json!(name);
        let credential = mint::bearer(issuer.token_with(&header, &mint::claims()));
        let (request, snapshot) = (mint::request(None, chat()), mint::snapshot(&[&issuer]));
        let decision = decide(None, &credential, &request, &snapshot, &mint::clock());
        let Decision::Permit(permitted) = decision else {
            panic!("{alg}: {decision:?}");
        };
        let grant = permitted.grant();
        assert_eq!(grant.principal.client, "device-1");
        assert_eq!(permitted.endpoint().client_id, "slm");
    }
}

/// An epoch can take a running request's permission away; time can't.
#[test]
fn recheck_sees_what_an_epoch_changes() {
    let changes: &[(DenyReason, Spoil)] = &[
        (IssuerUnknown, |c| {
            c.realm.issuer = "https://elsewhere.test".to_owned()
        }),
        (KeyUnknown, |c| {
            c.realm.keys = mint::realm(&[&Issuer::new("ES256", "key-1")]).keys
        }),
        (Revoked, |c| {
            c.revoked.not_before = Timestamp::from_secs(NOW)
        }),
        (LifetimeTooLong, |c| {
            c.realm.policy.max_lifetime = Duration::from_secs(60)
        }),
        (EndpointUnknown, |c| c.realm.endpoints.clear()),
        (EndpointUnknown, |c| {
            let mut endpoint = (*c.realm.endpoints[0]).clone();
            endpoint.model = "another".to_owned();
            c.realm.endpoints[0] = Arc::new(endpoint);
        }),
        (ScopeMissing, |c| {
            c.realm.policy.roles = [("asker".to_owned(), vec![Scope::Read])].into();
        }),
    ];
    for (reason, change) in changes {
        let mut case = Case::sound();
        let Decision::Permit(permitted) = case.decide() else {
            panic!("not permitted");
        };
        assert_eq!(recheck(&permitted, &case.snapshot(), &case.clock), Ok(()));
        change(&mut case);
        let again = recheck(&permitted, &case.snapshot(), &case.clock);
        assert_eq!(again, Err(*reason));
    }
}
