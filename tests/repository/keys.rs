//! Keys: OpenSSL reads them, a wrong passphrase opens none, and those made elsewhere found a fleet.

use std::process::Command;
use std::time::Duration;

use crate::fleet::{Fleet, PASSPHRASE};
use crate::support::{python, run};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn openssl_reads_a_key_and_slmd_reads_openssls() {
    let fleet = Fleet::new();
    let openssl = |words: &[&str]| {
        let output = run(
            Command::new("openssl")
                .args(words)
                .current_dir(fleet.place()),
            b"",
            PATIENCE,
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        output.stdout
    };
    let pass = format!("pass:{PASSPHRASE}");
    let shown = openssl(&[
        "pkey",
        "-in",
        "fleet/keys/online.pem",
        "-passin",
        &pass,
        "-noout",
        "-text_pub",
    ]);
    let shown = String::from_utf8_lossy(&shown).replace([':', ' ', '\n'], "");
    let public = std::fs::read_to_string(fleet.folder().join("keys/online.pub.json"));
    let public: serde_json::Value =
        serde_json::from_str(&public.expect("it is there")).expect("JSON");
    let hex = public["keyval"]["public"].as_str().expect("a string");
    assert!(shown.contains(hex), "{shown} has no {hex}");

    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "plain.pem"]);
    openssl(&[
        "pkcs8",
        "-topk8",
        "-in",
        "plain.pem",
        "-scrypt",
        "-passout",
        &pass,
        "-out",
        "dave.pem",
    ]);
    fleet.ok(&["renew", "targets"]);
    let said = fleet.refused(&["sign", "--key", "dave.pem", "--yes"]);
    assert!(said.contains("needs no signature of this key"), "{said}");
}

#[test]
fn a_wrong_passphrase_signs_nothing() {
    let fleet = Fleet::new();
    fleet.ok(&["renew", "targets"]);
    fleet.secret("wrong", "incorrect donkey battery");
    let wrong = [
        "sign",
        "--key",
        "offline-1",
        "--yes",
        "--passphrase-file",
        "wrong",
    ];
    assert!(fleet.refused(&wrong).contains("the passphrase is wrong"));
    assert_eq!(fleet.json(&["review"])["waiting"][0]["missing"], 2);
    // By name it is the right one.
    let named = ["--passphrase-file", "offline-1=passphrase"];
    fleet.ok(&[&wrong[..], &named].concat());
    fleet.secret("short", "eleven char");
    let short = fleet.refused(&["key", "new", "x", "--passphrase-file", "short"]);
    assert!(short.contains("at least 12 characters"), "{short}");
    let open = fleet.file("open", PASSPHRASE);
    let said = fleet.refused(&["key", "new", "x", "--passphrase-file", &open]);
    assert!(said.contains("chmod o="), "{said}");
    let none = fleet.place().join("fleet/keys/online.pem");
    std::fs::remove_file(none).expect("it is there");
    let said = fleet.refused(&["timestamp"]);
    assert!(said.contains("isn't in keys/"), "{said}");
}

#[test]
fn keys_that_were_made_elsewhere_found_a_fleet() {
    let fleet = Fleet::empty();
    for name in ["alice", "bob"] {
        fleet.ok(&["key", "new", name]);
    }
    let again = fleet.refused(&["key", "new", "alice"]);
    assert!(again.contains("is there already"), "{again}");
    let words = [
        "init",
        "plant",
        "--root-key",
        "alice.pub.json",
        "--root-key",
        "bob.pub.json",
    ];
    let made = fleet.json(&words);
    assert_eq!(made["published"], false);
    assert_eq!(made["waiting"][0]["missing"], 1);
    let said = fleet.refused(&["publish"]);
    assert!(said.contains("root has 1 of the 2 signatures"), "{said}");
    assert!(
        fleet
            .refused(&["export", "stick"])
            .contains("nothing has been published yet")
    );
    fleet.ok(&["sign", "--key", "alice.pem", "--yes"]);
    fleet.ok(&["publish"]);
    assert_eq!(fleet.read("c", &fleet.folder(), &[])["versions"]["root"], 1);
    let keys = fleet.json(&["key", "list"]);
    let alice = &keys["keys"][0];
    assert_eq!(
        (&alice["name"], &alice["private_key_here"]),
        (&"alice".into(), &false.into())
    );
    assert_eq!(alice["signs"], serde_json::json!(["root", "targets"]));
}

/// Who signs is asked, and nothing is taken for an answer where nobody can be.
#[test]
fn without_a_terminal_nobody_agrees() {
    let fleet = Fleet::new();
    fleet.ok(&["renew", "targets"]);
    let said = fleet.refused(&["sign", "--key", "offline-1"]);
    assert!(said.contains("no terminal to confirm on"), "{said}");
    assert_eq!(fleet.json(&["review"])["waiting"][0]["missing"], 2);
}

/// On a terminal passphrases are asked for and shown nowhere, the new ones twice.
#[test]
fn a_terminal_is_asked_for_passphrases_and_shows_none() {
    let fleet = Fleet::empty();
    let program = env!("CARGO_BIN_EXE_slmd");
    let output = python(
        "terminal.py",
        &[&fleet.place().display().to_string(), program],
        &[],
    );
    let said = String::from_utf8_lossy(&output.stderr);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{shown}");
    assert!(!shown.contains("battery"), "{shown}");
    for text in [
        "at least 12 characters",
        "These two differ",
        "That isn't it",
        "[y/N]",
    ] {
        assert!(shown.contains(text), "{text} isn't in {shown}");
    }
    assert!(shown.contains("alice has signed targets"), "{shown}");
}
