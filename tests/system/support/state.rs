//! The state folder of a daemon that is stopped: its store, its audit log, and what is said of that.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use slmd::for_tests::audit::{Device, Log};
use slmd::for_tests::config::Config;
use slmd::for_tests::identity::{Identity, Key};
use slmd::for_tests::store::Store;
use slmd::for_tests::time::Clocks;

use super::run;

const PATIENCE: Duration = Duration::from_secs(120);

pub fn store_of(state: &Path) -> Store {
    Store::open(&state.join("db")).expect("the store is whole and nobody's")
}

/// As the daemon of [`super::Setup`] opens it.
pub fn log_of(store: &Store, state: &Path) -> Log {
    let shipped = include_str!("../../../systemd/slmd.toml");
    let config = Config::parse(shipped).expect("the shipped configuration is sound");
    let device = Device {
        identity: &Identity::new("edge-1").expect("a name"),
        key: &Key::open(state).expect("the device's key"),
        folder: state,
    };
    Log::open(store, config.audit, device, Clocks::default()).expect("a log")
}

/// `slmd audit verify --json`, without a daemon or a configuration.
pub fn verify(state: &Path, kept: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
    command.args(["audit", "verify", "--json", "--state"]);
    command.arg(state);
    if let Some(kept) = kept {
        command.arg("--checkpoint").arg(kept);
    }
    run(&mut command, b"", PATIENCE)
}

/// The report of a log that is sound, has grown from the checkpoint that was kept, and is in its first
/// epoch still.
#[track_caller]
pub fn verified(state: &Path, kept: &Path) -> Value {
    let output = verify(state, Some(kept));
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&said).expect("the report is JSON");
    assert_eq!(report["findings"], Value::Array(Vec::new()), "{report}");
    assert_eq!(report["epoch"], 1, "{report}");
    report
}
