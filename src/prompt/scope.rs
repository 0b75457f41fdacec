//! What a token may allow.

use serde::{Deserialize, Serialize};

/// Keycloak's roles map to these by the realm's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Ask prompts, see models.
    Read,
    /// Named prompts, active model and adapter, files.
    Write,
    /// Fine-tuning jobs, promote, roll back.
    FineTune,
    /// Read the audit log.
    Audit,
}

impl Scope {
    pub const ALL: [Scope; 4] = [Scope::Read, Scope::Write, Scope::FineTune, Scope::Audit];

    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Write => "write",
            Scope::FineTune => "fine-tune",
            Scope::Audit => "audit",
        }
    }
}
