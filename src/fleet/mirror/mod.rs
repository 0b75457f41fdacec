//! Where the fleet's files come from: a broker, a web server, a folder. None of them is believed.

pub mod folder;
pub mod https;
pub mod mqtt;

use std::time::Instant;

use crate::time;
use crate::trust::{Mirror, MirrorError};

/// A mirror that is asked no more after a time.
pub struct Until<'m> {
    pub mirror: &'m mut dyn Mirror,
    pub deadline: Instant,
}

impl Until<'_> {
    fn in_time(&self) -> Result<(), MirrorError> {
        match time::instant() < self.deadline {
            true => Ok(()),
            false => Err(unreachable("it took too long")),
        }
    }
}

impl Mirror for Until<'_> {
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        self.in_time()?;
        self.mirror.metadata(name, limit)
    }

    fn target(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        self.in_time()?;
        self.mirror.target(path, limit)
    }
}

fn unreachable(why: &(impl ToString + ?Sized)) -> MirrorError {
    MirrorError::Unreachable(why.to_string())
}

/// Whether a path stays where it is put: as a file's, in a URL and in a topic.
fn is_plain(path: &str) -> bool {
    let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '%' | '/');
    let level = |level: &str| !matches!(level, "" | "." | "..");
    path.chars().all(clean) && path.split('/').all(level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_nowhere_else() {
        for plain in ["timestamp.json", "realms/dev/0f.jwks.json", "1.a%2Fb.json"] {
            assert!(is_plain(plain), "{plain}");
        }
        for wild in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/+/b",
            "#",
            "a\0",
            "a?b",
            "a b",
        ] {
            assert!(!is_plain(wild), "{wild}");
        }
    }
}
