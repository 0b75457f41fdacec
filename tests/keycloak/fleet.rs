//! A fleet's managers bring a real Keycloak's new key to three devices over a broker, and take the old
//! one away when none needs it: no good token is refused on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};
use slmd::for_tests::time::instant;

use crate::admin::{State, fresh_realm};
use crate::appliance::section;
use crate::grants::{Realm, claims, header};
use crate::managers;
use crate::support::{Daemon, Mosquitto, Response, Setup, chat, http, send, within};

/// A device reports a change ten seconds after the last one at the latest; its machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
const NAMES: [&str; 3] = ["edge-1", "edge-2", "edge-3"];

/// Asks for something that costs no answer.
fn look(socket: &Path, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    http(socket, "GET", "/v1/models", &headers, "")
}

fn code(response: &Response) -> Value {
    match response.status {
        200 => Value::Null,
        _ => response.json()["error"]["code"].clone(),
    }
}

/// With the socket of the device that they are good for.
type Tokens = Vec<(PathBuf, String)>;

/// Asks all the time with tokens that have to be good, as the devices' clients do.
struct Asking {
    tokens: Arc<Mutex<Tokens>>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Asking {
    fn start() -> Asking {
        let tokens = Arc::<Mutex<Tokens>>::default();
        let over = Arc::<AtomicBool>::default();
        let (good, ends) = (Arc::clone(&tokens), Arc::clone(&over));
        let thread = thread::spawn(move || {
            let mut asked = 0;
            while !ends.load(Ordering::Relaxed) {
                // Held while they are asked with: what is taken off isn't under way.
                for (socket, token) in &*good.lock().expect("nobody panicked") {
                    let response = look(socket, token);
                    let kid = &header(token)["kid"];
                    assert_eq!(
                        response.status, 200,
                        "{kid} at {socket:?}: {}",
                        response.body
                    );
                    asked += 1;
                }
                thread::sleep(Duration::from_millis(50));
            }
            asked
        });
        Asking {
            tokens,
            over,
            thread,
        }
    }

    /// From now on, with this one at these devices.
    fn with(&self, token: &str, devices: &[Daemon]) {
        let more = devices
            .iter()
            .map(|daemon| (daemon.socket(), token.to_owned()));
        let mut tokens = self.tokens.lock().expect("a good token was refused");
        tokens.extend(more);
    }

    fn without(&self, token: &str) {
        let mut tokens = self.tokens.lock().expect("a good token was refused");
        tokens.retain(|(_, good)| good != token);
    }

    /// How often it has asked.
    fn end(self) -> u32 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("a good token was refused")
    }
}

struct Scene {
    realm: Realm,
    managers: managers::Fleet,
    _broker: Mosquitto,
    devices: Vec<Daemon>,
}

impl Scene {
    /// Three devices that have the realm's keys from the fleet, and have said so.
    fn new(name: &str) -> Scene {
        let realm = fresh_realm(name);
        let lasting = json!({"attributes": {"access.token.lifespan": "3600"}});
        realm.admin().change_client("device-1", &lasting);
        let (broker, managers) = (Mosquitto::start(), managers::Fleet::empty());
        let issuer = format!("{name}={}", realm.issuer());
        let ca = realm.server.ca_file().display().to_string();
        managers.ok(&["init", "plant", "--realm", &issuer, "--ca-file", &ca]);
        let settings = managers.folder().join("fleet.toml");
        let text = fs::read_to_string(&settings).expect("init wrote it");
        let port = broker.port();
        let text = format!("{text}[[publish]]\nto = \"mqtt://127.0.0.1:{port}\"\n");
        fs::write(settings, text).expect("it is ours");
        // The tests ask all the time.
        let often = "[admission]\noperations_per_minute = 100000\n";
        let device = |name: &&str| {
            let fleet = format!(
                "device = {name:?}\n[fleet]\nname = \"plant\"\nmirrors = [\"mqtt\"]\n\
                 interval = \"1h\"\n"
            );
            let setup = Setup::new()
                .with(&section(&realm, ""))
                .with(&fleet)
                .with(often);
            Daemon::start(setup.broker(&broker))
        };
        let scene = Scene {
            devices: NAMES.iter().map(device).collect(),
            realm: realm.clone(),
            managers,
            _broker: broker,
        };
        scene.rotate(1);
        scene.publish();
        scene.admit();
        scene
    }

    /// Pins the fleet's root on each device, and has each device's reports count.
    fn admit(&self) {
        let exported = self.managers.json(&["export", "stick"]);
        let fingerprint = exported["fingerprint"].as_str().expect("it is told");
        let root = self.managers.place().join("stick/root.json");
        let root = root.to_str().expect("UTF-8");
        for daemon in &self.devices {
            let pinned = daemon.slmd(&["trust", "pin", root, "--fingerprint", fingerprint]);
            assert!(pinned.status.success(), "{pinned:?}");
            let shown = daemon.slmd(&["device", "id"]);
            let shown = String::from_utf8(shown.stdout).expect("UTF-8");
            let words: Vec<&str> = shown.split_whitespace().collect();
            let [name, _, key] = words[..] else {
                panic!("{shown}");
            };
            self.managers.ok(&["enroll", name, key]);
        }
        self.until_all("up_to_date");
    }

    /// Stages the keys that Keycloak serves; so many are new.
    fn rotate(&self, added: usize) {
        let rotated = self.managers.json(&["rotate", &self.realm.name]);
        let found = rotated["added"].as_array().map(Vec::len);
        assert_eq!(found, Some(added), "{rotated}");
    }

    fn publish(&self) {
        self.managers.sign(&["offline-1", "offline-3"]);
        self.managers.ok(&["publish"]);
    }

    fn token(&self) -> String {
        self.realm.service("device-1", None).access
    }

    fn state(&self, device: &str) -> Value {
        let status = self.managers.json(&["status"]);
        let rows = status["devices"].as_array().expect("a list");
        let row = rows.iter().find(|row| row["device"] == device);
        row.expect("it is enrolled").clone()
    }

    fn until(&self, device: &str, state: &str) {
        within(PATIENCE, &format!("{device}: {state}"), || {
            (self.state(device)["state"] == state).then_some(())
        });
    }

    fn until_all(&self, state: &str) {
        NAMES.iter().for_each(|name| self.until(name, state));
    }

    /// Until these devices say that about a token; `null`: they take it.
    fn until_told(&self, devices: &[Daemon], token: &str, wanted: &Value) {
        for daemon in devices {
            within(PATIENCE, &format!("{wanted} of a token"), || {
                (code(&look(&daemon.socket(), token)) == *wanted).then_some(())
            });
        }
    }

    /// What the managers refuse to retire, and why.
    fn keeps(&self, kid: &str) -> String {
        self.managers.refused(&["retire", &self.realm.name, kid])
    }

    /// An answer that runs with a token ends when the token is revoked.
    fn revoke_while_it_answers(&mut self, token: &str) {
        let daemon = &mut self.devices[0];
        daemon.until_ready();
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let story = chat("Write a long story about a ship.", 400, true);
        let story = story.replace("\"slm\"", "\"slm-chat\"");
        let path = "/v1/chat/completions";
        let jti = claims(token)["jti"]
            .as_str()
            .expect("it has one")
            .to_owned();
        self.managers
            .ok(&["revoke", &self.realm.name, "--jti", &jti]);
        let mut stream = send(&daemon.socket(), "POST", path, &headers, &story).expect("an answer");
        let mut rest = String::new();
        // The prompt is behind it.
        while rest.matches("\"content\":").count() < 3 {
            let piece = stream.chunk().expect("a piece").expect("a piece");
            rest.push_str(&String::from_utf8_lossy(&piece));
        }
        let reader = thread::spawn(move || {
            while let Some(piece) = stream.chunk().expect("the stream ends in order") {
                rest.push_str(&String::from_utf8_lossy(&piece));
            }
            (rest, instant())
        });
        self.managers.ok(&["publish"]);
        let published = instant();
        let (rest, ended) = reader.join().expect("it reads to the end");
        assert!(rest.contains("revoked"), "{rest}");
        let took = ended.saturating_duration_since(published);
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[test]
fn a_rotation_reaches_every_device_and_refuses_no_good_token() {
    let mut scene = Scene::new("fleet");
    let (old, mallory) = (scene.token(), scene.token());
    let asking = Asking::start();
    asking.with(&old, &scene.devices[..2]);
    assert_eq!(look(&scene.devices[2].socket(), &old).status, 200);
    scene.devices[2].terminate();

    // Beside the old one, which still signs.
    let admin = scene.realm.admin();
    let [first] = admin.rsa_keys().try_into().expect("a new realm has one");
    let config = json!({"priority": ["50"], "algorithm": ["RS256"]});
    admin.generate_key("rsa", &config);
    let (old_kid, still) = (header(&old)["kid"].clone(), scene.token());
    assert_eq!(header(&still)["kid"], old_kid);
    scene.rotate(1);
    scene.publish();
    for name in &NAMES[..2] {
        scene.until(name, "up_to_date");
    }
    let away = scene.state("edge-3");
    assert_eq!(away["state"], "behind");
    assert_eq!(away["behind"], json!(["targets"]));

    // The new one signs.
    scene.realm.admin().set_key(&first, State::Passive);
    let new = scene.token();
    assert_ne!(header(&new)["kid"], old_kid);
    asking.with(&new, &scene.devices[..2]);
    let old_kid = old_kid.as_str().expect("a kid");
    let said = scene.keeps(old_kid);
    let lacks = "\n  edge-3: it lacks 1 of the realm's other keys";
    assert!(said.contains(lacks) && !said.contains("edge-1"), "{said}");

    scene.until_told(&scene.devices[..2], &mallory, &Value::Null);
    scene.revoke_while_it_answers(&mallory);
    scene.until_told(&scene.devices[..2], &mallory, &json!("revoked"));

    // Back again, it has what it had, and takes what has come since.
    scene.devices[2].launch_again();
    asking.with(&old, &scene.devices[2..]);
    scene.until_told(&scene.devices[2..], &new, &Value::Null);
    asking.with(&new, &scene.devices[2..]);
    scene.until_told(&scene.devices[2..], &mallory, &json!("revoked"));
    scene.until_all("up_to_date");

    // Nobody needs the old one any more.
    asking.without(&old);
    scene.realm.admin().remove_key(&first);
    scene.managers.ok(&["retire", &scene.realm.name, old_kid]);
    scene.publish();
    scene.until_told(&scene.devices, &old, &json!("key_unknown"));
    scene.until_all("up_to_date");
    let said = scene.keeps(old_kid);
    assert!(said.contains(old_kid), "{said}");
    let asked = asking.end();
    assert!(asked > 100, "{asked}");
    println!("{asked} good tokens, none refused");
}
