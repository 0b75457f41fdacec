//! `slmd fleet review` and `sign`: what waits for signatures, and one signer's.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::key::stem;
use super::opened::{Folder, Opened, Waiting, day, lines, next_step};
use super::passphrase::Passphrases;
use crate::cli::exit::{Done, Failure};
use crate::cli::{Global, input, output};
use crate::repository::{self, Pending, PublicKey, RepositoryError};

/// Show what waits for signatures, and how it differs from what is published.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  slmd fleet review\n  slmd fleet review --json")]
pub(in crate::cli) struct Review {
    #[command(flatten)]
    folder: Folder,
}

/// Sign what is staged with one key, after a look at it. Needs no network.
#[derive(Debug, Args)]
#[command(after_help = "\
Each signer runs this where the key is: on a copy of the fleet's folder that comes and goes on a stick,
or beside one another. What a key has signed already is left as it is. Shown first is how each role
differs from what was published last; what isn't meant to be in it is reason not to sign.

Examples:
  slmd fleet sign --key offline-1
  slmd fleet sign --key /media/alice/alice.pem --fleet /media/stick/fleet")]
pub(in crate::cli) struct Sign {
    /// The key: its name in the fleet, or its file. May be left out where only one is here.
    #[arg(long, value_name = "NAME|FILE")]
    key: Option<String>,
    /// Don't ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    passphrases: Passphrases,
}

#[derive(Debug, Serialize)]
struct Reviewed {
    #[serde(flatten)]
    role: Waiting,
    changes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Signed {
    key: String,
    signed: Vec<&'static str>,
    waiting: Vec<Waiting>,
}

impl Review {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let opened = self.folder.open()?;
        let pending = repository::pending(&opened.state)?;
        if global.json {
            let reviewed: Result<Vec<Reviewed>, Failure> = pending
                .iter()
                .map(|role| {
                    Ok(Reviewed {
                        role: opened.describe(role),
                        changes: repository::review(&opened.state, role.what)?,
                    })
                })
                .collect();
            return output::show(global, &serde_json::json!({ "waiting": reviewed? }));
        }
        if pending.is_empty() {
            return output::line("nothing waits for signatures");
        }
        show(&opened, &pending.iter().collect::<Vec<_>>())?;
        let waiting = opened.waiting()?;
        lines(&waiting)
            .iter()
            .try_for_each(|line| output::line(line))?;
        output::line(&next_step(&waiting, &self.folder))
    }
}

impl Sign {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let mut opened = self.folder.open()?;
        if opened.state.staged.is_empty() {
            return Err(RepositoryError::NothingStaged.into());
        }
        let (name, file) = self.which(&opened)?;
        let pending = repository::pending(&opened.state)?;
        if let Ok(key) = opened.state.key(&name) {
            self.refuse_strangers(&pending, key)?;
        }
        let known = opened.state.keys.get(&name).map(PublicKey::id);
        let to_sign = |role: &&Pending| known.as_ref().is_none_or(|id| role.may.contains(id));
        let to_sign: Vec<&Pending> = pending.iter().filter(to_sign).collect();
        if to_sign.is_empty() {
            return self.report(global, &opened, name, Vec::new());
        }
        if !global.json || !self.yes {
            show(&opened, &to_sign)?;
        }
        if !self.yes {
            input::confirm(
                &format!("Sign this with {name}?"),
                "look at it with slmd fleet review, then give --yes",
            )?;
        }
        let key = self.passphrases.open(&name, &file)?;
        let name = opened.state.name_of(&key.public().id()).to_owned();
        let (next, signed) = repository::sign(&opened.state, &key)?;
        opened.save(next)?;
        self.report(global, &opened, name, signed)
    }

    /// A name, and the file of the private key.
    fn which(&self, opened: &Opened) -> Result<(String, PathBuf), Failure> {
        let here = |name: &str| opened.repository.private_file(name);
        match &self.key {
            Some(file) if file.contains('/') || Path::new(file).exists() => {
                Ok((stem(Path::new(file))?, file.into()))
            }
            Some(name) => {
                opened.state.key(name)?;
                Ok((name.clone(), here(name)))
            }
            None => {
                let pending = repository::pending(&opened.state)?;
                let may = pending.iter().flat_map(|role| &role.may);
                let names = may.map(|id| opened.state.name_of(id));
                let names = names.filter(|name| here(name).exists());
                let names: std::collections::BTreeSet<&str> = names.collect();
                let mut names = names.into_iter();
                match (names.next(), names.next()) {
                    (Some(name), None) => Ok((name.to_owned(), here(name))),
                    _ => Err(Failure::failed(
                        "say which key with --key NAME; slmd fleet key list names them",
                    )),
                }
            }
        }
    }

    /// A key that has nothing to say here, neither done nor to do.
    fn refuse_strangers(&self, pending: &[Pending], key: &PublicKey) -> Done {
        let id = key.id();
        let knows = |role: &Pending| role.may.contains(&id) || role.signers.contains(&id);
        match pending.iter().any(knows) {
            true => Ok(()),
            false => Err(RepositoryError::NotASigner.into()),
        }
    }

    fn report(
        &self,
        global: &Global,
        opened: &Opened,
        key: String,
        signed: Vec<&'static str>,
    ) -> Done {
        let waiting = opened.waiting()?;
        if global.json {
            let signed = Signed {
                key,
                signed,
                waiting,
            };
            return output::show(global, &signed);
        }
        match signed.is_empty() {
            true => output::line(&format!("{key} has signed all of this already"))?,
            false => output::line(&format!("{key} has signed {}", signed.join(" and ")))?,
        }
        lines(&waiting)
            .iter()
            .try_for_each(|line| output::line(&format!("  {line}")))?;
        output::line(&next_step(&waiting, &self.folder))
    }
}

/// What a person is asked to sign.
fn show(opened: &Opened, roles: &[&Pending]) -> Done {
    let name = &opened.repository.settings.name;
    for role in roles {
        let (what, version, until) = (role.what, role.version, day(role.expires));
        output::line(&format!(
            "{what} of the fleet {name}, version {version}, until {until}:"
        ))?;
        for change in repository::review(&opened.state, role.what)? {
            output::line(&format!("  {}", output::printable(&change)))?;
        }
    }
    Ok(())
}
