//! What can be wrong around the daemon: its model, its folder, its disk, its sockets, its keys, its
//! configuration. Each is told with what to do, and ends with the documented exit code.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Daemon, Disk, Issuer, Setup, chat, claims, http, run, target, within};

pub const FAILED: i32 = 1;
pub const BAD_CONFIG: i32 = 5;
const MODEL: &str = "smollm2-135m-instruct";
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `slmd run` where it can't start.
pub fn refused_start(config: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
    command.arg("--config").arg(config).arg("run");
    run(&mut command, b"", PATIENCE)
}

#[track_caller]
fn assert_says(output: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    // The last line is the command's own, after the daemon's log.
    let own = said.rfind("slmd: ").map_or("", |at| &said[at..]);
    for part in parts {
        assert!(own.contains(part), "{part:?} isn't in {said}");
    }
}

/// A configuration in a folder of its own, whose folders are the test's.
pub fn configuration(folder: &Path, state: &Path, models: &Path) -> PathBuf {
    let text = format!(
        "state_dir = {state:?}\nmodels_dir = {models:?}\n\
         [http]\nsocket = {:?}\nadmin_socket = {:?}\n\
         [[realm]]\nname = \"dev\"\nissuer = \"https://keycloak.test/realms/dev\"\n\
         [[realm.endpoint]]\nclient_id = \"slm\"\nmodel = \"{MODEL}\"\n",
        folder.join("slmd.sock"),
        folder.join("admin.sock"),
    );
    let file = folder.join("slmd.toml");
    fs::write(&file, text).expect("the test's own files and processes work");
    file
}

/// The build folder may be closed to others.
fn program_for_all(folder: &Path) -> PathBuf {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
        .expect("the test's own files and processes work");
    let program = folder.join("slmd");
    fs::copy(env!("CARGO_BIN_EXE_slmd"), &program)
        .expect("the test's own files and processes work");
    program
}

/// The tests' bundle once more, to be broken: links, which are replaced and never written to.
fn bundle_copy() -> TempDir {
    let models = tempfile::tempdir_in(target()).expect("the test's own files and processes work");
    let (from, to) = (
        target().join("models").join(MODEL),
        models.path().join(MODEL),
    );
    for folder in ["", "onnx"] {
        fs::create_dir(to.join(folder)).expect("the test's own files and processes work");
        for entry in
            fs::read_dir(from.join(folder)).expect("the test's own files and processes work")
        {
            let entry = entry.expect("the test's own files and processes work");
            if entry
                .file_type()
                .expect("the test's own files and processes work")
                .is_file()
            {
                fs::hard_link(entry.path(), to.join(folder).join(entry.file_name()))
                    .expect("the test's own files and processes work");
            }
        }
    }
    models
}

/// Puts a changed copy in a file's place.
fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).expect("the test's own files and processes work");
    change(&mut bytes);
    fs::remove_file(file).expect("the test's own files and processes work");
    fs::write(file, bytes).expect("the test's own files and processes work");
}

#[test]
fn a_missing_or_corrupt_bundle_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let none = configuration(folder.path(), &state, &folder.path().join("none"));
    let missing = refused_start(&none);
    assert_says(&missing, FAILED, &[MODEL, "slmd.json", "slmd model import"]);

    let models = bundle_copy();
    let bundle = models.path().join(MODEL);
    let config = configuration(folder.path(), &state, models.path());
    let verify = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
        command.arg("--config").arg(&config);
        run(command.args(["model", "verify", MODEL]), b"", PATIENCE)
    };
    assert_eq!(verify().status.code(), Some(0));

    // One bit of the weights, which no size tells.
    let weights = bundle.join("onnx/model.weights");
    change(&weights, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let changed = ["model.weights", "has changed", "import the model again"];
    assert_says(&refused_start(&config), FAILED, &changed);
    assert_says(&verify(), FAILED, &changed);

    change(&weights, |bytes| bytes.truncate(1000));
    let short = [
        "model.weights",
        "1000 bytes instead of",
        "import the model again",
    ];
    assert_says(&refused_start(&config), FAILED, &short);

    fs::remove_file(&weights).unwrap();
    assert_says(
        &refused_start(&config),
        FAILED,
        &["model.weights", "No such file"],
    );

    change(&bundle.join("slmd.json"), |bytes| bytes.truncate(100));
    assert_says(&refused_start(&config), FAILED, &[MODEL, "slmd.json"]);
}

#[test]
fn a_state_folder_that_cant_be_written_is_told() {
    let disk = Disk::new("size=16m");
    let models = target().join("models");
    let folder = tempfile::tempdir().unwrap();
    let config = configuration(folder.path(), &disk.path().join("state"), &models);
    disk.remount("remount,ro");
    assert_says(
        &refused_start(&config),
        FAILED,
        &["state folder", "Read-only file system"],
    );

    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let config = configuration(folder.path(), &file, &models);
    assert_says(&refused_start(&config), FAILED, &["state folder", "file"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn without_a_free_descriptor_an_administrator_is_still_answered() {
    const LIMIT: usize = 96;
    let issuer = Issuer::new("ES256", "key-1");
    let limited = Path::new("/usr/bin/prlimit");
    let limit = format!("--nofile={LIMIT}:{LIMIT}");
    let setup = Setup::new()
        .with("[http]\nmax_connections = 256\nmax_connections_per_uid = 256")
        .program(&[
            limited,
            Path::new(&limit),
            Path::new(env!("CARGO_BIN_EXE_slmd")),
        ])
        .issuer(&issuer);
    let daemon = Daemon::start(setup);
    assert!(daemon.log().contains("open files may run short"));
    let open = || UnixStream::connect(daemon.socket()).expect("the backlog has room");
    let taken: Vec<UnixStream> = (0..LIMIT).map(|_| open()).collect();
    within(PATIENCE, "the last descriptor", || {
        daemon
            .log()
            .contains("can't accept connections")
            .then_some(())
    });
    // More often than descriptors are kept: each is given back.
    for _ in 0..8 {
        let status = daemon.slmd(&["status"]);
        assert!(status.status.success(), "{status:?}");
    }
    drop(taken);
    let token = issuer.token(claims());
    within(PATIENCE, "an answer", || {
        let answer = daemon.chat(&token, &chat("Is there room again?", 1, false));
        (answer.status == 200).then_some(())
    });
}

/// What a dump of its memory would hold stays in it: the process says so itself, whoever started
/// it and with whatever limits.
#[test]
fn no_process_of_ours_dumps_its_memory() {
    let folder = tempfile::tempdir().unwrap();
    let program = program_for_all(folder.path());
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["prlimit", "--core=unlimited"])
        .arg(&program)
        .args(["ask", "--token-file", "-", "--socket", "/nonexistent"]);
    // It waits for the token.
    let mut asking = command
        .arg("Hi.")
        .stdin(Stdio::piped())
        .spawn()
        .expect("the machine has util-linux");
    let of_it = PathBuf::from(format!("/proc/{}", asking.id()));
    let name = || fs::read_to_string(of_it.join("comm")).expect("it runs");
    within(PATIENCE, "slmd in its place", || {
        (name().trim() == "slmd").then_some(())
    });
    // The kernel gives the files of who may not be dumped to root (proc(5)).
    within(PATIENCE, "memory that is private", || {
        let owner = fs::metadata(of_it.join("environ")).expect("it runs").uid();
        (owner == 0).then_some(())
    });
    let limits = fs::read_to_string(of_it.join("limits")).expect("it runs");
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    let words: Vec<&str> = core.expect("a limit").split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{limits}");
    asking.kill().expect("our own child can be killed");
    asking.wait().expect("our own child can be waited for");
}

#[test]
fn a_full_disk_at_the_start_is_told() {
    let disk = Disk::new("size=6m");
    let folder = tempfile::tempdir().unwrap();
    let models = target().join("models");
    let config = configuration(folder.path(), &disk.path().join("state"), &models);
    disk.fill(&disk.path().join("ballast"));
    let refused = refused_start(&config);
    assert_says(&refused, FAILED, &["state folder", "no space left"]);
}

/// Each of what others could change: told with what to do, and nothing is touched.
#[test]
fn what_others_can_change_is_refused_at_the_start_and_by_a_check() {
    let (folder, models) = (tempfile::tempdir().unwrap(), target().join("models"));
    let state = folder.path().join("state");
    let config = configuration(folder.path(), &state, &models);
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
        command.args(["config", "check", "--here"]).arg(&config);
        run(&mut command, b"", PATIENCE)
    };
    assert!(check().status.success());
    mode(&config, 0o666);
    let writable = &["slmd.toml", "others may change it", "chmod go-w"];
    assert_says(&refused_start(&config), BAD_CONFIG, writable);
    assert_says(&check(), BAD_CONFIG, writable);
    mode(&config, 0o644);

    fs::create_dir(&state).unwrap();
    mode(&state, 0o777);
    let open = &["state_dir", "others may change it", "chmod go-w"];
    assert_says(&refused_start(&config), BAD_CONFIG, open);
    assert_says(&check(), BAD_CONFIG, open);
    mode(&state, 0o755);
    std::os::unix::fs::chown(&state, Some(65534), None).unwrap();
    let foreign = &["state folder", "sudo -u '#65534'", "chown 0"];
    assert_says(&refused_start(&config), FAILED, foreign);
    std::os::unix::fs::chown(&state, Some(0), None).unwrap();

    // What somebody left there while he could.
    let (theirs, left) = (folder.path().join("theirs"), &["symbolic link"]);
    fs::create_dir(&theirs).unwrap();
    for name in ["db", "keys", "device.key"] {
        // A start that was refused later has made one.
        let _ = fs::remove_file(state.join(name));
        symlink(&theirs, state.join(name)).unwrap();
        assert_says(&refused_start(&config), FAILED, left);
        fs::remove_file(state.join(name)).unwrap();
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0, "{name}");
        assert_eq!(fs::metadata(&theirs).unwrap().mode() & 0o777, 0o755);
    }
}

#[test]
fn who_isnt_the_daemons_user_is_told_who_is() {
    let folder = tempfile::tempdir().unwrap();
    let program = program_for_all(folder.path());
    let state = folder.path().join("state");
    let config = configuration(folder.path(), &state, folder.path());
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(65533), None).unwrap();
    for (bits, told) in [
        (0o700, "Permission denied"),
        (0o755, "run this as that user (sudo -u '#65533')"),
    ] {
        fs::set_permissions(&state, fs::Permissions::from_mode(bits)).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .arg("--config")
            .arg(&config)
            .args(["keys", "list"]);
        let listed = run(&mut command, b"", PATIENCE);
        assert_says(&listed, FAILED, &["state folder", told]);
    }
}

#[test]
fn a_socket_in_use_is_left_alone_and_a_stale_one_is_replaced() {
    let issuer = Issuer::new("ES256", "key-1");
    let mut daemon = Daemon::start(Setup::new().issuer(&issuer));
    let folder = tempfile::tempdir().unwrap();
    let models = target().join("models");
    let config = configuration(folder.path(), &folder.path().join("state"), &models);
    let text = fs::read_to_string(&config).unwrap();
    let own = folder.path().join("slmd.sock").display().to_string();
    let theirs = daemon.socket().display().to_string();
    fs::write(&config, text.replace(&own, &theirs)).unwrap();
    let refused = refused_start(&config);
    assert_says(
        &refused,
        FAILED,
        &[&theirs, "another process listens", "stop it"],
    );

    // The same state folder, with sockets of its own.
    let state = daemon.state_dir();
    let config = configuration(folder.path(), &state, &models);
    assert_says(
        &refused_start(&config),
        FAILED,
        &["in use by another process"],
    );
    let ready = http(&daemon.socket(), "GET", "/readyz", &[], "");
    assert_eq!(ready.status, 200, "the first is unharmed");

    daemon.kill9();
    let stale = fs::metadata(daemon.socket()).unwrap();
    assert!(stale.file_type().is_socket());
    daemon.restart();
    let answer = daemon.chat(
        &issuer.token(claims()),
        &chat("Are you back already?", 1, false),
    );
    assert_eq!(answer.status, 200, "{}", answer.body);

    // No socket at all: somebody's file isn't removed.
    let config = configuration(folder.path(), &folder.path().join("state"), &models);
    fs::write(folder.path().join("slmd.sock"), "precious").unwrap();
    assert_says(
        &refused_start(&config),
        FAILED,
        &["slmd.sock", "is no socket", "move it"],
    );
    let kept = fs::read_to_string(folder.path().join("slmd.sock")).unwrap();
    assert_eq!(kept, "precious");
}

#[test]
fn without_keys_it_runs_says_so_and_needs_no_restart() {
    let issuer = Issuer::new("ES256", "key-1");
    let daemon = Daemon::start(Setup::new());
    let ready = || http(&daemon.socket(), "GET", "/readyz?verbose", &[], "");
    let body = chat("Do you have any keys yet?", 1, false);
    let token = issuer.token(claims());

    let not_yet = ready();
    assert_eq!(not_yet.status, 503, "{not_yet:?}");
    assert!(not_yet.body.contains("slmd keys pin"), "{not_yet:?}");
    let status = daemon.slmd(&["status"]);
    let said = String::from_utf8_lossy(&status.stdout);
    assert!(said.starts_with("not ready, "), "{said}");
    assert!(
        said.contains("! realm dev has no keys that can be used: every token is refused"),
        "{said}"
    );
    // The log says no other.
    let told = |daemon: &Daemon| {
        let log = daemon.log();
        let lines = log.lines();
        let lines = lines.filter(|line| line.contains("slmd::daemon::health"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(!daemon.log().lines().any(|line| line.ends_with(": ready")));
    let first = within(PATIENCE, "a word of readiness", || {
        told(&daemon).into_iter().next()
    });
    assert!(
        first.contains("not ready: no realm has pinned keys"),
        "{first}"
    );
    let listed = daemon.slmd(&["keys", "list"]);
    let listed = String::from_utf8_lossy(&listed.stdout);
    assert!(!listed.contains("fingerprint"), "of nothing: {listed}");
    let refused = daemon.chat(&token, &body);
    assert!(matches!(refused.status, 401 | 503), "{refused:?}");

    let file = daemon.config_path().with_file_name("jwks.json");
    fs::write(&file, "{\"keys\": [").unwrap();
    let file = file.to_str().unwrap();
    let broken = daemon.slmd(&["keys", "pin", "--yes", "dev", file]);
    assert_says(&broken, FAILED, &["jwks.json"]);
    assert_eq!(ready().status, 503);
    fs::write(file, issuer.jwks()).unwrap();
    let pinned = daemon.slmd(&["keys", "pin", "--yes", "dev", file]);
    assert_eq!(pinned.status.code(), Some(0));
    assert_eq!(ready().status, 200);
    let last = within(PATIENCE, "a word that it is", || {
        told(&daemon).into_iter().nth(1)
    });
    assert!(last.ends_with("ready") && !last.contains("not"), "{last}");
    assert_eq!(daemon.chat(&token, &body).status, 200);
}

#[test]
fn a_bad_configuration_never_starts() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let config = configuration(folder.path(), &state, &target().join("models"));
    let sound = fs::read_to_string(&config).unwrap();
    for (text, parts) in [
        ("[[realm".to_owned(), &[":1:", "TOML"][..]),
        (
            sound.replace("issuer", "isuer"),
            &["realm.isuer", "`issuer`"],
        ),
        (
            sound + "[audit]\nmax_size = \"8 MiB\"\n",
            &["audit.max_size", "from 16 MiB"],
        ),
        (String::new(), &["[[realm]]"]),
    ] {
        fs::write(&config, text).unwrap();
        assert_says(&refused_start(&config), BAD_CONFIG, parts);
        assert!(!state.exists(), "nothing is touched");
    }
    fs::remove_file(&config).unwrap();
    assert_says(
        &refused_start(&config),
        BAD_CONFIG,
        &["can't be read", "--config"],
    );
}
