//! Login, refresh and logout against a fake of Keycloak's endpoints.

use std::time::Duration;

use serde_json::{Value, json};

use super::fake::{Fake, error, good};
use super::{OauthError, Provider};
use crate::time::Timestamp;

#[test]
fn polling_waits_as_it_is_told_and_proves_its_key() {
    let fake = Fake::start([error("authorization_pending"), error("slow_down"), good()]);
    let (tokens, waits) = fake.poll();
    assert_eq!(tokens.unwrap().access.expose(), "new");
    assert_eq!(waits, [2, 2, 7]);
    let requests = fake.token_requests();
    let mut ids = Vec::new();
    for request in &requests {
        assert!(
            request.body.contains("device_code=secret-code"),
            "{request:?}"
        );
        let proof = request.proof.as_ref().unwrap();
        assert_eq!(proof["htu"], format!("{}/token", fake.issuer));
        ids.push(proof["jti"].clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
    let seen = fake.seen.lock().unwrap();
    let device = seen.iter().find(|seen| seen.path.ends_with("/device"));
    assert!(
        device.unwrap().proof.is_none(),
        "the device endpoint needs none"
    );
}

#[test]
fn a_nonce_is_sent_when_it_is_asked_for_and_kept() {
    let wanted = (
        400,
        "DPoP-Nonce: n-1\r\n",
        json!({"error": "use_dpop_nonce"}),
    );
    let fake = Fake::start([wanted, error("authorization_pending"), good()]);
    let (tokens, waits) = fake.poll();
    assert!(tokens.is_ok(), "{tokens:?}");
    assert_eq!(waits, [2, 2]);
    let nonces: Vec<Value> = fake
        .token_requests()
        .into_iter()
        .map(|seen| seen.proof.unwrap()["nonce"].clone())
        .collect();
    assert_eq!(nonces, [Value::Null, "n-1".into(), "n-1".into()]);

    let insists = || (400, "DPoP-Nonce: n\r\n", json!({"error": "use_dpop_nonce"}));
    let fake = Fake::start([insists(), insists(), insists()]);
    assert!(fake.poll().0.is_err());
    assert_eq!(
        fake.token_requests().len(),
        2,
        "asked once more, not for ever"
    );
}

#[test]
fn decisions_end_the_polling() {
    for code in ["access_denied", "expired_token", "unauthorized_client"] {
        let fake = Fake::start([error("authorization_pending"), error(code), good()]);
        let (tokens, _) = fake.poll();
        let refused = tokens.unwrap_err();
        assert!(
            matches!(&refused, OauthError::Refused { error, .. } if error == code),
            "{refused}"
        );
        assert_eq!(fake.token_requests().len(), 2, "{code}");
    }
}

#[test]
fn polling_outlives_an_outage_but_not_the_code() {
    let ill = || (503, "", Value::Null);
    let fake = Fake::start([ill(), good()]);
    let (tokens, waits) = fake.poll();
    assert!(tokens.is_ok(), "{tokens:?}");
    assert_eq!(waits, [2, 4]);
    let fake = Fake::start((0..1000).map(|_| error("authorization_pending")));
    let (tokens, waits) = fake.poll();
    let refused = tokens.unwrap_err();
    assert!(matches!(&refused, OauthError::Refused { error, .. } if error == "expired_token"));
    assert_eq!(waits.iter().sum::<u64>(), 60);
}

#[test]
fn another_issuer_than_the_named_one_is_refused() {
    let fake = Fake::start([]);
    let mut client = fake.client();
    client.issuer.push('/');
    let other = Provider::discover(&client, Duration::from_secs(5)).unwrap_err();
    assert!(matches!(other, OauthError::OtherIssuer { named, .. } if named == fake.issuer));
}

#[test]
fn logging_out_revokes_the_refresh_token() {
    let fake = Fake::start([]);
    let saved = fake.saved(Timestamp(0));
    assert!(saved.revoke(Duration::from_secs(5)).unwrap());
    let seen = fake.seen.lock().unwrap();
    let revoked = seen
        .iter()
        .find(|seen| seen.path.ends_with("/revoke"))
        .unwrap();
    assert!(revoked.body.contains("token=refresh-1"), "{revoked:?}");
}
