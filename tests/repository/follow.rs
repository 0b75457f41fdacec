//! A daemon follows what the program has signed and published, where something goes wrong on the way.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use slmd::for_tests::time::{self, Timestamp};

use crate::fleet::{Fleet, jwks};
use crate::support::{
    Ca, Clock, Daemon, Issuer, Kept, Mosquitto, Response, Setup, claims, http, run, within,
};

const PATIENCE: Duration = Duration::from_secs(60);

struct Scene {
    fleet: Fleet,
    broker: Mosquitto,
    to: String,
    device: Daemon,
}

impl Scene {
    /// A device that follows a fleet with one key of the realm `prod`, and calls its own realm this.
    fn new(realm: &str, interval: &str) -> Scene {
        let (fleet, broker) = (Fleet::new(), Mosquitto::start());
        let settings =
            format!("[fleet]\nname = \"plant\"\nmirrors = [\"mqtt\"]\ninterval = {interval:?}\n");
        let setup = Setup::new().realm(&format!("name = {realm:?}"));
        let scene = Scene {
            device: Daemon::start(setup.broker(&broker).with(&settings)),
            to: format!("mqtt://127.0.0.1:{}", broker.port()),
            fleet,
            broker,
        };
        scene.rotate(&["a"]);
        scene.publish();
        let exported = scene.fleet.json(&["export", "stick"]);
        let fingerprint = exported["fingerprint"].as_str().expect("it is told");
        let root = scene.fleet.place().join("stick/root.json");
        let root = root.to_str().expect("UTF-8");
        let pin = ["trust", "pin", root, "--fingerprint", fingerprint];
        for _ in 0..2 {
            let pinned = scene.device.slmd(&pin);
            assert!(pinned.status.success(), "{pinned:?}");
        }
        scene.until_followed();
        scene
    }

    fn rotate(&self, kids: &[&str]) {
        let set = self.fleet.file("set.json", &jwks(kids));
        self.fleet.ok(&["rotate", "prod", "--jwks", &set]);
        self.fleet.sign(&["offline-1", "offline-2"]);
    }

    /// What is published now.
    fn publish(&self) -> Value {
        self.fleet.json(&["publish", "--to", &self.to])
    }

    fn trusted(&self) -> Value {
        self.device.status()["fleet"].clone()
    }

    fn refused(&self) -> Value {
        self.trusted()["mirrors"][0]["refused"]["reason"].clone()
    }

    /// Until the device has what is published.
    fn until_followed(&self) {
        let published = self.publish();
        within(PATIENCE, "what is published", || {
            let trusted = self.trusted();
            let roles = ["root", "timestamp", "targets", "revocation"];
            let all = roles.iter().all(|role| trusted[role] == published[role]);
            (all && self.refused().is_null()).then_some(())
        });
    }

    fn kids(&self) -> Vec<Value> {
        let listed = self.device.admin_http("GET", "/keys", "").json();
        let keys = listed["realms"][0]["keys"].as_array().cloned();
        let keys = keys.unwrap_or_default().into_iter();
        keys.map(|key| key["kid"].clone()).collect()
    }

    /// Enrolls it by what it shows.
    fn enroll(&self) {
        let shown = self.device.slmd(&["device", "id", "--json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        let key = shown["x"].as_str().expect("it has a key");
        for _ in 0..2 {
            self.fleet.ok(&["enroll", "edge-1", key]);
        }
        within(PATIENCE, "the device's report", || {
            let status = self.fleet.json(&["status", "--from", &self.to]);
            (status["devices"][0]["state"] == "up_to_date").then_some(())
        });
    }
}

/// Neither a broker that has lost everything nor one that is told to forget takes anything away.
#[test]
fn a_broker_that_was_emptied_is_filled_again() {
    let mut scene = Scene::new("prod", "1s");
    scene.broker.restart_empty();
    within(PATIENCE, "an empty broker", || {
        (scene.refused() == "missing").then_some(())
    });
    assert_eq!(scene.kids(), ["a"]);
    scene.until_followed();

    // While the device listens, somebody takes the timestamp back.
    let port = scene.broker.port().to_string();
    let stamp = "slm/trust/plant/metadata/timestamp.json";
    let mut clear = Command::new("mosquitto_pub");
    clear.args(["-q", "1", "-r", "-n", "-t", stamp, "-p", &port]);
    let cleared = run(&mut clear, b"", PATIENCE);
    assert!(cleared.status.success(), "{cleared:?}");
    within(PATIENCE, "a broker without a timestamp", || {
        (scene.refused() == "missing").then_some(())
    });
    scene.rotate(&["a", "b"]);
    scene.until_followed();
    assert_eq!(scene.kids(), ["a", "b"]);
    scene.enroll();
}

/// Who has stolen the online key says that nothing after this is new. The key that replaces it counts
/// from one on.
#[test]
fn a_thief_of_the_online_key_is_overtaken() {
    let scene = Scene::new("prod", "1h");
    let cp = Command::new("cp")
        .args(["-a", "fleet", "stolen"])
        .current_dir(scene.fleet.place())
        .status();
    assert!(cp.expect("cp runs").success());
    for _ in 0..5 {
        scene.fleet.ok(&["timestamp", "--fleet", "stolen"]);
    }
    let theirs = ["publish", "--to", &scene.to, "--fleet", "stolen"];
    let theirs = scene.fleet.json(&theirs);
    within(PATIENCE, "the thief's timestamp", || {
        (scene.trusted()["timestamp"] == theirs["timestamp"]).then_some(())
    });
    let refused = scene.fleet.refused(&["publish", "--to", &scene.to]);
    assert!(refused.contains("old copy of the fleet"), "{refused}");

    // As deploy/fleet/README.md says.
    let fleet = &scene.fleet;
    fleet.ok(&["key", "new", "fleet/keys/online-2"]);
    let new = "fleet/keys/online-2.pub.json";
    fleet.ok(&["add-key", new, "--for", "online", "--replace", "online"]);
    fs::remove_file(fleet.folder().join("keys/online.pem")).expect("it was there");
    scene.rotate(&["a", "b"]);
    scene.until_followed();
    assert_eq!(scene.kids(), ["a", "b"]);
    assert!(scene.trusted()["timestamp"].as_u64() < theirs["timestamp"].as_u64());

    // What the thief signs now counts for nobody.
    fleet.ok(&["timestamp", "--fleet", "stolen"]);
    fleet.ok(&["publish", "--to", &scene.to, "--fleet", "stolen"]);
    within(PATIENCE, "the thief's next timestamp", || {
        (!scene.refused().is_null()).then_some(())
    });
    assert_eq!(scene.kids(), ["a", "b"]);
    scene.until_followed();
}

/// It is up to date, takes no keys, and keeps nobody's from being retired.
#[test]
fn a_realm_that_is_not_configured_is_nobodys_until_it_is() {
    let scene = Scene::new("elsewhere", "1h");
    scene.enroll();
    assert_eq!(scene.kids(), Vec::<Value>::new());
    scene.rotate(&["a", "b"]);
    scene.until_followed();
    let retire = ["retire", "prod", "a", "--from", &scene.to];
    let said = scene.fleet.refused(&retire);
    assert!(
        said.contains("no enrolled device is configured for"),
        "{said}"
    );

    let file = scene.device.config_path();
    let text = fs::read_to_string(&file).expect("the test wrote it");
    let text = text.replace("\"elsewhere\"", "\"prod\"");
    fs::write(&file, text).expect("the test wrote it");
    let reloaded = scene.device.slmd(&["reload"]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    within(PATIENCE, "the realm's keys", || {
        (scene.kids() == ["a", "b"]).then_some(())
    });
    within(PATIENCE, "the report of that", || {
        let output = scene.fleet.run(&retire);
        output.status.success().then_some(())
    });
    assert_eq!(scene.kids(), ["a", "b"], "staged isn't published");
}

/// Nothing else tells a device the time whose clock is at 1970: what had ended when its fleet signed
/// stays ended, after a power cut too.
#[test]
fn in_1970_the_fleet_tells_the_time() {
    let (clock, fleet, issuer) = (Clock::new(), Fleet::new(), Issuer::new("ES256", "a"));
    clock.set("@1970-01-01 00:01:00");
    clock.keeps(Kept::ByNobody);
    let set = fleet.file("set.json", &issuer.jwks());
    fleet.ok(&["rotate", "dev", "--jwks", &set]);
    fleet.publish();
    let exported = fleet.json(&["export", "stick"]);
    let stick = fleet.place().join("stick");
    let ca = Ca::new("broker");
    let broker = Mosquitto::deployed(&ca.issue("localhost"), &["edge-1"]);
    let settings = format!(
        "[fleet]\nname = \"plant\"\nmirrors = [{stick:?}]\ninterval = \"1s\"\n\
         [mqtt]\nurl = \"mqtts://localhost:{}\"\nusername = \"edge-1\"\npassword_file = {:?}\n\
         reconnect_max = \"2s\"\n[mqtt.tls]\nca_file = {:?}\n",
        broker.port(),
        fleet.secret("password", &Mosquitto::password("edge-1")),
        ca.file()
    );
    let mut device = Daemon::start(clock.of(Setup::new().with(&settings)));
    let floor = |device: &Daemon| device.status()["clock"]["floor"].clone();
    let signed = time::now().as_secs();
    let an_hour_ago = Timestamp::from_secs(signed - 3600).to_string();
    let before = floor(&device);
    assert!(before.as_str().expect("a time") < &*an_hour_ago, "{before}");

    let fingerprint = exported["fingerprint"].as_str().expect("it is told");
    let root = stick.join("root.json").display().to_string();
    let pinned = device.slmd(&["trust", "pin", &root, "--fingerprint", fingerprint]);
    assert!(pinned.status.success(), "{pinned:?}");
    within(PATIENCE, "the fleet's word on the time", || {
        (floor(&device).as_str()? > &*an_hour_ago).then_some(())
    });
    let mut says = claims();
    let good = issuer.token(&says);
    says["iat"] = (signed - 7200).into();
    says["exp"] = (signed - 3600).into();
    let ended = issuer.token(&says);
    // By that time the broker's certificate counts, which by its own clock comes from the future.
    within(PATIENCE, "the broker over TLS", || {
        device.status()["mqtt"]["connected"]
            .as_bool()?
            .then_some(())
    });
    for _ in 0..2 {
        let answer = look(&device, &ended);
        assert_eq!(answer.json()["error"]["code"], "expired", "{answer:?}");
        assert_eq!(look(&device, &good).status, 200);
        device.kill9();
        device.launch_again();
    }
}

/// Asks for something that costs no answer.
fn look(device: &Daemon, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    http(&device.socket(), "GET", "/v1/models", &headers, "")
}
