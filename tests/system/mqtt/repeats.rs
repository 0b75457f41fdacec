//! Requests that are asked again: while they run, when they are answered, and in between.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::{LONG, Scene};
use crate::support::{Setup, chat, claims, run};

const PATIENCE: Duration = Duration::from_secs(60);

/// A disk that takes its time, where the file is there.
const SHIM: &str = "#include <stdlib.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
    int fdatasync(int fd) {\n\
      if (access(getenv(\"SLMD_TEST_SLOW\"), F_OK) == 0) sleep(3);\n\
      return syscall(SYS_fdatasync, fd);\n\
    }\n";

#[test]
fn a_repeat_is_answered_from_the_first_run() {
    let scene = Scene::start("");
    let body = chat("Name a colour, and say why you like it.", 12, false);
    scene.ask("repeat", &body);
    let first = scene.answer("repeat");
    assert_eq!(first.status, 200);
    // With another token of the same principal.
    scene.ask("repeat", &body);
    let second = scene.answer("repeat");
    assert_eq!(second, first);
    let mut stranger = claims();
    stranger["sub"] = "somebody-else".into();
    scene.publish(&scene.issuer.token(stranger), "repeat", &body, None);
    let other = scene.answer("repeat");
    assert_ne!(
        other.request_id, first.request_id,
        "answers of others are none of yours"
    );
    assert_eq!(scene.accesses("chat").len(), 2);
    // The second is on record, and names the first.
    let again = scene.accesses("chat again");
    assert_eq!(again.len(), 1, "{again:?}");
    let told = format!("the answer of {}", first.request_id);
    assert_eq!(
        (&again[0]["detail"], &again[0]["decision"]),
        (&told.into(), &"permit".into())
    );
}

#[test]
fn a_repeat_of_what_runs_is_answered_once() {
    let scene = Scene::start("");
    let body = chat(LONG, 64, true);
    scene.ask("twice", &body);
    scene.until_text("twice");
    scene.ask("twice", &body);
    assert_eq!(scene.answer("twice").status, 200);
    assert!(scene.answers.next(Duration::from_secs(1)).is_none());
    assert_eq!(scene.accesses("chat").len(), 1);
    assert_eq!(scene.accesses("chat joined").len(), 1);
}

/// Who asks again between the last message and its record has missed that message.
#[test]
fn a_repeat_while_the_answer_is_being_recorded_is_answered_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("shim.c"), SHIM).expect("a temporary file");
    let mut command = Command::new("cc");
    command
        .args(["-shared", "-fPIC", "-o"])
        .arg(path("shim.so"));
    let built = run(command.arg(path("shim.c")), b"", PATIENCE);
    assert!(built.status.success(), "{built:?}");
    let (shim, slow) = (path("shim.so"), path("slow"));
    let setup = Setup::new()
        .env("LD_PRELOAD", &shim.display().to_string())
        .env("SLMD_TEST_SLOW", &slow.display().to_string());
    let scene = Scene::of(setup, "");
    let body = chat(LONG, 64, true);
    scene.ask("late", &body);
    scene.until_text("late");
    fs::write(&slow, "").expect("a temporary file");
    let first = scene.answer("late");
    scene.ask("late", &body);
    let again = scene.answer("late");
    fs::remove_file(&slow).expect("a temporary file");
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!(again.request_id, first.request_id);
    assert!(again.text.ends_with(&first.text), "{again:?}");
    assert_eq!(scene.accesses("chat").len(), 1);
}
