//! `slmd fleet key`, `add-key`, `remove-key`: the people's keys and what they may sign.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::opened::{Folder, Opened, lines, next_step};
use super::passphrase::Passphrases;
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::{Global, output};
use crate::repository::{self, Duty, PrivateKey, PublicKey, State, public_key, put, write_key};

/// Make keys and list those of the fleet.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Key {
    /// Make a key on this machine: PATH.pem, encrypted and for its owner alone, and PATH.pub.json for
    /// the fleet. Needs no fleet, so that it can be run on a machine that is never online.
    #[command(after_help = "\
The private key is PKCS #8 in PEM, encrypted with AES-256 under a passphrase (scrypt): OpenSSL reads it.

Examples:
  slmd fleet key new alice
  slmd fleet key new fleet/keys/online-2
  openssl pkey -in alice.pem -pubout")]
    New(New),
    /// List the fleet's keys, what each may sign and whether its private half is here.
    #[command(after_help = "Examples:\n  slmd fleet key list\n  slmd fleet key list --json")]
    List {
        #[command(flatten)]
        folder: Folder,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// Where to make it, without an ending.
    path: PathBuf,
    #[command(flatten)]
    passphrases: Passphrases,
}

/// Stage a root that takes a key more.
#[derive(Debug, Args)]
#[command(after_help = "\
The new root needs the signatures that the old one asks for and those that it asks for itself. With
--replace one key goes as the other comes: so a lost or stolen key is replaced. Sign and publish then.

Examples:
  slmd fleet add-key carol.pub.json --for offline --replace bob
  slmd fleet add-key fleet/keys/online-2.pub.json --for online --replace online")]
pub(in crate::cli) struct AddKey {
    /// The public key, which `slmd fleet key new` has made.
    #[arg(value_name = "FILE.pub.json")]
    file: PathBuf,
    /// What it is to sign: root and targets, snapshot and timestamp, or revocations.
    #[arg(long = "for", value_name = "DUTY")]
    duty: For,
    /// The key that it replaces.
    #[arg(long, value_name = "NAME")]
    replace: Option<String>,
    /// How many offline keys must sign from then on.
    #[arg(long, value_name = "N")]
    threshold: Option<usize>,
    #[command(flatten)]
    folder: Folder,
}

/// Stage a root that takes a key no longer.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  slmd fleet remove-key bob --threshold 2")]
pub(in crate::cli) struct RemoveKey {
    /// The key, as `slmd fleet key list` names it.
    name: String,
    /// How many offline keys must sign from then on.
    #[arg(long, value_name = "N")]
    threshold: Option<usize>,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum For {
    Offline,
    Online,
    Revocation,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    id: String,
    signs: Vec<&'static str>,
    private_key_here: bool,
}

impl Key {
    pub(super) fn execute(&self, global: &Global) -> Done {
        match self {
            Key::New(new) => new.execute(global),
            Key::List { folder } => list(global, &folder.open()?),
        }
    }
}

impl New {
    fn execute(&self, global: &Global) -> Done {
        let name = stem(&self.path)?;
        let (private, public) = (with(&self.path, ".pem"), with(&self.path, ".pub.json"));
        for file in [&private, &public] {
            if file.exists() {
                let what = format!("{} is there already; choose another name", file.display());
                return Err(Failure::failed(what));
            }
        }
        let passphrase = self.passphrases.choose(&name)?;
        let (key, pem) = PrivateKey::generate(&passphrase).map_err(Failure::failed)?;
        write_key(&private, &pem)?;
        put(&public, &key.public().text())?;
        if global.json {
            let made =
                serde_json::json!({"id": key.public().id(), "private": private, "public": public});
            return output::show(global, &made);
        }
        output::line(&format!(
            "made {} and {}",
            private.display(),
            public.display()
        ))?;
        output::line(&format!("key id {}", key.public().id()))
    }
}

impl AddKey {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let mut opened = self.folder.open()?;
        let (name, key) = (stem(&self.file)?, public_key(&self.file)?);
        let duty = match self.duty {
            For::Offline => Duty::Offline,
            For::Online => Duty::Online,
            For::Revocation => Duty::Revocation,
        };
        let expiry = &opened.repository.settings.expiry;
        let next = repository::add_key(
            &opened.state,
            (&name, &key),
            duty,
            self.replace.as_deref(),
            self.threshold,
            (expiry, opened.now),
        )?;
        opened.save(next)?;
        staged(global, &opened, &self.folder)
    }
}

impl RemoveKey {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let mut opened = self.folder.open()?;
        let expiry = &opened.repository.settings.expiry;
        let at = (expiry, opened.now);
        let next = repository::remove_key(&opened.state, &self.name, self.threshold, at)?;
        opened.save(next)?;
        staged(global, &opened, &self.folder)
    }
}

/// What is staged now, and what to do next.
pub(super) fn staged(global: &Global, opened: &Opened, folder: &Folder) -> Done {
    let waiting = opened.waiting()?;
    if global.json {
        return output::show(global, &serde_json::json!({ "waiting": waiting }));
    }
    if waiting.is_empty() {
        return output::line("it is so already; nothing is staged");
    }
    output::line("staged:")?;
    let shown = lines(&waiting);
    shown
        .iter()
        .try_for_each(|line| output::line(&format!("  {line}")))?;
    output::line(&next_step(&waiting, folder))
}

fn list(global: &Global, opened: &Opened) -> Done {
    let keys = opened.state.keys.iter();
    let keys: Vec<Listed> = keys
        .map(|(name, key)| Listed {
            name: name.clone(),
            id: key.id(),
            signs: signs(&opened.state, key),
            private_key_here: opened.repository.private_file(name).exists(),
        })
        .collect();
    if global.json {
        return output::show(global, &serde_json::json!({ "keys": keys }));
    }
    keys.iter().try_for_each(|key| {
        let signs = match key.signs.is_empty() {
            true => "nothing".to_owned(),
            false => key.signs.join(" and "),
        };
        let here = if key.private_key_here {
            ", private key here"
        } else {
            ""
        };
        output::line(&format!("{:<12} {}  signs {signs}{here}", key.name, key.id))
    })
}

fn signs(state: &State, key: &PublicKey) -> Vec<&'static str> {
    let id = key.id();
    let mut signs = Vec::new();
    if let Ok(root) = state.root().or_else(|_| state.next_root()) {
        let roles = &root.signed.role.roles;
        for (name, role) in [
            ("root", &roles.root),
            ("targets", &roles.targets),
            ("snapshot", &roles.snapshot),
            ("timestamp", &roles.timestamp),
        ] {
            if role.keyids.contains(&id) {
                signs.push(name);
            }
        }
    }
    let targets = state.published().map(|published| &published.targets);
    if let Ok(targets) = targets.or_else(|_| state.next_targets())
        && let Some((_, of)) = targets.signed.role.revocation()
        && of.keyids.contains(&id)
    {
        signs.push("revocation");
    }
    signs
}

/// What a key is called: its file's name without `.pem` or `.pub.json`.
pub(super) fn stem(file: &Path) -> Result<String, Failure> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name = name
        .strip_suffix(".pub.json")
        .or(name.strip_suffix(".pem"))
        .unwrap_or(&name);
    match repository::is_name(name) {
        true => Ok(name.to_owned()),
        false => Err(Failure::new(
            Exit::Usage,
            format!("{name:?} can't name a key: use letters, digits, `-`, `_` and `.`"),
        )),
    }
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
