//! What can be wrong with a fleet's repository, or with what is asked of it: each with what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::key::KeyError;
use crate::link::Lost;

#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    #[error("there is no fleet in {}; make one with `slmd fleet init NAME`, or name its folder with --fleet", .0.display())]
    NoFleet(PathBuf),
    #[error("{} isn't empty; give --fleet a folder that isn't there yet", .0.display())]
    Taken(PathBuf),
    #[error("{file}: {why}", file = .file.display())]
    File { file: PathBuf, why: String },
    #[error("another `slmd fleet` is at work in {}; wait for it to end", .0.display())]
    Busy(PathBuf),
    #[error("another `slmd fleet` has changed this fleet meanwhile; run this again")]
    Changed,
    #[error("{0:?} is no name: use letters, digits, `-`, `_` and `.`, at most 64 of them")]
    Name(String),
    #[error(
        "the metadata in this folder doesn't fit together: {0}; restore the folder from a copy"
    )]
    Damaged(String),
    #[error(
        "nothing has been published yet: some keys must still sign; run `slmd fleet sign` with each"
    )]
    Unpublished,
    #[error("{realm:?} is no realm of fleet.toml; add [realm.{realm}] with its issuer")]
    Realm { realm: String },
    #[error("there is no key {0:?} in keys/; the fleet's keys are listed by `slmd fleet key list`")]
    NoKey(String),
    #[error("a key with the name {0:?} is there already; give this one another name")]
    KeyTaken(String),
    #[error(
        "the private key {name} isn't in keys/; give its file with --key FILE, or run this where it is"
    )]
    NoPrivateKey { name: String },
    #[error("key {name}: {why}")]
    Key { name: String, why: KeyError },
    #[error(
        "{what} has {has} of the {needs} signatures that it needs; run `slmd fleet sign --key NAME` with another key"
    )]
    Unsigned {
        what: &'static str,
        has: usize,
        needs: usize,
    },
    #[error("nothing is staged, so there is nothing to sign")]
    NothingStaged,
    #[error("what is staged needs no signature of this key")]
    NotASigner,
    #[error("{path} has {length} bytes, and devices take no more than {most}")]
    TooLarge {
        path: String,
        length: usize,
        most: usize,
    },
    #[error("{0}")]
    Broker(String),
    #[error(
        "{0}, again and again: where a broker gives each user one connection, another client has logged in \
         there by the same name; give `slmd fleet status --watch` and the like a user of their own"
    )]
    TakenOver(Lost),
    #[error("it holds another fleet's metadata; choose another place")]
    Foreign,
    #[error(
        "timestamp {there} is there, and this folder's newest is {ours}: it is an old copy of the fleet; work on the one that is newer"
    )]
    Older { ours: u64, there: u64 },
    #[error("{0}")]
    Refused(String),
    #[error(
        "the clock of this machine says {now}, which is before the last timestamp of {last}; set it right"
    )]
    Clock { now: String, last: String },
}

impl RepositoryError {
    pub(super) fn file(file: &Path) -> impl Fn(io::Error) -> RepositoryError + '_ {
        move |error| RepositoryError::File {
            file: file.to_owned(),
            why: error.to_string(),
        }
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "errors are handed over, and texts too"
    )]
    pub(super) fn wrong(file: &Path, why: impl ToString) -> RepositoryError {
        RepositoryError::File {
            file: file.to_owned(),
            why: why.to_string(),
        }
    }
}
