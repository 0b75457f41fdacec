//! One realm and one endpoint by name, from the realm file to the help: whoever goes from one text to
//! the next types the same.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{root, run};

const PATIENCE: Duration = Duration::from_secs(60);

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn help(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
    let output = run(command.args(arguments).arg("--help"), b"", PATIENCE);
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// What comes right after each `before`, but for words that only stand for a name: `REALM`, `$REALM`.
fn named(text: &str, before: &str) -> BTreeSet<String> {
    let is_part = |c: &char| c.is_ascii_alphanumeric() || "-_".contains(*c);
    let after = text.split(before).skip(1);
    let names = after.map(|rest| rest.chars().take_while(is_part).collect::<String>());
    let is_name = |name: &String| name.starts_with(|c: char| c.is_ascii_lowercase());
    names.filter(is_name).collect()
}

#[test]
fn every_example_names_the_realm_and_the_endpoint_of_the_realm_file() {
    let file: Value = serde_json::from_str(&read("deploy/keycloak/realm-prod.json")).expect("JSON");
    let realm = file["realm"].as_str().expect("it has a name");
    let roles = file["roles"]["client"].as_object().expect("roles");
    let [endpoint] = roles.keys().collect::<Vec<_>>().try_into().expect("one");

    let settings = read("systemd/slmd.toml");
    let whole = read("README.md");
    let keycloak = read("deploy/keycloak/README.md");
    let helps = [&[][..], &["keys", "pin"], &["keys", "refresh"], &["login"]].map(help);
    let [main, pin, refresh, login] = &helps;
    for (what, text, before, name) in [
        ("slmd.toml", &settings, "\nname = \"", realm),
        ("slmd.toml", &settings, "/realms/", realm),
        ("slmd.toml", &settings, "slmd keys pin ", realm),
        ("slmd.toml", &settings, "/deny/", realm),
        ("slmd.toml", &settings, "\ndefault_endpoint = \"", endpoint),
        ("slmd.toml", &settings, "\nclient_id = \"", endpoint),
        ("README.md", &whole, "slmd keys pin ", realm),
        ("README.md", &whole, "client isn't `", endpoint),
        ("README.md", &whole, "model=\"", endpoint),
        ("Keycloak's", &keycloak, "\nname = \"", realm),
        ("Keycloak's", &keycloak, "REALM=", realm),
        ("Keycloak's", &keycloak, "slmd keys pin ", realm),
        ("Keycloak's", &keycloak, "keycloak.example/realms/", realm),
        ("Keycloak's", &keycloak, "\ndefault_endpoint = \"", endpoint),
        ("Keycloak's", &keycloak, "\nclient_id = \"", endpoint),
        ("Keycloak's", &keycloak, "--cclientid ", endpoint),
        ("--help", main, "slmd keys pin ", realm),
        ("keys pin --help", pin, "slmd keys pin ", realm),
        ("keys pin --help", pin, "/realms/", realm),
        ("keys refresh --help", refresh, "slmd keys refresh ", realm),
        ("login --help", login, "/realms/", realm),
    ] {
        let found: Vec<String> = named(text, before).into_iter().collect();
        assert_eq!(found, [name], "{what}: {before:?}");
    }
}
