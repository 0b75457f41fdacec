//! Two realms' auditors with tokens of the real Keycloak: each reads its own realm's records alone.

use serde_json::Value;

use crate::appliance::{PATIENCE, answered, ask, over_tcp, refused, setup};
use crate::grants::realm;
use crate::support::{Daemon, free_port, within};

/// What must not be seen by the other realm's auditor: every member that names a realm or an issuer.
fn assert_of(record: &Value, name: &str, issuer: &str) {
    let own = record["realm"] == name || record["detail"]["realm"] == name;
    assert!(own, "{name}: {record}");
    let by = &record["issuer"];
    assert!(by.is_null() || by == issuer, "{name}: {record}");
}

#[test]
fn an_auditor_reads_the_records_of_his_realm_alone() {
    let (staging, dev) = (realm("staging"), realm("dev"));
    let port = free_port();
    let listen = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    let daemon = Daemon::start(setup(&[&staging, &dev]).with(&listen));
    for realm in [&staging, &dev] {
        let device = realm.service("device-1", None).access;
        answered(&ask(&daemon, &device, "Name a book that is kept."));
        refused(&over_tcp(port, &device, "/v1/audit"), 403, "scope_missing");
    }
    for realm in [&staging, &dev] {
        let token = realm.service("reports", None).access;
        for query in [
            "",
            "?order=desc",
            "?limit=1&event=finish",
            "?realm=staging",
            "?realm=dev",
            "?where=realm%3Dstaging",
            "?where=realm%3Ddev",
            "?client=device-1",
            "?endpoint=slm-chat",
            "?decision=permit",
            "?decision=scope_missing",
        ] {
            let page = over_tcp(port, &token, &format!("/v1/audit{query}"));
            answered(&page);
            let page = page.json();
            let records = page["data"].as_array().expect("a list");
            for record in records {
                assert_of(record, &realm.name, &realm.issuer());
            }
            let others = query.contains('=')
                && ["staging", "dev"]
                    .into_iter()
                    .any(|name| query.ends_with(name) && name != realm.name);
            assert_eq!(records.is_empty(), others, "{} {query}", realm.name);
        }
        // Checkpoint and proofs are hashes, which tell nothing of others.
        within(PATIENCE, "a checkpoint", || {
            let proof = over_tcp(port, &token, "/v1/audit/proof/0");
            (proof.status == 200).then_some(())
        });
        answered(&over_tcp(port, &token, "/v1/audit/consistency/1"));
    }
}
