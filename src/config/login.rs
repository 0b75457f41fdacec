//! `[login]`: where `slmd login` logs in, so that a technician needn't type it.

use std::path::PathBuf;

use super::read::Section;
use super::value::{issuer, path, text};

/// Defaults of `slmd login`; the daemon itself doesn't use them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub issuer: Option<String>,
    pub client_id: Option<String>,
    /// The CA that Keycloak's certificate is checked against.
    pub ca_file: Option<PathBuf>,
}

pub(super) fn login(section: &mut Section<'_>) -> Login {
    Login {
        issuer: section.optional("issuer", issuer),
        client_id: section.optional("client_id", text),
        ca_file: section.optional("ca_file", path),
    }
}
