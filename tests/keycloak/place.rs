//! Where a reader of deploy/keycloak types its commands: a folder with its files, `kcadm.sh` on the
//! path, and a list of all that was run with what arguments.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::server::{ADMIN_PASSWORD, Keycloak};
use crate::support::{Daemon, root, run};

/// Each `kcadm.sh` starts a Java machine, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(900);

/// Stands on the path in place of every program: notes what is run, and runs it.
const NOTES: &str = "#!/bin/sh\nname=${0##*/}\nprintf '%s\\n' \"$name $*\" >>'NOTED'\nIFS=:\n\
                     for folder in $PROGRAMS; do\n\
                     [ ! -x \"$folder/$name\" ] || exec \"$folder/$name\" \"$@\"\ndone\nexit 127\n";

pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// One in which `kcadm.sh` is Keycloak's.
    pub fn new(server: &Keycloak) -> Place {
        let kcadm = format!("#!/bin/sh\nexec {} \"$@\"\n", server.kcadm().display());
        Place::with_kcadm(&kcadm)
    }

    pub fn with_kcadm(script: &str) -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = Place { folder };
        let files = fs::read_dir(root().join("deploy/keycloak")).expect("it is there");
        for file in files.flatten() {
            fs::copy(file.path(), place.file(file.file_name())).expect("it can be copied");
        }
        for folder in ["bin", "noting"] {
            fs::create_dir(place.file(folder)).expect("a folder of this test");
        }
        program(&place.file("bin/kcadm.sh"), script);
        let noted = place.file("noted").display().to_string();
        program(&place.file("notes"), &NOTES.replace("NOTED", &noted));
        place.note("kcadm.sh");
        for folder in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
            for file in fs::read_dir(folder).into_iter().flatten().flatten() {
                place.note(file.file_name());
            }
        }
        place
    }

    /// Puts `slmd` on the path, for this daemon.
    pub fn slmd(&self, daemon: &Daemon) {
        // A terminal would be asked before keys are pinned.
        let script = format!(
            "#!/bin/sh\nyes=; [ \"$1 $2\" != 'keys pin' ] || yes=--yes\n\
             exec {} --config {} \"$@\" $yes\n",
            env!("CARGO_BIN_EXE_slmd"),
            daemon.config_path().display()
        );
        program(&self.file("bin/slmd"), &script);
        self.note("slmd");
    }

    /// Puts another program on the path.
    pub fn command(&self, name: &str, script: &str) {
        program(&self.file("bin").join(name), script);
        self.note(name);
    }

    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Types a script into a shell.
    pub fn run(&self, script: &str, environment: &[(&str, &str)]) -> Output {
        let typed = self.file("typed");
        let script = format!("set -euo pipefail\n{script}");
        fs::write(&typed, script).expect("a folder of this test");
        let mut command = Command::new("bash");
        command.arg(typed).current_dir(self.folder.path());
        let programs = std::env::var("PATH").unwrap_or_default();
        let programs = format!("{}:{programs}", self.file("bin").display());
        let noting = self.file("noting").display().to_string();
        command.env("PATH", format!("{noting}:{programs}"));
        command.env("PROGRAMS", programs);
        command.env("HOME", self.folder.path());
        for name in ["SLMD_LDAP_PASSWORD", "SLMD_GATEWAY_CERTIFICATE"] {
            command.env_remove(name);
        }
        command.env("KC_CLI_PASSWORD", ADMIN_PASSWORD);
        // Java doesn't take the home from HOME; in one of all, two sessions lock each other out.
        let home = self.folder.path().display();
        let options = format!("-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Duser.home={home}");
        command.env("KC_OPTS", options);
        command.envs(environment.iter().copied());
        run(&mut command, b"", PATIENCE)
    }

    /// What a script printed that went well.
    #[track_caller]
    pub fn types(&self, script: &str, environment: &[(&str, &str)]) -> String {
        let output = self.run(script, environment);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Every command that was run here, with its arguments: what all users of a machine can see.
    pub fn noted(&self) -> String {
        fs::read_to_string(self.file("noted")).expect("something was run")
    }

    fn note(&self, program: impl AsRef<Path>) {
        // A program that two folders have is noted once.
        let _ = symlink(self.file("notes"), self.file("noting").join(program));
    }
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).expect("a folder of this test");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}
