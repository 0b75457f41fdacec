//! Devices report, and the manager sees who is behind and what may be retired.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use slmd::for_tests::identity::PublicKey;
use slmd::for_tests::time;

use crate::fleet::{Fleet, jwks};
use crate::support::{Mosquitto, Publish, retain_all};

struct Device {
    name: &'static str,
    key: Ed25519KeyPair,
}

impl Device {
    fn new(name: &'static str) -> Device {
        let key = Ed25519KeyPair::generate().expect("random numbers");
        Device { name, key }
    }

    fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref())
    }

    /// A report of `seconds` ago with these versions and the thumbprints of keys in force.
    fn report(
        &self,
        counter: u64,
        seconds: u64,
        [targets, revocation]: [u64; 2],
        keys: &Value,
    ) -> String {
        let at = time::Timestamp::from_secs(time::now().as_secs() - seconds).to_string();
        let report = json!({"version": 1, "device": self.name, "counter": counter, "time": at,
            "synchronised": true, "floor": at, "slmd": "0.1.0",
            "fleet": {"name": "plant", "root": 1, "timestamp": 1, "snapshot": 1,
                "targets": targets, "revocation": revocation},
            "realms": {"prod": {"keys": keys, "kids": [], "denied": 0}}, "models": {}});
        let public = PublicKey::parse(&self.x()).expect("it is a key");
        let kid = public.thumbprint();
        let header = json!({"alg": "EdDSA", "typ": "slmd-report+jwt", "kid": kid});
        let parts = [header, report].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let input = parts.join(".");
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(input.as_bytes()));
        format!("{input}.{signature}")
    }
}

fn say(broker: &Mosquitto, device: &str, report: &str) {
    let topic = format!("slm/{device}/trust");
    broker.publish(&Publish {
        topic: &topic,
        payload: report,
        retain: true,
        ..Publish::default()
    });
}

#[test]
fn an_old_key_is_retired_when_no_device_needs_it() {
    let fleet = Fleet::new();
    let broker = Mosquitto::start();
    let to = format!("mqtt://127.0.0.1:{}", broker.port());
    let set = fleet.file("set.json", &jwks(&["a"]));
    fleet.ok(&["rotate", "prod", "--jwks", &set]);
    let set = fleet.file("set.json", &jwks(&["b"]));
    let rotated = fleet.json(&["rotate", "prod", "--jwks", &set]);
    let thumbprint = |list: &str| rotated[list][0]["thumbprint"].clone();
    let (new, old) = (thumbprint("added"), thumbprint("kept"));
    fleet.publish();
    let said = fleet.refused(&["retire", "prod", "a", "--from", &to]);
    assert!(said.contains("no device is enrolled"), "{said}");

    let [one, two, three] = ["edge-1", "edge-2", "edge-3"].map(Device::new);
    for device in [&one, &two, &three] {
        fleet.ok(&["enroll", device.name, &device.x()]);
    }
    say(
        &broker,
        "edge-1",
        &one.report(5, 60, [2, 1], &json!([old, new])),
    );
    say(
        &broker,
        "edge-2",
        &two.report(1, 90_000, [1, 1], &json!([old])),
    );
    // Somebody else speaks for edge-3, and for a device that nobody knows.
    say(&broker, "edge-3", &two.report(9, 0, [2, 1], &json!([new])));
    say(&broker, "edge-4", &one.report(9, 0, [2, 1], &json!([new])));
    let status = fleet.json(&["status", "--from", &to]);
    let states: Vec<(&str, &str)> = status["devices"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| {
            (
                row["device"].as_str().unwrap(),
                row["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        states,
        [
            ("edge-3", "refused"),
            ("edge-2", "silent"),
            ("edge-1", "up_to_date")
        ]
    );
    let table = fleet.ok(&["status", "--from", &to]);
    assert!(
        table.starts_with("DEVICE") && table.contains("edge-2  silent"),
        "{table}"
    );
    assert!(table.contains("lacks the newest targets"), "{table}");
    assert!(
        table.contains("3 devices: 1 up to date, 1 silent, 1 refused"),
        "{table}"
    );
    let metrics = fleet.ok(&["status", "--from", &to, "--prometheus"]);
    assert!(
        metrics.contains("slmd_fleet_devices{state=\"silent\"} 1"),
        "{metrics}"
    );

    let said = fleet.refused(&["retire", "prod", "a", "--from", &to]);
    assert!(
        said.contains("edge-2: it lacks 1") && said.contains("edge-3: its report"),
        "{said}"
    );
    say(
        &broker,
        "edge-3",
        &three.report(1, 0, [2, 1], &json!([new])),
    );
    let said = fleet.refused(&["retire", "prod", "a", "--from", &to]);
    assert!(
        said.contains("edge-2") && !said.contains("edge-3"),
        "{said}"
    );
    // edge-2 has said nothing for a day.
    let an_hour_ago = (time::now().as_secs() - 3600).to_string();
    fleet.ok(&[
        "retire",
        "prod",
        "a",
        "--from",
        &to,
        "--after",
        &an_hour_ago,
    ]);
    fleet.publish();
    let read = fleet.read("c", &fleet.folder(), &["realms/prod/jwks.json"]);
    let keys = read["targets"]["realms/prod/jwks.json"]
        .as_str()
        .expect("it is there");
    assert!(
        keys.contains("\"kid\":\"b\"") && !keys.contains("\"kid\":\"a\""),
        "{keys}"
    );
    assert!(
        fleet
            .refused(&["retire", "prod", "b", "--from", &to])
            .contains("last key")
    );

    // An old report, shown again, doesn't count; a box that was replaced starts anew.
    say(&broker, "edge-1", &one.report(4, 0, [2, 1], &json!([new])));
    let state = |name: &str| {
        let status = fleet.json(&["status", "--from", &to]);
        let rows = status["devices"].as_array().expect("a list").clone();
        rows.into_iter()
            .find(|row| row["device"] == name)
            .expect("it is enrolled")
    };
    assert!(
        state("edge-1")["error"]
            .as_str()
            .unwrap()
            .contains("counter")
    );
    let other = Device::new("edge-1");
    assert!(
        fleet
            .refused(&["enroll", "edge-1", &other.x()])
            .contains("--replace")
    );
    fleet.ok(&["enroll", "edge-1", &other.x(), "--replace"]);
    say(
        &broker,
        "edge-1",
        &other.report(1, 0, [2, 1], &json!([new])),
    );
    assert_eq!(state("edge-1")["state"], "behind");
    assert_eq!(state("edge-1")["behind"], json!(["targets"]));
}

#[test]
fn reports_can_be_brought_in_a_folder() {
    let fleet = Fleet::new();
    let device = Device::new("edge-1");
    fleet.ok(&["enroll", "edge-1", &device.x()]);
    // One in 64 keys begins with a hyphen.
    let hyphen = "-4R98lp_nmx-7MQZqDh0MWyxNRTCxkMzlTmQpHNb0_w";
    fleet.ok(&["enroll", "edge-2", hyphen, "--replace"]);
    let said = fleet.refused(&["status"]);
    assert!(said.contains("give --from WHERE"), "{said}");
    std::fs::create_dir(fleet.place().join("reports")).expect("a temporary folder");
    let report = device.report(1, 0, [1, 1], &json!([]));
    fleet.file("reports/edge-1", &format!("{report}\n"));
    let status = fleet.json(&["status", "--from", "reports"]);
    let states = [0, 1].map(|row| status["devices"][row]["state"].clone());
    assert_eq!(states, ["never", "up_to_date"]);
}

/// More than a broker queues for one client, whatever anybody else has put beside them.
#[test]
fn all_of_a_large_fleet_are_heard() {
    const DEVICES: usize = 1300;
    let fleet = Fleet::new();
    let device = Device::new("edge-1");
    fleet.ok(&["enroll", "edge-1", &device.x()]);
    let folder = fleet.folder().join("devices");
    let enrolled = std::fs::read(folder.join("edge-1.json")).expect("it is enrolled");
    let names = || (0..DEVICES).map(|number| format!("box-{number}"));
    for name in names() {
        std::fs::write(folder.join(format!("{name}.json")), &enrolled).expect("a temporary file");
    }
    let broker = Mosquitto::start();
    // One key and name for all: that their reports come is what counts here.
    let report = device.report(1, 0, [1, 1], &json!([])).into_bytes();
    let foreign = (0..DEVICES).map(|number| format!("a-{number}"));
    let messages = foreign.chain(names());
    let messages = messages.map(|name| (format!("slm/{name}/trust"), report.clone()));
    retain_all(broker.port(), messages);
    let to = format!("mqtt://127.0.0.1:{}", broker.port());
    let status = fleet.json(&["status", "--from", &to]);
    let rows = status["devices"].as_array().expect("a list");
    let said = |state: &str| rows.iter().filter(|row| row["state"] == state).count();
    assert_eq!(
        (rows.len(), said("refused"), said("never")),
        (1301, 1300, 1)
    );
}
