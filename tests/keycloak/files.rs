//! The realm files: what each holds, and what Keycloak makes of them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::grants::realm;
use crate::place::Place;
use crate::server::realm_file;
use crate::support::{root, run};

const PATIENCE: Duration = Duration::from_secs(60);

/// What Keycloak puts into every realm by itself.
const KEYCLOAKS_OWN: [&str; 6] = [
    "account",
    "account-console",
    "admin-cli",
    "broker",
    "realm-management",
    "security-admin-console",
];

fn text(name: &str) -> String {
    let file = root().join("deploy/keycloak").join(name);
    fs::read_to_string(file).expect("the file is there")
}

fn client_ids(clients: &Value) -> BTreeSet<&str> {
    let clients = clients.as_array().expect("a list").iter();
    clients.filter_map(|c| c["clientId"].as_str()).collect()
}

/// The names of `${NAME}` without a default in a realm file.
pub fn without_default(file: &Value) -> Vec<String> {
    let text = file.to_string();
    let names = text.split("${").skip(1);
    let names = names.filter_map(|rest| rest.split('}').next());
    let names: BTreeSet<&str> = names.filter(|name| !name.contains(':')).collect();
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn staging_is_prod_with_the_examples() {
    let mut command = Command::new(root().join("deploy/keycloak/apply"));
    command.args(["--print", "realm-prod.json", "examples.json"]);
    command.current_dir(root().join("deploy/keycloak"));
    let output = run(&mut command, b"", PATIENCE);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let made = String::from_utf8(output.stdout).expect("text");
    assert!(
        made == text("realm-staging.json"),
        "make it anew: ./apply --print realm-prod.json examples.json >realm-staging.json"
    );
}

#[test]
fn prod_holds_nothing_that_is_somebodys_example() {
    let prod = realm_file("prod");
    let own = BTreeSet::from(["slm-chat", "slmd-technician"]);
    assert_eq!(client_ids(&prod["clients"]), own);
    assert_eq!(prod["users"], Value::Null);
    let examples: Value = serde_json::from_str(&text("examples.json")).expect("JSON");
    let text = prod.to_string();
    for example in client_ids(&examples["clients"]) {
        assert!(!text.contains(example), "{example}");
    }
    let groups = prod["groups"].as_array().expect("a list").iter();
    let auditors = groups.clone().find(|group| group["name"] == "slm-auditors");
    let auditors = auditors.expect("the group");
    assert_eq!(auditors["clientRoles"], json!({"slm-chat": ["audit"]}));
}

#[test]
fn every_file_keeps_events_and_has_no_secret_and_no_full_scope() {
    for name in ["prod", "staging"] {
        let file = realm_file(name);
        assert_eq!(file["realm"], name);
        for member in ["eventsEnabled", "adminEventsEnabled"] {
            assert_eq!(file[member], true, "{name}: {member}");
        }
        assert_eq!(file["eventsExpiration"], 2_592_000);
        assert_eq!(file["attributes"]["adminEventsExpiration"], "2592000");
        // What an administrator writes may be a secret.
        assert_eq!(file["adminEventsDetailsEnabled"], false);
        for client in file["clients"].as_array().expect("a list") {
            assert_eq!(client["fullScopeAllowed"], false, "{}", client["clientId"]);
            assert_eq!(client["secret"], Value::Null, "{}", client["clientId"]);
        }
        assert!(!file.to_string().contains("privateKey"), "{name}");
    }
}

#[test]
fn what_keycloak_made_of_them_is_what_they_say() {
    for name in ["prod", "staging"] {
        let made = realm(name).admin().export();
        let mut clients = client_ids(&made["clients"]);
        for client in KEYCLOAKS_OWN {
            assert!(clients.remove(client), "{client}");
        }
        let file = realm_file(name);
        assert_eq!(clients, client_ids(&file["clients"]), "{name}");
        for client in made["clients"].as_array().expect("a list") {
            let id = client["clientId"].as_str().expect("it has one");
            let own = KEYCLOAKS_OWN.contains(&id);
            assert!(own || client["fullScopeAllowed"] == false, "{id}");
        }
        for member in ["eventsEnabled", "adminEventsEnabled"] {
            assert_eq!(made[member], true, "{name}: {member}");
        }
        // Keycloak's own texts have names in `${}`, too; ours begin so.
        assert!(!made.to_string().contains("${SLMD_"), "{name}");
    }
}

/// No Keycloak is asked for more than whether the realm is there.
#[test]
fn an_import_without_a_value_that_it_needs_is_refused() {
    let kcadm = "#!/bin/sh\n[ \"$1\" = get ] && echo '[]' || touch imported\n";
    for (file, name) in [
        ("realm-prod.json", "SLMD_LDAP_PASSWORD"),
        ("realm-staging.json", "SLMD_LDAP_PASSWORD"),
        ("realm-staging.json", "SLMD_GATEWAY_CERTIFICATE"),
    ] {
        let place = Place::with_kcadm(kcadm);
        let all = ["SLMD_LDAP_PASSWORD", "SLMD_GATEWAY_CERTIFICATE"];
        let others = all.iter().filter(|other| **other != name);
        let others: Vec<(&str, &str)> = others.map(|other| (*other, "")).collect();
        let output = place.run(&format!("./apply {file}"), &others);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{file}: imported without {name}");
        assert!(said.contains(&format!("{name} has no value")), "{said}");
        assert!(!place.file("imported").exists(), "{said}");
        place.types(&format!("./apply {file}"), &[(all[0], ""), (all[1], "")]);
        assert!(place.file("imported").exists(), "{file} isn't imported");
    }
}

#[test]
fn what_cannot_be_applied_is_refused() {
    let place = Place::with_kcadm("#!/bin/sh\ntouch asked\n");
    for (member, value) in [
        ("clientScopes", json!([{"name": "more"}])),
        ("smtpServer", json!({"host": "mail.example"})),
        ("groups", json!([{"name": "more", "subGroups": []}])),
        ("users", json!([{"username": "ada"}])),
        ("roles", json!({"realm": [{"name": "more"}]})),
    ] {
        let file = json!({"realm": "more", member: value});
        fs::write(place.file("more.json"), file.to_string()).expect("ours");
        let output = place.run("./apply more.json", &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("can't be applied") && said.contains(member),
            "{said}"
        );
        assert!(!output.status.success() && !place.file("asked").exists());
    }
}
