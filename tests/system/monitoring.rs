//! What `deploy/monitoring` has for Prometheus and Grafana, as far as the files alone tell.
//! `tests/keycloak/monitoring.rs` runs it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{prometheus, python, root, run};

const PATIENCE: Duration = Duration::from_secs(120);
const DASHBOARDS: [&str; 3] = ["device", "fleet", "access"];

fn folder() -> PathBuf {
    root().join("deploy/monitoring")
}

fn yaml(path: &Path) -> Value {
    let mut node = Command::new("node");
    node.arg(root().join("tests/clients/yaml.mjs")).arg(path);
    let output = run(&mut node, b"", PATIENCE);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", path.display());
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn dashboard(name: &str) -> Value {
    let path = folder().join(format!("grafana/dashboards/{name}.json"));
    let text = fs::read_to_string(path).expect("it is there");
    serde_json::from_str(&text).expect("it is JSON")
}

#[test]
fn promtool_takes_configuration_and_rules() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let bring = |file: &str| {
        fs::copy(folder().join(file), place.path().join(file)).expect("it is there");
    };
    bring("prometheus.yml");
    let promtool = |arguments: &[&str]| {
        let mut command = Command::new(prometheus::program("promtool"));
        command.args(arguments).current_dir(place.path());
        let output = run(&mut command, b"", PATIENCE);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (
            output.status.success(),
            said + &String::from_utf8_lossy(&output.stderr),
        )
    };
    // It looks for what is named.
    let (good, said) = promtool(&["check", "config", "prometheus.yml"]);
    assert!(!good && said.contains("rules.yml"), "{said}");
    bring("rules.yml");
    bring("rules_test.yml");
    for file in ["slmd-ca.pem", "keycloak-ca.pem", "prometheus.secret"] {
        fs::write(place.path().join(file), "").expect("a temporary folder");
    }
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules_test.yml"],
    ] {
        let (good, said) = promtool(&arguments);
        assert!(good && !said.contains("FAILED"), "{arguments:?}: {said}");
    }
}

#[test]
fn each_alert_is_tested_and_says_what_is_wrong_where_and_what_to_do() {
    let (rules, tests) = (
        yaml(&folder().join("rules.yml")),
        yaml(&folder().join("rules_test.yml")),
    );
    let groups = list(&rules["groups"]).iter();
    let alerts = groups.flat_map(|group| list(&group["rules"]));
    let alerts: Vec<&Value> = alerts.filter(|rule| rule["alert"].is_string()).collect();
    assert!(alerts.len() > 30, "{}", alerts.len());
    for rule in alerts {
        let name = text(&rule["alert"]);
        let severity = text(&rule["labels"]["severity"]);
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{name}: {severity}"
        );
        // It lasts, or counts what happened in a time.
        let lasts = rule["for"].is_string() || text(&rule["expr"]).contains('[');
        assert!(lasts || severity == "info", "{name} fires at once");
        let annotations = &rule["annotations"];
        assert!(
            text(&annotations["summary"]).contains("{{ $labels."),
            "{name}"
        );
        assert!(text(&annotations["description"]).len() > 60, "{name}");
        let mut cases = list(&tests["tests"]).iter();
        let case = cases.find(|case| case["name"] == name);
        let case = case.unwrap_or_else(|| panic!("{name} isn't tested"));
        let expected = list(&case["promql_expr_test"]).iter();
        let counts: BTreeSet<usize> = expected.map(|at| list(&at["exp_samples"]).len()).collect();
        assert_eq!(
            counts,
            [0, 1].into(),
            "{name} has to be silent, and to fire"
        );
    }
}

#[test]
fn dashboards_are_what_grafanas_schema_says() {
    let paths = DASHBOARDS.map(|name| {
        let path = folder().join(format!("grafana/dashboards/{name}.json"));
        path.to_str().expect("UTF-8").to_owned()
    });
    let files = fs::read_dir(folder().join("grafana/dashboards")).expect("it is there");
    assert_eq!(files.count(), paths.len());
    let mut arguments = vec!["dashboards"];
    arguments.extend(paths.iter().map(String::as_str));
    let output = python("monitoring.py", &arguments, &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );

    // And it can tell.
    let place = tempfile::tempdir().expect("a temporary folder");
    let broken = place.path().join("broken.json");
    let good = fs::read_to_string(&paths[0]).expect("it is there");
    for (from, to) in [
        ("\"thresholds\":", "\"treshholds\":"),
        ("\"placement\": \"bottom\"", "\"placement\": \"below\""),
        ("\"graphTooltip\": 1", "\"graphTooltip\": \"1\""),
    ] {
        assert!(good.contains(from), "{from} is gone");
        fs::write(&broken, good.replacen(from, to, 1)).expect("a temporary folder");
        let path = broken.to_str().expect("UTF-8");
        let output = python("monitoring.py", &["dashboards", path], &[]);
        assert_eq!(output.status.code(), Some(1), "{to} is taken: {output:?}");
    }
}

#[test]
fn panels_say_what_they_show_and_stand_beside_each_other() {
    for name in DASHBOARDS {
        let board = dashboard(name);
        assert_eq!(board["uid"], format!("slmd-{name}"));
        let mut ids = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in list(&board["panels"]) {
            let title = text(&panel["title"]);
            assert!(ids.insert(panel["id"].as_u64()), "{name}: {title}");
            let at = |edge: &str| panel["gridPos"][edge].as_u64().expect("a place");
            assert!(at("x") + at("w") <= 24, "{name}: {title}");
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(taken.insert((x, y)), "{name}: {title} covers another");
                }
            }
            if panel["type"] == "row" {
                continue;
            }
            assert!(
                text(&panel["description"]).ends_with('.'),
                "{name}: {title}"
            );
            let shown = &panel["fieldConfig"]["defaults"];
            assert!(shown["unit"].is_string(), "{name}: {title}");
            assert!(shown["thresholds"]["steps"].is_array(), "{name}: {title}");
            assert!(!list(&panel["targets"]).is_empty(), "{name}: {title}");
            for target in list(&panel["targets"]) {
                assert_eq!(
                    target["datasource"]["uid"], "${datasource}",
                    "{name}: {title}"
                );
            }
        }
    }
}

#[test]
fn grafana_finds_prometheus_and_the_dashboards() {
    let provisioning = folder().join("grafana/provisioning");
    let sources = yaml(&provisioning.join("datasources/slmd.yaml"));
    assert_eq!(sources["apiVersion"], 1);
    let source = &sources["datasources"][0];
    let configuration = yaml(&folder().join("prometheus.yml"));
    let interval = &configuration["global"]["scrape_interval"];
    assert_eq!(&source["jsonData"]["timeInterval"], interval);
    assert_eq!(
        (text(&source["type"]), text(&source["uid"])),
        ("prometheus", "prometheus")
    );
    let boards = yaml(&provisioning.join("dashboards/slmd.yaml"));
    let path = text(&boards["providers"][0]["options"]["path"]);
    let readme = fs::read_to_string(folder().join("README.md")).expect("it is there");
    assert!(readme.contains(path), "README.md doesn't say {path}");
}
