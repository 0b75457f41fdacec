//! `make install`: what a package holds, each file in its place and with its mode.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{root, run};

const PATIENCE: Duration = Duration::from_secs(60);
pub const UNITS: &str = "usr/lib/systemd/system";
/// Besides the manual's first section, which has a page for each command.
const FILES: [(&str, u32); 14] = [
    ("etc/slmd/slmd.toml", 0o640),
    ("usr/bin/slmd", 0o755),
    ("usr/lib/systemd/system/slmd-fleet-audit.service", 0o644),
    ("usr/lib/systemd/system/slmd-fleet-audit.timer", 0o644),
    ("usr/lib/systemd/system/slmd-fleet-timestamp.service", 0o644),
    ("usr/lib/systemd/system/slmd-fleet-timestamp.timer", 0o644),
    ("usr/lib/systemd/system/slmd.service", 0o644),
    ("usr/lib/systemd/system/slmd.socket", 0o644),
    ("usr/lib/sysusers.d/slmd.conf", 0o644),
    ("usr/lib/tmpfiles.d/slmd.conf", 0o644),
    ("usr/share/bash-completion/completions/slmd", 0o644),
    ("usr/share/fish/vendor_completions.d/slmd.fish", 0o644),
    ("usr/share/man/man5/slmd.toml.5", 0o644),
    ("usr/share/zsh/vendor-completions/_slmd", 0o644),
];

fn make(arguments: &[&str]) -> Output {
    let mut make = Command::new("make");
    make.current_dir(root()).arg("--silent").args(arguments);
    // The caller's make must not hand on its own variables.
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    let output = run(&mut make, b"", PATIENCE);
    assert!(output.status.success(), "{}", said(&output));
    output
}

fn install(destination: &Path) {
    let destination = format!("DESTDIR={}", destination.display());
    let binary = concat!("BIN=", env!("CARGO_BIN_EXE_slmd"));
    make(&["install", &destination, binary]);
}

/// Plain `make` is the same.
#[test]
fn help_tells_of_every_target_that_people_use() {
    let help = make(&["help"]).stdout;
    let help = String::from_utf8_lossy(&help);
    for target in [
        "demo",
        "test",
        "test-more",
        "bench",
        "cross",
        "test-cross",
        "install",
    ] {
        assert!(
            help.contains(&format!("make {target} ")),
            "{target}: {help}"
        );
    }
}

/// Neither the demo nor the door for tests.
#[test]
fn packages_hold_what_runs_on_a_device() {
    let recipe = make(&["--dry-run", "dist"]).stdout;
    let recipe = String::from_utf8_lossy(&recipe);
    let features = "--no-default-features --features systemd";
    assert!(recipe.contains(features), "{recipe}");
    let cross = fs::read_to_string(root().join("cross/build")).unwrap();
    assert!(cross.contains(features), "{cross}");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All files beneath `folder`, by name.
fn files(folder: &Path, beneath: &Path, found: &mut Vec<(String, u32)>) {
    for entry in fs::read_dir(folder).expect("the test's own files and processes work") {
        let path = entry
            .expect("the test's own files and processes work")
            .path();
        if path.is_dir() {
            files(&path, beneath, found);
            continue;
        }
        let name = path
            .strip_prefix(beneath)
            .expect("the test's own files and processes work")
            .display()
            .to_string();
        let mode = fs::metadata(&path)
            .expect("the test's own files and processes work")
            .permissions()
            .mode()
            & 0o7777;
        found.push((name, mode));
    }
    found.sort();
}

pub fn installed() -> TempDir {
    let destination = tempfile::tempdir().expect("the test's own files and processes work");
    install(destination.path());
    destination
}

#[test]
fn every_file_is_laid_down_and_the_configuration_is_kept() {
    let destination = installed();
    let path = destination.path();
    let mut found = Vec::new();
    files(path, path, &mut found);
    let (commands, found): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|(name, _)| name.starts_with("usr/share/man/man1/slmd"));
    assert_eq!(found, FILES.map(|(name, mode)| (name.to_owned(), mode)));
    assert!(commands.iter().all(|(_, mode)| *mode == 0o644));
    let names: Vec<&str> = commands.iter().map(|(name, _)| name.as_str()).collect();
    for page in ["slmd.1", "slmd-ask.1", "slmd-keys-pin.1"] {
        let page = format!("usr/share/man/man1/{page}");
        assert!(names.contains(&page.as_str()), "{names:?}");
    }

    let slmd = path.join("usr/bin/slmd");
    let config = path.join("etc/slmd/slmd.toml");
    let mut check = Command::new(&slmd);
    check.arg("--config").arg(&config).args(["config", "check"]);
    let checked = run(&mut check, b"", PATIENCE);
    assert!(checked.status.success(), "{}", said(&checked));

    fs::write(&config, "device = \"mine\"\n").unwrap();
    install(path);
    assert_eq!(fs::read_to_string(&config).unwrap(), "device = \"mine\"\n");
}

/// One for another CPU prints no pages here: this machine's own does.
#[test]
fn a_program_that_cannot_run_here_is_installed_all_the_same() {
    let destination = tempfile::tempdir().expect("the test's own files and processes work");
    let foreign = destination.path().join("foreign");
    fs::write(&foreign, "\u{7f}ELF of another machine").unwrap();
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).unwrap();
    let root = destination.path().join("root");
    make(&[
        "install",
        &format!("DESTDIR={}", root.display()),
        &format!("BIN={}", foreign.display()),
        concat!("DIST=", env!("CARGO_BIN_EXE_slmd")),
    ]);
    let installed = fs::read(root.join("usr/bin/slmd")).unwrap();
    assert_eq!(installed, fs::read(&foreign).unwrap());
    assert!(root.join("usr/share/man/man1/slmd.1").exists());
}

/// systemd's own opinion, where it is installed; containers have none.
#[test]
fn systemd_takes_the_units() {
    let destination = installed();
    let path = destination.path();
    let folder = path.join(UNITS);
    let services = [
        "slmd.service",
        "slmd-fleet-timestamp.service",
        "slmd-fleet-audit.service",
    ];
    let services = services.map(|name| folder.join(name));
    // So that the program is found without installing it on this machine.
    let program = path.join("usr/bin/slmd").display().to_string();
    let starts = ["slmd run\n", "slmd fleet timestamp ", "slmd fleet audit "];
    for (service, starts) in services.iter().zip(starts) {
        let unit = fs::read_to_string(service).unwrap();
        let starts = format!("ExecStart=/usr/bin/{starts}");
        assert!(unit.contains(&starts), "{unit}");
        fs::write(service, unit.replace("/usr/bin/slmd", &program)).unwrap();
    }

    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=false"]).args(&services).args(
        [
            "slmd.socket",
            "slmd-fleet-timestamp.timer",
            "slmd-fleet-audit.timer",
        ]
        .map(|name| folder.join(name)),
    );
    if verify
        .output()
        .is_err_and(|e| e.kind() == ErrorKind::NotFound)
    {
        return;
    }
    let verified = run(&mut verify, b"", PATIENCE);
    let complaints = said(&verified);
    assert!(verified.status.success(), "{complaints}");
    assert!(!complaints.contains("slmd"), "{complaints}");

    for service in &services {
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=true", "--threshold=12"]);
        let scored = run(security.arg(service), b"", PATIENCE);
        let table = String::from_utf8_lossy(&scored.stdout);
        assert!(scored.status.success(), "{}{table}", said(&scored));
    }
}
