//! `slmd keys explain` on the usual mistakes, each made in the real Keycloak: the check that fails,
//! its reason, and what mends it.

use serde_json::{Value, json};

use crate::admin::{Admin, fresh_realm};
use crate::appliance::{PATIENCE, explained, said, section, setup};
use crate::certificates::{Pair, rsa};
use crate::directory::PASSWORD;
use crate::grants::{Realm, claims, header, realm};
use crate::proof::ProofKey;
use crate::support::{Daemon, Setup, run};

const AUDIENCE: &str = "oidc-audience-mapper";
const FIXED: &str = "oidc-hardcoded-claim-mapper";
const REFUSED: Option<i32> = Some(3);

struct Scene {
    realm: Realm,
    admin: Admin,
    daemon: Daemon,
}

impl Scene {
    fn start(name: &str) -> Scene {
        let realm = fresh_realm(name);
        Scene {
            admin: realm.admin(),
            daemon: stopped(setup(&[&realm])),
            realm,
        }
    }

    fn token(&self, client: &str) -> String {
        self.realm.service(client, None).access
    }

    fn newcomer(&self, client: &str) {
        let body = json!({"clientId": client, "serviceAccountsEnabled": true});
        self.admin.create_client(&body);
    }
}

/// With its keys pinned; the command line reads its files then.
fn stopped(setup: Setup) -> Daemon {
    let mut daemon = Daemon::start(setup);
    daemon.terminate();
    daemon
}

/// Each of `mend` is in the text.
#[track_caller]
fn fails(daemon: &Daemon, token: &str, more: &[&str], check: &str, reason: &str, mend: &[&str]) {
    let (said, code) = explained(daemon, token, more);
    assert_eq!(said["verdict"], reason, "{said:#}");
    assert_eq!(code, REFUSED);
    let checks = said["checks"].as_array().expect("a list");
    let good = |check: &Value| check["outcome"] == "passed" || check["outcome"] == "skipped";
    let failed = checks.iter().find(|check| !good(check));
    let failed = failed.expect("a refused token fails a check");
    assert_eq!(failed["name"], check, "{said:#}");
    let text = failed["mend"].as_str().unwrap_or_default();
    for word in mend {
        assert!(text.contains(word), "{word:?} isn't in: {text}");
    }
}

#[test]
fn a_good_token_passes_every_check() {
    let realm = realm("staging");
    let daemon = stopped(setup(&[&realm]));
    let token = realm.service("device-1", None).access;
    let (said, code) = explained(&daemon, &token, &[]);
    assert_eq!((said["verdict"].clone(), code), (Value::Null, Some(0)));
    assert_eq!(
        (&said["genuine"], &said["realm"]),
        (&true.into(), &"staging".into())
    );
    let checks = said["checks"].as_array().expect("a list");
    assert!(checks.iter().all(|check| check["outcome"] == "passed"));
    assert_eq!(said["claims"]["azp"], "device-1");
}

#[test]
fn who_lacks_a_role_is_told_which() {
    let scene = Scene::start("explain-roles");
    let (daemon, admin) = (&scene.daemon, &scene.admin);
    scene.newcomer("newcomer");
    let give = ["client role of `slm-chat`", "add-roles"];
    let token = scene.token("newcomer");
    fails(daemon, &token, &[], "access", "audience_mismatch", &give);

    // A role of the realm with the right name.
    admin.grant_of_realm("newcomer", "read");
    let token = scene.token("newcomer");
    fails(daemon, &token, &[], "access", "audience_mismatch", &give);
    let audience = json!({"included.client.audience": "slm-chat"});
    admin.add_mapper("newcomer", AUDIENCE, &audience);
    let token = scene.token("newcomer");
    let roles = ["realm_access", "client roles of `slm-chat`"];
    fails(daemon, &token, &[], "access", "roles_missing", &roles);

    scene.newcomer("elsewhere");
    let other = json!({"clientId": "slm-other", "standardFlowEnabled": false});
    admin.create_client(&other);
    admin.create_role("slm-other", "read");
    admin.grant("elsewhere", "slm-other", "read");
    let token = scene.token("elsewhere");
    fails(daemon, &token, &[], "access", "audience_mismatch", &give);

    let write = ["client role `write` of `slm-chat`"];
    let token = scene.token("device-1");
    let more = ["--scope", "write"];
    fails(daemon, &token, &more, "access", "scope_missing", &write);

    admin.change_client("slm-chat", &json!({"serviceAccountsEnabled": true}));
    admin.grant("slm-chat", "slm-chat", "read");
    let token = scene.token("slm-chat");
    let itself = ["issued to the endpoint client `slm-chat` itself"];
    fails(daemon, &token, &[], "access", "audience_mismatch", &itself);
}

#[test]
fn a_client_that_is_set_wrong_is_told_the_switch() {
    let scene = Scene::start("explain-clients");
    let (daemon, admin) = (&scene.daemon, &scene.admin);
    let lightweight = "client.use.lightweight.access.token.enabled";
    admin.change_client("device-1", &json!({"attributes": {lightweight: "true"}}));
    let token = scene.token("device-1");
    let (said, code) = explained(daemon, &token, &[]);
    assert_eq!(code, REFUSED);
    assert!(
        said.to_string().contains(&format!("{lightweight}=false")),
        "{said:#}"
    );

    admin.change_client(
        "reports",
        &json!({"attributes": {"access.token.lifespan": "86400"}}),
    );
    let lifespan = ["access.token.lifespan", "max_lifetime"];
    let token = scene.token("reports");
    fails(
        daemon,
        &token,
        &[],
        "lifetime",
        "lifetime_too_long",
        &lifespan,
    );

    let key = ProofKey::new();
    let bound = scene.realm.service("device-2", Some(&key)).access;
    let proof = ["Authorization: DPoP", "dpop.bound.access.tokens"];
    fails(daemon, &bound, &[], "binding", "proof_missing", &proof);

    let priority = json!({
        "claim.name": "slmd_priority", "claim.value": "high", "jsonType.label": "String",
    });
    scene.newcomer("important");
    admin.grant("important", "slm-chat", "read");
    admin.add_mapper("important", FIXED, &priority);
    let token = scene.token("important");
    let mapper = ["mapper", "type int"];
    fails(daemon, &token, &[], "claims", "claim_invalid", &mapper);
}

#[test]
fn a_transport_that_wants_bound_tokens_says_so() {
    let realm = realm("staging");
    let strict = section(&realm, "require_dpop = [\"mqtt\"]");
    let setup = Setup::new().with(&strict).keys("staging", &realm.jwks());
    let daemon = stopped(setup);
    let token = realm.service("device-1", None).access;
    assert_eq!(explained(&daemon, &token, &[]).1, Some(0));
    let mend = ["Require DPoP bound tokens", "dpop.bound.access.tokens=true"];
    let more = ["--transport", "mqtt"];
    fails(&daemon, &token, &more, "binding", "dpop_required", &mend);
}

#[test]
fn what_is_no_access_token_of_this_realm_is_named() {
    let (staging, dev) = (realm("staging"), realm("dev"));
    staging.admin().allow_passwords();
    let daemon = stopped(setup(&[&staging]));
    let token = dev.service("device-1", None).access;
    let names = [staging.issuer()];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fails(&daemon, &token, &[], "issuer", "issuer_unknown", &names);

    let fields = [
        ("grant_type", "password"),
        ("client_id", "workshop-app"),
        ("username", "mary"),
        ("password", PASSWORD),
        ("scope", "openid"),
    ];
    let answer = staging.ask(&fields, None).success().json();
    let text = |name: &str| answer[name].as_str().expect("it was asked for").to_owned();
    let id = ["an ID token was sent", "`access_token`"];
    fails(
        &daemon,
        &text("id_token"),
        &[],
        "claims",
        "type_rejected",
        &id,
    );
    let refresh = ["a refresh token was sent", "`access_token`"];
    let token = text("refresh_token");
    fails(&daemon, &token, &[], "form", "algorithm_rejected", &refresh);
}

#[test]
fn keys_and_clocks_that_differ_are_told_apart() {
    let scene = Scene::start("explain-keys");
    let pair = rsa(&scene.realm.server.folder, "explained");
    let daemon = &scene.daemon;
    scene.admin.import_key(&pair, 300);
    let token = scene.token("device-1");
    let refresh = ["slmd keys refresh"];
    fails(daemon, &token, &[], "key", "key_unknown", &refresh);
    let mut pin = daemon.binary();
    pin.args(["keys", "pin", "explain-keys", "-", "--yes"]);
    let pinned = run(&mut pin, scene.realm.jwks().as_bytes(), PATIENCE);
    assert!(pinned.status.success(), "{}", said(&pinned));
    assert_eq!(explained(daemon, &token, &[]).1, Some(0));

    let past = shifted(&pair, &token, -3600);
    let new = ["get a new token", "access.token.lifespan"];
    fails(daemon, &past, &[], "expiry", "expired", &new);
    // Beyond what a token may tell a machine of the time whose clock isn't synchronised.
    let future = shifted(&pair, &token, 3 * 24 * 3600);
    let clocks = ["compare the clocks"];
    fails(
        daemon,
        &future,
        &[],
        "issued-at",
        "issued_in_future",
        &clocks,
    );

    let other = rsa(&scene.realm.server.folder, "stranger");
    let forged = other.sign(&header(&token), &claims(&token));
    let changed = ["another Keycloak", "thumbprints"];
    fails(
        daemon,
        &forged,
        &[],
        "signature",
        "signature_invalid",
        &changed,
    );
}

/// The same token as Keycloak would have made it at another time.
fn shifted(pair: &Pair, token: &str, by: i64) -> String {
    let mut claims = claims(token);
    for name in ["iat", "exp"] {
        let time = claims[name].as_i64().expect("a time") + by;
        claims[name] = time.into();
    }
    pair.sign(&header(token), &claims)
}
