//! `slmd wipe`: makes a box forget, before it goes to somebody else.

use std::io::{IsTerminal, Write};
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::exit::{Done, Exit, Failure};
use super::login::Place;
use super::{Global, input, offline, output};
use crate::config::Config;
use crate::daemon::{self, RunError};
use crate::store::{self, StoreError};

/// Make this box forget its keys, tokens, answers and audit log, before it goes to somebody else.
#[derive(Debug, Args)]
#[command(after_help = "\
Forgotten are the device's own key, the realms' pinned keys, the fleet's metadata, deliveries with
their answers, adapters, used proofs, the audit log, and the login of who runs this. Stop the daemon
first; keep the evidence with slmd audit tail --json where it is wanted. What was interrupted is
finished by the next slmd wipe, and until then no daemon starts.

Left are the configuration with the files that it names (passwords, certificates), the models,
others' logins (slmd logout), the journal, and what clients and the broker have kept.

Files are removed, not overwritten: flash writes elsewhere and keeps the old bytes until it erases
their blocks. Where somebody may look for those, keep the state folder on an encrypted file system
and destroy its key, or have the whole drive erased (blkdiscard --secure, nvme format).

The device's next start makes a new key: enrol it again with its fleet.

Examples:
  sudo systemctl disable --now slmd.socket slmd && sudo slmd wipe
  sudo slmd wipe --yes")]
pub(super) struct Wipe {
    /// Don't ask for the device's name.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Serialize)]
struct Wiped {
    forgotten: Vec<String>,
    left: Vec<String>,
}

impl Wipe {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let config = global.load()?;
        let folder = &config.state_dir;
        if store::is_in_use(&folder.join(store::FOLDER)) {
            return Err(in_use(folder));
        }
        if !self.yes {
            confirm(folder, &config.identity.device)?;
        }
        // While this is still who called it.
        let login = Place::of_this_user().ok().map(|place| place.remove());
        let had_login = login.transpose()?.unwrap_or_default();
        if folder.exists() {
            offline::become_owner(folder)?;
        }
        let mut forgotten = daemon::wipe(folder).map_err(|error| refused(folder, error))?;
        let state = |name: &String| folder.join(name).display().to_string();
        forgotten = forgotten.iter().map(state).collect();
        forgotten.extend(had_login.then(|| "your login".to_owned()));
        let left = left(global, &config);
        report(global, &Wiped { forgotten, left })
    }
}

fn refused(folder: &Path, error: RunError) -> Failure {
    match error {
        RunError::State {
            source: StoreError::Locked,
            ..
        } => in_use(folder),
        error => Failure::failed(format!("{error} (try sudo)")),
    }
}

fn in_use(folder: &Path) -> Failure {
    let folder = folder.display();
    Failure::failed(format!(
        "a daemon uses {folder}; stop it first (systemctl stop slmd.socket slmd)"
    ))
}

/// What a wipe doesn't touch, as far as it is on this machine and known.
fn left(global: &Global, config: &Config) -> Vec<String> {
    let mut left = vec![global.config.clone(), config.models_dir.clone()];
    if let Ok(entries) = std::fs::read_dir(&config.state_dir) {
        left.extend(entries.filter_map(Result::ok).map(|entry| entry.path()));
    }
    left.sort();
    left.dedup();
    let there = left.iter().filter(|path| path.exists());
    there.map(|path| path.display().to_string()).collect()
}

fn report(global: &Global, wiped: &Wiped) -> Done {
    if global.json {
        return output::show(global, wiped);
    }
    match wiped.forgotten.as_slice() {
        [] => output::line("there was nothing to forget")?,
        forgotten => output::line(&format!("forgotten: {}", forgotten.join(", ")))?,
    }
    output::line(&format!("left: {}", wiped.left.join(", ")))
}

/// Asks for the device's name, so that nobody wipes another box than he thinks.
fn confirm(folder: &Path, device: &str) -> Done {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "nothing was forgotten: there is no terminal to confirm on; give --yes",
        ));
    }
    writeln!(
        std::io::stderr(),
        "{} forgets its key, pinned keys, answers and audit log ({}). This can't be undone.",
        output::printable(device),
        folder.display()
    )?;
    match input::answer("Type the device's name to go on: ", 256)? == device {
        true => Ok(()),
        false => Err(Failure::failed("nothing was forgotten")),
    }
}
