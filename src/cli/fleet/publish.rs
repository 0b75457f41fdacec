//! `slmd fleet timestamp`, `publish`, `export`: what is signed goes to where devices read it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::opened::{Folder, Opened, Waiting, day, lines};
use super::passphrase::Passphrases;
use crate::cli::exit::{Done, Failure};
use crate::cli::{Global, output};
use crate::digest::{hex, sha256};
use crate::repository::{self, Destination, RepositoryError, Retained};

/// Renew what says that nothing is withheld: the timestamp, and the snapshot where half of its time
/// is over. What has all its signatures goes in as well.
#[derive(Debug, Args)]
#[command(after_help = "\
Devices take nothing new from metadata whose timestamp has ended, so this runs once a day:
slmd-fleet-timestamp.timer does that, and publishes it.

Examples:
  slmd fleet timestamp --publish
  slmd fleet timestamp --passphrase-file \"$CREDENTIALS_DIRECTORY/online\" --publish")]
pub(in crate::cli) struct Timestamp {
    /// Publish it, too.
    #[arg(long)]
    publish: bool,
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    passphrases: Passphrases,
}

/// Bring what is signed to where devices read it; the timestamp comes last.
#[derive(Debug, Args)]
#[command(after_help = "\
What has all its signatures is put under a new snapshot and timestamp first, which takes the online key.
Without --to it goes to all destinations of fleet.toml. May be run again after any break, and as often
as one likes.

Examples:
  slmd fleet publish
  slmd fleet publish --to /srv/www/fleet
  slmd fleet publish --to mqtts://broker.example:8883")]
pub(in crate::cli) struct Publish {
    /// A folder, or a broker as mqtt://host:port or mqtts://host:port.
    #[arg(long, value_name = "WHERE")]
    to: Vec<String>,
    /// The CA of a broker that fleet.toml doesn't have.
    #[arg(long, value_name = "FILE", requires = "to")]
    ca_file: Option<PathBuf>,
    /// The name to log in by there.
    #[arg(long, value_name = "NAME", requires = "to")]
    username: Option<String>,
    /// The file with its password.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    passphrases: Passphrases,
}

/// Write what a device needs that has no network: its root, and all that is published, as a folder for
/// a USB stick.
#[derive(Debug, Args)]
#[command(after_help = "\
DIR gets root.json, which a new device is told to trust, and metadata/ and targets/, which it reads as
one of its mirrors. The fingerprint is what `slmd trust pin` shows of the root.

Examples:
  slmd fleet export /media/usb/slmd")]
pub(in crate::cli) struct Export {
    /// Where to; made where it isn't there.
    dir: PathBuf,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, Serialize)]
struct Report {
    timestamp: u64,
    snapshot: u64,
    targets: u64,
    revocation: u64,
    root: usize,
    expires: String,
    published_to: Vec<String>,
    waiting: Vec<Waiting>,
}

impl Timestamp {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let mut opened = self.folder.open()?;
        finish(&mut opened, &self.passphrases)?;
        let to = match self.publish {
            true => opened.repository.settings.publish.clone(),
            false => Vec::new(),
        };
        bring(&opened, &to)?;
        report(global, &opened, &to)
    }
}

impl Publish {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let mut opened = self.folder.open()?;
        if !repository::ready(&opened.state)?.is_empty() || opened.state.published.is_none() {
            finish(&mut opened, &self.passphrases)?;
        }
        let to = self.destinations(&opened);
        bring(&opened, &to)?;
        report(global, &opened, &to)
    }

    /// One that fleet.toml has is reached as it says.
    fn destinations(&self, opened: &Opened) -> Vec<Destination> {
        let known = &opened.repository.settings.publish;
        if self.to.is_empty() {
            return known.clone();
        }
        let named = |to: &String| {
            let known = known.iter().find(|known| known.to == *to).cloned();
            known.unwrap_or_else(|| Destination {
                to: to.clone(),
                ca_file: self.ca_file.clone(),
                username: self.username.clone(),
                password_file: self.password_file.clone(),
            })
        };
        self.to.iter().map(named).collect()
    }
}

impl Export {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let opened = self.folder.open()?;
        let root = opened.state.root()?.bytes();
        repository::to_folder(&opened.state, &self.dir)?;
        let file = self.dir.join("root.json");
        repository::put(&file, &root)?;
        let fingerprint = hex(&sha256(&root));
        if global.json {
            let exported = serde_json::json!({"root": file, "fingerprint": fingerprint});
            return output::show(global, &exported);
        }
        output::line(&format!("exported to {}", self.dir.display()))?;
        output::line(&format!("root.json has the fingerprint {fingerprint}"))
    }
}

/// Puts in what is signed, under a new timestamp.
pub(super) fn finish(opened: &mut Opened, passphrases: &Passphrases) -> Done {
    // What is missing is said before anybody is asked for a passphrase.
    repository::check_finish(&opened.state)?;
    let online = opened.online(passphrases)?;
    let expiry = &opened.repository.settings.expiry;
    let next = repository::finish(&opened.state, &online, expiry, opened.now)?;
    opened.save(next)
}

/// To each; one that fails keeps none of the others from being tried.
fn bring(opened: &Opened, to: &[Destination]) -> Done {
    let mut failed = Vec::new();
    for destination in to {
        if let Err(why) = bring_to(opened, destination) {
            failed.push(format!("{}: {why}", destination.to));
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(format!(
            "not published everywhere; run it again when this is mended: {}",
            failed.join("; ")
        ))),
    }
}

fn bring_to(opened: &Opened, destination: &Destination) -> Result<(), RepositoryError> {
    let fleet = &opened.repository.settings.name;
    match Retained::at(destination, fleet) {
        Some(broker) => broker?.publish(&opened.state),
        None => repository::to_folder(&opened.state, Path::new(&destination.to)),
    }
}

fn report(global: &Global, opened: &Opened, to: &[Destination]) -> Done {
    let published = opened.state.published()?;
    let report = Report {
        timestamp: published.timestamp.signed.version,
        snapshot: published.snapshot.signed.version,
        targets: published.targets.signed.version,
        revocation: published.revocation.signed.version,
        root: opened.state.roots.len(),
        expires: published.timestamp.signed.expires.to_string(),
        published_to: to.iter().map(|to| to.to.clone()).collect(),
        waiting: opened.waiting()?,
    };
    if global.json {
        return output::show(global, &report);
    }
    let until = day(published.timestamp.signed.expires);
    output::line(&format!(
        "timestamp {}, snapshot {}, targets {}, revocation {}, root {}; until {until}",
        report.timestamp, report.snapshot, report.targets, report.revocation, report.root
    ))?;
    for place in &report.published_to {
        output::line(&format!("published to {place}"))?;
    }
    if to.is_empty() {
        output::line("no device has it yet: say where to with slmd fleet publish --to WHERE")?;
    }
    for line in lines(&report.waiting) {
        output::line(&format!("still staged: {line}"))?;
    }
    warn(opened)
}

/// Roles that end soon and need people to renew them.
fn warn(opened: &Opened) -> Done {
    for (role, expires) in repository::ends(&opened.state)? {
        let left = expires.0.since(opened.now);
        if left < repository::SOON {
            let until = day(expires);
            output::line(&format!(
                "! {role} ends on {until}: slmd fleet renew {role}, then sign and publish"
            ))?;
        }
    }
    Ok(())
}
