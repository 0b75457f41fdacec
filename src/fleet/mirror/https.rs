//! A web server under a pinned CA.

use std::path::Path;
use std::time::Duration;

use super::{is_plain, unreachable};
use crate::https::{Https, HttpsError};
use crate::trust::{Mirror, MirrorError};

/// For one file.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Web {
    /// Without a slash at its end.
    base: String,
    https: Https,
}

impl Web {
    pub fn new(url: &str, ca_file: Option<&Path>) -> Result<Web, HttpsError> {
        Ok(Web {
            base: url.trim_end_matches('/').to_owned(),
            https: Https::new(ca_file, TIMEOUT)?,
        })
    }

    fn read(&self, kind: &str, name: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        if !is_plain(name) {
            return Ok(None);
        }
        // What is encoded in a file's name is encoded once more on the way.
        let name = name.replace('%', "%25");
        let answer = self
            .https
            .get(&format!("{}/{kind}/{name}", self.base), limit);
        let answer = answer.map_err(|error| match error {
            HttpsError::TooLarge(limit) => MirrorError::TooLarge(limit),
            other => unreachable(&other),
        })?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            // Stores of objects refuse what they don't have.
            403 | 404 | 410 => Ok(None),
            status => Err(unreachable(&format!(
                "the server answered with status {status}"
            ))),
        }
    }
}

impl Mirror for Web {
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        self.read("metadata", name, limit)
    }

    fn target(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        self.read("targets", path, limit)
    }
}
