//! Where the fleet's trust survives: in the store, and once more as a file beside it.
//!
//! What is trusted changes as a whole. Its rows are one batch, which also says that what follows from
//! them (pinned keys, records) isn't written yet; that mark goes with the last of it. A crash in
//! between leaves the mark, and the next start goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Held;
use crate::files::{self, Care};
use crate::store::{Batch, Store, StoreError, Tree};

/// The copy of what is trusted, in the state folder.
pub const FOLDER: &str = "trust";

const FILE: &str = "fleet.json";

/// Above what all roles and a fleet's targets take; a wrong file mustn't fill the memory.
const MAX_COPY: u64 = 16 << 20;

/// A long value is stored in pieces of this size.
const PIECE: usize = 48 * 1024;

/// In the store while it is the one that was opened before.
const OPENED: &[u8] = b"opened";
/// What follows from the rows isn't written yet.
const UNFINISHED: &[u8] = b"unfinished";

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    tree: Tree,
    file: PathBuf,
    restored: bool,
    /// The copy is there and can't be read, and the store has lost what it is of.
    lost: bool,
}

/// All signed files are JSON, so text: their exact bytes survive.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Copy {
    metadata: BTreeMap<String, String>,
    targets: BTreeMap<String, String>,
    denied: BTreeMap<String, String>,
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

impl Vault {
    /// What the store has lost is read back from the copy; what it has kept counts, whatever a file
    /// says.
    pub fn open(store: &Store, folder: &Path) -> Result<Vault, StoreError> {
        let create = || {
            files::private_folder(folder)?;
            folder.parent().map_or(Ok(()), files::sync_folder)
        };
        create().map_err(|e: io::Error| StoreError::in_file(folder, &e))?;
        let tree = store.tree("trust")?;
        let file = folder.join(FILE);
        let anew = store.recovery().is_some() || tree.get(OPENED)?.is_none();
        let (mut restored, mut lost) = (false, false);
        let copy = match anew && rows(&tree)?.is_empty() {
            true => read(&file),
            false => Ok(None),
        };
        let copy = copy.unwrap_or_else(|why| {
            tracing::error!(?file, why, "the copy of the fleet's trust can't be read");
            lost = true;
            None
        });
        // Not opened as long as it is lost: the next start is to find that out again.
        if anew && !lost {
            let mut batch = Batch::default();
            batch.insert(OPENED, b"1");
            if let Some(copy) = copy {
                copy.rows()
                    .iter()
                    .for_each(|(key, value)| batch.insert(key, value));
                // Keys and records may be older than it.
                batch.insert(UNFINISHED, b"1");
                restored = true;
            }
            store.commit(|| tree.apply(batch))?;
        }
        Ok(Vault(Arc::new(Shared {
            store: store.clone(),
            tree,
            file,
            restored,
            lost,
        })))
    }

    /// Whether the copy gave back what the store had lost.
    pub fn restored(&self) -> bool {
        self.0.restored
    }

    /// Whether a crash came before all that follows was written.
    pub fn is_unfinished(&self) -> Result<bool, StoreError> {
        Ok(self.0.tree.get(UNFINISHED)?.is_some())
    }

    /// `None`: no root is pinned.
    pub fn load(&self) -> Result<Option<Held>, StoreError> {
        let mut held = Held::from_rows(rows(&self.0.tree)?);
        if self.0.lost && held == Held::default() {
            held.strange.insert(FILE.to_owned());
        }
        Ok((held != Held::default()).then_some(held))
    }

    /// Writes what is trusted with what `also` writes: both or neither is durable when this
    /// returns. Blocks.
    pub fn save<E: From<StoreError>>(
        &self,
        held: &Held,
        also: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let Shared { store, tree, .. } = &*self.0;
        let (before, after) = (rows(tree)?, held.rows());
        if before == after && !self.is_unfinished()? {
            return also();
        }
        let copy = self.stage(held)?;
        let (mut batch, mut back) = (Batch::default(), Batch::default());
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            batch.remove(key);
        }
        for key in after.keys().filter(|key| !before.contains_key(*key)) {
            back.remove(key);
        }
        let changed = |from: &Rows, to: &Rows, into: &mut Batch| {
            for (key, value) in to
                .iter()
                .filter(|(key, value)| from.get(*key) != Some(value))
            {
                into.insert(key, value);
            }
        };
        changed(&before, &after, &mut batch);
        changed(&after, &before, &mut back);
        batch.insert(OPENED, b"1");
        batch.insert(UNFINISHED, b"1");
        back.remove(UNFINISHED);
        if self.0.lost {
            back.remove(OPENED);
        }
        let written = store.commit(|| {
            tree.apply(batch)?;
            also()?;
            Ok::<_, E>(tree.remove(UNFINISHED)?)
        });
        if let Err(error) = written {
            // A store that can still be written trusts nothing that nobody recorded.
            let _ = tree.apply(back);
            return Err(error);
        }
        if let Err(error) = copy.put() {
            tracing::warn!(%error, "the copy of the fleet's trust is the one before");
        }
        Ok(())
    }

    fn stage(&self, held: &Held) -> Result<files::Staged, StoreError> {
        let text = |files: &BTreeMap<String, Vec<u8>>| {
            let texts = files.iter().map(|(name, bytes)| {
                let text = std::str::from_utf8(bytes).map_err(|e| StoreError::Io(e.to_string()))?;
                Ok((name.clone(), text.to_owned()))
            });
            texts.collect::<Result<_, StoreError>>()
        };
        let copy = Copy {
            metadata: text(&held.metadata)?,
            targets: text(&held.targets)?,
            denied: text(&held.denied)?,
        };
        let copy = serde_json::to_vec(&copy).map_err(|e| StoreError::Io(e.to_string()))?;
        let file = &self.0.file;
        files::stage(file, &copy).map_err(|e| StoreError::in_file(file, &e))
    }
}

/// `None`: there is none.
fn read(file: &Path) -> Result<Option<Held>, String> {
    let bytes = match files::read(file, MAX_COPY, Care::Own) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let copy: Copy = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let bytes = |texts: BTreeMap<String, String>| {
        let files = texts.into_iter();
        files
            .map(|(name, text)| (name, text.into_bytes()))
            .collect()
    };
    Ok(Some(Held {
        metadata: bytes(copy.metadata),
        targets: bytes(copy.targets),
        denied: bytes(copy.denied),
        strange: BTreeSet::new(),
    }))
}

fn rows(tree: &Tree) -> Result<Rows, StoreError> {
    let pairs = tree.range(&[], usize::MAX)?.into_iter();
    Ok(pairs.filter(|(key, _)| key.contains(&b':')).collect())
}

/// `kind:name:piece` → a piece of the file.
impl Held {
    fn rows(&self) -> Rows {
        let mut rows = Rows::new();
        for (kind, files) in [
            ('m', &self.metadata),
            ('t', &self.targets),
            ('d', &self.denied),
        ] {
            for (name, bytes) in files {
                for (at, piece) in bytes.chunks(PIECE).enumerate() {
                    let key = format!("{kind}:{name}:{at:03}").into_bytes();
                    rows.insert(key, piece.to_vec());
                }
            }
        }
        rows
    }

    fn from_rows(rows: Rows) -> Held {
        let mut held = Held::default();
        // In order, so pieces follow each other.
        for (key, piece) in rows {
            let key = String::from_utf8_lossy(&key);
            let parts = key.split_once(':');
            let parts = parts.and_then(|(kind, rest)| Some((kind, rest.rsplit_once(':')?)));
            let (files, name) = match parts {
                Some(("m", (name, _))) => (&mut held.metadata, name),
                Some(("t", (name, _))) => (&mut held.targets, name),
                Some(("d", (name, _))) => (&mut held.denied, name),
                _ => {
                    held.strange.insert(key.into_owned());
                    continue;
                }
            };
            let file: &mut Vec<u8> = files.entry(name.to_owned()).or_default();
            file.extend_from_slice(&piece);
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(version: u8) -> Held {
        let file = |text: String| text.into_bytes();
        let long = format!("{{\"{version}\":\"{}\"}}", "x".repeat(3 * PIECE));
        Held {
            metadata: [("root.json".to_owned(), file(format!("{version}")))].into(),
            targets: [(format!("realms/{version}/jwks.json"), file("{}".into()))].into(),
            denied: [("prod".to_owned(), file(long))].into(),
            strange: BTreeSet::new(),
        }
    }

    fn open(folder: &Path) -> (Store, Vault) {
        let store = Store::open(&folder.join("db")).unwrap();
        let vault = Vault::open(&store, &folder.join(FOLDER)).unwrap();
        (store, vault)
    }

    fn fine() -> Result<(), StoreError> {
        Ok(())
    }

    #[test]
    fn what_is_saved_is_there_whole_and_what_failed_isnt() {
        let folder = tempfile::tempdir().unwrap();
        let (store, vault) = open(folder.path());
        assert_eq!(vault.load().unwrap(), None);
        vault.save(&held(1), fine).unwrap();
        let failed = vault.save(&held(2), || Err(StoreError::Full));
        assert!(matches!(failed, Err(StoreError::Full)));
        assert_eq!(vault.load().unwrap(), Some(held(1)));
        assert!(!vault.is_unfinished().unwrap());
        vault.save(&held(2), fine).unwrap();
        drop((store, vault));
        let (_store, vault) = open(folder.path());
        assert_eq!(vault.load().unwrap(), Some(held(2)));
        assert!(!vault.restored());
    }

    #[test]
    fn what_follows_is_gone_on_with_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let (_store, vault) = open(folder.path());
        let crashed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = vault.save(&held(1), || -> Result<(), StoreError> { panic!("killed") });
        }));
        assert!(crashed.is_err());
        assert_eq!(vault.load().unwrap(), Some(held(1)));
        assert!(vault.is_unfinished().unwrap());
        vault.save(&held(1), fine).unwrap();
        assert!(!vault.is_unfinished().unwrap());
    }

    #[test]
    fn only_a_store_that_lost_it_reads_the_copy() {
        let folder = tempfile::tempdir().unwrap();
        let (store, vault) = open(folder.path());
        vault.save(&held(1), fine).unwrap();
        drop((store, vault));
        let file = folder.path().join(FOLDER).join(FILE);
        let other = std::fs::read_to_string(&file)
            .unwrap()
            .replace("realms/1", "realms/9");
        std::fs::write(&file, other).unwrap();
        let (store, vault) = open(folder.path());
        assert_eq!(vault.load().unwrap(), Some(held(1)));
        drop((store, vault));
        std::fs::remove_dir_all(folder.path().join("db")).unwrap();
        let (_store, vault) = open(folder.path());
        let read = vault.load().unwrap().unwrap();
        assert!(vault.restored() && read.targets.contains_key("realms/9/jwks.json"));
        assert!(vault.is_unfinished().unwrap());
    }

    /// Nobody may take it for a device that never had a fleet.
    #[test]
    fn a_copy_that_cant_be_read_is_noticed_at_each_start_until_something_is_saved() {
        let folder = tempfile::tempdir().unwrap();
        let (store, vault) = open(folder.path());
        vault.save(&held(1), fine).unwrap();
        drop((store, vault));
        std::fs::remove_dir_all(folder.path().join("db")).unwrap();
        let file = folder.path().join(FOLDER).join(FILE);
        let newer = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, newer.replacen('{', "{\"newer\":{},", 1)).unwrap();
        let strange = Held {
            strange: [FILE.to_owned()].into(),
            ..Held::default()
        };
        for _ in 0..2 {
            let (_store, vault) = open(folder.path());
            assert_eq!(vault.load().unwrap().as_ref(), Some(&strange));
            let failed = vault.save(&held(2), || Err(StoreError::Full));
            assert!(matches!(failed, Err(StoreError::Full)));
        }
        let (store, vault) = open(folder.path());
        vault.save(&held(2), fine).unwrap();
        drop((store, vault));
        let (_store, vault) = open(folder.path());
        assert_eq!(vault.load().unwrap(), Some(held(2)));
    }

    #[test]
    fn a_newer_releases_rows_are_noticed_and_go_with_the_next_save() {
        let folder = tempfile::tempdir().unwrap();
        let (store, vault) = open(folder.path());
        vault.save(&held(1), fine).unwrap();
        let tree = store.tree("trust").unwrap();
        for key in [&b"x:1:000"[..], b"d:\xff", b"d:prod"] {
            tree.insert(key, b"{}").unwrap();
        }
        let found = vault.load().unwrap().unwrap();
        assert_eq!(found.strange.len(), 3, "{:?}", found.strange);
        vault.save(&held(2), fine).unwrap();
        assert_eq!(vault.load().unwrap(), Some(held(2)));
    }
}
