//! What `run` refuses, or what would never work, `config check --here` says, each with its place;
//! the text alone is judged without the machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::badinput::{BAD_CONFIG, FAILED, configuration, refused_start};
use crate::support::{Ca, free_port, run, target};

const PATIENCE: Duration = Duration::from_secs(60);
/// A place for documentation, never this machine's (RFC 5737).
const ELSEWHERE: &str = "192.0.2.1:8443";

/// What the list of a check says: each place, key and message.
fn check(config: &Path, arguments: &[&str]) -> (Option<i32>, Vec<(u64, String, String)>) {
    let checked = command(config, arguments);
    let said: Value = serde_json::from_slice(&checked.stdout)
        .unwrap_or_else(|error| panic!("{error}: {checked:?}"));
    assert!(checked.stderr.is_empty(), "{checked:?}");
    let list = said.as_array().expect("a list").iter().map(|problem| {
        let members: Vec<&String> = problem.as_object().expect("an object").keys().collect();
        assert_eq!(members, ["line", "column", "key", "message"]);
        let text = |name: &str| problem[name].as_str().expect("a text").to_owned();
        let line = problem["line"].as_u64().expect("a number");
        (line, text("key"), text("message"))
    });
    (checked.status.code(), list.collect())
}

fn command(config: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
    command.args(["--json", "config", "check"]).arg(config);
    run(command.args(arguments), b"", PATIENCE)
}

/// A sound configuration to put one fault into.
struct Bench {
    folder: tempfile::TempDir,
    config: PathBuf,
    sound: String,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = folder.path().join("state");
        let config = configuration(folder.path(), &state, &target().join("models"));
        let sound = fs::read_to_string(&config).expect("it was written");
        Bench {
            folder,
            config,
            sound,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// With other text in the place of `old`, and `more` after all of it.
    fn write(&self, old: &str, new: &str, more: &str) {
        assert!(self.sound.contains(old), "{old}");
        let text = self.sound.replace(old, new);
        fs::write(&self.config, format!("{text}{more}\n")).expect("it was written before");
    }

    /// Both say it; `refused` is how `run` ends, where it is refused at all.
    #[track_caller]
    fn told(&self, key: &str, part: &str, refused: Option<i32>) {
        let (code, said) = check(&self.config, &["--here"]);
        assert_eq!(code, Some(BAD_CONFIG), "{key}: {said:?}");
        let found = said.iter().find(|(_, of, _)| of == key);
        let Some((line, _, message)) = found else {
            panic!("{key} isn't told: {said:?}");
        };
        assert!(*line > 0 && message.contains(part), "{key}: {said:?}");
        if let Some(code) = refused {
            let output = refused_start(&self.config);
            assert_eq!(output.status.code(), Some(code), "{key}: {output:?}");
        }
    }

    /// As [`Bench::told`], of what no text shows.
    #[track_caller]
    fn told_here(&self, key: &str, part: &str, refused: Option<i32>) {
        assert_eq!(check(&self.config, &[]), (Some(0), Vec::new()), "{key}");
        self.told(key, part, refused);
    }
}

#[test]
fn what_the_text_shows_is_told_without_the_machine() {
    let bench = Bench::new();
    assert_eq!(check(&bench.config, &[]), (Some(0), Vec::new()));
    assert_eq!(check(&bench.config, &["--here"]), (Some(0), Vec::new()));
    let issuer = "https://keycloak.test/realms/dev";
    let mqtt = |url: &str| format!("[mqtt]\nurl = {url:?}");
    for (old, new, more, key) in [
        ("state_dir", "log = \"loud\"\nstate_dir", "", "log"),
        (
            issuer,
            "https://keycloak.test/realms/dev/",
            "",
            "realm.issuer",
        ),
        (
            issuer,
            "http://keycloak.test/realms/dev",
            "",
            "realm.issuer",
        ),
        ("", "", mqtt("mqtt://broker.test").as_str(), "mqtt.url"),
        ("", "", mqtt("mqtt://192.0.2.1:1883").as_str(), "mqtt.url"),
    ] {
        bench.write(old, new, more);
        let (code, said) = check(&bench.config, &[]);
        assert_eq!((code, said.len()), (Some(BAD_CONFIG), 1), "{key}: {said:?}");
        bench.told(key, "write", Some(BAD_CONFIG));
    }
    let exposed = mqtt("mqtt://broker.test") + "\nplain_mqtt_exposes_tokens = true";
    for (issuer_, more) in [
        ("http://127.0.0.1:8080/realms/dev", exposed.as_str()),
        (
            "http://localhost:8080/realms/dev",
            &mqtt("mqtt://localhost"),
        ),
        (issuer, &mqtt("mqtt://[::1]:1884")),
    ] {
        bench.write(issuer, issuer_, more);
        assert_eq!(check(&bench.config, &["--here"]), (Some(0), Vec::new()));
    }
}

#[test]
fn files_that_cant_be_used_are_told() {
    let bench = Bench::new();
    let ca = Ca::new("checks");
    let (own, other) = (ca.issue("own"), ca.issue("other"));
    let (rubbish, missing) = (bench.at("rubbish"), bench.at("missing"));
    fs::write(&rubbish, "rubbish").expect("a temporary file");
    let tls = |cert: &Path, key: &Path, more: &str| {
        let port = free_port();
        format!(
            "[http.tls]\nlisten = \"127.0.0.1:{port}\"\ncert_file = {cert:?}\nkey_file = {key:?}\n{more}"
        )
    };
    let no_pem = "holds no PEM certificate";
    for (more, key, part) in [
        (tls(&rubbish, &own.key, ""), "http.tls.cert_file", no_pem),
        (
            tls(&missing, &own.key, ""),
            "http.tls.cert_file",
            "No such file",
        ),
        (
            tls(&own.cert, &missing, ""),
            "http.tls.key_file",
            "No such file",
        ),
        (
            tls(&own.cert, &other.key, ""),
            "http.tls.key_file",
            "other.key",
        ),
        (
            tls(
                &own.cert,
                &own.key,
                &format!("client_ca_file = {rubbish:?}"),
            ),
            "http.tls.client_ca_file",
            no_pem,
        ),
    ] {
        bench.write("", "", &more);
        bench.told_here(key, part, Some(FAILED));
    }
    bench.write("", "", &tls(&own.cert, &own.key, ""));
    assert_eq!(check(&bench.config, &["--here"]), (Some(0), Vec::new()));

    let deny = format!("deny_file = {rubbish:?}\nissuer");
    bench.write("issuer", &deny, "");
    bench.told_here("realm.deny_file", "rubbish", Some(FAILED));
    let password = format!(
        "[mqtt]\nurl = \"mqtt://127.0.0.1\"\nusername = \"u\"\npassword_file = {missing:?}"
    );
    bench.write("", "", &password);
    bench.told_here("mqtt.password_file", "No such file", Some(BAD_CONFIG));
    // What can be mended while it runs starts, but doesn't work.
    let broker = format!("[mqtt]\nurl = \"mqtts://h\"\n[mqtt.tls]\nca_file = {missing:?}");
    bench.write("", "", &broker);
    bench.told_here("mqtt.tls.ca_file", "No such file", None);
    let jwks = format!("[realm.jwks]\nca_file = {rubbish:?}");
    bench.write("", "", &jwks);
    bench.told_here("realm.jwks.ca_file", no_pem, None);
    // What only those who log in need is no reason to stop.
    bench.write("", "", &format!("[login]\nca_file = {missing:?}"));
    let (code, said) = check(&bench.config, &["--here"]);
    assert_eq!((code, said.len()), (Some(0), 1), "{said:?}");
    assert_eq!(said[0].1, "login.ca_file");
}

#[test]
fn what_the_machine_hasnt_is_told() {
    let bench = Bench::new();
    let models = target().join("models").display().to_string();
    bench.write(&models, &bench.at("none").display().to_string(), "");
    bench.told_here("realm.endpoint.model", "slmd model import", Some(FAILED));

    let model = "model = \"smollm2-135m-instruct\"";
    let long = format!("{model}\nsystem_prompt = \"{}\"", "Be kind. ".repeat(4000));
    bench.write(model, &long, "");
    bench.told_here(
        "realm.endpoint.system_prompt",
        "leaves no room",
        Some(FAILED),
    );

    let ca = Ca::new("checks");
    let own = ca.issue("own");
    let tls = format!(
        "[http.tls]\nlisten = \"{ELSEWHERE}\"\ncert_file = {:?}\nkey_file = {:?}",
        own.cert, own.key
    );
    bench.write("", "", &tls);
    bench.told_here("http.tls.listen", ELSEWHERE, Some(FAILED));

    // Somebody else's port, or the daemon's own: both is possible.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    bench.write("[http]", &format!("[http]\nlisten = \"{address}\""), "");
    let (code, said) = check(&bench.config, &["--here"]);
    assert_eq!((code, said.len()), (Some(0), 1), "{said:?}");
    assert!(said[0].2.contains("unless that is slmd"), "{said:?}");

    bench.write("", "", "");
    let socket = bench.at("slmd.sock");
    fs::remove_file(&socket).expect("a refused start has left it");
    fs::write(&socket, "precious").expect("a temporary file");
    bench.told_here("http.socket", "is no socket", Some(FAILED));
    fs::remove_file(&socket).expect("it was written");

    let state = bench.at("state");
    fs::remove_dir_all(&state).expect("a start has made it");
    fs::write(&state, "precious").expect("a temporary file");
    bench.told_here("state_dir", "ot a directory", Some(FAILED));
    fs::remove_file(&state).expect("it was written");
    fs::create_dir(&state).expect("a temporary folder");
    for name in ["db", "keys", "device.key"] {
        // A start that was refused later has made one.
        let _ = fs::remove_file(state.join(name));
        symlink(bench.at("elsewhere"), state.join(name)).expect("a link");
        bench.told_here("state_dir", "symbolic link", Some(FAILED));
        fs::remove_file(state.join(name)).expect("it was made");
    }
    let key = state.join("device.key");
    fs::write(&key, "rubbish").expect("a temporary file");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("it is ours");
    bench.told_here("state_dir", "restore it", Some(FAILED));
}

/// What root can read the daemon may not: a check by root is one by the daemon's user.
#[test]
fn root_looks_with_the_daemons_eyes() {
    const USER: u32 = 65_533;
    let bench = Bench::new();
    let state = bench.at("state");
    fs::create_dir(&state).expect("a temporary folder");
    chown(&state, Some(USER), Some(USER)).expect("the tests run as root");
    let ca = Ca::new("checks");
    let own = ca.issue("own");
    let key = bench.at("tls.key");
    let cert = bench.at("tls.pem");
    fs::copy(&own.cert, &cert).expect("a temporary file");
    fs::copy(&own.key, &key).expect("a temporary file");
    let all = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    all(bench.folder.path(), 0o755);
    all(&key, 0o600);
    let port = free_port();
    let tls = format!(
        "[http.tls]\nlisten = \"127.0.0.1:{port}\"\ncert_file = {cert:?}\nkey_file = {key:?}"
    );
    bench.write("", "", &tls);
    bench.told("http.tls.key_file", "Permission denied", None);
    chown(&key, Some(USER), None).expect("the tests run as root");
    assert_eq!(check(&bench.config, &["--here"]).1, []);
    all(&bench.config, 0o640);
    let (code, said) = check(&bench.config, &["--here"]);
    assert_eq!(code, Some(BAD_CONFIG));
    assert!(said[0].2.contains("Permission denied"), "{said:?}");
}
