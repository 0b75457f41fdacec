//! `slmd fleet init`: keys, and a first root that nothing is in yet.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::key::stem;
use super::opened::{Folder, Waiting, lines, next_step};
use super::passphrase::Passphrases;
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::{Global, output};
use crate::repository::{
    self, Founding, PrivateKey, PublicKey, Repository, RepositoryError, Settings, State,
};
use crate::time::Clocks;

/// Make a fleet: its keys, its root, and a folder for all of it.
#[derive(Debug, Args)]
#[command(after_help = "\
Root and targets, which say whose keys count and what devices trust, need two of three offline keys;
give each to a person of its own. An online key renews what says that nothing is withheld, and a key for
revocation may take away and nothing else. --root-key takes an offline key that was made elsewhere with
slmd fleet key new; fewer are made here then.

Examples:
  slmd fleet init plant
  slmd fleet init plant --realm prod=https://keycloak.example/realms/prod --ca-file ca.pem
  slmd fleet init plant --root-key alice.pub.json --root-key bob.pub.json")]
pub(in crate::cli) struct Init {
    /// What devices call the fleet.
    name: String,
    #[command(flatten)]
    folder: Folder,
    /// An offline key that was made elsewhere.
    #[arg(long, value_name = "FILE")]
    root_key: Vec<PathBuf>,
    /// How many offline keys there are.
    #[arg(long, value_name = "N", default_value_t = 3)]
    keys: usize,
    /// How many of them must sign.
    #[arg(long, value_name = "N", default_value_t = 2)]
    threshold: usize,
    /// A realm whose keys the fleet is to carry, with its issuer; fleet.toml takes others later.
    #[arg(long, value_name = "NAME=ISSUER", value_parser = realm)]
    realm: Vec<(String, String)>,
    /// The CA that is trusted for these issuers.
    #[arg(long, value_name = "FILE", requires = "realm")]
    ca_file: Option<PathBuf>,
    #[command(flatten)]
    passphrases: Passphrases,
}

#[derive(Debug, Serialize)]
struct Made {
    fleet: String,
    folder: PathBuf,
    keys: Vec<String>,
    published: bool,
    waiting: Vec<Waiting>,
}

/// Keys that were made here, with their files.
#[derive(Default)]
struct Private {
    files: Vec<(String, String)>,
    keys: Vec<PrivateKey>,
}

impl Init {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let usage = |what: String| Err(Failure::new(Exit::Usage, what));
        if !repository::is_name(&self.name) {
            return Err(RepositoryError::Name(self.name.clone()).into());
        }
        if self.root_key.len() > self.keys {
            return usage("--keys is less than the number of --root-key".to_owned());
        }
        if self.threshold == 0 || self.threshold > self.keys || self.keys > 16 {
            return usage("--threshold goes from 1 to --keys, and --keys to 16".to_owned());
        }
        let folder = &self.folder.fleet;
        let taken = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
        if taken || folder.is_file() {
            return Err(RepositoryError::Taken(folder.clone()).into());
        }
        let text = repository::new_file(&self.name, &self.realms()?);
        let mut private = Private::default();
        let founding = self.founding(&mut private)?;
        let settings = Settings::parse(&text, folder).map_err(Failure::failed)?;
        let state = self.signed(founding, &private, &settings)?;
        Repository::create(folder, &text, &private.files, &state)?;
        self.report(global)
    }

    fn realms(&self) -> Result<Vec<(String, String, Option<PathBuf>)>, Failure> {
        // fleet.toml names files from its own folder on.
        let ca_file = self
            .ca_file
            .as_deref()
            .map(std::fs::canonicalize)
            .transpose();
        let ca_file = ca_file.map_err(|error| Failure::failed(format!("--ca-file: {error}")))?;
        let realms = self.realm.iter();
        let realms = realms.map(|(name, issuer)| (name.clone(), issuer.clone(), ca_file.clone()));
        Ok(realms.collect())
    }

    fn founding(&self, private: &mut Private) -> Result<Founding, Failure> {
        let mut offline: Vec<(String, PublicKey)> = Vec::new();
        for file in &self.root_key {
            let key = repository::public_key(file)?;
            let name = stem(file)?;
            if offline
                .iter()
                .any(|(known, other)| *known == name || *other == key)
            {
                return Err(RepositoryError::KeyTaken(name).into());
            }
            offline.push((name, key));
        }
        for number in 1..=self.keys - self.root_key.len() {
            offline.push(self.make(&format!("offline-{number}"), private)?);
        }
        Ok(Founding {
            offline,
            threshold: self.threshold,
            online: self.make("online", private)?,
            revocation: self.make("revocation", private)?,
        })
    }

    fn make(&self, name: &str, private: &mut Private) -> Result<(String, PublicKey), Failure> {
        let passphrase = self.passphrases.choose(name)?;
        let (key, pem) = PrivateKey::generate(&passphrase).map_err(Failure::failed)?;
        let public = key.public();
        private.files.push((name.to_owned(), pem));
        private.keys.push(key);
        Ok((name.to_owned(), public))
    }

    /// With the signatures of all keys that are here; published, if that is enough.
    fn signed(
        &self,
        founding: Founding,
        private: &Private,
        settings: &Settings,
    ) -> Result<State, Failure> {
        let now = Clocks::default().now();
        let online = founding.online.1.clone();
        let mut state = repository::found(founding, &settings.expiry, now);
        for key in &private.keys {
            match repository::sign(&state, key) {
                Ok((next, _)) => state = next,
                // The online key signs nothing that is staged.
                Err(RepositoryError::NotASigner) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let online = private.keys.iter().find(|key| key.public() == online);
        let complete = repository::pending(&state)?
            .iter()
            .all(|role| role.missing == 0);
        match online.filter(|_| complete) {
            Some(online) => Ok(repository::finish(&state, online, &settings.expiry, now)?),
            None => Ok(state),
        }
    }

    fn report(&self, global: &Global) -> Done {
        let opened = self.folder.open()?;
        let waiting = opened.waiting()?;
        let made = Made {
            fleet: self.name.clone(),
            folder: self.folder.fleet.clone(),
            keys: opened.state.keys.keys().cloned().collect(),
            published: opened.state.published.is_some(),
            waiting,
        };
        if global.json {
            return output::show(global, &made);
        }
        let folder = self.folder.fleet.display();
        output::line(&format!("The fleet {} is in {folder}:", self.name))?;
        for (name, key) in &opened.state.keys {
            let private = opened.repository.private_file(name).exists();
            let place = if private {
                ""
            } else {
                "   (its private half is elsewhere)"
            };
            output::line(&format!("  {name:<12} {}{place}", key.id()))?;
        }
        output::line(
            "Give each offline key (keys/offline-N.pem) to a person of its own, keep a copy, and",
        )?;
        output::line("remove it here. Devices are told of the fleet by its root:")?;
        output::line(&format!(
            "  {}",
            Path::new("metadata/1.root.json").display()
        ))?;
        if made.waiting.is_empty() {
            let option = self.folder.option();
            return output::line(&format!("next: slmd fleet rotate REALM{option}"));
        }
        lines(&made.waiting)
            .iter()
            .try_for_each(|line| output::line(line))?;
        output::line(&next_step(&made.waiting, &self.folder))
    }
}

fn realm(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, issuer)) if repository::is_name(name) && !issuer.is_empty() => {
            Ok((name.to_owned(), issuer.to_owned()))
        }
        _ => Err("write NAME=ISSUER, such as prod=https://keycloak.example/realms/prod".to_owned()),
    }
}
