//! deploy/keycloak/README.md is true: its commands, typed one after the other, lead from an empty
//! Keycloak to an answer, by import and by hand; and none of them has a secret among its arguments.

use std::fs;

use crate::grants::realm;
use crate::place::Place;
use crate::server::{ADMIN_PASSWORD, Keycloak, keycloak, realm_file};
use crate::support::{Daemon, Setup, root};

const SERVER: &str = "https://keycloak.example";
const AUTHORITY: &str = "/etc/slmd/keycloak-ca.pem";
const COMMON: &str = "What the commands need";

/// The README's fenced blocks of one language, beneath one heading.
fn blocks(heading: &str, language: &str) -> String {
    let file = root().join("deploy/keycloak/README.md");
    let text = fs::read_to_string(file).expect("the README is there");
    let section = text.split("\n## ").find(|part| part.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("no section {heading}"));
    let fence = format!("```{language}\n");
    let parts = section.split(&fence).skip(1);
    let found: Vec<&str> = parts.filter_map(|part| part.split("```").next()).collect();
    assert!(!found.is_empty(), "no {language} block beneath {heading}");
    found.concat()
}

/// As a reader would set them: the server, its authority, and a realm that isn't there yet.
fn own(server: &Keycloak, realm: &str, text: &str) -> String {
    let ca = server.ca_file().display().to_string();
    let common = blocks(COMMON, "sh");
    for needle in [SERVER, AUTHORITY, "REALM=prod\n"] {
        assert!(common.contains(needle), "{needle} is gone");
    }
    text.replace(SERVER, &server.url())
        .replace(AUTHORITY, &ca)
        .replace("REALM=prod\n", &format!("REALM={realm}\n"))
        .replace("realms/prod", &format!("realms/{realm}"))
}

/// What the README has done before anything else: a session of `kcadm.sh`, and the part of it that
/// ends with the shell.
pub fn session(server: &Keycloak, realm: &str) -> (String, String) {
    let whole = own(server, realm, &blocks(COMMON, "sh"));
    let exports = whole
        .split_inclusive('\n')
        .filter(|l| l.starts_with("export "));
    let exports = exports.collect();
    (whole, exports)
}

/// Types the blocks beneath these headings, and returns what came out beneath the last one. No
/// command has shown a secret by then.
#[track_caller]
fn follow(name: &str, headings: &[&str]) -> String {
    let server = keycloak();
    let settings = own(server, name, &blocks("The appliance", "toml"));
    let daemon = Daemon::start(Setup::new().with(&settings));
    let place = Place::new(server);
    place.slmd(&daemon);
    follow_in(&place, server, name, headings)
}

/// A realm by import, with a monitor's client; the place has the client's secret.
#[track_caller]
pub fn monitored(server: &'static Keycloak, name: &str) -> Place {
    let place = Place::new(server);
    follow_in(&place, server, name, &[COMMON, "By import", "A monitor"]);
    place
}

#[track_caller]
fn follow_in(place: &Place, server: &'static Keycloak, name: &str, headings: &[&str]) -> String {
    let mark = |heading| format!("echo '== {heading}'\n{}", blocks(heading, "sh"));
    let script: String = headings.iter().copied().map(mark).collect();
    let printed = place.types(&own(server, name, &script), &[]);
    nothing_secret_among_arguments(name, &place.noted());
    let last = printed.split("== ").last().and_then(|t| t.split_once('\n'));
    last.expect("each heading is printed").1.to_owned()
}

fn nothing_secret_among_arguments(name: &str, noted: &str) {
    for program in ["kcadm.sh config credentials", "keytool "] {
        assert!(noted.contains(program), "{program} wasn't noted: {noted}");
    }
    let truststore = blocks(COMMON, "sh");
    let truststore = truststore.split_once("_PASSWORD=").expect("it has one").1;
    let truststore = truststore.lines().next().expect("it has one");
    let mut secrets = vec![ADMIN_PASSWORD.to_owned(), truststore.to_owned()];
    for client in realm(name).admin().kept("/clients") {
        secrets.extend(client["secret"].as_str().map(str::to_owned));
    }
    assert!(secrets.len() > 2, "no client has a secret");
    for secret in secrets {
        let shown = noted.lines().find(|line| line.contains(&secret));
        assert_eq!(shown, None, "{secret}");
    }
    // How JSON begins in base64: a token, whoever's it is.
    let token = noted.lines().find(|line| line.contains("eyJ"));
    assert_eq!(token, None);
}

#[test]
fn importing_leads_to_an_answer() {
    let name = "readme-import";
    let answer = follow(name, &[COMMON, "By import", "Devices", "The appliance"]);
    assert!(!answer.trim().is_empty(), "an empty answer");
}

#[test]
fn the_examples_lead_to_an_answer() {
    let name = "readme-examples";
    let answer = follow(name, &[COMMON, "The examples", "The appliance"]);
    assert!(!answer.trim().is_empty(), "an empty answer");
}

#[test]
fn an_update_of_what_was_imported_changes_nothing() {
    let name = "readme-update";
    let said = follow(name, &[COMMON, "By import", "Update"]);
    assert_eq!(said, format!("realm {name}: nothing to change\n").repeat(2));
}

#[test]
fn typing_leads_to_an_answer_and_to_what_the_import_makes() {
    let name = "readme-by-hand";
    let answer = follow(name, &[COMMON, "By hand", "Devices", "The appliance"]);
    assert!(!answer.trim().is_empty(), "an empty answer");

    let admin = realm(name).admin();
    let file = realm_file("staging");
    for client_id in ["slm-chat", "device-1", "device-2", "slmd-technician"] {
        let clients = file["clients"].as_array().expect("it has clients");
        let meant = clients.iter().find(|c| c["clientId"] == client_id);
        let (made, meant) = (admin.client(client_id), meant.expect("it has this one"));
        for member in [
            "publicClient",
            "serviceAccountsEnabled",
            "standardFlowEnabled",
            "fullScopeAllowed",
        ] {
            assert_eq!(made[member], meant[member], "{client_id}: {member}");
        }
        // Five minutes are the realm's own.
        let attributes = meant["attributes"].as_object().into_iter().flatten();
        for (attribute, value) in attributes.filter(|_| client_id != "device-1") {
            let made = &made["attributes"][attribute];
            assert_eq!(made, value, "{client_id}: {attribute}");
        }
    }
}

/// Keycloak's own import takes an unset name as the text that it is, so the README's shell asks.
#[test]
fn an_import_at_the_start_asks_for_every_value_that_it_needs() {
    let commands = blocks("By import", "console");
    let missing = crate::files::without_default(&realm_file("prod"));
    assert_eq!(missing, ["SLMD_LDAP_PASSWORD"]);
    for name in missing {
        assert!(commands.contains(&format!("${{{name}?}}")), "{name}");
    }
}
