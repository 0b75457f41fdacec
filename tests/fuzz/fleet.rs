//! A fleet that signs whatever the fuzzer says: what every target of signed metadata is judged in.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::digest::{hex, sha256};
use crate::json as strict;
use crate::time::Timestamp;
use crate::trust::{Client, Limits, Mirror, MirrorError, Versions, canonical};

/// 2026-11-24, in seconds; and what metadata says that is good until a year later.
const NOW: u64 = 1_795_500_000;
const EXPIRES: &str = "2027-11-24T00:00:00Z";
const DENY: &str = "realms/dev/deny.json";
const KEYS: [&str; 4] = ["root-a", "root-b", "online", "revocation"];

/// Keys from fixed seeds, so that corpora keep their ids.
struct Key {
    pair: Ed25519KeyPair,
    public: Value,
    id: String,
}

static FLEET: LazyLock<BTreeMap<&str, Key>> = LazyLock::new(|| {
    let key = |name: &'static str| {
        let seed = sha256(name.as_bytes());
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed of 32 bytes");
        let public = json!({"keytype": "ed25519", "scheme": "ed25519",
            "keyval": {"public": hex(pair.public_key().as_ref())}});
        let id = hex(&sha256(&canonical(&public).expect("no fractions")));
        (name, Key { pair, public, id })
    };
    KEYS.map(key).into()
});

/// Who signs for a role.
fn signers(role: &str) -> &'static [&'static str] {
    match role {
        "root" | "targets" => &["root-a", "root-b"],
        "timestamp" | "snapshot" => &["online"],
        _ => &["revocation"],
    }
}

/// What a role's signers sign when nobody interferes.
pub fn sound(role: &str, version: u64) -> Value {
    let id = |name: &&str| FLEET[*name].id.clone();
    let ids = |role: &str| signers(role).iter().map(id).collect::<Vec<_>>();
    let listed = |names: &[&str]| -> Value {
        let files = names.iter().map(|name| ((*name).to_owned(), json!({"version": version})));
        Value::Object(files.collect())
    };
    let keys = |names: &[&str]| -> Value {
        let keys = names.iter().map(|name| (id(name), FLEET[name].public.clone()));
        Value::Object(keys.collect())
    };
    let kind = match role {
        "root" | "timestamp" | "snapshot" => role,
        _ => "targets",
    };
    let mut signed = json!({"_type": kind, "spec_version": "1.0.31", "version": version,
        "expires": EXPIRES});
    let rest = match role {
        "root" => {
            let role = |name: &str| json!({"keyids": ids(name), "threshold": ids(name).len()});
            let roles = ["root", "timestamp", "snapshot", "targets"].map(|r| (r.to_owned(), role(r)));
            let roles = Value::Object(roles.into_iter().collect());
            json!({"consistent_snapshot": true, "keys": keys(&KEYS[..3]), "roles": roles})
        }
        "timestamp" => {
            json!({"meta": listed(&["snapshot.json"]), "issued": "2026-11-24T00:00:00Z"})
        }
        "snapshot" => json!({"meta": listed(&["targets.json", "revocation.json"])}),
        "targets" => {
            let role = json!({"name": "revocation", "keyids": ids("revocation"), "threshold": 1,
                "terminating": true, "paths": ["realms/*/deny.json"]});
            json!({"targets": {}, "delegations": {"keys": keys(&KEYS[3..]), "roles": [role]}})
        }
        _ => json!({"targets": {(DENY): {"length": 2, "hashes": {"sha256": hex(&sha256(b"{}"))}}}}),
    };
    let members = signed.as_object_mut().expect("an object");
    members.extend(rest.as_object().expect("an object").clone());
    signed
}

/// The file of `signed`, which is written as it is. What can't be signed has no signature.
fn file(role: &str, signed: &[u8]) -> Vec<u8> {
    let value = serde_json::from_slice::<Value>(signed).ok();
    let covered = value.and_then(|value| canonical(&value).ok()).unwrap_or_default();
    let signature = |name: &&str| {
        let Key { pair, id, .. } = &FLEET[*name];
        json!({"keyid": id, "sig": hex(pair.sign(&covered).as_ref())})
    };
    let signatures: Vec<Value> = signers(role).iter().map(signature).collect();
    let signatures = Value::from(signatures).to_string();
    [b"{\"signatures\":", signatures.as_bytes(), b",\"signed\":", signed, b"}"].concat()
}

#[derive(Clone)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    /// A whole repository of one version.
    fn sound(version: u64) -> Files {
        let roles = ["root", "timestamp", "snapshot", "targets", "revocation"];
        let named = roles.map(|role| {
            let signed = sound(role, version).to_string();
            (name(role, version), file(role, signed.as_bytes()))
        });
        Files(named.into())
    }
}

fn name(role: &str, version: u64) -> String {
    match role {
        "timestamp" => "timestamp.json".to_owned(),
        _ => format!("{version}.{role}.json"),
    }
}

impl Mirror for Files {
    fn metadata(&mut self, name: &str, _: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        Ok(self.0.get(name).cloned())
    }

    fn target(&mut self, _: &str, _: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        Ok(Some(b"{}".to_vec()))
    }
}

/// Whether a refresh, a search and a fetch ended well.
fn update(client: &mut Client, mirror: &mut Files) -> bool {
    let now = Timestamp::from_secs(NOW);
    let refreshed = client.refresh(mirror, now).is_ok();
    let found = client.find(mirror, DENY, now);
    let found = found.is_ok_and(|found| found.is_none_or(|it| client.fetch(mirror, &it).is_ok()));
    refreshed && found
}

static NEXT: LazyLock<Files> = LazyLock::new(|| Files::sound(2));

static TRUSTED: LazyLock<Client> = LazyLock::new(|| {
    let mut first = Files::sound(1);
    let client = Client::new(&first.0["1.root.json"], Limits::FLEET);
    let mut client = client.expect("a sound root");
    assert!(update(&mut client, &mut first), "a sound repository");
    client
});

/// `data` where the role's next version belongs, once as the whole file and once signed.
pub fn judge(role: &str, data: &[u8]) {
    let own = sound(role, 2);
    let said: Option<Value> = serde_json::from_slice(data).ok();
    let unsigned = said.as_ref().is_none_or(|said| said["signed"] != own);
    accepted(role, data.to_vec(), |bytes| assert!(!unsigned || bytes != data, "nobody signed it"));
    accepted(role, file(role, data), |bytes| {
        if bytes == file(role, data) {
            good(role, data);
        }
    });
}

/// What the client keeps of a role where `bytes` are served for it, given to `check`; and what must be
/// true whatever they are.
fn accepted(role: &str, bytes: Vec<u8>, check: impl Fn(&[u8])) {
    let mut mirror = NEXT.clone();
    mirror.0.insert(name(role, 2), bytes);
    let mut client = TRUSTED.clone();
    let done = update(&mut client, &mut mirror);
    let Versions { root, timestamp, snapshot, .. } = client.versions();
    // A root may exchange the others' keys, and with them goes what they have signed.
    let older = timestamp < Some(1) || snapshot < Some(1);
    assert!(root >= 1 && (role == "root" || !older), "older");
    let own = format!("{role}.json");
    if client.kept().get(&own) != TRUSTED.kept().get(&own) {
        check(&client.kept()[&own]);
    }
    if client.kept() == TRUSTED.kept() {
        // A good mirror isn't kept from being used by one that had nothing to prove.
        assert!(done || update(&mut client, &mut NEXT.clone()), "poisoned");
    } else {
        let again = Client::new(&client.kept()["root.json"], Limits::FLEET).expect("kept");
        let again = again.with_kept(client.kept()).versions();
        assert_eq!((again.root, again.timestamp), (root, timestamp));
    }
}

/// Whether what was taken up could be: read again, by another parser.
fn good(role: &str, signed: &[u8]) {
    let value: Value = serde_json::from_slice(signed).expect("JSON");
    assert_eq!(strict::parse(signed).expect("no member twice"), value);
    let kind = sound(role, 2)["_type"].clone();
    assert_eq!(value["_type"], kind);
    let version = value["version"].as_u64().expect("a version");
    assert!(if role == "timestamp" { version > 1 } else { version == 2 });
    let roles = match role {
        "root" => value["roles"].as_object().expect("roles").values().collect::<Vec<_>>(),
        _ => value["delegations"]["roles"].as_array().into_iter().flatten().collect(),
    };
    let top = ["root", "timestamp", "snapshot", "targets"];
    for delegated in roles {
        let known = role != "root" || top.iter().any(|name| value["roles"][*name] == *delegated);
        assert!(!known || delegated["threshold"].as_u64() > Some(0));
        assert!(!top.iter().any(|name| delegated["name"] == *name));
    }
    if role == "revocation" {
        let targets = value["targets"].as_object().expect("targets");
        assert!(targets.keys().all(|path| path.starts_with("realms/") && path.ends_with("/deny.json")));
    }
}
