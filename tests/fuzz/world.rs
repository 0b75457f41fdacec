//! One realm, one request, one time: what every target decides against.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::auth::{
    Clock, Credential, DenyList, Endpoint, KeySet, LimitClaims, Policy, Realm, Snapshot,
};
use crate::prompt::{Look, Operation, Origin, Request, RequestId, SamplingOptions};
use crate::secret::Secret;
use crate::time::{Mark, Timestamp, Uptime};
use crate::trace::Trace;

pub const ISSUER: &str = "https://keycloak.test/realms/dev";
pub const CLIENT: &str = "slm";
/// 2026-11-24, in seconds.
pub const NOW: u64 = 1_795_500_000;
pub const LEEWAY: u64 = 30;
pub const MAX_LIFETIME: u64 = 3600;

/// The seed of RFC 8037 appendix A.1, so that corpora keep their signatures.
const SEED: &[u8; 32] = b"\x9d\x61\xb1\x9d\xef\xfd\x5a\x60\xba\x84\x4a\xf4\x92\xec\x2c\xc4\
\x44\x49\xc5\x69\x7b\x32\x69\x19\x70\x3b\xac\x03\x1c\xae\x7f\x60";

/// The key that the realm pins as `ed`.
pub static KEY: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(SEED).expect("a seed of 32 bytes"));

pub static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| snapshot(jwks().as_bytes()));

/// Asks for what every role may: the list of models.
pub static REQUEST: LazyLock<Arc<Request>> = LazyLock::new(|| {
    Arc::new(Request {
        id: RequestId::random(),
        origin: Origin::Daemon,
        model: Some(CLIENT.to_owned()),
        deadline: None,
        trace: Trace::default(),
        asks: Operation::Look(Look::Models),
    })
});

fn jwks() -> String {
    let x = encode(KEY.public_key());
    // RFC 7515 appendix A.3 beside it, so that ES256 has a key too.
    format!(
        r#"{{"keys":[{{"kid":"ed","kty":"OKP","crv":"Ed25519","x":"{x}"}},{{"kid":"p256","kty":"EC",
        "crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}}]}}"#
    )
}

/// The realm with these keys; they must be good.
pub fn snapshot(jwks: &[u8]) -> Snapshot {
    let endpoint = Endpoint {
        client_id: CLIENT.to_owned(),
        model: "model".to_owned(),
        max_completion_tokens: None,
        default_completion_tokens: 512,
        system_prompt: None,
        text_recipients: Vec::new(),
        sampling: SamplingOptions::default(),
    };
    let realm = Realm {
        name: "dev".to_owned(),
        issuer: ISSUER.to_owned(),
        policy: policy(),
        endpoints: vec![Arc::new(endpoint)],
        keys: KeySet::parse(jwks).expect("a sound set"),
        confirmed: Some(Mark::before(Timestamp::from_secs(NOW), Duration::ZERO, Uptime(0))),
    };
    Snapshot::new(1, vec![realm], DenyList::default())
}

/// What the targets' own readings go by; the daemon's defaults are its configuration's.
fn policy() -> Policy {
    Policy {
        default_endpoint: None,
        max_lifetime: Duration::from_secs(MAX_LIFETIME),
        max_lifetime_by_client: BTreeMap::new(),
        max_age: None,
        leeway: Duration::from_secs(LEEWAY),
        offline_grace: BTreeMap::new(),
        unsynchronised_scopes: Vec::new(),
        roles: BTreeMap::new(),
        tokens_per_minute: None,
        tokens_per_minute_at_most: None,
        require_dpop: Vec::new(),
        limit_claims: LimitClaims::default(),
        record_username: true,
        local_groups: BTreeMap::new(),
    }
}

pub fn clock() -> Clock {
    Clock {
        now: Timestamp::from_secs(NOW),
        floor: Timestamp::from_secs(NOW),
        uptime: Uptime(0),
        synchronised: true,
        realm_floors: Arc::default(),
    }
}

pub fn bearer(token: &str) -> Credential {
    Credential::Bearer(Secret::new(token.to_owned()))
}

/// `header` and `claims` as they are, signed by the realm's key.
pub fn sign(header: &[u8], claims: &[u8]) -> String {
    let input = format!("{}.{}", encode(header), encode(claims));
    let signature = encode(KEY.sign(input.as_bytes()));
    format!("{input}.{signature}")
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
