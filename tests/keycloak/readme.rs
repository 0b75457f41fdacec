//! deploy/keycloak/README.md is true: its commands, typed one after the other, lead from an empty
//! Keycloak to an answer, by import and by hand.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::appliance::{ask, refused, setup};
use crate::server::{ADMIN_PASSWORD, Keycloak, keycloak};
use crate::support::{Daemon, Exchange, Setup, exchange, free_port, root, run};

/// Each `kcadm.sh` starts a Java machine, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(900);
const SERVER: &str = "https://keycloak.example";
const AUTHORITY: &str = "/etc/slmd/keycloak-ca.pem";

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
    for needle in [SERVER, AUTHORITY, "REALM=prod\n"] {
        let common = blocks("What the commands need", "sh");
        assert!(common.contains(needle), "{needle} is gone");
    }
    text.replace(SERVER, &server.url())
        .replace(AUTHORITY, &ca)
        .replace("REALM=prod\n", &format!("REALM={realm}\n"))
        .replace("realms/prod", &format!("realms/{realm}"))
}

/// A folder with the realm files, and with `slmd` and `kcadm.sh` on its path.
fn workplace(server: &Keycloak, daemon: &Daemon, folder: &Path) {
    for file in ["realm-prod.json", "realm-staging.json"] {
        let source = root().join("deploy/keycloak").join(file);
        fs::copy(source, folder.join(file)).expect("the realm files are there");
    }
    // A terminal would be asked before keys are pinned.
    let slmd = format!(
        "#!/bin/sh\nyes=; [ \"$1 $2\" != 'keys pin' ] || yes=--yes\n\
         exec {} --config {} \"$@\" $yes\n",
        env!("CARGO_BIN_EXE_slmd"),
        daemon.config_path().display()
    );
    let kcadm = format!("#!/bin/sh\nexec {} \"$@\"\n", server.kcadm().display());
    fs::create_dir(folder.join("bin")).expect("a folder of this test");
    for (name, text) in [("slmd", slmd), ("kcadm.sh", kcadm)] {
        let path = folder.join("bin").join(name);
        fs::write(&path, text).expect("a folder of this test");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
}

/// Types the blocks beneath these headings and returns what `slmd ask` answered.
fn follow(realm: &str, headings: &[&str]) -> String {
    let server = keycloak();
    let settings = own(server, realm, &blocks("The appliance", "toml"));
    let daemon = Daemon::start(Setup::new().with(&settings));
    let folder = tempfile::tempdir().expect("a temporary folder");
    workplace(server, &daemon, folder.path());
    let script: String = headings.iter().map(|h| blocks(h, "sh")).collect();
    let script = format!("set -euo pipefail\n{}", own(server, realm, &script));
    let bin = folder.path().join("bin").display().to_string();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(folder.path());
    command.env("PATH", path).env("HOME", folder.path());
    command.env("KC_CLI_PASSWORD", ADMIN_PASSWORD);
    // Java doesn't take the home from HOME; in one of all, two sessions lock each other out.
    let home = folder.path().display();
    let options = format!("-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Duser.home={home}");
    command.env("KC_OPTS", options);
    let output = run(&mut command, b"", PATIENCE);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn importing_leads_to_an_answer() {
    let headings = ["What the commands need", "By import", "The appliance"];
    let answer = follow("readme-import", &headings);
    assert!(!answer.trim().is_empty(), "an empty answer");
}

#[test]
fn an_import_without_a_value_that_it_needs_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = root().join("deploy/keycloak/realm-prod.json");
    fs::copy(source, folder.path().join("realm-prod.json")).expect("the realm files are there");
    let commands = blocks("By import", "sh");
    for name in ["SLMD_GATEWAY_CERTIFICATE", "SLMD_LDAP_PASSWORD"] {
        let set = format!("export {name}=");
        assert!(commands.contains(&set), "{set} is gone");
        let kept = commands.lines().filter(|line| !line.starts_with(&set));
        let kept: Vec<&str> = kept.collect();
        let script = format!("kcadm.sh() {{ touch imported; }}\n{}", kept.join("\n"));
        let mut command = Command::new("bash");
        command.args(["-c", &script]).current_dir(folder.path());
        command.env_remove(name).env("REALM", "unfilled");
        let output = run(&mut command, b"", PATIENCE);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "imported without {name}");
        assert!(said.contains(&format!("{name} has no value")), "{said}");
        assert!(!folder.path().join("imported").exists(), "{said}");
    }
}

#[test]
fn typing_leads_to_an_answer_and_to_what_the_import_makes() {
    let headings = ["What the commands need", "By hand", "The appliance"];
    let answer = follow("readme-by-hand", &headings);
    assert!(!answer.trim().is_empty(), "an empty answer");

    let admin = crate::grants::realm("readme-by-hand").admin();
    for name in ["device-2", "slmd-technician"] {
        let (made, meant) = (admin.client(name), imported(name));
        for member in [
            "publicClient",
            "serviceAccountsEnabled",
            "standardFlowEnabled",
            "fullScopeAllowed",
        ] {
            assert_eq!(made[member], meant[member], "{name}: {member}");
        }
        for (attribute, value) in meant["attributes"].as_object().expect("it has some") {
            assert_eq!(made["attributes"][attribute], *value, "{name}: {attribute}");
        }
    }
}

#[test]
fn a_scraper_gets_tokens_that_open_metrics_and_nothing_else() {
    let name = "readme-monitor";
    follow(name, &["What the commands need", "By import", "A monitor"]);
    let realm = crate::grants::realm(name);
    let scrape = own(realm.server, name, &blocks("A monitor", "yaml"));
    for line in [
        format!("token_url: {}\n", realm.token_url()),
        format!("ca_file: {}\n", realm.server.ca_file().display()),
        "client_id: prometheus\n".to_owned(),
    ] {
        assert!(scrape.contains(&line), "{line} isn't in {scrape}");
    }
    let port = free_port();
    let listen = format!("[http]\nlisten = \"127.0.0.1:{port}\"");
    let daemon = Daemon::start(setup(&[&realm]).with(&listen));
    let token = realm.service("prometheus", None).access;
    let bearer = format!("Bearer {token}");
    for path in ["/metrics", "/readyz?verbose"] {
        let tcp = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        let headers = [("authorization", bearer.as_str()), ("host", "localhost")];
        let answer = exchange(tcp, "GET", path, &headers, "");
        let answer = answer.and_then(Exchange::finish).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    refused(&ask(&daemon, &token, "Who are you?"), 403, "scope_missing");
}

/// A client as the realm file has it.
fn imported(name: &str) -> serde_json::Value {
    let file = root().join("deploy/keycloak/realm-prod.json");
    let text = fs::read_to_string(file).expect("the realm file is there");
    let realm: serde_json::Value = serde_json::from_str(&text).expect("the realm file is JSON");
    let clients = realm["clients"].as_array().expect("it has clients");
    let found = clients.iter().find(|client| client["clientId"] == name);
    found.cloned().unwrap_or_else(|| json!(null))
}

#[test]
fn the_realm_files_differ_in_their_names_only() {
    let read = |name: &str| {
        let file = root().join(format!("deploy/keycloak/realm-{name}.json"));
        let text = fs::read_to_string(file).expect("the realm file is there");
        let mut realm: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(realm["realm"], name);
        realm["realm"] = json!(null);
        realm["displayName"] = json!(null);
        // Neither keys nor secrets: Keycloak makes them.
        assert!(!text.contains("\"secret\"") && !text.contains("privateKey"));
        realm
    };
    assert_eq!(read("staging"), read("prod"));
}
