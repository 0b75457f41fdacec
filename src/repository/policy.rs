//! Policy and the list of allowed models as targets, held to what devices read.

use std::collections::BTreeSet;

use serde_json::json;

use super::error::RepositoryError;
use crate::trust::targets::{parse_model, parse_policy};

/// The digests of a model's bundles that devices may run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed(pub BTreeSet<String>);

/// That a device understands the policy whole.
pub fn check_policy(text: &[u8]) -> Result<(), RepositoryError> {
    match parse_policy(text) {
        Ok(_) => Ok(()),
        Err(why) => Err(RepositoryError::Refused(format!(
            "the policy can't be used: {why}"
        ))),
    }
}

impl Allowed {
    pub fn parse(current: Option<&[u8]>) -> Result<Allowed, RepositoryError> {
        let digests = current.map(parse_model).transpose();
        let digests = digests.map_err(|why| RepositoryError::Damaged(format!("a model: {why}")))?;
        Ok(Allowed(digests.unwrap_or_default()))
    }

    /// Fails for what is no digest.
    pub fn bytes(&self) -> Result<Vec<u8>, RepositoryError> {
        let bytes = json!({"version": 1, "digests": self.0})
            .to_string()
            .into_bytes();
        match parse_model(&bytes) {
            Ok(_) => Ok(bytes),
            Err(why) => Err(RepositoryError::Refused(format!(
                "{why}; `slmd model show` names a bundle's digest"
            ))),
        }
    }
}
