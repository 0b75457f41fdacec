//! People who live only in the directory, and their groups.

use slmd::for_tests::reason::DenyReason;

use crate::appliance::{ask, over_tcp, refused, setup};
use crate::grants::{Realm, realm};
use crate::judge::Judge;
use crate::support::{Daemon, free_port};

fn scopes(realm: &Realm, username: &str) -> Vec<&'static str> {
    let token = realm.exchange(&realm.user(username).access).access;
    Judge::of(&[realm]).scopes(&token)
}

#[test]
fn groups_open_scopes() {
    let realm = realm("staging");
    realm.admin().allow_passwords();
    assert_eq!(scopes(&realm, "joan"), ["read", "fine-tune"]);
    assert_eq!(scopes(&realm, "mary"), ["read", "fine-tune"]);
    assert_eq!(scopes(&realm, "grace"), ["read", "write"]);
}

#[test]
fn an_auditor_of_the_directory_looks_and_asks_nothing() {
    let realm = realm("staging");
    realm.admin().allow_passwords();
    let port = free_port();
    let listen = format!("[http]\nlisten = \"127.0.0.1:{port}\"");
    let daemon = Daemon::start(setup(&[&realm]).with(&listen));
    let token = |username: &str| realm.exchange(&realm.user(username).access).access;
    let auditor = token("hedy");
    assert_eq!(Judge::of(&[&realm]).scopes(&auditor), ["audit"]);
    let metrics = over_tcp(port, &auditor, "/metrics");
    assert_eq!(metrics.status, 200, "{metrics:?}");
    assert!(metrics.body.contains("slmd_"), "{metrics:?}");
    let status = over_tcp(port, &auditor, "/readyz?verbose");
    assert_eq!(status.json()["realms"][0]["name"], "staging", "{status:?}");
    refused(&ask(&daemon, &auditor, "Who am I?"), 403, "scope_missing");

    for username in ["ada", "grace", "joan"] {
        let other = token(username);
        for path in ["/metrics", "/readyz?verbose"] {
            let answer = over_tcp(port, &other, path);
            assert_eq!(answer.status, 403, "{username}: {answer:?}");
        }
    }
}

#[test]
fn a_removed_group_is_missing_from_the_next_token() {
    let realm = realm("dev");
    realm.admin().allow_passwords();
    let directory = &realm.server.directory;
    assert_eq!(scopes(&realm, "grace"), ["read", "write"]);
    directory.add_to_group("grace", "slm-trainers");
    assert_eq!(scopes(&realm, "grace"), ["read", "write", "fine-tune"]);
    directory.remove_from_group("grace", "slm-trainers");
    assert_eq!(scopes(&realm, "grace"), ["read", "write"]);
}

#[test]
fn without_a_group_nothing_opens() {
    let realm = realm("dev");
    realm.admin().allow_passwords();
    let user = realm.user("nobody");
    Judge::of(&[&realm]).refuses(&user.access, DenyReason::AudienceMismatch);
    let exchange = realm.ask_exchange(&user.access);
    // Keycloak gives no token for an audience in which the user has no role.
    assert_eq!(exchange.status, 400, "{}", exchange.body);
}
