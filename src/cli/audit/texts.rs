//! Encrypted texts beside an export, a file each, which is never written over.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::source::Source;
use crate::cli::exit::{Done, Failure};
use crate::cli::terminal::count;
use crate::files;

pub(super) const CLOSED: &str = "the encrypted texts are for root and the daemon's user; a token exports \
    the records alone, without --texts";

/// What every release writes alike of a record with a text.
#[derive(Deserialize)]
struct Named {
    text: Option<serde::de::IgnoredAny>,
}

pub(super) struct Texts {
    folder: PathBuf,
    written: u64,
    there: u64,
    gone: u64,
}

impl Texts {
    pub(super) fn open(folder: &Path) -> Result<Texts, Failure> {
        let made = files::private_folder(folder);
        made.map_err(|error| Failure::failed(format!("{}: {error}", folder.display())))?;
        Ok(Texts {
            folder: folder.to_owned(),
            written: 0,
            there: 0,
            gone: 0,
        })
    }

    /// Writes what the record `line` names, if it names one.
    pub(super) fn of(&mut self, source: &Source, index: u64, line: &str) -> Done {
        let named: Named = serde_json::from_str(line).map_err(Failure::failed)?;
        if named.text.is_none() {
            return Ok(());
        }
        let Some(text) = source.text(index)? else {
            self.gone += 1;
            return Ok(());
        };
        let path = self.folder.join(format!("{index}.age"));
        let failed =
            |what: &dyn std::fmt::Display| Failure::failed(format!("{}: {what}", path.display()));
        match File::open(&path) {
            Ok(file) => {
                let same = files::bounded(file, text.len() as u64).is_ok_and(|old| old == text);
                if !same {
                    let what = "another file is there, which isn't written over; it may be of another \
                                device, or of an earlier log";
                    return Err(failed(&what));
                }
                self.there += 1;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                files::replace(&path, &text).map_err(|error| failed(&error))?;
                self.written += 1;
                Ok(())
            }
            Err(error) => Err(failed(&error)),
        }
    }

    pub(super) fn tell(&self) {
        let written = count(self.written, "text");
        let there = match self.there {
            0 => String::new(),
            there => format!(", {there} there already"),
        };
        let gone = match self.gone {
            0 => String::new(),
            gone => format!(", {gone} erased (slmd audit forget) and not there any more"),
        };
        eprintln!("slmd: {written} written{there}{gone}");
    }
}
