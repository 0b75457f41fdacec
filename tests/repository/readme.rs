//! `deploy/fleet/README.md` is true: its commands work as they stand, in their order.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use crate::fleet::{Fleet, jwks};
use crate::support::{Ca, Mosquitto, root, run};

const PATIENCE: Duration = Duration::from_secs(300);

/// Serves the realm's keys, from the second request on with one more.
fn keycloak() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for (request, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { continue };
            let mut head = [0; 4096];
            let read = stream.read(&mut head).unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]);
            let path = "GET /realms/prod/protocol/openid-connect/certs ";
            assert!(head.starts_with(path), "{head}");
            let body = match request {
                0 => jwks(&["a"]),
                _ => jwks(&["a", "b"]),
            };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

/// The fenced blocks of one language, in their order.
fn blocks(language: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("deploy/fleet/README.md")).expect("it is there");
    let fence = format!("```{language}\n");
    let parts = text.split(&fence).skip(1).map(str::to_owned);
    let blocks = parts.map(|part| part.split("```").next().unwrap_or_default().to_owned());
    blocks.collect()
}

#[test]
fn from_nothing_to_a_rotation_and_through_every_loss() {
    let fleet = Fleet::empty();
    let place = fleet.place();
    let ca = Ca::new("fleet");
    let broker = Mosquitto::deployed(&ca.issue("localhost"), &["fleet"]);
    for name in ["keycloak-ca.pem", "broker-ca.pem"] {
        fs::copy(ca.file(), place.join(name)).expect("a temporary file");
    }
    fleet.secret("broker-password", &Mosquitto::password("fleet"));
    fleet.file("policy.json", &blocks("json").concat());
    // Nobody is there to look at what is signed.
    let wrapper = format!(
        "#!/bin/sh\n[ \"$2\" != sign ] || set -- \"$@\" --yes\nexec {} \"$@\"\n",
        env!("CARGO_BIN_EXE_slmd")
    );
    fs::create_dir(place.join("bin")).expect("a temporary folder");
    let program = place.join("bin/slmd");
    fs::write(&program, wrapper).expect("a temporary file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");

    let script = format!("set -euo pipefail\n{}", blocks("sh").concat());
    let script = script.replace(
        "broker.example:8883",
        &format!("localhost:{}", broker.port()),
    );
    let script = script.replace(
        "https://keycloak.example",
        &format!("http://127.0.0.1:{}", keycloak()),
    );
    let path = format!(
        "{}:{}",
        place.join("bin").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut command = Command::new("bash");
    command
        .args(["-c", &script])
        .current_dir(place)
        .env("PATH", path);
    command.env("SLMD_FLEET_PASSPHRASE_FILE", "passphrase");
    let output = run(&mut command, b"", PATIENCE);
    let said = String::from_utf8_lossy(&output.stderr);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{shown}");
    assert!(shown.contains("never heard"), "{shown}");

    let read = fleet.read(
        "c",
        &fleet.folder(),
        &["realms/prod/jwks.json", "policy.json"],
    );
    let keys = read["targets"]["realms/prod/jwks.json"]
        .as_str()
        .expect("it is there");
    assert!(
        keys.contains("\"kid\":\"a\"") && keys.contains("\"kid\":\"b\""),
        "{keys}"
    );
    assert!(read["targets"]["policy.json"].is_string());
    assert_eq!(
        read["versions"]["root"], 3,
        "offline-3 and online were replaced"
    );
}
