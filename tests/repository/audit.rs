//! `slmd fleet audit` watches the log of a real daemon, over a real broker.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::fleet::Fleet;
use crate::support::{Ca, Clock, Daemon, Mosquitto, Publish, Setup, retain_all, run, within};

const PATIENCE: Duration = Duration::from_secs(60);
const WITNESS: &str = "witness.example/plant";
const TOPIC: &str = "slm/trust/plant/witness/edge-1/witness.example%2Fplant";

/// A manager's machine, and a device whose log it watches.
struct Scene {
    fleet: Fleet,
    broker: Mosquitto,
    to: String,
    clock: Clock,
    device: Daemon,
}

impl Scene {
    fn new() -> Scene {
        let (fleet, broker) = (Fleet::new(), Mosquitto::start());
        let made = fleet.json(&["audit", "--init", WITNESS]);
        let key = made["key"].as_str().expect("it is told");
        let settings = format!(
            "[fleet]\nname = \"plant\"\nmirrors = [\"mqtt\"]\n\
             [audit]\ncheckpoint_records = 1\ncheckpoint_interval = \"1s\"\n\
             [[audit.witness]]\nkey = {key:?}\n"
        );
        let clock = Clock::new();
        let setup = Setup::new().broker(&broker).with(&settings);
        let device = Daemon::start(clock.of(setup));
        let shown = device.slmd(&["device", "id", "--json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        fleet.ok(&["enroll", "edge-1", shown["x"].as_str().expect("a key")]);
        Scene {
            to: format!("mqtt://127.0.0.1:{}", broker.port()),
            fleet,
            broker,
            clock,
            device,
        }
    }

    /// What a run of it says of the device, and whether it was content.
    fn audit(&self, options: &[&str]) -> (Value, bool) {
        let given = ["audit", "--from", &self.to, "--json"];
        let output = self.fleet.run(&[&given, options].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let told: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
        (told["devices"][0].clone(), output.status.success())
    }

    /// Runs it until it has this to say: reports take a moment. What is good exits well, and nothing
    /// else does.
    fn until(&self, state: &str) -> Value {
        within(PATIENCE, state, || {
            let (row, content) = self.audit(&[]);
            eprintln!("waiting for {state}: {row}");
            assert!(
                row["state"] == "never" || content == (row["state"] == "good"),
                "{row}"
            );
            (row["state"] == state).then_some(row)
        })
    }

    fn until_size(&self, least: u64) -> u64 {
        within(PATIENCE, "a larger log", || {
            let size = self.until("good")["size"].as_u64();
            size.filter(|size| *size >= least)
        })
    }

    fn standing(&self) -> Value {
        self.device.status()["audit"]["witnesses"][0].clone()
    }

    /// Until the device has what was cosigned.
    fn until_cosigned(&self, size: u64) {
        within(PATIENCE, "what was cosigned", || {
            (self.standing()["cosigned"]["size"].as_u64() >= Some(size)).then_some(())
        });
    }

    /// Records something, and reports once more.
    fn grow(&mut self, times: usize) -> u64 {
        for _ in 0..times {
            let reloaded = self.device.slmd(&["reload"]);
            assert!(reloaded.status.success(), "{reloaded:?}");
        }
        self.again(|| ());
        self.device.status()["audit"]["next_index"]
            .as_u64()
            .expect("a number")
            - 1
    }

    fn again(&mut self, meanwhile: impl FnOnce()) {
        self.device.terminate();
        meanwhile();
        self.device.launch_again();
    }

    /// An hour later, so that its reports have numbers that were never used.
    fn set_back(&mut self, kept: &Path, state: &Path) {
        self.clock.set("+1h");
        self.again(|| copy(kept, state));
    }

    /// Where the witness keeps what it has seen of the device.
    fn seen(&self) -> PathBuf {
        let log = self.fleet.folder().join("audit/edge-1");
        let key = fs::read_dir(&log).expect("it was seen").next();
        key.expect("it has a key").expect("it can be read").path()
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = run(Command::new("cp").arg("-a").args([from, to]), b"", PATIENCE);
    assert!(copied.status.success(), "{copied:?}");
}

#[test]
fn a_log_that_was_set_back_is_refused_though_the_device_has_signed_it() {
    let mut scene = Scene::new();
    let first = scene.until("good");
    assert_eq!(
        (&first["epoch"], &first["cosigned"]),
        (&1.into(), &true.into())
    );
    let size = scene.grow(2);
    let seen = scene.until_size(size - 2);
    scene.until_cosigned(seen);
    assert_eq!(scene.standing()["name"], WITNESS);
    poison(&scene, seen);

    // The whole state as it was, with the device's key and its last checkpoint.
    let (state, kept) = (scene.device.state_dir(), scene.fleet.place().join("kept"));
    scene.again(|| copy(&state, &kept));
    let size = scene.grow(4);
    let seen = scene.until_size(size - 2);
    scene.set_back(&kept, &state);
    let row = scene.until("forked");
    assert_eq!(
        (&row["reason"], &row["cosigned"]),
        (&"smaller".into(), &false.into())
    );
    // The device hears of it, too: by what it has signed itself.
    within(PATIENCE, "the alarm", || {
        (scene.standing()["refused"]["reason"] == "ahead").then_some(())
    });
    let records = scene.device.audit(0).join("\n");
    assert_eq!(records.matches("\"audit_witness_refused\"").count(), 1);

    // As many records as there were, and others.
    within(PATIENCE, "the log to grow again", || {
        (scene.grow(3) > seen + 2).then_some(())
    });
    within(PATIENCE, "the proof of that", || {
        (scene.until("forked")["reason"] == "inconsistent").then_some(())
    });
    let row = scene.until("forked");
    let evidence = row["evidence"].as_str().expect("it is kept");
    let evidence = scene.fleet.place().join(evidence);
    for name in ["kept.note", "shown.note"] {
        let note = fs::read_to_string(evidence.join(name)).expect("it is there");
        assert!(note.starts_with("slmd.internal/edge-1/1\n"), "{note}");
    }
    let table = scene.fleet.refused_table(&["audit", "--from", &scene.to]);
    assert!(
        table.contains("FORKED") && table.contains("1 device: 1 FORKED"),
        "{table}"
    );

    // Somebody has looked into it.
    let (row, content) = scene.audit(&["--accept", "edge-1"]);
    assert_eq!((&row["state"], content), (&"good".into(), true), "{row}");
    scene.until("good");
}

/// Nobody has to trust what lies under the device's topic.
fn poison(scene: &Scene, seen: u64) {
    let mine = fs::read_to_string(scene.seen().join("1.note")).expect("it was kept");
    let (plain, _) = mine
        .rsplit_once("\u{2014} witness")
        .expect("it is cosigned");
    let forged = mine.replace(&format!("\n{seen}\n"), &format!("\n{}\n", seen + 1));
    assert_ne!(forged, mine);
    let before = scene.standing()["cosigned"].clone();
    for (payload, reason) in [
        ("garbage", "malformed"),
        (plain, "not_cosigned"),
        (&forged, "foreign"),
        (&"x".repeat(60_000), "malformed"),
    ] {
        scene.broker.publish(&Publish {
            topic: TOPIC,
            payload,
            retain: true,
            ..Publish::default()
        });
        within(PATIENCE, reason, || {
            (scene.standing()["refused"]["reason"] == reason).then_some(())
        });
        let standing = scene.standing();
        assert_eq!(standing["cosigned"], before, "{payload:.80}");
        assert_eq!(standing["alarm"], false, "{payload:.80}");
    }
    // Larger than the device takes: its broker drops it.
    retain_all(
        scene.broker.port(),
        [(TOPIC.to_owned(), vec![b'x'; 200_000])],
    );
    assert_eq!(scene.standing()["cosigned"], before);
    // What the fleet publishes leaves the witness's topics as they are, and its next run mends them.
    scene.until("good");
    scene.fleet.ok(&["publish", "--to", &scene.to]);
    let kept = scene.broker.subscribe("slm/trust/plant/witness/#");
    let kept = kept.next(PATIENCE).expect("it is retained");
    assert_eq!(kept.topic, TOPIC);
    assert!(kept.payload.contains(WITNESS), "{}", kept.payload);
    within(PATIENCE, "what the witness brings", || {
        scene.standing()["refused"].is_null().then_some(())
    });
}

/// The database is set back, and the checkpoint beside it isn't: the device sees that, and begins anew.
#[test]
fn a_log_that_began_anew_waits_for_a_person() {
    let mut scene = Scene::new();
    scene.until("good");
    let (state, kept) = (
        scene.device.state_dir().join("db"),
        scene.fleet.place().join("kept"),
    );
    scene.again(|| copy(&state, &kept));
    let size = scene.grow(4);
    scene.until_size(size - 2);
    scene.set_back(&kept, &state);
    let row = scene.until("began_anew");
    assert_eq!((&row["epoch"], &row["cosigned"]), (&2.into(), &true.into()));
    let (row, content) = scene.audit(&["--accept", "edge-1"]);
    assert_eq!((&row["state"], content), (&"good".into(), true), "{row}");
    scene.grow(1);
    scene.until("good");
    let unknown = scene
        .fleet
        .refused(&["audit", "--from", &scene.to, "--accept", "edge-9"]);
    assert!(unknown.contains("no such device"), "{unknown}");
    let again = scene.fleet.refused(&["audit", "--init", WITNESS]);
    assert!(again.contains("there already"), "{again}");
}

/// A broker as deploy/mqtt has it, where the witness is a user that can bring nothing else.
#[test]
fn the_deployed_broker_lets_a_witness_hear_reports_and_tell_what_it_has_cosigned_alone() {
    let (ca, fleet) = (Ca::new("brokers"), Fleet::new());
    let broker = Mosquitto::deployed(
        &ca.issue("broker"),
        &["edge-1", "edge-1-fleet", "fleet-audit"],
    );
    let made = fleet.json(&["audit", "--init", WITNESS]);
    let password = |user: &str| secret(&fleet.file(user, ""), &Mosquitto::password(user));
    let (own, of_fleet) = (password("edge-1"), password("edge-1-fleet"));
    let of_witness = password("fleet-audit");
    let (url, ca_file) = (format!("mqtts://localhost:{}", broker.port()), ca.file());
    let settings = format!(
        "[mqtt]\nurl = {url:?}\nusername = \"edge-1\"\npassword_file = {own:?}\nreport = true\n\
         [mqtt.tls]\nca_file = {ca_file:?}\n\
         [fleet]\nname = \"plant\"\nmirrors = [\"mqtt\"]\nusername = \"edge-1-fleet\"\n\
         password_file = {of_fleet:?}\n\
         [audit]\ncheckpoint_records = 1\ncheckpoint_interval = \"1s\"\n\
         [[audit.witness]]\nkey = {}\n",
        made["key"]
    );
    let device = Daemon::start(Setup::new().with(&settings));
    let shown = device.slmd(&["device", "id", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    fleet.ok(&["enroll", "edge-1", shown["x"].as_str().expect("a key")]);
    let ca_file = ca_file.display().to_string();
    let as_witness = [
        "--username",
        "fleet-audit",
        "--password-file",
        &of_witness,
        "--ca-file",
        &ca_file,
    ];
    let size = within(PATIENCE, "a report", || {
        let given = ["audit", "--from", &url, "--json"];
        let output = fleet.run(&[&given[..], &as_witness].concat());
        let told: Value = serde_json::from_slice(&output.stdout).ok()?;
        let row = &told["devices"][0];
        (row["state"] == "good").then(|| row["size"].as_u64())?
    });
    within(PATIENCE, "what was cosigned", || {
        let standing = &device.status()["audit"]["witnesses"][0];
        (standing["cosigned"]["size"].as_u64() >= Some(size)).then_some(())
    });

    // What else it publishes the broker refuses, and a subscription brings it nothing of the fleet's.
    let client = |program: &str, rest: &[&str]| {
        let mut command = Command::new(program);
        command.args([
            "-V",
            "5",
            "-h",
            "localhost",
            "-p",
            &broker.port().to_string(),
        ]);
        command.args([
            "--cafile",
            &ca_file,
            "-u",
            "fleet-audit",
            "-i",
            "fleet-audit",
        ]);
        command.args(["-P", &Mosquitto::password("fleet-audit")]);
        run(command.args(rest), b"", PATIENCE)
    };
    for topic in [
        "slm/trust/plant/metadata/timestamp.json",
        "slm/trust/plant/targets/poison",
        "slm/edge-1/trust",
        "slm/edge-1/reply/device-1/1",
    ] {
        let sent = client("mosquitto_pub", &["-q", "1", "-r", "-t", topic, "-m", "x"]);
        let said = String::from_utf8_lossy(&sent.stderr).into_owned();
        assert!(
            said.to_lowercase().contains("not authorized"),
            "{topic}: {sent:?}"
        );
    }
    let heard = client("mosquitto_sub", &["-t", "#", "-F", "%t", "-W", "2"]);
    let heard = String::from_utf8_lossy(&heard.stdout).into_owned();
    let mut heard: Vec<&str> = heard.lines().collect();
    heard.sort_unstable();
    heard.dedup();
    // Beside the report what each user hears.
    heard.retain(|topic| !["slm/edge-1/status", "slm/edge-1/nonce"].contains(topic));
    assert_eq!(heard, ["slm/edge-1/trust"]);
}

/// A file that nobody else may read.
fn secret(file: &str, content: &str) -> String {
    fs::write(file, content).expect("a temporary file");
    fs::set_permissions(file, Permissions::from_mode(0o600)).expect("it is ours");
    file.to_owned()
}
