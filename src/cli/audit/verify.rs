//! `slmd audit verify`: whether the log is what was recorded, as far as this device can tell.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::admin::{Operation, VerifyAudit};
use crate::audit::verify::{Report, Verifier};
use crate::cli::client::{self, Problem, Shown};
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::terminal::{Style, Terminal, count};
use crate::cli::{Global, input, offline, output};
use crate::files;
use crate::identity::{Key, PublicKey, random_hex};
use crate::store::{self, Store, StoreError};

/// The longest checkpoint that is read.
const MAX_NOTE: u64 = 128 * 1024;

/// Check the audit log: each record against the tree of hashes, the tree against itself, both against
/// what this device has signed, and what is gone against what the log tells of it.
#[derive(Debug, Args)]
#[command(after_help = "\
It says what is damaged and where, and ends with 1 then. A running daemon is asked over its admin
socket, and goes on meanwhile. Without one, or with --state, a copy of the database is opened in TMPDIR
(/tmp unless set), which takes as much room as the database; the folder itself is only read.

What lies after the last checkpoint isn't signed yet, and the output says how much that is. What this
device alone can't see: records that were dropped from the end before a checkpoint covered them, and
a log that somebody who has the device's key wrote anew. Who has kept an earlier checkpoint sees that:
give it with --checkpoint (slmd audit checkpoint prints one), or have a witness keep them (slmd fleet
audit).

Records of earlier epochs, and of releases without a tree, are only looked at for their order. Salts
aren't looked at: who has one can check it against its record.

Examples:
  sudo slmd audit verify
  slmd audit verify --state /mnt/backup/slmd --key 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo
  sudo slmd audit verify --checkpoint kept-in-may.txt --json | jq .findings")]
pub(in crate::cli) struct Verify {
    /// The state folder of a daemon that is stopped, or a copy of one.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// A checkpoint of this log that was kept elsewhere: the log must have grown from it.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// The device's public key, as slmd device id shows it; that of the folder unless given.
    #[arg(long, value_name = "X", value_parser = key)]
    key: Option<PublicKey>,
}

impl Verify {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let given = self.checkpoint.as_deref();
        let given = given.map(|file| input::read(file, MAX_NOTE)).transpose()?;
        let report = match &self.state {
            Some(folder) => self.still(folder, given)?,
            None => match self.running(global, given.as_deref()) {
                Ok(report) => report,
                Err(Problem::Down(_)) => self.still(&global.load()?.state_dir, given)?,
                Err(Problem::Denied(denied)) => {
                    return Err(Failure::new(denied.exit, CLOSED));
                }
                Err(problem) => return Err(problem.into()),
            },
        };
        match global.json {
            true => output::show(global, &report)?,
            false => tell(&report)?,
        }
        match report.is_sound() {
            true => Ok(()),
            false => Err(Failure::told(Exit::Failed)),
        }
    }

    fn running(&self, global: &Global, given: Option<&[u8]>) -> Result<Report, Problem> {
        let checkpoint = given.map(|note| String::from_utf8_lossy(note).into_owned());
        let asked = VerifyAudit { checkpoint };
        let body = client::body(&asked).map_err(Problem::Other)?;
        let route = Operation::VerifyAudit.route();
        let admin = global.admin().map_err(Problem::Other)?;
        let answer = admin.send(route.method, route.path, &Shown::Nothing, body)?;
        let broken = || {
            let what = "the verification broke off; the daemon's log says why";
            Problem::Other(Failure::failed(what))
        };
        for line in answer.lines() {
            let line = line.map_err(Problem::Other)?;
            if line.is_empty() {
                // The daemon's sign of life.
                continue;
            }
            let mut report: Report = serde_json::from_str(&line).map_err(|_| broken())?;
            if let Some(key) = &self.key {
                report.doubt(key);
            }
            return Ok(report);
        }
        Err(broken())
    }

    /// Over a copy of what nobody has open.
    fn still(&self, folder: &Path, given: Option<Vec<u8>>) -> Result<Report, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            let folder = folder.display();
            Failure::failed(format!("state folder {folder}: {error}"))
        };
        let database = folder.join(store::FOLDER);
        if self.state.is_none() {
            offline::become_owner(folder).map_err(|e| failed(&e))?;
        }
        fs::read_dir(&database).map_err(|e| failed(&format!("{e} (try sudo)")))?;
        if store::is_in_use(&database) {
            let what =
                "a daemon has it open; ask it, without --state, or make a copy of it stopped";
            return Err(failed(&what));
        }
        let key = match &self.key {
            Some(key) => key.clone(),
            None => {
                let found = Key::find(folder);
                let found = found.map_err(|e| failed(&format!("device key: {e}; give --key")))?;
                let none =
                    || failed(&"there is no device key; give --key, as slmd device id shows it");
                found.ok_or_else(none)?.public().clone()
            }
        };
        let copy = Copy::of(&database)?;
        let store = Store::open(&copy.0).map_err(|e| failed(&e))?;
        let verifier = Verifier::of_store(&store, folder, key, given).map_err(|e| failed(&e))?;
        verifier.run().map_err(|e| failed(&e))
    }
}

const CLOSED: &str =
    "verifying the audit log is for root and the daemon's user (sudo slmd audit verify)";

/// A copy of a database, gone when dropped.
struct Copy(PathBuf);

impl Copy {
    fn of(database: &Path) -> Result<Copy, Failure> {
        let name = format!("slmd-verify-{}", random_hex::<8>());
        let copy = Copy(std::env::temp_dir().join(name));
        let failed = |error: StoreError| {
            let what = "copy of the database";
            let place = copy.0.display();
            Failure::failed(format!(
                "{what} in {place}: {error}; TMPDIR chooses another place"
            ))
        };
        files::private_folder(&copy.0).map_err(|e| failed(StoreError::from_io(&e.into())))?;
        store::copy(database, &copy.0).map_err(failed)?;
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn key(text: &str) -> Result<PublicKey, String> {
    let wrong = || "43 characters of base64url, as slmd device id shows it".to_owned();
    PublicKey::parse(text).ok_or_else(wrong)
}

fn tell(report: &Report) -> Done {
    let terminal = Terminal::stdout();
    for finding in &report.findings {
        output::line(&terminal.paint(Style::Bad, &output::printable(&finding.to_string())))?;
    }
    if report.more_findings > 0 {
        output::line(&format!("and {} more", report.more_findings))?;
    }
    let mut said = vec![format!(
        "epoch {} of the log, from record {}: {}, {} removed by cap and retention",
        report.epoch,
        report.base,
        count(report.records, "record"),
        report.removed
    )];
    if report.before_epoch > 0 {
        let before = count(report.before_epoch, "record");
        said.push(format!("{before} before it, which nothing vouches for"));
    }
    said.push(match &report.signed {
        Some(signed) => format!(
            "signed as {}: up to record {}",
            signed.origin,
            (report.base + signed.size).saturating_sub(1)
        ),
        None => "nothing of it is signed".to_owned(),
    });
    if report.unsigned > 0 {
        let unsigned = count(report.unsigned, "record");
        said.push(format!(
            "{unsigned} after that, which no checkpoint covers yet"
        ));
    }
    said.extend(report.remarks.iter().cloned());
    said.iter()
        .try_for_each(|line| output::line(&output::printable(line)))?;
    let verdict = match report.is_sound() {
        true => terminal.paint(Style::Good, "sound, as far as this device can tell"),
        false => terminal.paint(Style::Bad, "damaged"),
    };
    output::line(&verdict)
}
