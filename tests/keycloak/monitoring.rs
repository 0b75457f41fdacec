//! `deploy/monitoring` is true: a real Prometheus with its configuration and rules scrapes devices and
//! this Keycloak, and each query of each panel has something to show.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::appliance::{answered, ask, body, jwks, over_tcp, refused, section};
use crate::grants::{Realm, realm};
use crate::place::Place;
use crate::readme::monitored;
use crate::server::keycloak;
use crate::support::prometheus::{Prometheus, program};
use crate::support::{
    Ca, Daemon, Fleet, Mosquitto, Publish, Setup, free_port, root, run, send, target, within,
};

const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at what has no data yet.
const PAUSE: Duration = Duration::from_secs(1);
const LOOKS: usize = 120;
const DASHBOARDS: [&str; 3] = ["device", "fleet", "access"];

/// What nothing here brings about, and why.
const ABSENT: &[(&str, &str)] = &[
    ("slmd_audit_witness_age_seconds", "no witness is configured"),
    ("slmd_audit_witness_alarm", "no witness is configured"),
    (
        "slmd_audit_export_lag_records",
        "no collector is configured",
    ),
];

/// Two devices that follow a fleet, at ports of theirs, and a third one's that is down.
struct Scene {
    monitored: Realm,
    place: Place,
    dev: Realm,
    broker: Mosquitto,
    fleet: Fleet,
    /// With the ports of their HTTPS.
    devices: Vec<(u16, Daemon)>,
    /// The first one's, on this machine.
    plain: u16,
    /// Nobody listens there, and nobody else can.
    down: TcpListener,
    ca: Ca,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let server = keycloak();
        let place = monitored(server, "monitored");
        let (monitored, dev) = (realm("monitored"), realm("dev"));
        let (broker, mut fleet, ca) = (Mosquitto::start(), Fleet::new(), Ca::new("devices"));
        fleet.keys(&dev.jwks());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let deny = folder.path().join("deny.json");
        fs::write(&deny, r#"{"version":1,"revoked":[]}"#).expect("a temporary folder");
        let mirrors = format!("[{:?}, \"/nowhere/but/configured\"]", fleet.folder());
        let (own, plain) = (ca.issue("device"), free_port());
        let device = |name: &str| {
            let port = free_port();
            let listen = match name {
                "edge-1" => format!("[http]\nlisten = \"127.0.0.1:{plain}\"\n"),
                _ => String::new(),
            };
            let more = format!("deny_file = {deny:?}\n{}", jwks(&monitored, "1s"));
            let settings = format!(
                "device = {name:?}\n{listen}[http.tls]\nlisten = \"127.0.0.1:{port}\"\n\
                 cert_file = {:?}\nkey_file = {:?}\n\
                 [fleet]\nname = \"plant\"\nmirrors = {mirrors}\ninterval = \"1s\"\n{}{}",
                own.cert,
                own.key,
                section(&dev, ""),
                section(&monitored, &more),
            );
            let setup = Setup::new().with(&settings).broker(&broker);
            let mut daemon = Daemon::start(setup.keys("monitored", &monitored.jwks()));
            fleet.pin(&daemon);
            daemon.until_ready();
            (port, daemon)
        };
        let devices = ["edge-1", "edge-2"].map(device).into();
        Scene {
            devices,
            monitored,
            place,
            dev,
            broker,
            fleet,
            plain,
            down: bound(),
            ca,
            _folder: folder,
        }
    }

    fn device(&self) -> &Daemon {
        &self.devices[0].1
    }

    /// As the README has it, with this scene's addresses in the files.
    fn prometheus(&self) -> Prometheus {
        let readme = file("README.md");
        let commands = readme
            .split("```sh\n")
            .nth(1)
            .and_then(|rest| rest.split("```").next());
        let etc = self.place.file("etc");
        fs::create_dir(&etc).expect("a temporary folder");
        let commands = commands
            .expect("the README has commands")
            .replace("/etc/prometheus", &etc.display().to_string())
            .replace(" -g prometheus", "");
        fs::write(self.place.file("prometheus.yml"), self.configuration()).expect("a folder");
        fs::write(self.place.file("rules.yml"), file("rules.yml")).expect("a folder");
        fs::copy(self.ca.file(), self.place.file("slmd-ca.pem")).expect("a folder");
        let ca = self.monitored.server.ca_file();
        fs::copy(ca, self.place.file("keycloak-ca.pem")).expect("a folder");
        let promtool = program("promtool").display().to_string();
        let promtool = format!("#!/bin/sh\nexec {promtool} \"$@\"\n");
        self.place.command("promtool", &promtool);
        self.place.command("systemctl", "#!/bin/sh\n");
        self.place.types(&commands, &[]);
        assert!(self.place.noted().contains("systemctl reload prometheus"));
        Prometheus::start(&etc.join("prometheus.yml"))
    }

    fn configuration(&self) -> String {
        let ports = self.devices.iter().map(|(port, _)| *port);
        let down = self.down.local_addr().expect("it is bound").port();
        let targets = ports
            .chain([down])
            .map(|port| format!("\"localhost:{port}\""));
        let targets: Vec<String> = targets.collect();
        let management = self.monitored.server.management_port();
        let mut text = file("prometheus.yml");
        for (said, here) in [
            ("\"edge-1.example:8443\"", targets.join(", ")),
            ("keycloak.example:9000", format!("127.0.0.1:{management}")),
            (
                "https://keycloak.example/realms/prod",
                self.monitored.issuer(),
            ),
            ("scrape_interval: 15s", "scrape_interval: 2s".to_owned()),
            (
                "evaluation_interval: 15s",
                "evaluation_interval: 2s".to_owned(),
            ),
        ] {
            assert!(text.contains(said), "{said} is gone");
            text = text.replace(said, &here);
        }
        text
    }

    /// What people and devices do all day, and what they shouldn't.
    fn traffic(&self, round: usize) {
        let words = "Name a thing that can be counted.";
        let token = self.dev.service("device-1", None).access;
        for (_, daemon) in &self.devices {
            answered(&ask(daemon, &token, words));
            refused(&ask(daemon, "no token", words), 401, "token_malformed");
        }
        // The audience of no endpoint of the realm's.
        let other = self.monitored.service("prometheus", None).access;
        refused(&ask(self.device(), &other, words), 403, "scope_missing");
        let reply = format!("slm/edge-1/reply/device-1/{round}");
        self.broker.publish(&Publish {
            topic: "slm/edge-1/v1/chat/completions",
            payload: &body(words),
            response_topic: Some(&reply),
            correlation: Some(&round.to_string()),
            token: Some(&token),
            ..Publish::default()
        });
        let nobody = [
            ("username", "nobody"),
            ("client_id", "admin-cli"),
            ("grant_type", "password"),
        ];
        let path = "/realms/master/protocol/openid-connect/token";
        let wrong = [&nobody[..], &[("password", "wrong")]].concat();
        assert_eq!(self.dev.server.form(path, &wrong, &[]).status, 400);
        let wrong = [
            ("grant_type", "client_credentials"),
            ("client_id", "device-1"),
            ("client_secret", "wrong"),
        ];
        assert_eq!(self.dev.ask(&wrong, None).status, 401);
        self.dev.admin();
    }

    /// Takes a client's right away while it is being answered.
    fn revoke(&mut self) {
        let token = self.dev.service("reports", None).access;
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let endless = json!({
            "model": "slm-chat", "stream": true, "max_tokens": 1500, "temperature": 0,
            "prompt": "One, two, three, four, five, six, seven,",
        });
        let path = "/v1/completions";
        let socket = self.device().socket();
        let mut running =
            send(&socket, "POST", path, &headers, &endless.to_string()).expect("a socket");
        if running.status != 200 {
            panic!("{:?}", running.finish());
        }
        assert!(running.event().expect("a stream").is_some());
        self.fleet.revoke(&json!([{"azp": "reports"}]));
        let mut rest = String::new();
        while let Some(event) = running.event().expect("it ends in order") {
            rest.push_str(&event);
        }
        assert!(rest.contains("revoked"), "{rest}");
        refused(&ask(self.device(), &token, "Who is it?"), 401, "revoked");
    }
}

/// A port at which connections wait for somebody who never comes.
fn bound() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).expect("a free port")
}

fn file(name: &str) -> String {
    let path = root().join("deploy/monitoring").join(name);
    fs::read_to_string(path).expect("it is there")
}

/// A query as Grafana sends it.
struct Query {
    panel: String,
    expression: String,
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// All queries of a dashboard, its variables replaced by what they find; of one device, where only
/// one is looked at.
fn queries(name: &str, prometheus: &Prometheus, device: &str) -> Vec<Query> {
    let board = file(&format!("grafana/dashboards/{name}.json"));
    let board: Value = serde_json::from_str(&board).expect("it is JSON");
    let mut values = vec![
        ("$__rate_interval".to_owned(), "1m".to_owned()),
        ("$__range".to_owned(), "5m".to_owned()),
    ];
    for variable in list(&board["templating"]["list"]) {
        let Some(query) = variable["query"]["query"].as_str() else {
            assert_eq!(variable["type"], "datasource");
            continue;
        };
        let name = variable["name"].as_str().expect("a name");
        let call = query
            .strip_prefix("label_values(")
            .and_then(|q| q.strip_suffix(')'));
        let (metric, label) = call.and_then(|q| q.split_once(", ")).expect("a call");
        let found = within(PATIENCE, query, || {
            let path = format!("label/{label}/values");
            let found = prometheus.api(&path, &[("match[]", metric)]);
            (!list(&found).is_empty()).then_some(found)
        });
        let mut found: Vec<&str> = list(&found).iter().filter_map(Value::as_str).collect();
        found.sort_unstable();
        let value = match variable["multi"] == true {
            true => format!("({})", found.join("|")),
            false => {
                assert!(found.contains(&device), "{found:?}");
                device.to_owned()
            }
        };
        values.push((format!("${name}"), value));
    }
    let panels = list(&board["panels"]).iter();
    let targets = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap_or_default();
        let targets = list(&panel["targets"]).iter();
        targets.map(move |target| (title, target["expr"].as_str().expect("a query")))
    });
    let queries = targets.map(|(title, expression)| {
        let expression = values
            .iter()
            .fold(expression.to_owned(), |text, (name, value)| {
                text.replace(name, value)
            });
        assert!(!expression.contains('$'), "{name}: {expression}");
        let panel = format!("{name}: {title}");
        Query { panel, expression }
    });
    queries.collect()
}

/// The metrics that each of these names.
fn names(expressions: &[String]) -> Vec<Vec<String>> {
    let mut python = Command::new(target().join("venv/bin/python"));
    python
        .arg(root().join("tests/clients/monitoring.py"))
        .arg("names");
    let input = serde_json::to_vec(expressions).expect("texts are JSON");
    let output = run(&mut python, &input, PATIENCE);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

fn has_data(prometheus: &Prometheus, query: &Query) -> bool {
    let samples = prometheus.query(&query.expression);
    samples.iter().any(|sample| sample["value"][1] != "NaN")
}

/// All that is scraped or recorded.
fn known(prometheus: &Prometheus) -> BTreeSet<String> {
    let found = prometheus.api("label/__name__/values", &[]);
    list(&found)
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Each rule works, and names nothing that there isn't.
fn look_at_rules(prometheus: &Prometheus) {
    let groups = within(PATIENCE, "all rules' first evaluation", || {
        let found = prometheus.api("rules", &[]);
        let mut rules = list(&found["groups"])
            .iter()
            .flat_map(|group| list(&group["rules"]));
        rules
            .all(|rule| rule["health"] != "unknown")
            .then_some(found)
    });
    let rules: Vec<&Value> = list(&groups["groups"])
        .iter()
        .flat_map(|group| list(&group["rules"]))
        .collect();
    let meant = file("rules.yml");
    let meant = meant
        .lines()
        .filter(|line| line.trim_start().starts_with("expr:"))
        .count();
    assert_eq!(rules.len(), meant);
    let mut known = known(prometheus);
    for rule in &rules {
        known.extend(rule["name"].as_str().map(str::to_owned));
        assert_eq!(rule["health"], "ok", "{rule:#}");
    }
    let expressions = rules
        .iter()
        .map(|rule| rule["query"].as_str().expect("one").to_owned());
    let named: BTreeSet<String> = names(&expressions.collect::<Vec<_>>())
        .concat()
        .into_iter()
        .collect();
    let absent = |name: &&String| ABSENT.iter().any(|(absent, _)| absent == *name);
    let unknown: Vec<&String> = named
        .difference(&known)
        .filter(|name| !absent(name))
        .collect();
    assert!(
        unknown.is_empty(),
        "rules name what nothing has: {unknown:?}"
    );
}

fn look_at_targets(prometheus: &Prometheus, scene: &Scene) {
    let down = scene.down.local_addr().expect("it is bound").port();
    let down = format!("localhost:{down}");
    within(PATIENCE, "a scrape of each target but one", || {
        let found = prometheus.api("targets", &[("state", "active")]);
        let targets = list(&found["activeTargets"]);
        // It finds them some seconds after its start.
        if targets.len() != 4 {
            return None;
        }
        let mut as_meant = targets.iter().map(|target| {
            let is_down = target["labels"]["instance"] == down;
            target["health"] == if is_down { "down" } else { "up" }
        });
        as_meant.all(|it| it).then_some(())
    });
    within(PATIENCE, "an alert for that one", || {
        let expression = format!("ALERTS{{alertname=\"SlmdDown\",instance={down:?}}}");
        (prometheus.query(&expression).len() == 1).then_some(())
    });
}

/// The monitor's role opens what it is for, and nothing else.
fn look_at_the_monitors_role(scene: &Scene) {
    let token = scene.monitored.service("prometheus", None).access;
    for path in ["/metrics", "/readyz?verbose"] {
        let answer = over_tcp(scene.plain, &token, path);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    refused(
        &ask(scene.device(), &token, "Who are you?"),
        403,
        "scope_missing",
    );
}

#[test]
fn every_panel_of_every_dashboard_has_something_to_show() {
    let mut scene = Scene::new();
    let prometheus = scene.prometheus();
    look_at_targets(&prometheus, &scene);
    look_at_the_monitors_role(&scene);
    scene.revoke();
    scene.traffic(0);
    let device = format!("localhost:{}", scene.devices[0].0);
    let all: Vec<Query> = DASHBOARDS
        .iter()
        .flat_map(|name| queries(name, &prometheus, &device))
        .collect();
    assert!(all.len() > 100, "{}", all.len());
    let expressions: Vec<String> = all.iter().map(|query| query.expression.clone()).collect();
    let named = names(&expressions);
    let excused = |names: &Vec<String>| {
        ABSENT
            .iter()
            .any(|(absent, _)| names.iter().any(|n| n == absent))
    };
    let mut left: Vec<&Query> = all
        .iter()
        .zip(&named)
        .filter_map(|(query, names)| (!excused(names)).then_some(query))
        .collect();
    for round in 1..=LOOKS {
        left.retain(|query| !has_data(&prometheus, query));
        if left.is_empty() {
            break;
        }
        // Rates want something that happens.
        scene.traffic(round);
        thread::sleep(PAUSE);
    }
    let left: Vec<String> = left
        .iter()
        .map(|query| format!("{}: {}", query.panel, query.expression))
        .collect();
    assert!(left.is_empty(), "nothing to show: {left:#?}");
    look_at_rules(&prometheus);
}
