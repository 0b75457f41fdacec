//! People who live only in the directory, and their groups.

use slmd::for_tests::reason::DenyReason;

use crate::grants::{Realm, realm};
use crate::judge::Judge;

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
fn a_removed_group_is_missing_from_the_next_token() {
    let realm = realm("prod");
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
    let realm = realm("prod");
    realm.admin().allow_passwords();
    let user = realm.user("nobody");
    Judge::of(&[&realm]).refuses(&user.access, DenyReason::AudienceMismatch);
    let exchange = realm.ask_exchange(&user.access);
    // Keycloak gives no token for an audience in which the user has no role.
    assert_eq!(exchange.status, 400, "{}", exchange.body);
}
