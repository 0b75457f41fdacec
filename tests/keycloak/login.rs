//! `slmd login`, `ask` and `logout` of a technician who lives only in the directory.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::admin::fresh_realm;
use crate::appliance::{PATIENCE, said, setup};
use crate::certificates::Authority;
use crate::grants::{Realm, realm};
use crate::support::{Daemon, exit, run, secrets};

const REFUSED: Option<i32> = Some(3);
const UNREACHABLE: Option<i32> = Some(4);

/// A person's account on the appliance.
struct Account(tempfile::TempDir);

impl Account {
    fn new() -> Account {
        Account(tempfile::tempdir().expect("a temporary folder"))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
        command.args(["--config", "/nonexistent/slmd.toml"]);
        self.own(&mut command);
        command.args(args);
        command
    }

    fn own(&self, command: &mut Command) {
        command.env("XDG_STATE_HOME", self.0.path());
        command
            .env_remove("SLMD_TOKEN")
            .env_remove("SLMD_TOKEN_FILE");
    }

    fn login(&self, realm: &Realm, client: &str, ca: &Path) -> Command {
        let mut command = self.command(&["login", "--client-id", client, "--issuer"]);
        command.arg(realm.issuer()).arg("--ca-file").arg(ca);
        command
    }

    fn ask(&self, daemon: &Daemon, words: &str) -> Output {
        secrets::prompt(words);
        let mut command = daemon.binary();
        self.own(&mut command);
        command.args(["ask", "--max-tokens", "4", "--socket"]);
        command.arg(daemon.socket()).arg(words);
        run(&mut command, b"", PATIENCE)
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("slmd/login.json")
    }

    fn saved(&self) -> Value {
        let bytes = fs::read(self.file()).expect("the login is saved");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// As if ten hours had passed for the file, not for Keycloak.
    fn age(&self, mut saved: Value) {
        saved["expires_at"] = slmd::for_tests::time::now().as_secs().into();
        fs::write(self.file(), saved.to_string()).expect("the account's folder is writable");
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.file(), mode).expect("the file is ours");
    }
}

/// Runs the login while `username` agrees in a browser; what it printed.
#[track_caller]
fn log_in(mut command: Command, realm: &Realm, username: &str) -> String {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).spawn().expect("slmd is there");
    let stderr = child.stderr.take().expect("piped above");
    let mut text = String::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let page = line.strip_prefix("(or open ");
        if let Some(page) = page.and_then(|rest| rest.strip_suffix(')')) {
            realm.approve(page, username);
        }
        text.push_str(&line);
        text.push('\n');
    }
    let status = exit(&mut child, PATIENCE).expect("the login ends");
    let mut stdout = child.stdout.take().expect("piped above");
    stdout.read_to_string(&mut text).expect("text");
    assert!(status.success(), "{text}");
    text
}

#[test]
fn a_technician_of_the_directory_works_offline_until_the_group_is_gone() {
    let realm = realm("prod");
    let daemon = Daemon::start(setup(&[&realm]));
    let account = Account::new();
    let ca = realm.server.ca_file();
    let text = log_in(account.login(&realm, "slmd-technician", ca), &realm, "emmy");
    assert!(text.contains("works offline until"), "{text}");
    let saved = account.saved();
    secrets::token(saved["access_token"].as_str().expect("a token"));
    let left =
        saved["expires_at"].as_u64().expect("a time") - slmd::for_tests::time::now().as_secs();
    assert!((35_000..=36_000).contains(&left), "{left} s are left");
    assert_eq!(saved["dpop_bound"], true);
    let mode = |path: &Path| {
        fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
    };
    assert_eq!(mode(&account.file()) & 0o777, 0o600);
    assert_eq!(
        mode(account.file().parent().expect("a folder")) & 0o777,
        0o700
    );

    let output = account.ask(&daemon, "What does a technician need offline?");
    assert!(output.status.success(), "{}", said(&output));
    let records = daemon.audit(0);
    let permit = records
        .iter()
        .find(|r| r.contains("\"permit\"") && r.contains("\"chat\""));
    let permit = permit.expect("the answer is on record");
    assert!(permit.contains("slmd-technician"), "{permit}");

    realm
        .server
        .directory
        .remove_from_group("emmy", "slm-readers");
    // The token that is out stays good; the next one lacks the group's role.
    assert!(
        account
            .ask(&daemon, "Is the old token still good?")
            .status
            .success()
    );
    account.age(account.saved());
    let refused = account.ask(&daemon, "Is the next token good as well?");
    assert_eq!(refused.status.code(), REFUSED, "{}", said(&refused));
    let reasons = ["roles_missing", "scope_missing", "audience_mismatch"];
    let text = said(&refused);
    assert!(reasons.iter().any(|reason| text.contains(reason)), "{text}");
    assert_ne!(account.saved()["access_token"], saved["access_token"]);

    realm.server.directory.add_to_group("emmy", "slm-readers");
    account.age(account.saved());
    let output = account.ask(&daemon, "Is the token after that one good?");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_logout_ends_the_session_at_keycloak() {
    let realm = realm("staging");
    let daemon = Daemon::start(setup(&[&realm]));
    let account = Account::new();
    let ca = realm.server.ca_file();
    log_in(account.login(&realm, "slmd-technician", ca), &realm, "joan");
    let saved = account.saved();
    let output = run(&mut account.command(&["logout"]), b"", PATIENCE);
    assert!(
        said(&output).contains("logged out, here and at Keycloak"),
        "{}",
        said(&output)
    );
    assert!(!account.file().exists());

    // Whoever has kept a copy of the file can't prolong it.
    account.age(saved);
    let refused = account.ask(&daemon, "Is a copied login of any use?");
    assert_eq!(refused.status.code(), REFUSED, "{}", said(&refused));
    assert!(
        said(&refused).contains("the login has ended at Keycloak"),
        "{}",
        said(&refused)
    );
}

#[test]
fn what_is_set_wrong_is_said_plainly() {
    let realm = fresh_realm("login-mistakes");
    let account = Account::new();
    let stranger = Authority::new(&account.0.path().join("stranger")).certificate();
    let mut command = account.login(&realm, "slmd-technician", &stranger);
    let failed = run(&mut command, b"", PATIENCE);
    assert_eq!(failed.status.code(), UNREACHABLE, "{}", said(&failed));
    assert!(
        said(&failed).contains("doesn't vouch for this server"),
        "{}",
        said(&failed)
    );

    let ca = realm.server.ca_file();
    let public = json!({"clientId": "plain", "publicClient": true});
    realm.admin().create_client(&public);
    for (client, words) in [
        ("plain", "OAuth 2.0 Device Authorization Grant"),
        ("device-1", "Client authentication"),
        ("nobody", "--client-id"),
    ] {
        let failed = run(&mut account.login(&realm, client, ca), b"", PATIENCE);
        assert_eq!(failed.status.code(), REFUSED, "{client}: {}", said(&failed));
        assert!(said(&failed).contains(words), "{client}: {}", said(&failed));
    }
    assert!(!account.file().exists());
}
