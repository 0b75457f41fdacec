//! The key by which a fleet's witness cosigns what it has seen of the devices' logs.
//!
//! It is a key of its own: what it signs says nothing of keys or revocations.

use std::path::PathBuf;

use super::key::PrivateKey;
use super::{Repository, RepositoryError, put, read, write_key};
use crate::files::Care;
use crate::identity::PublicKey;
use crate::time::Timestamp;
use crate::tlog::cosignature::{Cosignature, message};
use crate::tlog::note::{Algorithm, Note, VerifierKey};

/// Its name among the fleet's keys.
pub const WITNESS: &str = "witness";
const MAX_VERIFIER: u64 = 4096;

#[derive(Debug)]
pub struct Cosigner {
    verifier: VerifierKey,
    private: PrivateKey,
}

impl Cosigner {
    /// `verifier`: what the devices are configured with.
    pub fn new(verifier: VerifierKey, private: PrivateKey) -> Result<Cosigner, RepositoryError> {
        let own = private.public_bytes().map(PublicKey::new);
        match own.as_ref() == Some(verifier.public()) {
            true => Ok(Cosigner { verifier, private }),
            false => Err(RepositoryError::Refused(format!(
                "keys/{WITNESS}.pem isn't the key of keys/{WITNESS}.vkey; restore both from a copy"
            ))),
        }
    }

    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Says that this is, at `now`, the newest that was seen of its log.
    pub fn cosign(&self, note: &mut Note, now: Timestamp) {
        let time = now.as_secs();
        let signature = self.private.sign_raw(message(time, note.text()).as_bytes());
        if let Some(signature) = signature {
            note.add(&self.verifier, &Cosignature { time, signature }.to_bytes());
        }
    }
}

impl Repository {
    /// `None`: the fleet has no witness.
    pub fn witness(&self) -> Result<Option<VerifierKey>, RepositoryError> {
        let file = self.verifier_file();
        let Some(text) = read(&file, MAX_VERIFIER, Care::Trusted)? else {
            return Ok(None);
        };
        let text = String::from_utf8(text).map_err(|e| RepositoryError::wrong(&file, e))?;
        let key = VerifierKey::parse(text.trim_end());
        key.map(Some).map_err(|e| RepositoryError::wrong(&file, e))
    }

    /// Keeps a new witness's key; never over another.
    pub fn make_witness(
        &self,
        name: &str,
        private: &PrivateKey,
        pem: &str,
    ) -> Result<VerifierKey, RepositoryError> {
        if self.witness()?.is_some() {
            return Err(RepositoryError::KeyTaken(WITNESS.to_owned()));
        }
        let refused = |why: &dyn std::fmt::Display| RepositoryError::Refused(why.to_string());
        let public = private.public_bytes().map(PublicKey::new);
        let public = public.ok_or_else(|| refused(&"the key isn't of 32 bytes"))?;
        let verifier = VerifierKey::new(name, Algorithm::Cosignature, &public);
        let verifier = verifier.map_err(|error| refused(&error))?;
        write_key(&self.private_file(WITNESS), pem)?;
        put(&self.verifier_file(), format!("{verifier}\n").as_bytes())?;
        Ok(verifier)
    }

    fn verifier_file(&self) -> PathBuf {
        self.folder().join("keys").join(format!("{WITNESS}.vkey"))
    }
}
