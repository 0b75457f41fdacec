//! `slmd audit prove`, `check-proof` and `checkpoint`: evidence that others check without us.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::source::Source;
use crate::cli::access::Access;
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::{Global, offline, output};
use crate::files;
use crate::identity::{Key, PublicKey};
use crate::time::Timestamp;
use crate::tlog::note::{Algorithm, Note, VerifierKey};
use crate::tlog::policy::Policy;
use crate::tlog::proof::{MAX_LEN, Proof};

/// The largest record and its newline come nowhere near.
const MAX_RECORD: u64 = 1 << 20;

/// Write a proof that a record is in the log, for others to check.
#[derive(Debug, Args)]
#[command(after_help = "\
The proof is a file in C2SP's form tlog-proof: the record's place in the log's tree, the hashes that
lead from it to the root, and a checkpoint that the device has signed. Together with the record's
exact bytes (--record) it is all that anybody needs who knows the device's key, offline.

Root and the daemon's user have a checkpoint signed where none covers the record yet. Who shows a
token with the role audit waits for the next one, at most checkpoint_interval.

Examples:
  slmd audit prove 4711 -o 4711.tlog-proof --record 4711.json
  slmd audit check-proof 4711.tlog-proof --record 4711.json --key \"$(slmd audit checkpoint --key)\"")]
pub(in crate::cli) struct Prove {
    /// The record's index.
    index: u64,
    /// Write the proof to this file (default: standard output).
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the record's exact bytes to this file.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
}

impl Prove {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let source = Source::open(&self.access, global)?;
        let record = match &self.record {
            Some(file) => Some((file, source.line(self.index)?)),
            None => None,
        };
        let proof = source.proof(self.index)?;
        if let Some((file, line)) = record {
            write(file, &line)?;
        }
        match &self.output {
            Some(file) => write(file, &proof),
            None => output::piece(&proof),
        }
    }
}

fn write(file: &Path, text: &str) -> Done {
    let written = fs::write(file, text);
    written.map_err(|error| Failure::failed(format!("{}: {error}", file.display())))
}

/// Check a proof offline: no daemon, no configuration, no network.
#[derive(Debug, Args)]
#[command(after_help = "\
The key says whose log it must be: the log's own verifier key (slmd audit checkpoint --key), or the
device's public key (the x of slmd device id), which is the same for every epoch of the log. Get it
where you would believe it: at the device, or from the fleet's enrolment.

With --witness each of those must have cosigned the checkpoint; with --policy those that a policy
in C2SP's form tlog-policy says are enough.

It ends with 0 where the record is in the log, and else with 1 and says what is wrong.

Examples:
  slmd audit check-proof 4711.tlog-proof --record 4711.json --key VKEY
  slmd audit check-proof 4711.tlog-proof --record 4711.json --key VKEY --witness VKEY")]
pub(in crate::cli) struct CheckProof {
    /// The proof.
    proof: PathBuf,
    /// The record's exact bytes; a newline at the end doesn't count.
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    /// The log's verifier key, or the device's public key.
    #[arg(long, value_name = "KEY")]
    key: String,
    /// A witness's verifier key.
    #[arg(long, value_name = "VKEY", conflicts_with = "policy")]
    witness: Vec<String>,
    /// Which witnesses are enough.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

impl CheckProof {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let proof = read(&self.proof, MAX_LEN as u64)?;
        let named = |why: &dyn std::fmt::Display| {
            Failure::failed(format!("{}: {why}", self.proof.display()))
        };
        let proof = Proof::parse(&proof).map_err(|why| named(&why))?;
        let record = read(&self.record, MAX_RECORD)?;
        let record = record.strip_suffix(b"\n").unwrap_or(&record);
        let key = self.log_key(&proof)?;
        let proven = proof.check(record, &key, &self.policy()?);
        let proven = proven.map_err(|why| named(&format!("it proves nothing: {why}")))?;
        let checkpoint = &proven.checkpoint;
        let witnesses = proven.witnesses.iter().map(|witness| {
            let at = Timestamp::from_secs(witness.time);
            json!({"name": witness.name, "cosigned_at": at.to_string()})
        });
        if global.json {
            return output::show(
                global,
                &json!({
                    "log": checkpoint.origin,
                    "leaf": proof.index,
                    "size": checkpoint.size,
                    "witnesses": witnesses.collect::<Vec<_>>(),
                }),
            );
        }
        output::line(&format!(
            "proven: the record is leaf {} of the {} that {} has signed",
            proof.index,
            checkpoint.size,
            output::printable(&checkpoint.origin)
        ))?;
        for witness in &proven.witnesses {
            let (name, at) = (output::printable(&witness.name), witness.time);
            let at = output::local_second(Timestamp::from_secs(at));
            output::line(&format!("cosigned by {name} at {at}"))?;
        }
        Ok(())
    }

    /// A device's key has the name of the log that the proof is of.
    fn log_key(&self, proof: &Proof) -> Result<VerifierKey, Failure> {
        let wrong =
            |why: &dyn std::fmt::Display| Failure::new(Exit::Usage, format!("--key: {why}"));
        let Some(key) = PublicKey::parse(&self.key) else {
            return VerifierKey::parse(&self.key).map_err(|why| wrong(&why));
        };
        let origin = proof.checkpoint.lines().next().unwrap_or_default();
        VerifierKey::new(origin, Algorithm::Ed25519, &key).map_err(|why| wrong(&why))
    }

    fn policy(&self) -> Result<Policy, Failure> {
        let text = match &self.policy {
            Some(file) => read(file, crate::tlog::policy::MAX_LEN as u64)?,
            None if self.witness.is_empty() => return Ok(Policy::none()),
            None => {
                let keys = self.witness.iter().enumerate();
                let lines = keys.map(|(n, key)| format!("witness w{n} {key}\n"));
                let names = (0..self.witness.len()).map(|n| format!(" w{n}"));
                let (lines, names) = (lines.collect::<String>(), names.collect::<String>());
                format!("{lines}group all all{names}\nquorum all\n").into_bytes()
            }
        };
        Policy::parse(&text).map_err(|why| {
            let option = if self.policy.is_some() {
                "--policy"
            } else {
                "--witness"
            };
            Failure::new(Exit::Usage, format!("{option}: {why}"))
        })
    }
}

fn read(file: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    let open = fs::File::open(file).map_err(|error| error.to_string());
    let read = open.and_then(|open| files::bounded(open, max).map_err(|error| error.to_string()));
    read.map_err(|why| Failure::failed(format!("{}: {why}", file.display())))
}

/// Print the log's newest checkpoint, a signed note.
#[derive(Debug, Args)]
#[command(after_help = "\
A checkpoint says how many records the log's tree has and what its root hash is, signed by the
device (C2SP tlog-checkpoint). Who keeps it can later tell whether the log was changed behind it.

Examples:
  slmd audit checkpoint >checkpoint-of-edge-1
  slmd audit checkpoint --now
  slmd audit checkpoint --key")]
pub(in crate::cli) struct PrintCheckpoint {
    /// Sign one now, over all records that there are.
    #[arg(long)]
    now: bool,
    /// Print the key that verifies it, as C2SP's tools take it, in place of the checkpoint. It is read
    /// from the state folder.
    #[arg(long)]
    key: bool,
    #[command(flatten)]
    access: Access,
}

impl PrintCheckpoint {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let note = {
            let source = Source::open(&self.access, global)?;
            source.checkpoint(self.now)?
        };
        match self.key {
            true => print_key(global, &note),
            false => output::piece(&note),
        }
    }
}

fn print_key(global: &Global, note: &str) -> Done {
    let folder = global.load()?.state_dir;
    offline::become_owner(&folder)?;
    let key = Key::find(&folder)
        .map_err(|error| Failure::failed(format!("{}: device key: {error}", folder.display())))?
        .ok_or_else(|| Failure::failed("this device has no key"))?;
    let origin = note.lines().next().unwrap_or_default();
    let key = VerifierKey::new(origin, Algorithm::Ed25519, key.public());
    let key = key.map_err(Failure::failed)?;
    let signed = Note::parse(note.as_bytes()).map_err(Failure::failed)?;
    // Another folder's key would be of no use, and a surprise.
    signed.verify(&key).map_err(Failure::failed)?;
    output::line(&key.to_string())
}
