//! `slmd trust-client`: the device's TUF client by the command line of the public conformance suite.
//!
//! For testing what devices trust, against any repository. What is trusted lies in a folder of its
//! own, and nothing here touches the device's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::digest::percent_encoded;
use crate::files;
use crate::https::{Https, HttpsError};
use crate::time::Clocks;
use crate::trust::{Client, Limits, Mirror, MirrorError, Target, TrustError};

use super::exit::{Done, Failure};

const TIMEOUT: Duration = Duration::from_secs(30);
const LIMITS: Limits = Limits::REFERENCE;
const ROOT: &str = "root.json";

/// Follow a TUF repository as the public conformance suite asks (CLIENT-CLI.md there)
#[derive(Debug, Args)]
pub(super) struct TrustClient {
    /// Folder of what is trusted
    #[arg(long, value_name = "DIR")]
    metadata_dir: PathBuf,
    /// Where the repository's metadata is
    #[arg(long, value_name = "URL")]
    metadata_url: Option<String>,
    /// A target to download, by its path; repeatable
    #[arg(long, value_name = "PATH")]
    target_name: Vec<String>,
    /// Where the repository's targets are
    #[arg(long, value_name = "URL")]
    target_base_url: Option<String>,
    /// Folder for downloaded targets
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
    /// The CA of https:// URLs
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Trust a first root
    Init { root: PathBuf },
    /// Look for newer metadata
    Refresh,
    /// Look for newer metadata, then download targets
    Download,
}

impl TrustClient {
    pub(super) fn execute(self) -> Done {
        if let What::Init { root } = &self.what {
            let root = read(root, LIMITS.root)?;
            Client::new(&root, LIMITS).map_err(|error| refused(&error))?;
            return Ok(files::replace(&self.metadata_dir.join(ROOT), &root)?);
        }
        let mut mirror = self.mirror()?;
        let kept = self.kept()?;
        let root = kept.get(ROOT).map(Vec::as_slice);
        let root = root.ok_or_else(|| Failure::failed("there is no root yet; run init first"))?;
        let client = Client::new(root, LIMITS).map_err(|error| refused(&error))?;
        let mut client = client.with_kept(&kept);
        let now = Clocks::default().now();
        let done = client
            .refresh(&mut mirror, now)
            .map_err(|error| refused(&error));
        // What was proven before something failed stays so.
        self.keep(&client, &kept)?;
        done?;
        if let What::Download = self.what {
            for path in &self.target_name {
                let found = client
                    .find(&mut mirror, path, now)
                    .map_err(|error| refused(&error));
                self.keep(&client, &kept)?;
                let missing = || Failure::failed(format!("no role lists {path:?}"));
                let target = found?.ok_or_else(missing)?;
                self.download(&client, &mut mirror, &target)?;
            }
        }
        Ok(())
    }

    fn mirror(&self) -> Result<Web, Failure> {
        let metadata = self.metadata_url.as_deref();
        let metadata = metadata.ok_or_else(|| Failure::failed("--metadata-url is missing"))?;
        let targets = self.target_base_url.as_deref().unwrap_or_default();
        Ok(Web {
            https: Https::new(self.ca_file.as_deref(), TIMEOUT).map_err(Failure::failed)?,
            metadata: metadata.trim_end_matches('/').to_owned(),
            targets: targets.trim_end_matches('/').to_owned(),
        })
    }

    fn kept(&self) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
        let mut kept = BTreeMap::new();
        for entry in fs::read_dir(&self.metadata_dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(name) = name.filter(|name| name.ends_with(".json")) {
                kept.insert(name.to_owned(), read(&path, LIMITS.targets)?);
            }
        }
        Ok(kept)
    }

    fn keep(&self, client: &Client, before: &BTreeMap<String, Vec<u8>>) -> Done {
        for (file, bytes) in client.kept() {
            if before.get(file) != Some(bytes) {
                files::replace(&self.metadata_dir.join(file), bytes)?;
            }
        }
        Ok(())
    }

    /// One that is there already isn't fetched again.
    fn download(&self, client: &Client, mirror: &mut Web, target: &Target) -> Done {
        let folder = self.target_dir.as_deref();
        let folder = folder.ok_or_else(|| Failure::failed("--target-dir is missing"))?;
        let path = folder.join(percent_encoded(&target.path));
        let there = match File::open(&path) {
            Ok(file) => files::bounded(file, target.length).ok(),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        if there.is_some_and(|bytes| target.check(&bytes).is_ok()) {
            return Ok(());
        }
        let bytes = client
            .fetch(mirror, target)
            .map_err(|error| refused(&error))?;
        Ok(files::replace(&path, &bytes)?)
    }
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    let read = File::open(path)
        .map_err(Into::into)
        .and_then(|file| files::bounded(file, max));
    read.map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

fn refused(error: &TrustError) -> Failure {
    Failure::failed(format!("{error} ({})", error.name()))
}

/// A repository on a web server.
struct Web {
    https: Https,
    metadata: String,
    targets: String,
}

impl Web {
    fn get(&self, url: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        let answer = self.https.get(url, limit).map_err(|error| match error {
            HttpsError::TooLarge(limit) => MirrorError::TooLarge(limit),
            other => MirrorError::Unreachable(other.to_string()),
        })?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            // Object stores say 403 of what isn't there.
            403 | 404 => Ok(None),
            status => Err(MirrorError::Unreachable(format!("{url}: status {status}"))),
        }
    }
}

impl Mirror for Web {
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        self.get(&format!("{}/{name}", self.metadata), limit)
    }

    fn target(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        let segments: Vec<String> = path.split('/').map(percent_encoded).collect();
        self.get(&format!("{}/{}", self.targets, segments.join("/")), limit)
    }
}
