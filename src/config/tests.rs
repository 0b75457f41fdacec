//! Whole files: defaults, every kind of mistake at once, and the way back from what is shown.

use std::path::Path;
use std::time::Duration;

use super::{Config, Problem};
use crate::prompt::Scope;

const LEAST: &str = r#"
device = "edge-1"
[[realm]]
name = "dev"
issuer = "https://keycloak.example/realms/dev"
[[realm.endpoint]]
client_id = "slm"
model = "smollm2-135m-instruct"
"#;

/// Without and with this machine.
fn problems(text: &str) -> Vec<String> {
    let problems = Config::parse(text).expect_err("a broken file");
    problems.iter().map(Problem::to_string).collect()
}

fn here(text: &str) -> Result<Config, String> {
    let said = |p: Vec<Problem>| p.iter().map(|p| format!("{p}\n")).collect();
    super::parse(text, super::Look::Kept).map_err(said)
}

fn with(extra: &str) -> String {
    format!("{LEAST}{extra}")
}

#[test]
fn a_realm_is_all_it_needs() {
    let config = Config::parse(LEAST).unwrap();
    assert_eq!(config.identity.device, "edge-1");
    assert_eq!(config.models_dir, Path::new("/var/lib/slmd/models"));
    assert!(config.mqtt.is_none());
    let policy = &config.realms[0].policy;
    assert_eq!(policy.unsynchronised_scopes, [Scope::Read, Scope::Audit]);
    assert_eq!(
        policy.offline_grace[&Scope::FineTune],
        Duration::from_secs(3600)
    );
}

/// Its topics, `slm/trust/…`, would be its fleet's.
#[test]
fn no_device_is_called_as_the_fleets_topics() {
    let text = LEAST.replace("\"edge-1\"", "\"trust\"");
    let found = problems(&text);
    assert!(
        found.len() == 1 && found[0].contains("is \"trust\", which"),
        "{found:?}"
    );
    assert!(Config::parse(&LEAST.replace("\"edge-1\"", "\"trusty\"")).is_ok());
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let text = r#"device = "a/b"
drain_deadline = 20
models_dir = "models"
colour = "blue"
[http]
sockett = "/run/x"
max_body = "1 PB"
[mqtt]
url = "mqtts://broker"
password = "hunter2"
[engine]
queue = -1
[[realm]]
name = "dev"
default_endpoint = "slm"
offline_grace = { reed = "1d" }
[[realm.endpoint]]
client_id = "other"
"#;
    let found = problems(text);
    let begins: Vec<_> = found
        .iter()
        .map(|p| p.splitn(4, ':').take(3).collect::<Vec<_>>().join(":"))
        .collect();
    assert_eq!(
        begins,
        [
            "1:10: device",
            "2:18: drain_deadline",
            "3:14: models_dir",
            "4:1: colour",
            "6:1: http.sockett",
            "7:12: http.max_body",
            "9:7: mqtt.url",
            "10:12: mqtt.password",
            "12:9: engine.queue",
            "13:1: realm.issuer",
            "15:20: realm.default_endpoint",
            "16:17: realm.offline_grace",
            "17:1: realm.endpoint.model",
        ],
        "{found:#?}"
    );
    assert!(found[4].contains("did you mean `socket`?"), "{}", found[4]);
    assert!(!found.concat().contains("hunter2"));
}

#[test]
fn the_audit_log_needs_more_than_the_databases_overhead() {
    let sized = |size: &str| Config::parse(&with(&format!("[audit]\nmax_size = \"{size}\"\n")));
    let found = sized("15 MiB").unwrap_err()[0].to_string();
    assert!(found.contains("audit.max_size: is 15 MiB"), "{found}");
    assert!(found.contains("from 16 MiB"), "{found}");
    assert_eq!(sized("16 MiB").unwrap().audit.max_bytes, 16 << 20);
}

#[test]
fn broken_syntax_is_told_line_by_line() {
    let found = problems("device = \nlog = \"info\nstate_dir = \"/x\"\n[http\n");
    assert!(found.len() >= 2, "{found:#?}");
    assert!(found[0].starts_with("1:"), "{found:#?}");
    assert!(
        problems(&with(
            "[http]\nmax_body = \"1 KiB\"\nmax_body = \"2 KiB\"\n"
        ))[0]
            .contains("duplicate")
    );
}

#[test]
fn realms_must_be_told_apart() {
    assert!(problems("device = \"x\"")[0].contains("[[realm]]"));
    let twice = format!("{LEAST}{}", LEAST.replace("device = \"edge-1\"", ""));
    let found = problems(&twice);
    assert_eq!(found.len(), 2, "{found:#?}");
    let endpoint = "[[realm.endpoint]]\nclient_id = \"slm\"\nmodel = \"m\"\n";
    assert!(problems(&with(endpoint))[0].contains("already"));
}

#[test]
fn a_scope_left_out_keeps_its_limit() {
    let grace = |text: &str| {
        let text = LEAST.replace("[[realm.endpoint]]", &format!("{text}\n[[realm.endpoint]]"));
        let config = Config::parse(&text).unwrap();
        config.realms[0].policy.offline_grace.clone()
    };
    let some = grace(r#"offline_grace = { read = "7d", audit = "none" }"#);
    assert_eq!(some[&Scope::Read], Duration::from_secs(7 * 86_400));
    assert_eq!(some[&Scope::Write], Duration::from_secs(86_400));
    assert!(!some.contains_key(&Scope::Audit));
    assert!(grace(r#"offline_grace = "none""#).is_empty());
}

#[test]
fn answers_can_only_go_to_their_client() {
    let reply = |pattern: &str| {
        let extra = format!("[mqtt]\nurl = \"mqtt://[::1]\"\nreply_to = \"{pattern}\"\n");
        Config::parse(&with(&extra)).map(|c| c.mqtt.map(|m| m.reply_to))
    };
    for good in [
        "slm/{device}/reply/{azp}/#",
        "{azp}/answers",
        "a/{azp}/{device}/#",
    ] {
        assert_eq!(reply(good), Ok(Some(good.to_owned())));
    }
    for bad in [
        "slm/{device}/reply/#",
        "slm/+/reply/{azp}/#",
        "#",
        "slm//{azp}",
        "slm/{device}/v1/{azp}/#",
        "slm/edge-1/{azp}/#",
        "{azp}/#",
        "x/{realm}/{azp}",
    ] {
        assert!(reply(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_password_file_can_be_read_and_not_by_all() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    let text = with(&format!(
        "[mqtt]\nurl = \"mqtt://localhost\"\nusername = \"u\"\npassword_file = \"{}\"\n",
        file.display()
    ));
    for mode in [0o600, 0o640] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let config = here(&text).unwrap();
        let mqtt = config.mqtt.as_ref().unwrap();
        assert_eq!(mqtt.password_file.as_ref(), Some(&file));
        assert!(!format!("{config:?}{}", config.show()).contains("hunter2"));
    }
    std::fs::remove_file(&file).unwrap();
    assert!(
        here(&text).unwrap_err().contains("mqtt.password_file") && Config::parse(&text).is_ok()
    );
}

#[test]
fn plain_tcp_is_for_this_machine_only() {
    let listening = |at: &str| with(&format!("[http]\nlisten = \"{at}\"\n"));
    assert!(Config::parse(&listening("127.0.0.1:8080")).is_ok());
    assert!(Config::parse(&listening("[::1]:8080")).is_ok());
    for beyond in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:8080"] {
        let problem = problems(&listening(beyond)).remove(0);
        assert!(problem.contains("http.listen"), "{problem}");
        assert!(problem.contains("[http.tls]"), "{problem}");
    }
}

#[test]
fn keys_come_over_https_unless_every_user_of_this_host_is_trusted() {
    let jwks = |settings: &str| with(&format!("[realm.jwks]\n{settings}"));
    let plain = "uri = \"http://127.0.0.1:8080/certs\"\n";
    let refused = problems(&jwks(plain));
    assert!(
        refused.len() == 1 && refused[0].contains("plain_http_trusts_this_host"),
        "{refused:?}"
    );
    let trusting = format!("{plain}plain_http_trusts_this_host = true\n");
    let shown = Config::parse(&jwks(&trusting)).unwrap().show();
    assert_eq!(
        shown["realm"][0]["jwks"]["plain_http_trusts_this_host"],
        true
    );
    assert_eq!(shown["realm"][0]["jwks"]["vouch_after"], "1d");
    // It never goes beyond this machine, and HTTPS needs its CA all the same.
    let far = trusting.replace("127.0.0.1", "keycloak.example");
    assert_eq!(problems(&jwks(&far)).len(), 1);
    let no_ca = trusting.replace("http:", "https:");
    assert!(problems(&jwks(&no_ca))[0].contains("ca_file"));
    assert_eq!(
        problems(&jwks(&(trusting + "vouch_after = \"0s\"\n"))).len(),
        1
    );
}

#[test]
fn tls_needs_its_files() {
    let mqtts = "[mqtt]\nurl = \"mqtts://h\"\n";
    assert!(problems(&with(mqtts))[0].contains("[mqtt.tls]"));
    let plain = "[mqtt]\nurl = \"mqtt://h\"\n[mqtt.tls]\nca_file = \"/ca.pem\"\n";
    assert!(problems(&with(plain))[0].contains("mqtts://"));
    let tls = "[http.tls]\nlisten = \"0.0.0.0:8443\"\nclient_certificate = \"required\"\n";
    let problems = problems(&with(tls)).join("\n");
    for key in ["cert_file", "key_file", "client_ca_file"] {
        assert!(problems.contains(key), "{problems}");
    }
}

/// What metrics have series for.
#[test]
fn there_is_an_end_to_realms_models_and_mirrors() {
    let realm = |n: usize| {
        LEAST
            .split_once("[[realm]]")
            .map(|(_, realm)| format!("[[realm]]{realm}"))
            .unwrap()
            .replace("dev", &format!("dev{n}"))
    };
    let realms = |count: usize| (0..count).map(realm).collect::<String>();
    let found = problems(&format!("device = \"edge-1\"\n{}", realms(33)));
    assert!(found.len() == 1 && found[0].contains("32 are"), "{found:?}");
    assert!(Config::parse(&format!("device = \"edge-1\"\n{}", realms(32))).is_ok());
    let endpoint =
        |n: usize| format!("[[realm.endpoint]]\nclient_id = \"e{n}\"\nmodel = \"m{n}\"\n");
    let endpoints: String = (0..16).map(endpoint).collect();
    let found = problems(&with(&endpoints));
    assert!(found.len() == 1 && found[0].contains("16 are"), "{found:?}");
    let mirrors = vec!["\"/a\""; 17].join(", ");
    let found = problems(&with(&format!(
        "[fleet]\nname = \"plant\"\nmirrors = [{mirrors}]\n"
    )));
    assert!(found.len() == 1 && found[0].contains("16"), "{found:?}");
}

#[test]
fn an_unreadable_file_is_a_problem() {
    let problems = Config::load(Path::new("/nonexistent/slmd.toml")).unwrap_err();
    assert!(
        problems[0].to_string().starts_with("can't be read"),
        "{problems:?}"
    );
}

#[test]
fn local_groups_are_those_of_this_machine_and_of_one_realm() {
    let realm = |name: &str, groups: &str| {
        format!(
            "[[realm]]\nname = \"{name}\"\nissuer = \"https://k.test/realms/{name}\"\n\
             deny_file = \"/etc/slmd/deny/{name}.json\"\n\
             [[realm.endpoint]]\nclient_id = \"slm\"\nmodel = \"m\"\n{groups}\n"
        )
    };
    let root = "[realm.local_groups]\nroot = [\"read\"]\n";
    let text = realm("a", root) + &realm("b", "");
    let config = here(&text).unwrap();
    let (a, b) = (&config.realms[0], &config.realms[1]);
    assert_eq!(a.policy.local_groups[&0], [Scope::Read]);
    assert!(b.policy.local_groups.is_empty());
    let denied = Path::new("/etc/slmd/deny/b.json");
    assert_eq!(b.deny_file.as_deref(), Some(denied));
    let shown = toml::to_string(&config.show()).unwrap();
    assert_eq!(here(&shown).unwrap().show(), config.show());

    for (text, what) in [
        (realm("a", root) + &realm("b", root), "only one realm may"),
        (
            realm("a", "[realm.local_groups]\nno-such-group = [\"read\"]\n"),
            "no group of this machine",
        ),
        (realm("explain", ""), "choose another"),
    ] {
        let said = here(&text).unwrap_err();
        assert!(said.contains(what), "{said}");
    }
}

/// Each file and folder that the configuration names, with the modes that are taken and refused.
#[test]
fn files_that_others_may_change_or_read_are_refused_with_what_to_do() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let shown = path.display();
    let tls = |more: &str| format!("[http.tls]\nlisten = \"127.0.0.1:1\"\n{more}");
    let mqtt = |more: &str| format!("[mqtt]\nurl = \"mqtts://h\"\nusername = \"u\"\n{more}");
    let realm = |more: &str| {
        format!(
            "[[realm]]\nname = \"d\"\nissuer = \"https://k/d\"\n{more}\n\
             [[realm.endpoint]]\nclient_id = \"c\"\nmodel = \"m\"\n"
        )
    };
    let named = |key: &str| format!("{key} = \"{shown}\"\n");
    let (cert, key) = ("cert_file = \"/c\"\n", "key_file = \"/k\"\n");
    let ca = "ca_file = \"/a\"\n";
    let trusted: (&[u32], &[u32]) = (&[0o600, 0o644, 0o444], &[0o664, 0o646, 0o666]);
    let secret: (&[u32], &[u32]) = (&[0o600, 0o640, 0o400], &[0o644, 0o660, 0o604, 0o666]);
    for (key, text, (taken, refused)) in [
        (
            "http.tls.cert_file",
            with(&tls(&(named("cert_file") + key))),
            trusted,
        ),
        (
            "http.tls.key_file",
            with(&tls(&(named("key_file") + cert))),
            secret,
        ),
        (
            "http.tls.client_ca_file",
            with(&tls(&(named("client_ca_file") + cert + key))),
            trusted,
        ),
        (
            "mqtt.tls.ca_file",
            with(&mqtt(&("[mqtt.tls]\n".to_owned() + &named("ca_file")))),
            trusted,
        ),
        (
            "mqtt.tls.cert_file",
            with(&mqtt(
                &("[mqtt.tls]\n".to_owned() + ca + key + &named("cert_file")),
            )),
            trusted,
        ),
        (
            "mqtt.tls.key_file",
            with(&mqtt(
                &("[mqtt.tls]\n".to_owned() + ca + cert + &named("key_file")),
            )),
            secret,
        ),
        (
            "mqtt.password_file",
            with(&mqtt(&(named("password_file") + "[mqtt.tls]\n" + ca))),
            secret,
        ),
        (
            "telemetry.headers_file",
            with(&("[telemetry]\n".to_owned() + &named("headers_file"))),
            secret,
        ),
        ("realm.deny_file", realm(&named("deny_file")), trusted),
        (
            "realm.jwks.ca_file",
            realm(&("[realm.jwks]\nuri = \"https://k/c\"\n".to_owned() + &named("ca_file"))),
            trusted,
        ),
        (
            "login.ca_file",
            with(
                &("[login]\nissuer = \"https://k/d\"\nclient_id = \"c\"\n".to_owned()
                    + &named("ca_file")),
            ),
            trusted,
        ),
    ] {
        std::fs::write(&path, "x").unwrap();
        for mode in taken {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)).unwrap();
            assert!(here(&text).is_ok(), "{key} {mode:o}: {text}");
        }
        for mode in refused {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)).unwrap();
            assert!(Config::parse(&text).is_ok(), "the text alone is sound");
            let found = here(&text).unwrap_err();
            assert!(
                found.contains(key) && found.contains("run chmod "),
                "{mode:o}: {found}"
            );
        }
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn folders_and_the_file_itself_are_their_owners() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let (state, models) = (
        format!("state_dir = {inner:?}\n{LEAST}"),
        format!("models_dir = {inner:?}\n{LEAST}"),
    );
    // For each mode: whether it is refused as the state, and as the models.
    for (bits, as_state, as_models) in [
        (0o700, false, false),
        (0o755, false, false),
        (0o775, true, false),
        (0o777, true, true),
        (0o1777, true, true),
    ] {
        mode(&inner, bits);
        assert_eq!(here(&state).is_err(), as_state, "{bits:o}");
        assert_eq!(here(&models).is_err(), as_models, "{bits:o}");
    }
    mode(&inner, 0o775);
    assert_eq!(here(&models).unwrap().warnings.len(), 1);
    mode(&inner, 0o700);

    let file = inner.join("slmd.toml");
    std::fs::write(&file, with("")).unwrap();
    for (bits, refused) in [(0o600, false), (0o644, false), (0o664, true), (0o646, true)] {
        mode(&file, bits);
        let loaded = Config::load(&file);
        assert_eq!(loaded.is_err(), refused, "{bits:o}: {loaded:?}");
    }
    let said = Config::load(&file).unwrap_err()[0].to_string();
    assert!(
        said.contains("others may change it") && said.contains("chmod go-w"),
        "{said}"
    );
    mode(&file, 0o644);
    mode(&inner, 0o777);
    assert!(Config::load(&file).is_err(), "anybody can replace it");
}

#[test]
fn spared_cores_are_left_alone_but_one_always_works() {
    let threads = |text: &str| {
        let config = Config::parse(&with(&format!("[engine]\n{text}\n"))).unwrap();
        config.engine.threads()
    };
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(threads("spare_cores = 1"), (cores - 1).max(1));
    assert_eq!(threads("spare_cores = 255"), 1);
    assert_eq!(threads("threads = 3\nspare_cores = 1"), 3);
}
