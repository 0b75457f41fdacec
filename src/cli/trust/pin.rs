//! `slmd trust pin`: a person decides which fleet this device follows.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::super::client::Problem;
use super::super::exit::{Done, Failure};
use super::super::{Global, offline, output};
use crate::admin::route;
use crate::cli::input;
use crate::digest::{hex, sha256};
use crate::trust::{Client, Limits};

/// Far above any root.
const MAX_ROOT: u64 = 1 << 20;

/// Trust the fleet whose root metadata is ROOT: its keys, and those that they hand over to, say from
/// now on which keys, revocations and policy are in force.
#[derive(Debug, Args)]
#[command(after_help = "\
ROOT is the fleet's root.json, as its managers give it out. Compare its fingerprint, the SHA-256 of
the file, with theirs before you confirm: whoever holds its keys decides who may use this device.
Pinning another root forgets what the one before has signed.

Examples:
  sha256sum root.json
  slmd trust pin root.json
  slmd trust pin root.json --fingerprint \"$fingerprint\"")]
pub(in crate::cli) struct Pin {
    /// The root metadata; `-` is standard input, which needs --fingerprint.
    root: PathBuf,
    /// Pin without asking if the root has this fingerprint, and not otherwise.
    #[arg(long, value_name = "F")]
    fingerprint: Option<String>,
}

impl Pin {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let root = input::read(&self.root, MAX_ROOT)?;
        let named = |error: &dyn std::fmt::Display| {
            Failure::failed(format!("{}: {error}", self.root.display()))
        };
        let client = Client::new(&root, Limits::FLEET).map_err(|error| named(&error))?;
        let fingerprint = hex(&sha256(&root));
        match &self.fingerprint {
            Some(expected) if expected.eq_ignore_ascii_case(&fingerprint) => {}
            Some(_) => {
                return Err(named(&format!(
                    "nothing was changed: the file's fingerprint is {fingerprint}"
                )));
            }
            None => confirm(client.versions().root, &fingerprint)?,
        }
        let pinned = global.admin()?.call_with(route::PIN_ROOT, "", root.clone());
        let pinned = match pinned {
            Err(Problem::Down(_)) => {
                let state = offline::open(&global.load()?)?;
                let pinned = state.pin_root(&root, &offline::origin());
                pinned.map_err(Failure::failed)?
            }
            pinned => pinned?,
        };
        if global.json {
            return output::show(global, &pinned);
        }
        output::line(&format!(
            "pinned: root version {}, fingerprint {fingerprint}",
            pinned.version
        ))
    }
}

/// Shows what would be trusted, and asks.
fn confirm(version: u64, fingerprint: &str) -> Done {
    let mut out = std::io::stderr().lock();
    writeln!(
        out,
        "The fleet with this root will decide who may use this device:"
    )?;
    writeln!(out, "  root version {version}")?;
    writeln!(out, "  fingerprint {fingerprint}")?;
    drop(out);
    let instead = "compare this fingerprint with the fleet's managers', then give --fingerprint F";
    input::confirm("Pin it?", instead)
}
