//! The repository that a command works on, and what all commands say about its state.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::passphrase::Passphrases;
use crate::cli::exit::{Done, Failure};
use crate::repository::{
    self, KeyId, Moment, Pending, PrivateKey, Repository, RepositoryError, State,
};
use crate::time::{Clocks, Timestamp};

#[derive(Debug, Args)]
pub(in crate::cli) struct Folder {
    /// The fleet's folder.
    #[arg(long, env = "SLMD_FLEET", default_value = "fleet", value_name = "DIR")]
    pub(super) fleet: PathBuf,
}

/// A repository as it was when the command began.
pub(super) struct Opened {
    pub(super) repository: Repository,
    pub(super) state: State,
    pub(super) now: Timestamp,
}

/// A staged role, as people and scripts are told of it.
#[derive(Debug, Serialize)]
pub(super) struct Waiting {
    role: &'static str,
    version: u64,
    expires: String,
    signed_by: Vec<String>,
    missing: usize,
    may_sign: Vec<String>,
}

impl Folder {
    pub(super) fn open(&self) -> Result<Opened, Failure> {
        let (repository, state) = Repository::open(&self.fleet)?;
        Ok(Opened {
            repository,
            state,
            now: Clocks::default().now(),
        })
    }

    /// As it is to be typed after `slmd fleet …`.
    pub(super) fn option(&self) -> String {
        match self.fleet == Path::new("fleet") {
            true => String::new(),
            false => format!(" --fleet {}", self.fleet.display()),
        }
    }
}

impl Opened {
    pub(super) fn save(&mut self, next: State) -> Done {
        self.repository.save(&self.state, &next)?;
        self.state = next;
        Ok(())
    }

    pub(super) fn waiting(&self) -> Result<Vec<Waiting>, Failure> {
        let pending = repository::pending(&self.state)?;
        Ok(pending.iter().map(|role| self.describe(role)).collect())
    }

    pub(super) fn describe(&self, role: &Pending) -> Waiting {
        let names = |ids: &std::collections::BTreeSet<KeyId>| {
            let names = ids.iter().map(|id| self.state.name_of(id).to_owned());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        };
        Waiting {
            role: role.what,
            version: role.version,
            expires: role.expires.to_string(),
            signed_by: names(&role.signers),
            missing: role.missing,
            may_sign: names(&role.may),
        }
    }

    /// The key that signs snapshot and timestamp, of those whose private half is here.
    pub(super) fn online(&self, passphrases: &Passphrases) -> Result<PrivateKey, Failure> {
        let roles = &self.state.next_root()?.signed.role.roles;
        self.unlock(&roles.timestamp.keyids, "online", passphrases)
    }

    pub(super) fn unlock(
        &self,
        ids: &std::collections::BTreeSet<KeyId>,
        duty: &str,
        passphrases: &Passphrases,
    ) -> Result<PrivateKey, Failure> {
        let mut names = ids.iter().map(|id| self.state.name_of(id));
        let here = names.find(|name| self.repository.private_file(name).exists());
        let Some(name) = here else {
            let name = format!("of the fleet's {duty} role");
            return Err(RepositoryError::NoPrivateKey { name }.into());
        };
        passphrases.open(name, &self.repository.private_file(name))
    }
}

/// What is to be typed next.
pub(super) fn next_step(waiting: &[Waiting], folder: &Folder) -> String {
    let option = folder.option();
    match waiting.iter().find(|role| role.missing > 0) {
        Some(role) => {
            let signers = role.may_sign.join(", ");
            format!("next: slmd fleet sign --key NAME{option}   (NAME: one of {signers})")
        }
        None => format!("next: slmd fleet publish{option}"),
    }
}

/// The state of each staged role in a line.
pub(super) fn lines(waiting: &[Waiting]) -> Vec<String> {
    let line = |role: &Waiting| {
        let signers = match role.signed_by.is_empty() {
            true => "nobody yet".to_owned(),
            false => role.signed_by.join(", "),
        };
        let missing = match role.missing {
            0 => "complete".to_owned(),
            1 => "1 signature is missing".to_owned(),
            many => format!("{many} signatures are missing"),
        };
        let (name, version) = (role.role, role.version);
        format!("{name} {version}: signed by {signers}; {missing}")
    };
    waiting.iter().map(line).collect()
}

/// `2026-11-27`.
pub(super) fn day(at: Moment) -> String {
    let text = at.to_string();
    text.split('T').next().unwrap_or(&text).to_owned()
}
