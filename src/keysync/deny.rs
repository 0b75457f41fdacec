//! The realms' deny files: looked at while the daemon runs, and never half believed.
//!
//! A file counts from when it has been read whole and understood whole. One that can't be keeps
//! the list before it in force: to forget a revocation would be worse than to miss one.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use crate::auth::Revocations;
use crate::files::{self, Care};

/// A little more than `Revocations::parse` takes, so that it is what refuses a larger file.
const MAX_READ: u64 = 257 * 1024;

/// The deny files by realm. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DenyFiles(Arc<Mutex<BTreeMap<String, Watched>>>);

/// The deny files of a configuration, read and understood, for [`DenyFiles::follow`].
#[derive(Debug)]
pub struct NewDenyFiles(BTreeMap<String, Watched>);

#[derive(Debug, Clone)]
struct Watched {
    path: PathBuf,
    /// Of the file that was last looked into; `None`: it wasn't there.
    seen: Option<Mark>,
    list: Revocations,
    problem: Option<String>,
}

/// Changes with the file's content: a writer either replaces the file or changes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

/// A file that has changed: its list, or why the old one stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub realm: String,
    pub result: Result<Revocations, String>,
}

/// What is in force of a realm's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyStatus {
    pub entries: usize,
    pub problem: Option<String>,
}

impl DenyFiles {
    /// Reads what following `files` needs, and changes nothing. A file that is followed already
    /// keeps its list.
    pub fn prepare(&self, files: &BTreeMap<String, PathBuf>) -> Result<NewDenyFiles, String> {
        let watched = self.watched().clone();
        let mut new = BTreeMap::new();
        for (realm, path) in files {
            let same = watched.get(realm).filter(|old| old.path == *path);
            let file = match same {
                Some(old) => old.clone(),
                None => Watched::open(path)
                    .map_err(|why| format!("realm {realm:?}: {}: {why}", path.display()))?,
            };
            new.insert(realm.clone(), file);
        }
        Ok(NewDenyFiles(new))
    }

    /// Follows these files from now on, and no others. Can't fail. A file that was followed
    /// before stays as it is: it may have been looked at since `new` was prepared.
    pub fn follow(&self, new: NewDenyFiles) {
        let mut watched = self.watched();
        let files = new.0.into_iter().map(|(realm, file)| {
            let same = watched.remove(&realm).filter(|old| old.path == file.path);
            (realm, same.unwrap_or(file))
        });
        let files = files.collect();
        *watched = files;
    }

    /// Reads what has changed since the last look; each state of a file is reported once. Blocks.
    pub fn look(&self) -> Vec<Changed> {
        let mut watched = self.watched();
        let changed = watched.iter_mut().filter_map(|(realm, file)| {
            let result = file.look()?;
            let realm = realm.clone();
            Some(Changed { realm, result })
        });
        changed.collect()
    }

    pub fn status(&self, realm: &str) -> Option<DenyStatus> {
        self.watched().get(realm).map(|file| DenyStatus {
            entries: file.list.entries(),
            problem: file.problem.clone(),
        })
    }

    fn watched(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        self.0.lock()
    }
}

impl NewDenyFiles {
    /// By realm.
    pub fn lists(&self) -> BTreeMap<String, Revocations> {
        let files = self.0.iter();
        files
            .map(|(realm, file)| (realm.clone(), file.list.clone()))
            .collect()
    }
}

impl Watched {
    fn open(path: &Path) -> Result<Watched, String> {
        let (seen, list) = read(path).map_err(unreadable)?;
        Ok(Watched {
            path: path.to_owned(),
            seen: Some(seen),
            list: list?,
            problem: None,
        })
    }

    /// `None`: as it was.
    fn look(&mut self) -> Option<Result<Revocations, String>> {
        let now = std::fs::metadata(&self.path).map(|meta| Mark::of(&meta));
        // A file that can't be read now may be later, without a change that shows.
        if now.is_ok() && now.as_ref().ok() == self.seen.as_ref() {
            return None;
        }
        let (seen, list) = match read(&self.path) {
            Ok((seen, list)) => (Some(seen), list),
            Err(error) => (None, Err(unreadable(error))),
        };
        let again = seen == self.seen && list.as_ref().err() == self.problem.as_ref();
        self.seen = seen;
        match list {
            Ok(list) => {
                self.problem = None;
                // Touched, or put back: nothing new is in force.
                if self.list == list {
                    return None;
                }
                self.list = list.clone();
                Some(Ok(list))
            }
            Err(why) => {
                self.problem = Some(why.clone());
                (!again).then_some(Err(why))
            }
        }
    }
}

impl Mark {
    fn of(meta: &std::fs::Metadata) -> Mark {
        Mark {
            device: meta.dev(),
            inode: meta.ino(),
            length: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

/// Whether a file can be followed.
pub fn check_deny_file(path: &Path) -> Result<(), String> {
    Watched::open(path).map(drop)
}

/// The mark is taken first, so that what is written while this reads is seen at the next look.
fn read(path: &Path) -> io::Result<(Mark, Result<Revocations, String>)> {
    let file = files::open(path, Care::Trusted)?;
    let meta = file.metadata()?;
    let mut text = Vec::new();
    file.take(MAX_READ).read_to_end(&mut text)?;
    Ok((Mark::of(&meta), Revocations::parse(&text)))
}

#[expect(clippy::needless_pass_by_value, reason = "the form of `map_err`")]
fn unreadable(error: io::Error) -> String {
    format!("it can't be read: {error}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ONE: &str = r#"{"version":1,"revoked":[{"sub":"a"}]}"#;
    const TWO: &str = r#"{"version":1,"revoked":[{"sub":"a"},{"jti":"b"}]}"#;

    struct Bench {
        _folder: tempfile::TempDir,
        path: PathBuf,
        files: DenyFiles,
    }

    impl Bench {
        fn new(text: &str) -> Bench {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("deny.json");
            fs::write(&path, text).unwrap();
            let (files, _folder) = (DenyFiles::default(), folder);
            Bench {
                _folder,
                path,
                files,
            }
        }

        fn configure(&self) -> Result<(), String> {
            let files = BTreeMap::from([("dev".to_owned(), self.path.clone())]);
            self.files.prepare(&files).map(|new| self.files.follow(new))
        }

        fn replace(&self, text: &str) {
            let new = self.path.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, &self.path).unwrap();
        }

        /// Entries, whether there is a problem, and what the look reported.
        fn look(&self) -> (usize, bool, Vec<Result<usize, String>>) {
            let looked = self.files.look().into_iter();
            let reports = looked.map(|changed| changed.result.map(|list| list.entries()));
            let reports = reports.collect();
            let status = self.files.status("dev").unwrap();
            (status.entries, status.problem.is_some(), reports)
        }
    }

    #[test]
    fn a_changed_file_is_read_once_and_an_unchanged_one_never() {
        let bench = Bench::new(ONE);
        bench.configure().unwrap();
        assert_eq!(bench.look(), (1, false, vec![]));
        bench.replace(TWO);
        assert_eq!(bench.look(), (2, false, vec![Ok(2)]));
        assert_eq!(bench.look(), (2, false, vec![]));
        // Written in place.
        fs::write(&bench.path, ONE).unwrap();
        assert_eq!(bench.look(), (1, false, vec![Ok(1)]));
        // The same words in another file are nothing new.
        bench.replace(ONE);
        assert_eq!(bench.look(), (1, false, vec![]));
    }

    #[test]
    fn a_bad_file_keeps_the_old_list_and_is_reported_once_per_state() {
        let bench = Bench::new(TWO);
        bench.configure().unwrap();
        for bad in ["{", "", r#"{"version":2}"#, &" ".repeat(300 * 1024)] {
            bench.replace(bad);
            let (entries, problem, reports) = bench.look();
            assert!(entries == 2 && problem && reports.len() == 1, "{reports:?}");
            assert_eq!(bench.look(), (2, true, vec![]));
        }
        fs::remove_file(&bench.path).unwrap();
        let (entries, _, reports) = bench.look();
        assert!(entries == 2 && reports[0].is_err());
        assert_eq!(bench.look(), (2, true, vec![]));
        bench.replace(TWO);
        assert_eq!(bench.look(), (2, false, vec![]));
    }

    #[test]
    fn a_file_that_cannot_be_used_from_the_start_is_refused() {
        let bench = Bench::new("{");
        assert!(bench.configure().unwrap_err().contains("strict JSON"));
        fs::remove_file(&bench.path).unwrap();
        assert!(bench.configure().unwrap_err().contains("can't be read"));
        assert_eq!(bench.files.status("dev"), None);
        bench.replace(ONE);
        bench.configure().unwrap();
        // Once it is followed, a reload doesn't mind what has become of it.
        bench.replace("{");
        bench.configure().unwrap();
        assert_eq!(bench.look().0, 1);
        bench
            .files
            .follow(bench.files.prepare(&BTreeMap::new()).unwrap());
        assert_eq!(bench.files.status("dev"), None);
    }

    #[test]
    fn what_is_only_prepared_changes_nothing() {
        let bench = Bench::new(TWO);
        bench.configure().unwrap();
        let other = bench.path.with_extension("other");
        fs::write(&other, ONE).unwrap();
        let path = |path: &Path| BTreeMap::from([("dev".to_owned(), path.to_owned())]);
        let new = bench.files.prepare(&path(&other)).unwrap();
        assert_eq!(new.lists()["dev"].entries(), 1);
        assert_eq!(bench.look().0, 2);
        bench.files.prepare(&BTreeMap::new()).unwrap();
        assert_eq!(bench.look(), (2, false, vec![]));
        // What a look has found since then isn't lost.
        let same = bench.files.prepare(&path(&bench.path)).unwrap();
        bench.replace(ONE);
        assert_eq!(bench.look(), (1, false, vec![Ok(1)]));
        bench.files.follow(same);
        assert_eq!(bench.look(), (1, false, vec![]));
        bench.files.follow(new);
        assert_eq!(bench.look().0, 1);
    }
}
