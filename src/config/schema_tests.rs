//! Every setting of the table, one by one and in random company: what is shown reads back, what
//! needs a restart is told, and the shipped file is the table's.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use toml::{Table, Value};

use super::Config;
use super::table::{Line, Row, Table as _};

/// Every setting with values that aren't its default and go with all others'.
const VALUES: &[(&str, &[&str])] = &[
    ("device", &["'edge-2'", "'grün'"]),
    ("state_dir", &["'/srv/slmd'", "'/srv/\\c \"b\"'"]),
    ("models_dir", &["'/srv/models'"]),
    ("drain_deadline", &["'0ms'", "'1500ms'", "'1h'"]),
    ("log", &["'warn,slmd::auth=debug'"]),
    ("log_format", &["'json'", "'journal'"]),
    ("http.listen", &["'127.0.0.1:8080'", "'[::1]:1'"]),
    ("http.hosts", &["['localhost', 'edge.example']"]),
    ("http.public_urls", &["['https://edge.example']", "[]"]),
    ("http.socket", &["'/run/a.sock'"]),
    ("http.admin_socket", &["'/run/b.sock'"]),
    ("http.max_body", &["'1500 B'", "'16 MiB'"]),
    ("http.header_timeout", &["'90s'"]),
    ("http.body_timeout", &["'90s'"]),
    ("http.max_connections", &["1", "4096"]),
    ("http.max_connections_per_uid", &["1", "4096"]),
    ("http.keep_alive", &["'1m'"]),
    ("http.tls.listen", &["'[::]:8443'", "'192.0.2.1:1'"]),
    ("http.tls.cert_file", &["'/c.pem'", "'/d.pem'"]),
    ("http.tls.key_file", &["'/k.pem'", "'/l.pem'"]),
    ("http.tls.client_ca_file", &["'/ca.pem'", "'/cb.pem'"]),
    ("http.tls.client_certificate", &["'required'"]),
    ("mqtt.url", &["'mqtts://[::1]:1884'", "'mqtts://broker'"]),
    ("mqtt.plain_mqtt_exposes_tokens", &["true"]),
    ("mqtt.client_id", &["'x'"]),
    ("mqtt.username", &["'u'", "'v'"]),
    ("mqtt.password_file", &["'/p'"]),
    ("mqtt.keep_alive", &["'1m'"]),
    ("mqtt.session_expiry", &["'30d'"]),
    ("mqtt.receive_maximum", &["1"]),
    ("mqtt.reply_to", &["'a/{azp}/{device}/#'", "'a/{azp}'"]),
    ("mqtt.fragment_interval", &["'0ms'"]),
    ("mqtt.sign_answers", &["true"]),
    ("mqtt.report", &["true"]),
    ("mqtt.reconnect_min", &["'2s'"]),
    ("mqtt.reconnect_max", &["'1h'"]),
    ("mqtt.tls.ca_file", &["'/ca.pem'", "'/cb.pem'"]),
    ("mqtt.tls.cert_file", &["'/c.pem'", "'/d.pem'"]),
    ("mqtt.tls.key_file", &["'/k.pem'", "'/l.pem'"]),
    ("fleet.name", &["'works'", "'plant'"]),
    (
        "fleet.mirrors",
        &["['https://m.example/tuf', '/media/usb']", "['/media/usb']"],
    ),
    ("fleet.username", &["'u'", "'v'"]),
    ("fleet.password_file", &["'/p'"]),
    ("fleet.ca_file", &["'/ca.pem'", "'/cb.pem'"]),
    ("fleet.interval", &["'1d'"]),
    ("fleet.require_listed_models", &["true"]),
    ("engine.threads", &["1", "256"]),
    ("engine.spare_cores", &["1", "255"]),
    ("engine.context", &["64"]),
    ("engine.queue", &["1"]),
    ("engine.kernels", &["'scalar'", "'neon'"]),
    ("admission.answer_buffer", &["1"]),
    ("admission.default_deadline", &["'1s'"]),
    ("admission.duplicate_window", &["'1d'"]),
    ("admission.duplicates", &["1"]),
    ("admission.tokens_per_minute", &["1", "2147483648"]),
    ("admission.prompts_per_minute", &["1"]),
    ("admission.operations_per_minute", &["1"]),
    ("audit.max_size", &["'16 MiB'", "'1024 GiB'"]),
    ("audit.retention", &["'1h'"]),
    ("audit.refusals_per_minute", &["1"]),
    ("audit.origin", &["'logs.example.com/devices'", "'x'"]),
    ("audit.checkpoint_records", &["1", "1048576"]),
    ("audit.checkpoint_interval", &["'1s'", "'1d'"]),
    ("audit.journald", &["true"]),
    (
        "audit.syslog.address",
        &["'[::1]:514'", "'logs.example:6514'"],
    ),
    ("audit.syslog.ca_file", &["'/ca.pem'", "'/cb.pem'"]),
    ("audit.syslog.server_name", &["'logs'"]),
    ("audit.syslog.cert_file", &["'/c.pem'", "'/d.pem'"]),
    ("audit.syslog.key_file", &["'/k.pem'", "'/l.pem'"]),
    ("audit.syslog.facility", &["'local7'", "'kern'"]),
    ("audit.syslog.enterprise_number", &["1", "4294967295"]),
    (
        "audit.witness.key",
        &[
            "'remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2'",
            "'witness.example/w1+eb762cc2+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea'",
        ],
    ),
    (
        "audit.witness.url",
        &["'http://127.0.0.1:7380'", "'https://w.example'"],
    ),
    ("audit.witness.ca_file", &["'/ca.pem'", "'/cb.pem'"]),
    (
        "telemetry.otlp_endpoint",
        &["'http://[::1]:4318/otlp'", "'https://c.example'"],
    ),
    ("telemetry.ca_file", &["'/ca.pem'", "'/cb.pem'"]),
    ("telemetry.headers_file", &["'/h'"]),
    ("telemetry.plain_http_exposes_traces", &["true"]),
    ("telemetry.trace_ratio", &["0", "0.05"]),
    ("realm.name", &["'other'", "'dev'"]),
    (
        "realm.issuer",
        &[
            "'https://k.example/realms/other'",
            "'https://k.example/realms/dev'",
        ],
    ),
    ("realm.deny_file", &["'/deny.json'"]),
    (
        "realm.local_groups",
        &["{ root = ['read', 'audit'], 'a b' = [] }"],
    ),
    ("realm.default_endpoint", &["'slm'"]),
    ("realm.max_lifetime", &["'365d'"]),
    ("realm.max_lifetime_by_client", &["{ 'device 1' = '24h' }"]),
    ("realm.max_age", &["'1s'"]),
    ("realm.leeway", &["'0ms'"]),
    (
        "realm.offline_grace",
        &["'none'", "{ read = '7d', audit = 'none' }"],
    ),
    (
        "realm.unsynchronised_scopes",
        &["['write', 'fine-tune']", "[]"],
    ),
    ("realm.roles", &["{ asker = ['read'], 'b c' = [] }"]),
    ("realm.tokens_per_minute", &["1"]),
    ("realm.require_dpop", &["['socket', 'tcp', 'mqtt']"]),
    ("realm.record_username", &["true"]),
    ("realm.claims.tokens_per_minute", &["'t'"]),
    ("realm.claims.max_context", &["'c'"]),
    ("realm.claims.priority", &["'p'"]),
    ("realm.jwks.uri", &["'https://k.example/certs'"]),
    ("realm.jwks.ca_file", &["'/ca.pem'", "'/cb.pem'"]),
    ("realm.jwks.refresh_interval", &["'1m'", "'30d'"]),
    ("realm.jwks.min_interval", &["'1s'"]),
    ("realm.jwks.https", &["'add'"]),
    ("realm.jwks.vouch_after", &["'36h'"]),
    ("realm.jwks.timeout", &["'1s'"]),
    ("realm.jwks.plain_http_trusts_this_host", &["true"]),
    ("realm.endpoint.client_id", &["'other'", "'slm'"]),
    ("realm.endpoint.model", &["'tiny'", "'small'"]),
    ("realm.endpoint.max_completion_tokens", &["1"]),
    ("realm.endpoint.default_completion_tokens", &["1"]),
    ("realm.endpoint.system_prompt", &["'Be brief.'"]),
    (
        "realm.endpoint.text_recipients",
        &["['age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef']"],
    ),
    ("realm.endpoint.temperature", &["0", "0.7"]),
    ("realm.endpoint.top_p", &["1.0", "0.9"]),
    ("realm.endpoint.top_k", &["0", "4294967295"]),
    ("realm.endpoint.min_p", &["0.05"]),
    ("realm.endpoint.repetition_penalty", &["1.1", "2"]),
    ("realm.endpoint.frequency_penalty", &["-2", "0.1"]),
    ("realm.endpoint.presence_penalty", &["-1.5"]),
    ("login.issuer", &["'https://k.example/realms/other'"]),
    ("login.client_id", &["'x'"]),
    ("login.ca_file", &["'/ca.pem'"]),
];

/// What has to be there where a setting is.
const COMPANIONS: &[(&str, &[&str])] = &[
    (
        "http.tls.",
        &["http.tls.listen", "http.tls.cert_file", "http.tls.key_file"],
    ),
    ("http.tls.client_certificate", &["http.tls.client_ca_file"]),
    ("mqtt.", &["mqtt.url", "mqtt.tls.ca_file"]),
    ("mqtt.password_file", &["mqtt.username"]),
    ("mqtt.tls.cert_file", &["mqtt.tls.key_file"]),
    ("mqtt.tls.key_file", &["mqtt.tls.cert_file"]),
    ("fleet.", &["fleet.name", "fleet.mirrors", "fleet.ca_file"]),
    ("fleet.password_file", &["fleet.username"]),
    (
        "audit.witness.",
        &[
            "audit.witness.key",
            "audit.witness.url",
            "audit.witness.ca_file",
        ],
    ),
    (
        "audit.syslog.",
        &["audit.syslog.address", "audit.syslog.ca_file"],
    ),
    ("audit.syslog.cert_file", &["audit.syslog.key_file"]),
    ("audit.syslog.key_file", &["audit.syslog.cert_file"]),
    ("telemetry.otlp_endpoint", &["telemetry.ca_file"]),
    ("realm.jwks.", &["realm.jwks.ca_file"]),
    (
        "",
        &[
            "realm.name",
            "realm.issuer",
            "realm.endpoint.client_id",
            "realm.endpoint.model",
        ],
    ),
];

type Texts = BTreeMap<&'static str, &'static str>;

/// `texts` with what has to be beside them, as TOML.
fn written(texts: &Texts) -> Table {
    let mut texts = texts.clone();
    loop {
        let count = texts.len();
        let needed = COMPANIONS
            .iter()
            .filter(|(of, _)| of.is_empty() || texts.keys().any(|path| path.starts_with(of)));
        let needed: Vec<&str> = needed.flat_map(|(_, with)| *with).copied().collect();
        for path in needed {
            texts
                .entry(path)
                .or_insert_with(|| values(path).last().unwrap());
        }
        if texts.len() == count {
            break;
        }
    }
    let mut file = Table::new();
    for (path, text) in texts {
        let value: Table = format!("v = {text}").parse().unwrap();
        put(&mut file, path, value["v"].clone());
    }
    file
}

fn values(path: &str) -> &'static [&'static str] {
    let found = VALUES.iter().find(|(known, _)| *known == path);
    found.unwrap_or_else(|| panic!("no values for {path}")).1
}

fn put(table: &mut Table, path: &str, value: Value) {
    let Some((head, rest)) = path.split_once('.') else {
        table.insert(path.to_owned(), value);
        return;
    };
    let list = matches!(head, "realm" | "endpoint" | "witness");
    let empty = Value::Table(Table::new());
    let empty = if list {
        Value::Array(vec![empty])
    } else {
        empty
    };
    let inner = table.entry(head).or_insert(empty);
    let inner = if list { &mut inner[0] } else { inner };
    put(inner.as_table_mut().unwrap(), rest, value);
}

fn read(file: &Table) -> Config {
    let text = toml::to_string(file).unwrap();
    Config::parse(&text).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"))
}

fn settings() -> Vec<Row> {
    let rows = Config::rows(false).into_iter();
    rows.filter(|row| matches!(row.line, Line::Setting { .. }))
        .collect()
}

#[test]
fn every_setting_is_tried_and_documented() {
    let tried: BTreeSet<&str> = VALUES.iter().map(|(path, _)| *path).collect();
    let rows = settings();
    let declared: BTreeSet<&str> = rows.iter().map(|row| row.path.as_str()).collect();
    assert_eq!(tried, declared);
    assert_eq!(rows.len(), declared.len(), "a setting is declared twice");
    for row in rows {
        assert!(
            row.doc.trim().len() > 5,
            "{} has no documentation",
            row.path
        );
    }
}

fn some_settings() -> impl Strategy<Value = Texts> {
    let each = VALUES.iter().map(|(path, values)| {
        let text = proptest::option::of(select(*values));
        text.prop_map(|text| text.map(|text| (*path, text)))
    });
    let each: Vec<_> = each.collect();
    each.prop_map(|texts| {
        let mut texts: Texts = texts.into_iter().flatten().collect();
        if let Some(default) = texts.get("realm.default_endpoint").copied() {
            texts.insert("realm.endpoint.client_id", default);
        }
        texts
    })
}

proptest! {
    #[test]
    fn what_is_shown_reads_back_the_same(texts in some_settings()) {
        let config = read(&written(&texts));
        let shown = toml::to_string(&config.show()).unwrap();
        let again = Config::parse(&shown);
        prop_assert_eq!(again, Ok(config), "{}", shown);
    }
}

#[test]
fn a_reload_takes_a_setting_over_or_says_that_it_waits() {
    for row in settings() {
        let path = VALUES.iter().find(|(path, _)| *path == row.path).unwrap().0;
        let text = values(path)[0];
        // The same file but for the one setting, which has another value or isn't there.
        let changed = Texts::from([(path, text)]);
        let mut others = written(&changed);
        match values(path).last() {
            Some(last) if *last != text => {
                let value: Table = format!("v = {last}").parse().unwrap();
                put(&mut others, path, value["v"].clone());
            }
            _ => remove(&mut others, path),
        }
        let (running, file) = (read(&others), read(&written(&changed)));
        assert_ne!(running, file, "{path} = {text} changes nothing");
        let mut new = file.clone();
        let waiting = new.keep_until_restart(&running);
        assert_eq!(
            waiting.contains(&row.path),
            row.needs_restart(),
            "{path}: {waiting:?}"
        );
        if !row.needs_restart() {
            assert_eq!((new, waiting), (file, Vec::new()), "{path}");
        } else if path != "realm.endpoint.model" {
            assert_eq!(new, running, "{path}");
        }
    }
}

fn remove(table: &mut Table, path: &str) {
    match path.split_once('.') {
        None => drop(table.remove(path)),
        Some((head, rest)) => {
            let inner = match &mut table[head] {
                Value::Array(list) => &mut list[0],
                inner => inner,
            };
            remove(inner.as_table_mut().unwrap(), rest);
        }
    }
}

#[test]
fn a_section_that_comes_or_goes_waits_whole() {
    let without = read(&written(&Texts::new()));
    for (section, path) in [("mqtt", "mqtt.keep_alive"), ("http.tls", "http.tls.listen")] {
        let with = read(&written(&Texts::from([(path, values(path)[0])])));
        for (running, file) in [(&with, &without), (&without, &with)] {
            let mut new = file.clone();
            assert_eq!(new.keep_until_restart(running), [section]);
            assert_eq!(new, *running);
        }
    }
}

const SHIPPED: &str = include_str!("../../systemd/slmd.toml");

#[test]
fn the_shipped_file_is_the_tables() {
    assert_eq!(
        SHIPPED,
        Config::commented(),
        "run `cargo run -- config defaults > systemd/slmd.toml`"
    );
}

/// The headers and settings of the shipped file, none of them commented out.
fn shipped_lines() -> Vec<String> {
    let is_setting = |line: &str| {
        let key = line.split_once(" = ").map(|(key, _)| key);
        line.starts_with('[') || key.is_some_and(|key| !key.contains(' '))
    };
    let plain = |line: &str| line.strip_prefix('#').unwrap_or(line).to_owned();
    let lines = SHIPPED.lines().map(plain);
    let lines = lines.filter(|line| is_setting(line));
    lines
        .map(|line| line.replace("mqtt://", "mqtts://"))
        .collect()
}

/// A line that can be left out without its setting going away shows what holds then.
#[test]
fn every_commented_default_is_the_real_one() {
    let lines = shipped_lines();
    let shown = |lines: &[String]| Config::parse(&lines.join("\n")).map(|config| config.show());
    let whole = shown(&lines).unwrap();
    let places = (0..lines.len()).filter(|at| !lines[*at].starts_with('['));
    let mut defaults = Vec::new();
    for (at, row) in places.zip(settings()) {
        assert!(
            lines[at].starts_with(&format!("{} = ", row.key)),
            "{}",
            lines[at]
        );
        let mut without = lines.clone();
        without.remove(at);
        // The host's own name holds here, not the example's.
        let Ok(left) = shown(&without) else { continue };
        if row.path == "device" || value_at(&left, &row.path).is_none() {
            continue;
        }
        assert_eq!(left, whole, "{}", row.path);
        defaults.push(row.path);
    }
    assert!(defaults.len() > 45, "{defaults:?}");
    assert!(defaults.iter().any(|path| path == "http.hosts"));
}

fn value_at<'v>(shown: &'v serde_json::Value, path: &str) -> Option<&'v serde_json::Value> {
    path.split('.').try_fold(shown, |value, key| {
        let value = value.get(0).unwrap_or(value);
        value.get(key)
    })
}

/// Each line can be used as it stands.
#[test]
fn every_line_of_the_shipped_file_reads() {
    let whole = shipped_lines();
    let read = Config::parse(&whole.join("\n"));
    assert!(read.is_ok(), "{read:#?}");
    for row in settings() {
        let given = whole
            .iter()
            .filter(|line| line.starts_with(&format!("{} = ", row.key)));
        let same = settings()
            .iter()
            .filter(|other| other.key == row.key)
            .count();
        assert_eq!(given.count(), same, "{}", row.path);
    }
}
