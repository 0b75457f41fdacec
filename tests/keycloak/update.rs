//! `deploy/keycloak/apply` on a realm that is there: made by an older release's file, changed by
//! hand, in use.

use std::fs;

use serde_json::{Value, json};

use crate::certificates::rsa;
use crate::directory::{BIND_DN, BIND_PASSWORD};
use crate::grants::{Realm, claims, realm};
use crate::judge::Judge;
use crate::place::Place;
use crate::readme::session;
use crate::server::{keycloak, realm_file};
use crate::support::root;

/// A realm as the first release made it, which has been in use since.
struct Old {
    realm: Realm,
    place: Place,
    exports: String,
}

impl Old {
    fn new(name: &str) -> Old {
        let server = keycloak();
        let place = Place::new(server);
        let older = root().join("tests/keycloak/realm-older.json");
        fs::copy(older, place.file("older.json")).expect("it is there");
        let (session, exports) = session(server, name);
        let gateway = server.gateway.certificate_line();
        let environment = [
            ("SLMD_LDAP_ENABLED", "true"),
            ("SLMD_LDAP_URL", &server.directory.url()),
            ("SLMD_LDAP_BIND_DN", BIND_DN),
            ("SLMD_LDAP_PASSWORD", BIND_PASSWORD),
            ("SLMD_GATEWAY_CERTIFICATE", &gateway),
        ];
        let create = format!("{session}./apply --realm {name} older.json");
        place.types(&create, &environment);
        Old {
            realm: realm(name),
            place,
            exports,
        }
    }

    /// What administrators did since: new things that are theirs, and changes of what was there.
    fn use_it(&self) {
        let (admin, name) = (self.realm.admin(), &self.realm.name);
        admin.import_key(&rsa(&self.realm.server.folder, name), 300);
        let own = json!({"clientId": "by-hand", "serviceAccountsEnabled": true});
        admin.create_client(&own);
        admin.grant("by-hand", "slm-chat", "write");
        let department = json!({"claim.name": "department", "claim.value": "7"});
        admin.add_mapper("device-1", "oidc-hardcoded-claim-mapper", &department);
        admin.create_user("olga", "slm-readers");
        let longer = json!({"attributes": {"access.token.lifespan": "3600"}});
        admin.change_client("device-1", &longer);
        let script = format!(
            "{}kcadm.sh update realms/{name} -s 'attributes.theirs=1' -s accessTokenLifespan=900\n\
             kcadm.sh create groups -r {name} -s name=theirs\n\
             for group in theirs slm-readers; do\n\
             kcadm.sh add-roles -r {name} --gname \"$group\" --cclientid slm-chat --rolename write\n\
             done\n",
            self.exports
        );
        self.place.types(&script, &[]);
    }

    /// Without any value in the environment, as whoever updates has none.
    fn apply(&self, options: &str) -> String {
        let name = &self.realm.name;
        let script = format!("{}./apply {options} --realm {name} ", self.exports);
        let printed = self
            .place
            .types(&format!("{script} realm-staging.json"), &[]);
        printed.to_owned()
    }

    /// What no update may touch, each with its name.
    fn theirs(&self) -> Vec<(String, Value)> {
        let (admin, made) = (self.realm.admin(), self.realm.admin().export());
        let groups = made["groups"].as_array().expect("a list");
        let theirs = groups.iter().find(|group| group["name"] == "theirs");
        let mut all = vec![
            ("keys".to_owned(), self.realm.jwks().into()),
            ("by-hand".to_owned(), admin.client("by-hand")),
            ("groups of olga".to_owned(), admin.groups_of("olga")),
            ("group theirs".to_owned(), json!(theirs)),
            ("attribute".to_owned(), made["attributes"]["theirs"].clone()),
        ];
        for (path, name, member) in [
            ("/clients", "clientId", "secret"),
            ("/users", "username", "id"),
        ] {
            let each = admin.kept(path).into_iter();
            all.extend(each.map(|one| (format!("{path} {}", one[name]), one[member].clone())));
        }
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }
}

#[test]
fn an_older_realm_becomes_what_the_file_says_and_loses_nothing() {
    let old = Old::new("updated");
    old.use_it();
    let (theirs, before) = (old.theirs(), old.realm.admin().export());
    assert!(theirs.iter().any(|(name, _)| name == "/users \"ada\""));

    let planned = old.apply("--dry-run");
    assert_eq!(old.realm.admin().export(), before, "a dry run changed it");
    let done = old.apply("");
    assert_eq!(done, planned);
    for line in [
        "client device-1: attributes.access.token.lifespan\n",
        "client device-1: fullScopeAllowed\n",
        "group slm-auditors: new\n",
        "group slm-readers: loses write of slm-chat\n",
        "not in the file and left as they are: by-hand\n",
    ] {
        assert!(done.contains(line), "{line} isn't in {done}");
    }
    for (before, now) in theirs.iter().zip(old.theirs()) {
        assert_eq!(now, *before);
    }
    let mut file = realm_file("staging");
    file["realm"] = "updated".into();
    holds(&old.realm.admin().export(), &file, "the realm");
    a_second_update_changes_nothing(&old);

    // The old secret, a mapper of their own, and a directory with the password that it had.
    let device = old.realm.service("device-1", None).access;
    assert_eq!(claims(&device)["department"], "7");
    let judge = Judge::of(&[&old.realm]);
    assert_eq!(judge.scopes(&device), ["read"]);
    old.realm.admin().allow_passwords();
    let hedy = old.realm.exchange(&old.realm.user("hedy").access).access;
    assert_eq!(judge.scopes(&hedy), ["audit"]);
}

fn a_second_update_changes_nothing(old: &Old) {
    let events = || old.realm.admin().kept("/admin-events?max=1000");
    let (made, done) = (old.realm.admin().export(), events());
    assert!(!done.is_empty(), "no event of the first update was kept");
    let said = old.apply("");
    let nothing =
        "not in the file and left as they are: by-hand\nrealm updated: nothing to change\n";
    assert_eq!(said, nothing);
    assert_eq!(events(), done);
    assert_eq!(old.realm.admin().export(), made);
}

/// All that a realm file says is so in what Keycloak has: members of objects each by itself, parts
/// of lists by their names. What the environment sets is left out.
fn holds(made: &Value, wanted: &Value, place: &str) {
    match wanted {
        Value::Object(members) => {
            for (name, wanted) in members {
                holds(&made[name], wanted, &format!("{place}.{name}"));
            }
        }
        Value::Array(parts) if parts.iter().any(Value::is_object) => {
            let made = made.as_array().unwrap_or_else(|| panic!("{place}: {made}"));
            for part in parts {
                let key = ["clientId", "username", "client", "name"];
                let key = key.into_iter().find(|key| part[key].is_string());
                let key = key.expect("a part has a name");
                let found = made.iter().find(|found| found[key] == part[key]);
                let place = format!("{place}.{}", part[key]);
                holds(found.unwrap_or(&Value::Null), part, &place);
            }
        }
        // Neither in any order.
        Value::Array(parts) if parts.len() > 1 => {
            let made = made.as_array().unwrap_or_else(|| panic!("{place}: {made}"));
            assert_eq!(made.len(), parts.len(), "{place}: {made:?}");
            assert!(parts.iter().all(|p| made.contains(p)), "{place}: {made:?}");
        }
        _ if wanted.to_string().contains("${SLMD_") => {}
        _ => assert_eq!(made, wanted, "{place}"),
    }
}
