//! Making a box forget: its keys, what it was told, what it answered and who asked.
//!
//! A mark is in the state folder until all of it is gone, and no daemon starts where it is. So a wipe
//! that a power cut ends is finished by the next one, and nothing half forgotten is served from.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::RunError;
use crate::store::{self, StoreError};
use crate::{audit, files, fleet, identity, keysync};

const MARK: &str = "wiping";

/// What is forgotten, the most secret first.
const FORGOTTEN: [&str; 6] = [
    identity::KEY_FILE,
    "adapters",
    keysync::FOLDER,
    fleet::FOLDER,
    store::FOLDER,
    audit::FOLDER,
];

/// Whether a wipe of the folder has begun and not ended.
pub(super) fn check(folder: &Path) -> Result<(), RunError> {
    match folder.join(MARK).exists() {
        true => Err(RunError::Wiping(folder.to_owned())),
        false => Ok(()),
    }
}

/// Forgets; the names of what there was. The bytes aren't overwritten: flash wouldn't do it in place.
pub fn wipe(folder: &Path) -> Result<Vec<String>, RunError> {
    let failed = |source| RunError::State {
        folder: folder.to_owned(),
        source,
    };
    let io = |e: io::Error| failed(StoreError::from_io(&e));
    files::check_own_folder(folder).map_err(|e| io(e.into()))?;
    if remembered(folder).map_err(io)?.is_empty() && check(folder).is_ok() {
        return Ok(Vec::new());
    }
    let _alone = store::lock(&folder.join(store::FOLDER)).map_err(failed)?;
    forget(folder).map_err(io)
}

fn forget(folder: &Path) -> io::Result<Vec<String>> {
    let mark = folder.join(MARK);
    files::replace(&mark, b"")?;
    let names = remembered(folder)?;
    for name in &names {
        remove(&folder.join(name))?;
    }
    files::sync_folder(folder)?;
    fs::remove_file(mark)?;
    files::sync_folder(folder)?;
    Ok(names)
}

/// What there is to be forgotten, in its order; files too that a crash left beside what they were
/// to replace.
fn remembered(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let names = names.collect::<io::Result<Vec<Option<String>>>>()?;
    let place = |name: &str| {
        let is = |known: &&str| {
            let rest = name.strip_prefix(*known);
            rest.is_some_and(|rest| {
                rest.is_empty() || rest.starts_with('.') && rest.ends_with(".new")
            })
        };
        FORGOTTEN.iter().position(is)
    };
    let named = names.into_iter().flatten();
    let mut found: Vec<(usize, String)> = named
        .filter_map(|name| Some((place(&name)?, name)))
        .collect();
    found.sort();
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// A link is removed, and not what it names.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A state folder as a daemon leaves it, with what isn't its own.
    fn used() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state");
        files::private_folder(&folder).unwrap();
        drop(store::Store::open(&folder.join(store::FOLDER)).unwrap());
        identity::Key::open(&folder).unwrap();
        for file in ["keys/dev.json", "trust/root.json", "models/small/slmd.json"] {
            fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
            fs::write(folder.join(file), "x").unwrap();
        }
        fs::write(folder.join("device.key.7.new"), "x").unwrap();
        fs::write(folder.join("device.keys"), "x").unwrap();
        (home, folder)
    }

    fn left(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn all_is_forgotten_but_what_others_put_there() {
        let (_home, folder) = used();
        let forgotten = wipe(&folder).unwrap();
        let all = ["device.key", "device.key.7.new", "keys", "trust", "db"];
        assert_eq!(forgotten, all);
        assert_eq!(left(&folder), ["device.keys", "models"]);
        assert!(folder.join("models/small/slmd.json").exists());
        assert!(wipe(&folder).unwrap().is_empty(), "a second time");
        assert!(wipe(&folder.join("missing")).unwrap().is_empty());
    }

    #[test]
    fn a_link_is_not_followed() {
        let (home, folder) = used();
        let elsewhere = home.path().join("elsewhere");
        fs::rename(folder.join("keys"), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.join("keys")).unwrap();
        wipe(&folder).unwrap();
        assert!(elsewhere.join("dev.json").exists());
    }

    /// Wherever it ended: the mark alone, with each part gone, with all of them.
    #[test]
    fn one_that_was_interrupted_is_finished() {
        let places = ["device.key", "keys", "trust", "db"];
        for gone in 0..=places.len() {
            let (_home, folder) = used();
            assert!(check(&folder).is_ok());
            fs::write(folder.join(MARK), "").unwrap();
            for name in &places[..gone] {
                remove(&folder.join(name)).unwrap();
            }
            assert!(matches!(check(&folder), Err(RunError::Wiping(_))));
            wipe(&folder).unwrap();
            assert_eq!(left(&folder), ["device.keys", "models"], "{gone}");
            assert!(check(&folder).is_ok());
        }
    }

    #[test]
    fn nothing_is_forgotten_under_who_uses_it() {
        let (_home, folder) = used();
        let before = left(&folder);
        let store = store::Store::open(&folder.join(store::FOLDER)).unwrap();
        let refused = wipe(&folder);
        let locked = matches!(
            refused,
            Err(RunError::State {
                source: StoreError::Locked,
                ..
            })
        );
        assert!(locked, "{refused:?}");
        assert_eq!(left(&folder), before);
        drop(store);
        assert!(!wipe(&folder).unwrap().is_empty());
    }
}
