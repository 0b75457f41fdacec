//! A fleet's repository: keys, what waits for signatures, and what devices are to trust, as files.
//!
//! Everything is read into one value ([`State`]); what a command makes of it is computed purely ([`found`], [`stage`], [`roles`], [`sign`],
//! [`finish`]) and then written ([`Repository::save`]): each file
//! whole, what is pointed to before what points to it, the timestamp last of what is published. A
//! break anywhere leaves the old state or the new one, and the same command again completes it.
//!
//! ```text
//! fleet.toml        name, expiry, realms, destinations        settings
//! keys/             NAME.pub.json and NAME.pem (encrypted)    key
//! staged/           ROLE.json with the signatures so far      state
//! metadata/         N.ROLE.json and timestamp.json            metadata
//! targets/          PATH/SHA256.NAME                          contents
//! devices/          DEVICE.json: the keys of enrolled devices
//! audit/            what was seen of their logs                seen
//! ```

mod broker;
mod cosigner;
mod devices;
mod error;
mod export;
mod finish;
mod folder;
mod found;
mod key;
mod keyset;
mod metadata;
mod policy;
mod review;
mod revoke;
mod roles;
mod seen;
mod settings;
mod sign;
mod stage;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::files::{self, Care, FileError};
use crate::secret::Secret;
pub use broker::Retained;
pub use cosigner::{Cosigner, WITNESS};
pub use devices::{Devices, Heard, Standing, standing, stragglers};
pub use error::RepositoryError;
use export::{pieces, target_file};

pub use finish::{check_finish, finish, ready};
pub use folder::{reports_in, to_folder};
pub use found::{Founding, found};
pub use key::{KeyError, KeyId, PrivateKey, PublicKey};
pub use keyset::{KeyChange, with_fetched, without};
pub use metadata::Moment;
use metadata::{MAX_LEN, Metadata, Role};
pub use policy::{Allowed, check_policy};
pub use review::review;
pub use revoke::{Lift, Named, Revoke};
pub use roles::{Duty, add_key, remove_key};
pub use seen::{Device, Found, Seen};
pub use settings::{Destination, Settings, is_name, new_file};
pub use sign::{Pending, pending, sign};
pub use stage::{renew, stage_deny, stage_target};
pub use state::{Published, SOON, Staged, State, ends};

const SETTINGS: &str = "fleet.toml";
/// Far above any fleet's.
const MAX_SETTINGS: u64 = 1 << 20;
const MAX_KEY: u64 = 16 * 1024;
/// What metadata of a fleet may have here; devices take [`MAX_LEN`].
const MAX_METADATA: u64 = MAX_LEN as u64;

/// A repository's folder with its settings.
#[derive(Debug)]
pub struct Repository {
    folder: PathBuf,
    pub settings: Settings,
}

impl Repository {
    /// With all that it holds, checked.
    pub fn open(folder: &Path) -> Result<(Repository, State), RepositoryError> {
        let file = folder.join(SETTINGS);
        let Some(text) = read(&file, MAX_SETTINGS, Care::Trusted)? else {
            return Err(RepositoryError::NoFleet(folder.to_owned()));
        };
        let text = String::from_utf8(text).map_err(|e| RepositoryError::wrong(&file, e))?;
        let settings = Settings::parse(&text, folder);
        let repository = Repository {
            folder: folder.to_owned(),
            settings: settings.map_err(|why| RepositoryError::wrong(&file, why))?,
        };
        let state = repository.load()?;
        state.check()?;
        Ok((repository, state))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes a fleet's folder, whole or not at all.
    pub fn create(
        folder: &Path,
        settings: &str,
        private: &[(String, String)],
        state: &State,
    ) -> Result<Repository, RepositoryError> {
        let new = sibling(folder);
        // An earlier one of this process id may have been killed here.
        if new.exists() {
            fs::remove_dir_all(&new).map_err(RepositoryError::file(&new))?;
        }
        let made = Repository {
            folder: new.clone(),
            settings: Settings::parse(settings, folder)
                .map_err(|why| RepositoryError::wrong(&folder.join(SETTINGS), why))?,
        };
        let keys = new.join("keys");
        files::private_folder(&keys).map_err(|e| RepositoryError::wrong(&keys, e))?;
        for (name, pem) in private {
            write_key(&made.private_file(name), pem)?;
        }
        made.write(state)?;
        for empty in ["staged", "metadata", "targets", "devices"] {
            let empty = new.join(empty);
            fs::create_dir_all(&empty).map_err(RepositoryError::file(&empty))?;
        }
        put(&new.join(SETTINGS), settings.as_bytes())?;
        // Only an empty folder is replaced by a rename.
        fs::rename(&new, folder).map_err(|error| {
            let _ = fs::remove_dir_all(&new);
            match error.kind() {
                ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory => {
                    RepositoryError::Taken(folder.to_owned())
                }
                _ => RepositoryError::wrong(folder, error),
            }
        })?;
        let parent = parent(folder);
        files::sync_folder(parent).map_err(RepositoryError::file(parent))?;
        Ok(Repository {
            folder: folder.to_owned(),
            ..made
        })
    }

    /// Writes `next`, which was made from `from`, unless another command was quicker.
    pub fn save(&self, from: &State, next: &State) -> Result<(), RepositoryError> {
        let lock = self.folder.join(".lock");
        let file = files::lock_file(&lock).map_err(RepositoryError::file(&lock))?;
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        locked.map_err(|_| RepositoryError::Busy(self.folder.clone()))?;
        if self.load()? != *from {
            return Err(RepositoryError::Changed);
        }
        self.write(next)
    }

    fn write(&self, next: &State) -> Result<(), RepositoryError> {
        let at = |path: &str| self.folder.join(path);
        for (name, key) in &next.keys {
            put(&self.public_file(name), &key.text())?;
        }
        for piece in pieces(next)? {
            put(&at(&piece.path), &piece.bytes)?;
        }
        // A root after what comes with it: staged alone, that is a version more and no harm.
        let staged = &next.staged;
        for (name, bytes) in [
            (
                "revocation",
                staged.revocation.as_ref().map(Metadata::bytes),
            ),
            ("targets", staged.targets.as_ref().map(Metadata::bytes)),
            ("root", staged.root.as_ref().map(Metadata::bytes)),
        ] {
            let file = at(&format!("staged/{name}.json"));
            match bytes {
                Some(bytes) => put(&file, &bytes)?,
                None => remove(&file)?,
            }
        }
        Ok(())
    }

    pub fn public_file(&self, name: &str) -> PathBuf {
        self.folder.join("keys").join(format!("{name}.pub.json"))
    }

    pub fn private_file(&self, name: &str) -> PathBuf {
        self.folder.join("keys").join(format!("{name}.pem"))
    }

    fn load(&self) -> Result<State, RepositoryError> {
        let mut state = State {
            keys: self.keys()?,
            ..State::default()
        };
        while let Some(root) = self.published(&format!("{}.root", state.roots.len() + 1))? {
            state.roots.push(root);
        }
        state.published = self.newest()?;
        let version = |newest: Option<u64>| newest.unwrap_or_default();
        let published = state.published.as_ref();
        let (targets, revocation) = (
            version(published.map(|published| published.targets.signed.version)),
            version(published.map(|published| published.revocation.signed.version)),
        );
        // What is staged and published too, a break has left behind.
        state.staged = Staged {
            root: self.staged("root", state.roots.len() as u64)?,
            targets: self.staged("targets", targets)?,
            revocation: self.staged("revocation", revocation)?,
        };
        self.load_contents(&mut state)?;
        Ok(state)
    }

    fn newest(&self) -> Result<Option<Published>, RepositoryError> {
        let Some(timestamp) = self.published::<metadata::Timestamp>("timestamp")? else {
            return Ok(None);
        };
        let version = |meta: &BTreeMap<String, metadata::Listed>, name: &str| {
            let listed = meta.get(name).map(|listed| listed.version);
            listed.ok_or_else(|| RepositoryError::Damaged(format!("{name} isn't listed")))
        };
        let at = version(&timestamp.signed.role.meta, "snapshot.json")?;
        let snapshot: Metadata<metadata::Snapshot> = self.there(&format!("{at}.snapshot"))?;
        let meta = &snapshot.signed.role.meta;
        let targets = version(meta, "targets.json")?;
        let revocation = version(meta, "revocation.json")?;
        Ok(Some(Published {
            targets: self.there(&format!("{targets}.targets"))?,
            revocation: self.there(&format!("{revocation}.revocation"))?,
            snapshot,
            timestamp,
        }))
    }

    fn load_contents(&self, state: &mut State) -> Result<(), RepositoryError> {
        let published = state.published.iter();
        let published = published.flat_map(|p| [&p.targets, &p.revocation]);
        let staged = [&state.staged.targets, &state.staged.revocation];
        let mut contents = BTreeMap::new();
        for role in published.chain(staged.into_iter().flatten()) {
            for (path, content) in &role.signed.role.targets {
                let hash = &content.hashes.sha256;
                let file = self.folder.join(target_file(path, hash));
                let bytes = read(&file, MAX_METADATA, Care::Trusted)?;
                let whole = bytes.filter(|bytes| metadata::Content::of(bytes) == *content);
                let Some(bytes) = whole else {
                    let what = "it is missing or isn't what was signed; restore it from a copy";
                    return Err(RepositoryError::wrong(&file, what));
                };
                contents.insert(hash.clone(), bytes);
            }
        }
        state.contents = contents;
        Ok(())
    }

    fn keys(&self) -> Result<BTreeMap<String, PublicKey>, RepositoryError> {
        let folder = self.folder.join("keys");
        let mut keys = BTreeMap::new();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(keys),
            entries => entries.map_err(RepositoryError::file(&folder))?,
        };
        for entry in entries {
            let file = entry.map_err(RepositoryError::file(&folder))?.path();
            let name = file.file_name().and_then(|name| name.to_str());
            let name = name.and_then(|name| name.strip_suffix(".pub.json"));
            if let Some(name) = name.filter(|name| is_name(name)) {
                keys.insert(name.to_owned(), public_key(&file)?);
            }
        }
        Ok(keys)
    }

    fn published<R: Role>(&self, name: &str) -> Result<Option<Metadata<R>>, RepositoryError> {
        parsed(&self.folder.join(format!("metadata/{name}.json")))
    }

    fn there<R: Role>(&self, name: &str) -> Result<Metadata<R>, RepositoryError> {
        let missing = || RepositoryError::Damaged(format!("metadata/{name}.json is missing"));
        self.published(name)?.ok_or_else(missing)
    }

    fn staged<R: Role>(
        &self,
        name: &str,
        after: u64,
    ) -> Result<Option<Metadata<R>>, RepositoryError> {
        let staged: Option<Metadata<R>> = parsed(&self.folder.join(format!("staged/{name}.json")))?;
        Ok(staged.filter(|staged| staged.signed.version > after))
    }
}

/// A TUF key's JSON.
pub fn public_key(file: &Path) -> Result<PublicKey, RepositoryError> {
    let Some(text) = read(file, MAX_KEY, Care::Trusted)? else {
        return Err(RepositoryError::wrong(file, "it isn't there"));
    };
    PublicKey::parse(&text).map_err(|why| RepositoryError::wrong(file, why))
}

/// A private key that only we may read.
pub fn private_key(
    file: &Path,
    passphrase: &Secret<String>,
) -> Result<PrivateKey, RepositoryError> {
    let name = file
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let pem = match read(file, MAX_KEY, Care::Own)? {
        None => return Err(RepositoryError::NoPrivateKey { name }),
        Some(pem) => String::from_utf8(pem).map_err(|e| RepositoryError::wrong(file, e))?,
    };
    PrivateKey::open(&pem, passphrase).map_err(|why| RepositoryError::Key { name, why })
}

/// Writes a new private key; never over another.
pub fn write_key(file: &Path, pem: &str) -> Result<(), RepositoryError> {
    use std::io::Write;
    let write = || {
        let mut to = files::create_new(file)?;
        to.write_all(pem.as_bytes())?;
        to.sync_all()?;
        files::sync_folder(parent(file))
    };
    write().map_err(RepositoryError::file(file))
}

/// Writes what everybody may read; nothing where it is so already.
pub fn put(file: &Path, bytes: &[u8]) -> Result<(), RepositoryError> {
    if fs::read(file).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let folder = parent(file);
    if !folder.is_dir() {
        fs::create_dir_all(folder).map_err(RepositoryError::file(folder))?;
        let _ = files::sync_folder(parent(folder));
    }
    files::replace_public(file, bytes).map_err(RepositoryError::file(file))
}

fn remove(file: &Path) -> Result<(), RepositoryError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(RepositoryError::wrong(file, error))
        }
        _ => Ok(()),
    }
}

fn read(file: &Path, most: u64, care: Care) -> Result<Option<Vec<u8>>, RepositoryError> {
    match files::read(file, most, care) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(FileError::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RepositoryError::wrong(file, error)),
    }
}

fn parsed<R: Role>(file: &Path) -> Result<Option<Metadata<R>>, RepositoryError> {
    let bytes = read(file, MAX_METADATA, Care::Trusted)?;
    let parse = |bytes: Vec<u8>| Metadata::parse(&bytes);
    let parsed = bytes.map(parse).transpose();
    parsed.map_err(|why| RepositoryError::wrong(file, why))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Where a new folder is made, to be renamed when it is whole.
fn sibling(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    folder.with_file_name(name)
}
