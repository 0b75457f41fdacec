//! A box that goes to somebody else: who it is, and that it forgets.

use std::fs;
use std::process::Output;

use serde_json::Value;

use crate::support::{Daemon, Issuer, Setup};

fn id(daemon: &Daemon) -> String {
    let output = daemon.slmd(&["device", "id"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn wipe(daemon: &Daemon, home: &str, args: &[&str]) -> Output {
    let mut command = daemon.binary();
    command.arg("wipe").args(args).env("XDG_STATE_HOME", home);
    command.output().expect("the binary is there")
}

fn wrong(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_box_forgets_who_it_was() {
    let issuer = Issuer::new("ES256", "before");
    let mut daemon = Daemon::start(Setup::new().issuer(&issuer));
    let home = tempfile::tempdir().expect("a temporary folder");
    let login = home.path().join("slmd/login.json");
    fs::create_dir(home.path().join("slmd")).expect("a temporary folder");
    fs::write(&login, "{}").expect("a temporary file");
    let home = home.path().to_str().expect("text");
    let before = id(&daemon);
    let parts: Vec<&str> = before.split_whitespace().collect();
    assert_eq!(
        (parts[0], parts[1].len(), parts[2].len()),
        ("edge-1", 43, 43)
    );

    let running = wrong(&wipe(&daemon, home, &["--yes"]));
    assert!(running.contains("a daemon uses"), "{running}");
    assert_eq!(id(&daemon), before);
    daemon.terminate();
    assert_eq!(id(&daemon), before, "without a daemon");
    let unasked = wipe(&daemon, home, &[]);
    assert_eq!(unasked.status.code(), Some(2));
    assert!(wrong(&unasked).contains("--yes"));
    assert_eq!(id(&daemon), before);
    assert!(login.exists());

    // One that was interrupted: nothing starts, and no command makes anything of it.
    let state = daemon.state_dir();
    fs::write(state.join("wiping"), "").expect("the state folder is ours");
    let interrupted = wrong(&daemon.slmd(&["run"]));
    assert!(
        interrupted.contains("finish it with `slmd wipe`"),
        "{interrupted}"
    );
    let done = wipe(&daemon, home, &["--yes", "--json"]);
    assert!(done.status.success(), "{done:?}");
    let said: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let list = |name: &str| said[name].as_array().expect("a list").len();
    assert_eq!((list("forgotten"), list("left")), (6, 2), "{said}");
    assert_eq!(fs::read_dir(&state).expect("it is there").count(), 0);
    assert!(!login.exists());
    let again = wipe(&daemon, home, &["--yes"]);
    assert!(again.status.success(), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing to forget"));

    let none = wrong(&daemon.slmd(&["device", "id"]));
    assert!(none.contains("no key yet"), "{none}");
    assert!(!state.join("device.key").exists(), "asking makes none");
    let made = daemon.slmd(&["device", "id", "--create"]);
    assert!(made.status.success(), "{made:?}");
    let after = id(&daemon);
    assert_eq!(after.as_bytes(), made.stdout);
    assert_ne!(after, before);
}
