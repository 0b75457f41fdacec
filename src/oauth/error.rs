//! Why an authorization server gave nothing.

use super::dpop::KeyError;
use crate::https::HttpsError;

/// No answer, or not the one that was asked for. What a server says of itself isn't made safe for
/// a terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OauthError {
    #[error("{issuer} can't be reached: {why}")]
    Unreachable { issuer: String, why: String },
    /// Its certificate isn't one of the trusted CA's for this host.
    #[error("{issuer}: {why}")]
    Untrusted { issuer: String, why: String },
    /// What was configured can't be used.
    #[error(transparent)]
    Unusable(HttpsError),
    #[error("{url} answered {status}")]
    Status { url: String, status: u16 },
    #[error("{url} answered {status}")]
    NoDiscovery { url: String, status: u16 },
    #[error("{url}: {what}")]
    Malformed { url: String, what: &'static str },
    #[error("{url}: it says that it is {named}")]
    OtherIssuer { url: String, named: String },
    #[error("{issuer}: {error}")]
    Answer { issuer: String, error: HttpsError },
    #[error("the issuer offers no device authorization grant (RFC 8628)")]
    NoDeviceGrant,
    #[error("the server gave no refresh token")]
    NoRefreshToken,
    /// In OAuth's words (RFC 6749 section 5.2, RFC 8628 section 3.5).
    #[error("{error}: {said}")]
    Refused { error: String, said: String },
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl OauthError {
    /// No connection, or a server that is ill: what may work the next time.
    pub fn is_passing(&self) -> bool {
        match self {
            OauthError::Unreachable { .. } => true,
            OauthError::Status { status, .. } | OauthError::NoDiscovery { status, .. } => {
                *status == 429 || *status >= 500
            }
            _ => false,
        }
    }
}
