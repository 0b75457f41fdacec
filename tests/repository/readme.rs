//! `deploy/fleet/README.md` is true: its commands work as they stand, in their order, the managers' and
//! those on a device, whose daemon follows all of it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use slmd::for_tests::time::instant;

use crate::fleet::{Fleet, jwks};
use crate::support::{Ca, Daemon, Mosquitto, Setup, root, run, within};

const PATIENCE: Duration = Duration::from_secs(300);
/// For a device to hear of what is published, and for its report of that.
const SOON: Duration = Duration::from_secs(60);

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

/// A fenced block: what it is, and its text.
struct Block {
    kind: String,
    text: String,
}

/// In their order.
fn blocks() -> Vec<Block> {
    let text = fs::read_to_string(root().join("deploy/fleet/README.md")).expect("it is there");
    let fenced = text.split("```").skip(1).step_by(2);
    let block = |block: &str| {
        let (kind, text) = block.split_once('\n').expect("a fence has a line");
        Block {
            kind: kind.to_owned(),
            text: text.to_owned(),
        }
    };
    fenced.map(block).collect()
}

fn of_kind(kind: &str) -> String {
    let found = blocks().into_iter().filter(|block| block.kind == kind);
    found.map(|block| block.text).collect()
}

/// A manager's machine, a device's, and what is between them.
struct Scene {
    managers: Fleet,
    broker: Mosquitto,
    keycloak: u16,
    device: Daemon,
    /// The key that the device has shown.
    key: Option<String>,
}

impl Scene {
    fn new() -> Scene {
        let managers = Fleet::empty();
        let place = managers.place();
        let ca = Ca::new("fleet");
        let users = ["fleet", "edge-1", "edge-1-fleet"];
        let broker = Mosquitto::deployed(&ca.issue("localhost"), &users);
        for name in ["keycloak-ca.pem", "broker-ca.pem"] {
            fs::copy(ca.file(), place.join(name)).expect("a temporary file");
        }
        managers.secret("broker-password", &Mosquitto::password("fleet"));
        managers.file("policy.json", &of_kind("json"));
        let password = |user: &str| managers.secret(user, &Mosquitto::password(user));
        let mqtt = format!(
            "[mqtt]\nurl = \"mqtts://localhost:{}\"\nusername = \"edge-1\"\n\
             password_file = {:?}\nreconnect_max = \"2s\"\n[mqtt.tls]\nca_file = {:?}\n",
            broker.port(),
            password("edge-1"),
            place.join("broker-ca.pem")
        );
        let stick = place.join("stick").display().to_string();
        let fleet = of_kind("toml")
            .replace("/media/usb/slmd", &stick)
            .replace("/etc/slmd/fleet-password", &password("edge-1-fleet"));
        let setup = Setup::new().realm("name = \"prod\"").with(&mqtt);
        let scene = Scene {
            device: Daemon::start(setup.with(&fleet)),
            keycloak: keycloak(),
            managers,
            broker,
            key: None,
        };
        // Nobody is there to look at what is signed.
        scene.program("bin", "[ \"$2\" != sign ] || set -- \"$@\" --yes", "");
        // Nor to compare a fingerprint with the one that export has told.
        let pin = "[ \"$2\" != pin ] || set -- \"$@\" --fingerprint \"$FINGERPRINT\"";
        let config = format!("--config {}", scene.device.config_path().display());
        scene.program("device", pin, &config);
        scene
    }

    /// `slmd` as it is called in this folder's `PATH`.
    fn program(&self, folder: &str, before: &str, options: &str) {
        let folder = self.managers.place().join(folder);
        let program = env!("CARGO_BIN_EXE_slmd");
        let wrapper = format!("#!/bin/sh\n{before}\nexec {program} {options} \"$@\"\n");
        fs::create_dir(&folder).expect("a temporary folder");
        let program = folder.join("slmd");
        fs::write(&program, wrapper).expect("a temporary file");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }

    /// What a person's shell does with it.
    fn types(&self, text: &str, program: &str, place: &Path, fingerprint: &str) -> String {
        let script = format!("set -euo pipefail\n{text}");
        let bin = self.managers.place().join(program);
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-c", &script])
            .current_dir(place)
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("FINGERPRINT", fingerprint)
            .env("SLMD_FLEET_PASSPHRASE_FILE", "passphrase");
        let output = run(&mut command, b"", PATIENCE);
        let said = String::from_utf8_lossy(&output.stderr);
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{said}\n{shown}");
        shown.into_owned()
    }

    fn on_the_managers_machine(&self, text: &str) -> String {
        let broker = format!("localhost:{}", self.broker.port());
        let keycloak = format!("http://127.0.0.1:{}", self.keycloak);
        let mut text = text
            .replace("broker.example:8883", &broker)
            .replace("https://keycloak.example", &keycloak)
            .replace("OLD-KID", "a");
        if let Some(key) = &self.key {
            text = text.replace("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", key);
        }
        self.types(&text, "bin", self.managers.place(), "")
    }

    /// `stick` is what export has written last.
    fn on_the_device(&mut self, text: &str, (stick, told): &(PathBuf, String)) {
        let shown = self.types(text, "device", stick, told);
        if text.contains("device id") {
            let words: Vec<&str> = shown.lines().last().unwrap_or("").split(' ').collect();
            let ["edge-1", _, key] = words[..] else {
                panic!("{shown}");
            };
            self.key = Some(key.to_owned());
        }
    }

    fn state(&self) -> Value {
        self.managers.json(&["status"])["devices"][0]["state"].clone()
    }

    fn until_up_to_date(&self) {
        within(SOON, "the device's report", || {
            (self.state() == "up_to_date").then_some(())
        });
    }

    /// Of the realm's keys in force on the device.
    fn kids(&self) -> Vec<Value> {
        let listed = self.device.admin_http("GET", "/keys", "").json();
        let keys = listed["realms"][0]["keys"].as_array().expect("a list");
        keys.iter().map(|key| key["kid"].clone()).collect()
    }

    fn trusted(&self) -> Value {
        self.device.status()["fleet"].clone()
    }
}

/// The folder that was exported to, and the fingerprint of its root.
fn exported(place: &Path, shown: &str) -> Option<(PathBuf, String)> {
    let after = |text: &str| {
        let found = shown.lines().find_map(|line| line.strip_prefix(text));
        found.map(str::to_owned)
    };
    let folder = place.join(after("exported to ")?);
    Some((folder, after("root.json has the fingerprint ")?))
}

#[test]
fn from_nothing_to_a_rotation_and_through_every_loss() {
    let mut scene = Scene::new();
    let (begun, mut stick) = (instant(), None);
    let mut shown = String::new();
    for Block { kind, text } in blocks() {
        match kind.as_str() {
            "sh" if text.contains("fleet retire") => {
                scene.until_up_to_date();
                assert_eq!(scene.kids(), ["a", "b"]);
                let took = instant().saturating_duration_since(begun);
                println!("from nothing to a rotation in {took:?}");
                assert!(took < Duration::from_secs(600), "{took:?}");
                scene.on_the_managers_machine(&text);
            }
            "sh" => {
                let said = scene.on_the_managers_machine(&text);
                stick = exported(scene.managers.place(), &said).or(stick);
                shown.push_str(&said);
            }
            "sh device" => {
                if scene.key.is_some() {
                    // The last loss: what the fleet of before has signed is in force until then.
                    scene.until_up_to_date();
                    assert_eq!(scene.kids(), ["b"]);
                    assert_eq!(
                        scene.trusted()["root"],
                        3,
                        "offline-3 and online were replaced"
                    );
                    let lifted = &scene.trusted()["revoked"]["prod"];
                    assert_eq!(*lifted, 0, "it was lifted");
                }
                scene.on_the_device(&text, stick.as_ref().expect("it is exported"));
            }
            _ => {}
        }
    }
    assert!(shown.contains("edge-1"), "{shown}");
    let (folder, told) = stick.expect("it is exported");
    assert!(folder.ends_with("new-stick"), "{folder:?}");
    assert_eq!(scene.trusted()["root_fingerprint"], told.as_str());
    assert_eq!(scene.trusted()["root"], 1);
    assert_eq!(
        scene.kids(),
        ["b"],
        "keys stay until the new fleet has some"
    );

    let fleet = &scene.managers;
    let paths = ["realms/prod/jwks.json", "policy.json"];
    let read = fleet.read("c", &fleet.folder(), &paths);
    let keys = read["targets"][paths[0]].as_str().expect("it is there");
    assert!(
        keys.contains("\"kid\":\"b\"") && !keys.contains("\"kid\":\"a\""),
        "{keys}"
    );
    assert!(read["targets"][paths[1]].is_string());
}
