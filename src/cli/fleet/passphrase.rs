//! Passphrases of a fleet's keys: from a file, or asked on the terminal and shown nowhere.

use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroize;

use crate::cli::exit::{Exit, Failure};
use crate::files::{self, Care};
use crate::repository::{KeyError, PrivateKey, RepositoryError, private_key};
use crate::secret::Secret;

/// Who steals a key's file tries millions a day.
const LEAST: usize = 12;
const MAX_FILE: u64 = 4096;
const TRIES: usize = 3;

#[derive(Debug, Args)]
pub(super) struct Passphrases {
    /// Take the passphrase from FILE instead of asking: of the key NAME, or of all that aren't named.
    /// May be given for several keys.
    #[arg(long, env = "SLMD_FLEET_PASSPHRASE_FILE", value_name = "[NAME=]FILE")]
    passphrase_file: Vec<String>,
}

impl Passphrases {
    /// Opens the key NAME in `file`, asking again where the passphrase was wrong.
    pub(super) fn open(&self, name: &str, file: &Path) -> Result<PrivateKey, Failure> {
        if let Some(from) = self.file(name) {
            return Ok(private_key(file, &read(&from)?)?);
        }
        if !file.exists() {
            let name = name.to_owned();
            return Err(RepositoryError::NoPrivateKey { name }.into());
        }
        for _ in 1..TRIES {
            match private_key(file, &ask(&format!("Passphrase of {name}: "))?) {
                Err(RepositoryError::Key {
                    why: KeyError::Passphrase,
                    ..
                }) => eprintln!("That isn't it."),
                opened => return Ok(opened?),
            }
        }
        Ok(private_key(
            file,
            &ask(&format!("Passphrase of {name}: "))?,
        )?)
    }

    /// For a new key: asked for twice.
    pub(super) fn choose(&self, name: &str) -> Result<Secret<String>, Failure> {
        if let Some(from) = self.file(name) {
            let passphrase = read(&from)?;
            long_enough(&passphrase)
                .map_err(|why| Failure::failed(format!("{}: {why}", from.display())))?;
            return Ok(passphrase);
        }
        for _ in 0..TRIES {
            let passphrase = ask(&format!("New passphrase of {name}: "))?;
            if let Err(why) = long_enough(&passphrase) {
                eprintln!("Not taken: {why}.");
                continue;
            }
            if ask("The same again: ")? == passphrase {
                return Ok(passphrase);
            }
            eprintln!("These two differ.");
        }
        Err(Failure::failed(
            "no passphrase was chosen, so nothing was made",
        ))
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        let mut of_all = None;
        for given in &self.passphrase_file {
            match given.split_once('=') {
                Some((key, file)) if key == name => return Some(file.into()),
                Some(_) => {}
                None => of_all = Some(given.into()),
            }
        }
        of_all
    }
}

fn long_enough(passphrase: &Secret<String>) -> Result<(), String> {
    match passphrase.expose().chars().count() {
        LEAST.. => Ok(()),
        _ => Err(format!(
            "a passphrase has at least {LEAST} characters; four random words are good"
        )),
    }
}

fn read(file: &Path) -> Result<Secret<String>, Failure> {
    let wrong = |why: &dyn std::fmt::Display| Failure::failed(format!("{}: {why}", file.display()));
    let bytes = files::read(file, MAX_FILE, Care::Secret).map_err(|error| wrong(&error))?;
    let text = String::from_utf8(bytes).map(Secret::new);
    let text = text.map_err(|error| {
        error.into_bytes().zeroize();
        wrong(&"it isn't text")
    })?;
    let line = text.expose().trim_end_matches(['\r', '\n']);
    Ok(Secret::new(line.to_owned()))
}

fn ask(question: &str) -> Result<Secret<String>, Failure> {
    let answer = rpassword::prompt_password(question).map(Secret::new);
    answer.map_err(|error| {
        let what = format!("there is no terminal to ask for a passphrase on ({error})");
        Failure::new(Exit::Usage, format!("{what}; give --passphrase-file FILE"))
    })
}
