//! What is published to a real mosquitto is what a device finds there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::fleet::{Fleet, jwks};
use crate::support::{Ca, Mosquitto, Publish, exit, retain_all, run, signal};

/// What the broker retains beneath the fleet's topics, laid down as a mirror's folder.
pub fn retained(broker: &Mosquitto, mirror: &Path) -> BTreeMap<String, Vec<u8>> {
    let _ = fs::remove_dir_all(mirror);
    let mut subscribe = Command::new("mosquitto_sub");
    subscribe.args([
        "-V",
        "5",
        "-p",
        &broker.port().to_string(),
        "-t",
        "slm/trust/plant/#",
    ]);
    subscribe.args(["-F", "%r %t %x", "-W", "2"]);
    let output = run(&mut subscribe, b"", Duration::from_secs(20));
    let lines = String::from_utf8(output.stdout).expect("topics and hexadecimal digits");
    let mut found = BTreeMap::new();
    for line in lines.lines() {
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some("1"), "{line}");
        let topic = words.next().expect("a topic");
        let path = topic
            .strip_prefix("slm/trust/plant/")
            .expect("a topic of the fleet");
        let hex = words.next().unwrap_or_default().as_bytes();
        let digits = hex
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).expect("ASCII"));
        let bytes: Vec<u8> = digits
            .map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal"))
            .collect();
        let file = mirror.join(path);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a temporary folder");
        fs::write(&file, &bytes).expect("a temporary file");
        found.insert(path.to_owned(), bytes);
    }
    found
}

#[test]
fn a_broker_retains_what_devices_need_and_nothing_else() {
    let fleet = Fleet::new();
    let broker = Mosquitto::start();
    let to = format!("mqtt://127.0.0.1:{}", broker.port());
    let mirror = fleet.place().join("seen");
    fleet.ok(&["publish", "--to", &to]);
    let set = fleet.file("set.json", &jwks(&["a"]));
    fleet.ok(&["rotate", "prod", "--jwks", &set]);
    fleet.sign(&["offline-1", "offline-2"]);
    fleet.ok(&["publish", "--to", &to]);
    let first = retained(&broker, &mirror);
    let read = fleet.read("c", &mirror, &["realms/prod/jwks.json"]);
    assert_eq!(read["versions"]["targets"], 2);
    assert!(read["targets"]["realms/prod/jwks.json"].is_string());

    // Once more, it is so already. What somebody else has left there goes.
    for topic in [
        "metadata/9.root.json",
        "metadata/1.targets.jsonx",
        "targets/poison",
    ] {
        let topic = format!("slm/trust/plant/{topic}");
        broker.publish(&Publish {
            topic: &topic,
            payload: "poison",
            retain: true,
            ..Publish::default()
        });
    }
    // Not even a timestamp of a version that never was keeps us from publishing.
    let stamp = fs::read_to_string(fleet.folder().join("metadata/timestamp.json"));
    let forged = stamp
        .expect("it is there")
        .replace("\"version\":2", "\"version\":4000000");
    broker.publish(&Publish {
        topic: "slm/trust/plant/metadata/timestamp.json",
        payload: &forged,
        retain: true,
        ..Publish::default()
    });
    fleet.ok(&["publish", "--to", &to]);
    assert_eq!(retained(&broker, &mirror), first);

    for _ in 0..3 {
        fleet.ok(&["renew", "targets"]);
        fleet.sign(&["offline-1", "offline-2"]);
        fleet.ok(&["publish", "--to", &to]);
    }
    let names: Vec<String> = retained(&broker, &mirror).into_keys().collect();
    let metadata: Vec<&str> = names
        .iter()
        .filter_map(|name| name.strip_prefix("metadata/"))
        .collect();
    assert_eq!(
        metadata,
        [
            "1.revocation.json",
            "1.root.json",
            "4.snapshot.json",
            "4.targets.json",
            "5.snapshot.json",
            "5.targets.json",
            "timestamp.json"
        ]
    );
    assert_eq!(fleet.read("c", &mirror, &[])["versions"]["targets"], 5);

    // An old copy of the fleet's folder sets nothing back.
    let copy = fleet.place().join("copy");
    let cp = Command::new("cp")
        .args(["-a"])
        .args([&fleet.folder(), &copy])
        .status();
    assert!(cp.expect("cp runs").success());
    fleet.ok(&["timestamp"]);
    fleet.ok(&["publish", "--to", &to]);
    let said = fleet.refused(&["publish", "--to", &to, "--fleet", "copy"]);
    assert!(said.contains("old copy of the fleet"), "{said}");
}

/// Whoever floods the fleet's topics keeps nobody from publishing.
#[test]
fn a_flood_of_foreign_messages_delays_no_publish() {
    let fleet = Fleet::new();
    let broker = Mosquitto::start();
    let poison = |number| {
        (
            format!("slm/trust/plant/metadata/{number}.x"),
            vec![b'x'; 4096],
        )
    };
    retain_all(broker.port(), (0..1500).map(poison));
    let to = format!("mqtt://127.0.0.1:{}", broker.port());
    fleet.ok(&["publish", "--to", &to]);
    let set = fleet.file("set.json", &jwks(&["a"]));
    fleet.ok(&["rotate", "prod", "--jwks", &set]);
    fleet.sign(&["offline-1", "offline-2"]);
    fleet.ok(&["publish", "--to", &to]);
    let mirror = fleet.place().join("seen");
    // What is foreign is taken away meanwhile, as far as it was seen.
    for _ in 0..2 {
        fleet.ok(&["publish", "--to", &to]);
    }
    retained(&broker, &mirror);
    let read = fleet.read("c", &mirror, &["realms/prod/jwks.json"]);
    assert_eq!(read["versions"]["targets"], 2);
}

#[test]
fn a_broker_that_is_away_is_no_loss() {
    let fleet = Fleet::new();
    let mut broker = Mosquitto::start();
    let to = format!("mqtt://127.0.0.1:{}", broker.port());
    broker.stop();
    let mirror = fleet.place().join("mirror").display().to_string();
    let said = fleet.refused(&["publish", "--to", &to, "--to", &mirror]);
    assert!(
        said.contains("run it again when this is mended") && said.contains(&to),
        "{said}"
    );
    assert!(
        Path::new(&mirror).join("metadata/timestamp.json").exists(),
        "the other was tried"
    );
    broker.restart();
    fleet.ok(&["publish", "--to", &to]);
    let seen = fleet.place().join("seen");
    retained(&broker, &seen);
    assert_eq!(fleet.read("c", &seen, &[])["versions"]["timestamp"], 1);
}

#[test]
fn a_broker_that_lets_nobody_in_says_so() {
    let fleet = Fleet::new();
    let broker = Mosquitto::start_with("allow_anonymous false\n");
    let to = format!("mqtt://127.0.0.1:{}", broker.port());
    let said = fleet.refused(&["publish", "--to", &to]);
    assert!(said.contains("not authorized"), "{said}");
    let said = fleet.refused(&["publish", "--to", "mqtts://localhost"]);
    assert!(said.contains("ca_file"), "{said}");
    let ca = Ca::new("fleet");
    let pem = ca.file().display().to_string();
    let said = fleet.refused(&["publish", "--to", "mqtts://localhost:1", "--ca-file", &pem]);
    assert!(said.contains("not published everywhere"), "{said}");
}

#[test]
fn over_tls_the_shipped_access_list_lets_the_manager_publish_and_no_device() {
    let fleet = Fleet::new();
    let ca = Ca::new("fleet");
    let broker = Mosquitto::deployed(&ca.issue("localhost"), &["fleet", "edge-1"]);
    let to = format!("mqtts://localhost:{}", broker.port());
    let pem = ca.file().display().to_string();
    for user in ["fleet", "edge-1"] {
        fleet.secret(&format!("{user}.password"), &Mosquitto::password(user));
    }
    let publish = |user: &'static str| {
        let words = [
            "publish",
            "--to",
            &to,
            "--ca-file",
            &pem,
            "--username",
            user,
        ];
        let words = words.map(str::to_owned).to_vec();
        [
            words,
            vec!["--password-file".to_owned(), format!("{user}.password")],
        ]
        .concat()
    };
    let publish = |user| fleet.run(&publish(user).iter().map(String::as_str).collect::<Vec<_>>());
    let published = |user| {
        let output = publish(user);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    assert_eq!(published("fleet"), (true, String::new()));
    fleet.ok(&["timestamp"]);
    let (done, said) = published("edge-1");
    assert!(!done);
    assert!(
        said.contains("didn't take slm/trust/plant/") && said.contains("not authorized"),
        "{said}"
    );
    assert_eq!(published("fleet"), (true, String::new()));
    // Where fleet.toml has the broker, its name is enough.
    let settings = fleet.folder().join("fleet.toml");
    let text = fs::read_to_string(&settings).expect("it is there");
    let known = format!(
        "[[publish]]\nto = {to:?}\nca_file = {pem:?}\nusername = \"fleet\"\npassword_file = \"../fleet.password\"\n"
    );
    fs::write(&settings, format!("{text}{known}")).expect("it is ours");
    let said = fleet.ok(&["timestamp", "--publish"]);
    assert!(said.contains("published to mqtts://localhost"), "{said}");
}

/// As `deploy/mqtt/mosquitto.conf` has it, a user has one connection, and each new one ends the other.
#[test]
fn one_user_watches_and_publishes_at_the_same_time() {
    let fleet = Fleet::new();
    let ca = Ca::new("fleet");
    let broker = Mosquitto::deployed(&ca.issue("localhost"), &["fleet"]);
    fleet.secret("fleet.password", &Mosquitto::password("fleet"));
    let to = format!("mqtts://localhost:{}", broker.port());
    let settings = fleet.folder().join("fleet.toml");
    let mut text = fs::read_to_string(&settings).expect("it is there");
    let ca_file = ca.file().display().to_string();
    text.push_str(&format!(
        "\n[[publish]]\nto = \"{to}\"\nca_file = \"{ca_file}\"\nusername = \"fleet\"\n\
         password_file = \"../fleet.password\"\n"
    ));
    fs::write(&settings, text).expect("a temporary file");
    fleet.ok(&[
        "enroll",
        "edge-1",
        "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    ]);
    let mut watch = fleet.command(&["status", "--watch"]);
    let output = watch.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watch = output.spawn().expect("slmd is there");
    // Any two of them meet.
    for _ in 0..4 {
        fleet.ok(&["publish"]);
    }
    assert!(watch.try_wait().expect("it is our child").is_none());
    // Its own waits are bounded; once it is alone it sees them.
    let stdout = watch.stdout.take().expect("piped above");
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("edge-1  never heard")));
    signal(&watch, libc::SIGINT);
    exit(&mut watch, Duration::from_secs(60)).expect("it ends when asked");
}
