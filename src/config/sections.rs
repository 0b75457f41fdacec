//! The schema of everything but realms, with its defaults and cross checks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::read::{Problems, Section};
use super::value::{
    Broker, address, broker, count, duration, hosts, kernels, log_filter, loopback, origins, path,
    required, secret_file, show_size, size, socket_path, text, topic_level, trusted_file,
};
use super::{Config, login, realm};
use crate::files::{self, FileError};
use crate::identity::{Identity, host_name};
use crate::tls::KeyPair;
use crate::{admission, audit, engine, link, transport};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
const AUDIT_LEAST: u64 = 16 << 20;

pub(super) fn config(root: &mut Section<'_>, warnings: &Problems<'_>) -> Option<Config> {
    let identity = identity(root);
    let device = identity.as_ref().map_or("", |i| i.device.as_str());
    let state_dir = root.or("state_dir", path, "/var/lib/slmd".into());
    let models_dir = root.or("models_dir", path, state_dir.join("models"));
    folders(root, &state_dir, &models_dir, warnings);
    let drain_deadline = duration(Duration::ZERO, HOUR);
    let drain_deadline = root.or("drain_deadline", drain_deadline, 20 * SECOND);
    let log = root.or("log", log_filter, "info".to_owned());
    let http = root.section("http", |section| http(section, device));
    let engine = root.section("engine", engine);
    let mqtt = root.has("mqtt");
    let mqtt = root.section("mqtt", |section| {
        mqtt.then(|| mqtt_settings(section, device, &http))
    });
    let admission = root.section("admission", admission);
    let audit = root.section("audit", audit);
    let realms = realm::realms(root);
    Some(Config {
        identity: identity?,
        state_dir,
        models_dir,
        drain_deadline,
        log,
        http,
        mqtt: mqtt.flatten(),
        engine,
        admission,
        audit,
        realms,
        login: root.section("login", login::login),
        warnings: Vec::new(),
    })
}

fn identity(root: &mut Section<'_>) -> Option<Identity> {
    let named = root.has("device");
    let device = root.optional("device", topic_level);
    let identity = device.or_else(host_name).and_then(|d| Identity::new(&d));
    if identity.is_none() && !named {
        root.problem(
            "device",
            "is missing and the host's name can't stand for it; add device = \"…\"",
        );
    }
    identity
}

fn http(section: &mut Section<'_>, device: &str) -> transport::http::Settings {
    let seconds = || duration(SECOND, HOUR);
    let listen = section.optional("listen", loopback);
    let has_tls = section.has("tls");
    let tls = section.section("tls", |section| {
        has_tls.then(|| http_tls(section)).flatten()
    });
    let mut names = vec![device.to_owned()];
    names.extend(section.or("hosts", hosts, Vec::new()));
    let mut public_urls = section.or("public_urls", origins, default_urls(device));
    let ports = [
        ("http", listen),
        ("https", tls.as_ref().map(|tls| tls.listen)),
    ];
    for (scheme, address) in ports {
        public_urls.extend(address.map(|at| format!("{scheme}://{device}:{}", at.port())));
    }
    for list in [&mut names, &mut public_urls] {
        let mut seen = BTreeSet::new();
        list.retain(|name| seen.insert(name.clone()));
    }
    let settings = transport::http::Settings {
        listen,
        tls,
        hosts: names,
        public_urls,
        socket: section.or("socket", socket_path, "/run/slmd/slmd.sock".into()),
        admin_socket: section.or("admin_socket", socket_path, "/run/slmd/admin.sock".into()),
        max_body: section.or("max_body", bytes(1 << 10, 16 << 20), 256 << 10),
        header_timeout: section.or("header_timeout", seconds(), 10 * SECOND),
        body_timeout: section.or("body_timeout", seconds(), 30 * SECOND),
        max_connections: section.or("max_connections", count(1, 4096), 64),
        max_connections_per_uid: section.or("max_connections_per_uid", count(1, 4096), 32),
        keep_alive: section.or("keep_alive", seconds(), 10 * SECOND),
    };
    if settings.socket == settings.admin_socket {
        section.problem(
            "admin_socket",
            "is the same as `socket`; give it another path",
        );
    }
    settings
}

fn default_urls(device: &str) -> Vec<String> {
    vec![format!("http://{device}"), format!("https://{device}")]
}

fn http_tls(section: &mut Section<'_>) -> Option<transport::http::TlsSettings> {
    let listen = section.required("listen", address);
    let cert_file = section.required("cert_file", trusted_file);
    let key_file = section.required("key_file", secret_file);
    let client_ca_file = section.optional("client_ca_file", trusted_file);
    let client_certificate_required = section.or("client_certificate", required, false);
    if client_certificate_required && client_ca_file.is_none() {
        section.problem("client_certificate", "needs `client_ca_file` too");
    }
    Some(transport::http::TlsSettings {
        listen: listen?,
        own: KeyPair {
            cert_file: cert_file?,
            key_file: key_file?,
        },
        client_ca_file,
        client_certificate_required,
    })
}

fn mqtt_tls(section: &mut Section<'_>) -> Option<link::Tls> {
    let ca_file = section.required("ca_file", trusted_file);
    let cert_file = section.optional("cert_file", trusted_file);
    let key_file = section.optional("key_file", secret_file);
    if cert_file.is_some() != key_file.is_some() {
        section.problem(
            "cert_file",
            "and `key_file` go together; give both or neither",
        );
    }
    let own = cert_file.zip(key_file);
    Some(link::Tls {
        ca_file: ca_file?,
        own: own.map(|(cert_file, key_file)| KeyPair {
            cert_file,
            key_file,
        }),
    })
}

fn bytes(least: u64, most: u64) -> impl FnOnce(&toml::de::DeValue<'_>) -> Result<usize, String> {
    move |value| {
        let bytes = size(least, most)(value)?;
        usize::try_from(bytes).map_err(|_| "is too large for this machine".to_owned())
    }
}

fn engine(section: &mut Section<'_>) -> engine::Settings {
    let spare: usize = section.or("spare_cores", count(0, 255), 0);
    let threads = match section.or("threads", count(0, 256), 0) {
        0 => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            cores.saturating_sub(spare).max(1)
        }
        threads => threads,
    };
    engine::Settings {
        threads,
        context: section.or("context", count(64, 1 << 20), 2048),
        queue: section.or("queue", count(1, 1024), 16),
        kernels: section.or("kernels", kernels, None),
    }
}

fn admission(section: &mut Section<'_>) -> admission::Settings {
    admission::Settings {
        answer_buffer: section.or("answer_buffer", count(1, 4096), 64),
        default_deadline: section.or("default_deadline", duration(SECOND, DAY), 5 * MINUTE),
        duplicate_window: section.or("duplicate_window", duration(SECOND, DAY), 10 * MINUTE),
        duplicates: section.or("duplicates", count(1, 65_536), 256),
        tokens_per_minute: section.or("tokens_per_minute", count(1, 1 << 31), 20_000),
        prompts_per_minute: section.or("prompts_per_minute", count(1, 1 << 20), 600),
        operations_per_minute: section.or("operations_per_minute", count(1, 1 << 20), 120),
    }
}

fn audit(section: &mut Section<'_>) -> audit::Settings {
    audit::Settings {
        max_bytes: section.or("max_size", audit_size, 64 << 20),
        retention: section.or("retention", duration(HOUR, 3650 * DAY), 90 * DAY),
        refusals_per_minute: section.or("refusals_per_minute", count(1, 100_000), 60),
    }
}

/// Small caps would be the database's own overhead and hold next to no records.
fn audit_size(value: &toml::de::DeValue<'_>) -> Result<u64, String> {
    let bytes = size(0, 1 << 40)(value)?;
    if bytes >= AUDIT_LEAST {
        return Ok(bytes);
    }
    Err(format!(
        "is {}, of which the database's own overhead would leave next to nothing for records; \
         give it at least {}",
        show_size(bytes),
        show_size(AUDIT_LEAST)
    ))
}

/// The broker's settings; `None` without a usable URL.
fn mqtt_settings(
    section: &mut Section<'_>,
    device: &str,
    http: &transport::http::Settings,
) -> Option<transport::mqtt::Settings> {
    let url = section.required("url", broker);
    let username = section.optional("username", text);
    let password_file = password_file(section, username.is_some());
    let tls = broker_tls(section, url.as_ref());
    let settings = transport::mqtt::Settings {
        tls,
        password_file,
        host: String::new(),
        port: 0,
        client_id: section.or("client_id", topic_level, format!("slmd-{device}")),
        username,
        keep_alive: section.or("keep_alive", duration(5 * SECOND, HOUR), 30 * SECOND),
        session_expiry: section.or("session_expiry", duration(MINUTE, 30 * DAY), HOUR),
        receive_maximum: section.or("receive_maximum", count(1, 1024), 1024),
        max_body: http.max_body,
        reply_to: reply_to(section, device),
        fragment_interval: section.or(
            "fragment_interval",
            duration(Duration::ZERO, 10 * SECOND),
            50 * MILLISECOND,
        ),
        reconnect_min: section.or("reconnect_min", duration(100 * MILLISECOND, HOUR), SECOND),
        reconnect_max: section.or("reconnect_max", duration(SECOND, HOUR), MINUTE),
    };
    if settings.reconnect_min > settings.reconnect_max {
        section.problem("reconnect_min", "is longer than `reconnect_max`; swap them");
    }
    let Broker { host, port, .. } = url?;
    Some(transport::mqtt::Settings {
        host,
        port,
        ..settings
    })
}

/// `[mqtt.tls]`, which goes with an mqtts:// URL and with no other.
fn broker_tls(section: &mut Section<'_>, url: Option<&Broker>) -> Option<link::Tls> {
    let has_tls = section.has("tls");
    let tls = section.section("tls", |section| {
        has_tls.then(|| mqtt_tls(section)).flatten()
    });
    match url.map(|url| url.tls) {
        Some(true) if !has_tls => {
            section.problem(
                "url",
                "is an mqtts:// URL; add [mqtt.tls] with the broker's CA in `ca_file`",
            );
        }
        Some(false) if has_tls => {
            section.problem(
                "url",
                "is an mqtt:// URL, and there is [mqtt.tls]; write mqtts://",
            );
        }
        _ => {}
    }
    tls
}

/// Where answers may go: a pattern that can't be another client's or a request topic.
fn reply_to(section: &mut Section<'_>, device: &str) -> String {
    let default = "slm/{device}/reply/{azp}/#".to_owned();
    let pattern = section.or("reply_to", text, default);
    let mut levels: Vec<&str> = pattern.split('/').collect();
    if levels.last() == Some(&"#") {
        levels.pop();
    }
    let plain = |level: &&str| {
        matches!(*level, "{device}" | "{azp}")
            || !level.is_empty() && !level.contains(['+', '#', '{', '}', '$'])
    };
    let requests = ["slm", device, "v1"];
    let meets = |(level, fixed): (&&str, &str)| {
        let own = level.replace("{device}", device);
        own == *fixed || own == "{azp}"
    };
    let wrong = if !levels.iter().all(plain) {
        "has an empty level, a wildcard other than a final `#`, or an unknown {…}"
    } else if !levels.contains(&"{azp}") {
        "has no level {azp}, so every client could take every other's answers"
    } else if levels.iter().zip(requests).all(meets) {
        "matches request topics, slm/{device}/v1/…"
    } else {
        return pattern;
    };
    section.problem(
        "reply_to",
        format!("{wrong}; write e.g. \"slm/{{device}}/reply/{{azp}}/#\""),
    );
    pattern
}

/// Whoever may write to them decides who may do what, and what is answered.
fn folders(root: &Section<'_>, state_dir: &Path, models_dir: &Path, warnings: &Problems<'_>) {
    let told = |folder: &Path, error: &FileError| format!("is {}: {error}", folder.display());
    if let Err(error) = files::check_kept_folder(state_dir) {
        root.problem("state_dir", told(state_dir, &error));
    }
    if let Err(error) = files::check_folder(models_dir) {
        root.problem("models_dir", told(models_dir, &error));
    } else if let Err(error) = files::check_kept_folder(models_dir) {
        root.warn(warnings, "models_dir", &told(models_dir, &error));
    }
}

/// Where the broker's password is. It is read at each connect; here only to see that it can be.
fn password_file(section: &mut Section<'_>, has_username: bool) -> Option<PathBuf> {
    if section.has("password") {
        section.optional("password", |_| -> Result<(), String> {
            Err("doesn't belong in this file; put it in a file of mode 0600 and name that in `password_file`".to_owned())
        });
    }
    let file = section.optional("password_file", secret_file)?;
    if !has_username {
        section.problem(
            "password_file",
            "needs `username` too (MQTT 3.1.1 section 3.1.2.9)",
        );
    }
    match std::fs::read_to_string(&file) {
        Ok(_) => Some(file),
        Err(error) => {
            let message = format!("{} can't be read: {error}", file.display());
            section.problem("password_file", message);
            None
        }
    }
}
