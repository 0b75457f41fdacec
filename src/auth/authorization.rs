//! What a client writes into `Authorization` (RFC 6750 section 2.1, RFC 9449 section 7.1): a header
//! of HTTP, a user property or a member of the body in MQTT, and one rule for all of them.

use super::credential::{Binding, Credential};
use crate::reason::{DenyReason, Refusal};
use crate::secret::Secret;

impl Credential {
    /// Reads `Authorization`. What isn't understood is refused rather than taken for nothing: its
    /// client meant to show something. `proof` is asked for a DPoP token's proof and what that must
    /// say, and refuses where the transport has no place for one.
    pub fn from_authorization<'a>(
        value: Option<&str>,
        proof: impl FnOnce() -> Result<(&'a str, Binding), Refusal>,
    ) -> Result<Credential, Refusal> {
        let Some(value) = value else {
            return Ok(Credential::None);
        };
        let refused = |detail| Err(Refusal::new(DenyReason::TokenMissing).detail(detail));
        let Some((scheme, token)) = value.trim().split_once(' ') else {
            return refused(
                "`authorization` has one word; it takes `Bearer`, a space and the token",
            );
        };
        let token = Secret::new(token.trim().to_owned());
        // A scheme's name is case-insensitive (RFC 9110 section 11.1).
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Ok(Credential::Bearer(token)),
            "dpop" => {
                let (proof, binding) = proof()?;
                let proof = Secret::new(proof.to_owned());
                Ok(Credential::Dpop {
                    token,
                    proof,
                    binding,
                })
            }
            _ => refused("`authorization` begins with neither `Bearer` nor `DPoP`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::NonceRule;

    fn read(value: &str) -> Result<Credential, Refusal> {
        let binding = Binding {
            method: "GET".to_owned(),
            targets: Vec::new(),
            message: None,
            nonce: NonceRule::None,
        };
        Credential::from_authorization(Some(value), || Ok(("p", binding)))
    }

    #[test]
    fn a_token_in_every_form() {
        for value in ["Bearer abc", "bearer abc", "BEARER   abc "] {
            match read(value) {
                Ok(Credential::Bearer(token)) => assert_eq!(token.expose(), "abc", "{value}"),
                other => panic!("{value}: {other:?}"),
            }
        }
        let Ok(Credential::Dpop { token, proof, .. }) = read("dPoP abc") else {
            panic!("no proof");
        };
        assert_eq!(
            (token.expose().as_str(), proof.expose().as_str()),
            ("abc", "p")
        );
        let none = Credential::from_authorization(None, || Err(DenyReason::ProofMissing.into()));
        assert!(matches!(none, Ok(Credential::None)));
    }

    #[test]
    fn what_is_no_token_of_ours_is_refused_as_none() {
        for value in ["Basic dTpw", "Basic", "Bearer", "Bearer ", "abc", ""] {
            let refusal = read(value).unwrap_err();
            assert_eq!(refusal.reason, DenyReason::TokenMissing.into(), "{value}");
            assert!(refusal.message().contains("`Bearer`"), "{value}: {refusal}");
        }
    }

    #[test]
    fn a_missing_proof_is_the_transports_to_refuse() {
        let refuse = || Err(DenyReason::ProofUnsupported.into());
        let refusal = Credential::from_authorization(Some("DPoP t"), refuse).unwrap_err();
        assert_eq!(refusal.reason, DenyReason::ProofUnsupported.into());
    }
}
