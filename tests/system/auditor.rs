//! The log as evidence: pages for a realm's auditors, the exact bytes with their proofs, checked by
//! software that isn't ours, and salts that are erased.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Daemon, Issuer, Response, Setup, chat, claims, http, python, run, send, within,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon with two realms, each with an issuer of its own.
struct Scene {
    dev: Issuer,
    prod: Issuer,
    daemon: Daemon,
}

impl Scene {
    fn start() -> Scene {
        let (dev, prod) = (Issuer::new("ES256", "a"), Issuer::new("ES256", "b"));
        let realm = |name: &str| {
            let anywhere = "unsynchronised_scopes = [\"read\", \"audit\"]\nmax_lifetime = \"1h\"";
            format!(
                "[[realm]]\nname = \"{name}\"\nissuer = \"https://keycloak.test/realms/{name}\"\n\
                 default_endpoint = \"slm\"\n{anywhere}\n\
                 [[realm.endpoint]]\nclient_id = \"slm\"\nmodel = \"smollm2-135m-instruct\"\n"
            )
        };
        let setup = Setup::new().with(&(realm("dev") + &realm("prod")));
        let setup = setup.issuer(&dev).keys("prod", &prod.jwks());
        let daemon = Daemon::start(setup);
        Scene { dev, prod, daemon }
    }

    fn token(&self, realm: &str, role: &str) -> String {
        let mut claims = claims();
        claims["iss"] = format!("https://keycloak.test/realms/{realm}").into();
        claims["resource_access"] = json!({"slm": {"roles": [role]}});
        claims["azp"] = format!("{role}-of-{realm}").into();
        match realm {
            "dev" => self.dev.token(claims),
            _ => self.prod.token(claims),
        }
    }

    fn ask(&self, realm: &str) {
        let body = chat("Name a number.", 1, false);
        let answer = self.daemon.chat(&self.token(realm, "read"), &body);
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    fn get(&self, path: &str, token: &str, accept: &str) -> Response {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("accept", accept)];
        http(&self.daemon.socket(), "GET", path, &headers, "")
    }

    /// Whole pages of so many, one after the other, with a prompt between them.
    fn pages(&self, query: &str, token: &str) -> Vec<Value> {
        let mut records = Vec::new();
        let mut from = String::new();
        loop {
            let path = format!("/v1/audit?{query}{from}");
            let page = self.get(&path, token, "application/json");
            assert_eq!(page.status, 200, "{page:?}");
            assert_eq!(page.header("cache-control"), Some("no-store"));
            let page = page.json();
            let data = page["data"].as_array().expect("a list");
            records.extend(data.iter().cloned());
            if page["has_more"] == false {
                return records;
            }
            from = format!("&from={}", page["next"]);
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

#[test]
fn a_token_reads_its_own_realms_records_in_pages_and_no_others() {
    let scene = Scene::start();
    for realm in ["dev", "prod", "dev"] {
        scene.ask(realm);
    }
    let (dev, prod) = (scene.token("dev", "audit"), scene.token("prod", "audit"));
    for (realm, token, prompts) in [("dev", &dev, 2), ("prod", &prod, 1)] {
        for query in [
            "limit=1",
            "limit=100",
            "limit=2&order=desc",
            "realm=dev",
            "realm=prod",
        ] {
            let records = scene.pages(query, token);
            let of = |name: &str| {
                let of =
                    |record: &&Value| record["event"] == name && record["action"] != "read_audit";
                records.iter().filter(of).count()
            };
            let other = query.starts_with("realm=") && !query.ends_with(realm);
            let expected = if other { 0 } else { prompts };
            assert_eq!(of("access"), expected, "{realm} {query}: {records:#?}");
            assert_eq!(of("finish"), expected, "{realm} {query}");
            for record in &records {
                let of_change = &record["detail"]["realm"];
                assert!(record["realm"] == realm || of_change == realm, "{record}");
            }
            let indexes: Vec<u64> = records.iter().filter_map(|r| r["index"].as_u64()).collect();
            let mut distinct = indexes.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), indexes.len(), "{query}");
        }
    }
    // Without the role nothing, and without a token neither.
    for path in [
        "/v1/audit",
        "/v1/audit/checkpoint",
        "/v1/audit/proof/0",
        "/v1/audit/consistency/1",
    ] {
        let refused = scene.get(path, &scene.token("dev", "read"), "*/*");
        assert_eq!(
            (refused.status, refused.json()["error"]["code"].as_str()),
            (403, Some("scope_missing"))
        );
        assert_eq!(
            http(&scene.daemon.socket(), "GET", path, &[], "").status,
            401,
            "{path}"
        );
    }
    let wrong = scene.get("/v1/audit?limit=1000", &dev, "*/*");
    assert_eq!(
        (wrong.status, wrong.json()["error"]["param"].as_str()),
        (400, Some("limit"))
    );
    // One record a line, and where to go on.
    let lines = scene.get("/v1/audit?limit=1&event=access", &dev, "application/jsonl");
    assert_eq!(lines.header("content-type"), Some("application/jsonl"));
    assert_eq!(lines.body.lines().count(), 1);
    let link = lines.header("link").expect("there are more");
    assert!(
        link.starts_with("</v1/audit?limit=1&event=access&from="),
        "{link}"
    );
    let bearer = format!("Bearer {dev}");
    let (path, headers) = ("/v1/audit/checkpoint", [("authorization", bearer.as_str())]);
    let head = send(&scene.daemon.socket(), "HEAD", path, &headers, "");
    let mut head = head.expect("the daemon answers");
    assert_eq!(head.status, 200);
    assert_eq!(head.header("cache-control"), Some("no-store"));
    assert!(head.chunk().is_err(), "a body where none may be");
}

#[test]
fn an_exported_record_is_proven_to_who_has_nothing_of_ours() {
    let mut scene = Scene::start();
    scene.ask("dev");
    scene.ask("prod");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("plain").to_owned();
    let whole = text(&scene.daemon.slmd(&["audit", "export"]).stdout);
    let prompt = whole
        .lines()
        .find(|line| line.contains("\"prompt_hash\""))
        .expect("a prompt");
    let index = serde_json::from_str::<Value>(prompt).expect("JSON")["index"].to_string();

    let vkey = succeeded(
        &scene
            .daemon
            .slmd(&["audit", "checkpoint", "--now", "--key"]),
    );
    let vkey = vkey.trim();
    let (proof, record) = (file("proof"), file("record"));
    let prove = ["audit", "prove", &index, "-o", &proof, "--record", &record];
    succeeded(&scene.daemon.slmd(&prove));
    assert_eq!(fs::read_to_string(&record).expect("it was written"), prompt);
    let checked = python("tlog_check.py", &[&proof, &record, vkey], &[]);
    assert!(succeeded(&checked).contains(" of slmd.internal/"));

    // Ours says the same, on a machine without daemon and configuration.
    let check = |record: &str, key: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
        command.args([
            "audit",
            "check-proof",
            &proof,
            "--record",
            record,
            "--key",
            key,
        ]);
        command.env_clear().current_dir(folder.path());
        run(&mut command, b"", PATIENCE)
    };
    assert!(succeeded(&check(&record, vkey)).starts_with("proven: "));
    let id = succeeded(&scene.daemon.slmd(&["device", "id", "--json"]));
    let id: Value = serde_json::from_str(&id).expect("JSON");
    let x = id["x"].as_str().expect("text");
    assert!(succeeded(&check(&record, x)).starts_with("proven: "));
    let forged = file("forged");
    fs::write(&forged, prompt.replacen("permit", "denied", 1)).expect("a file of this test");
    let refused = check(&forged, vkey);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        !python("tlog_check.py", &[&proof, &forged, vkey], &[])
            .status
            .success()
    );

    // An auditor has the same proof by a token, once a checkpoint covers the record.
    let token = scene.token("dev", "audit");
    let path = format!("/v1/audit/proof/{index}");
    let by_token = within(PATIENCE, "a checkpoint", || {
        let answer = scene.get(&path, &token, "*/*");
        (answer.status == 200).then_some(answer)
    });
    fs::write(&proof, &by_token.body).expect("a file of this test");
    succeeded(&python("tlog_check.py", &[&proof, &record, vkey], &[]));
    let consistency = scene.get("/v1/audit/consistency/1", &token, "*/*");
    assert_eq!(consistency.status, 200, "{consistency:?}");
    assert_eq!(
        scene.get("/v1/audit/proof/999999", &token, "*/*").status,
        404
    );

    // The command line shows a token's realm alone, and what is missing.
    let mut export = scene.daemon.binary();
    let socket = scene.daemon.socket();
    export
        .args(["audit", "export", "--socket"])
        .arg(&socket)
        .env("SLMD_TOKEN", &token);
    let own = run(&mut export, b"", PATIENCE);
    assert!(succeeded(&own).contains(prompt) && !text(&own.stdout).contains("\"realm\":\"prod\""));
    assert!(
        text(&own.stderr).contains("not for this token to see"),
        "{own:?}"
    );

    // The same of the state alone.
    scene.daemon.terminate();
    let proofs = file("proofs");
    let (to, all) = (index.clone(), file("all"));
    let args = [
        "audit", "export", "--to", &to, "-o", &all, "--proofs", &proofs,
    ];
    succeeded(&scene.daemon.slmd(&args));
    let offline = fs::read_to_string(&all).expect("it was written");
    assert!(whole.starts_with(&offline) && offline.lines().count() > 1);
    let proof = format!("{proofs}/{index}.tlog-proof");
    succeeded(&python("tlog_check.py", &[&proof, &record, vkey], &[]));
}

#[test]
fn a_salt_is_erased_once_and_the_proofs_stay() {
    let mut scene = Scene::start();
    scene.ask("dev");
    scene.ask("dev");
    let found = succeeded(
        &scene
            .daemon
            .slmd(&["audit", "search", "--event", "finish", "--json"]),
    );
    let ids: Vec<String> = found
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|record| record["request_id"].as_str().expect("text").to_owned())
        .collect();
    let forget = |daemon: &Daemon, request: &str| daemon.slmd(&["audit", "forget", request]);
    let said = succeeded(&forget(&scene.daemon, &ids[0]));
    assert!(said.contains("is erased"), "{said}");
    let again = succeeded(&forget(&scene.daemon, &ids[0][..16]));
    assert!(again.contains("gone already"), "{again}");
    for unknown in ["req_00000000000000000000000000000000", "999999", "nonsense"] {
        let output = forget(&scene.daemon, unknown);
        assert!(!output.status.success(), "{unknown}: {output:?}");
    }
    let shown = succeeded(&scene.daemon.slmd(&["audit", "show", &ids[0]]));
    for words in [
        "permit",
        "finish",
        "salt_erased",
        "leaf: ",
        "slmd audit prove ",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let count = |daemon: &Daemon| {
        let args = ["audit", "search", "--where", "what=salt_erased", "--count"];
        succeeded(&daemon.slmd(&args)).trim().to_owned()
    };
    assert_eq!(count(&scene.daemon), "1");
    // Its realm's auditors see it, too.
    let seen = scene.pages("where=what%3Dsalt_erased", &scene.token("dev", "audit"));
    assert_eq!(seen.len(), 1, "{seen:?}");
    let by_client = [
        "audit",
        "search",
        "--event",
        "access",
        "--count-by",
        "client",
        "--json",
    ];
    let by_client = succeeded(&scene.daemon.slmd(&by_client));
    let by_client: Value = serde_json::from_str(&by_client).expect("JSON");
    assert_eq!(by_client["read-of-dev"], 2, "{by_client}");

    scene.daemon.terminate();
    let said = succeeded(&forget(&scene.daemon, &ids[1]));
    assert!(said.contains("is erased"), "{said}");
    assert_eq!(count(&scene.daemon), "2");
}

/// The daemon goes on meanwhile, and is asked over its admin socket.
#[test]
fn a_running_daemon_verifies_its_log() {
    let daemon = Daemon::start(Setup::new());
    let grow = || {
        for _ in 0..3 {
            let reloaded = daemon.admin_http("POST", "/reload", "");
            assert_eq!(reloaded.status, 200, "{reloaded:?}");
        }
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keep = |name: &str, of: &Daemon| {
        let note = succeeded(&of.slmd(&["audit", "checkpoint", "--now"]));
        let file = folder.path().join(name).display().to_string();
        fs::write(&file, note).expect("a file of this test");
        file
    };
    grow();
    let kept = keep("kept", &daemon);
    grow();
    let verify = |more: &[&str]| daemon.slmd(&[&["audit", "verify"], more].concat());
    let said = succeeded(&verify(&[]));
    assert!(
        said.ends_with("sound, as far as this device can tell\n"),
        "{said}"
    );
    let report = succeeded(&verify(&["--checkpoint", &kept, "--json"]));
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["findings"], json!([]), "{report}");
    assert!(report["records"].as_u64() > Some(6), "{report}");
    assert!(report["signed"]["origin"].is_string(), "{report}");

    // Another device's log has another key, and isn't what this one has grown from.
    let other = Daemon::start(Setup::new());
    let strange = keep("strange", &other);
    let id = succeeded(&other.slmd(&["device", "id", "--json"]));
    let id: Value = serde_json::from_str(&id).expect("JSON");
    let x = id["x"].as_str().expect("text");
    for more in [["--checkpoint", &*strange], ["--key", x]] {
        let output = verify(&more);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stdout).ends_with("damaged\n"), "{output:?}");
    }
}
