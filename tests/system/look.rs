//! What a technician sees of a daemon without being root: all that the public socket tells, with
//! what is left out, and for the rest who may.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Daemon, Issuer, Setup, claims, run};

const PATIENCE: Duration = Duration::from_secs(60);
const UNREACHABLE: i32 = 4;

struct Technician {
    daemon: Daemon,
    /// Where everybody may run the program.
    bin: TempDir,
}

impl Technician {
    fn new(daemon: Daemon) -> Technician {
        let open = |path: &std::path::Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o711)).expect("it is the test's");
        };
        let bin = tempfile::tempdir().expect("a temporary folder");
        open(bin.path());
        open(daemon.socket().parent().expect("a file is in a folder"));
        fs::copy(env!("CARGO_BIN_EXE_slmd"), bin.path().join("slmd")).expect("there is room");
        Technician { daemon, bin }
    }

    /// Runs a command as `nobody`, in the public socket's group or in none.
    fn slmd(&self, in_group: bool, args: &[&str]) -> Output {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "nogroup"]);
        match in_group {
            // The socket is its group's, root's here, as it is slmd's where a package made it.
            true => command.args(["--groups", "root"]),
            false => command.arg("--clear-groups"),
        };
        command.arg(self.bin.path().join("slmd"));
        command.arg("--config").arg(self.daemon.config_path());
        command
            .env_remove("SLMD_SOCKET")
            .env("HOME", "/nonexistent");
        run(command.args(args), b"", PATIENCE)
    }
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).replace("\n  ", " ")
}

#[test]
fn without_root_the_public_socket_is_shown_and_the_rest_named() {
    let issuer = Issuer::new("ES256", "key-1");
    let technician = Technician::new(Daemon::start(Setup::new().issuer(&issuer)));

    let status = out(&technician.slmd(true, &["status"]));
    assert!(status.starts_with("ready"), "{status}");
    for words in [
        "realm     dev: https://keycloak.test/realms/dev",
        "1 key pinned by hand, confirmed ",
        "which leaves out listeners, certificate, memory",
        "sudo slmd status",
    ] {
        assert!(status.contains(words), "{words}: {status}");
    }
    for hidden in ["listens ", "tokens/s", "requests "] {
        assert!(!status.contains(hidden), "{hidden}: {status}");
    }
    let json = technician.slmd(true, &["status", "--json"]);
    let told: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(
        (&told["ready"], &told["inside"]),
        (&true.into(), &Value::Null)
    );
    let beside = String::from_utf8_lossy(&json.stderr);
    assert!(beside.contains("which leaves out"), "{beside}");

    let keys = out(&technician.slmd(true, &["keys", "list"]));
    assert!(
        keys.contains("(kid key-1)") && keys.contains("fingerprint "),
        "{keys}"
    );

    let token = technician.bin.path().join("token");
    fs::write(&token, issuer.token(claims())).expect("a temporary file");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).expect("it is the test's");
    let token = token.to_str().expect("a plain path");
    for (args, words) in [
        (
            &["keys", "explain", "--token-file", token][..],
            "sudo slmd keys explain",
        ),
        (&["audit", "tail"], "with a token that has the role audit"),
    ] {
        let refused = technician.slmd(true, args);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(UNREACHABLE), "{said}");
        assert!(said.contains(words), "{words}: {said}");
    }
    let stranger = technician.slmd(false, &["status"]);
    let said = String::from_utf8_lossy(&stranger.stderr);
    assert_eq!(stranger.status.code(), Some(UNREACHABLE), "{said}");
    assert!(said.contains("neither socket is open to you"), "{said}");
}

#[test]
fn root_sees_what_the_daemon_is_about() {
    let issuer = Issuer::new("ES256", "key-1");
    let daemon = Daemon::start(Setup::new().issuer(&issuer));
    let body = crate::support::chat("Name three colours.", 4, false);
    assert_eq!(daemon.chat(&issuer.token(claims()), &body).status, 200);
    assert_eq!(daemon.chat("no token", &body).status, 401);
    let inside = &daemon.status()["inside"];
    assert_eq!(inside["listeners"].as_array().map(Vec::len), Some(2));
    assert!(
        inside["memory_bytes"].as_u64() > Some(10 << 20),
        "{inside:#}"
    );
    assert_eq!(inside["requests"]["permitted"], 1, "{inside:#}");
    assert_eq!(
        inside["requests"]["refused"]["token_malformed"], 1,
        "{inside:#}"
    );
    assert_eq!(inside["answers"]["count"], 1, "{inside:#}");
    assert!(
        inside["answers"]["tokens_per_second"].as_f64() > Some(0.0),
        "{inside:#}"
    );
    assert!(inside["audit_oldest_at"].is_string(), "{inside:#}");
    let shown = out(&daemon.slmd(&["status"]));
    for words in [
        "listens   on ",
        " of memory",
        "1 permitted, 1 refused",
        " free for ",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(!shown.contains('\u{1b}'), "no colour in a pipe");
}
