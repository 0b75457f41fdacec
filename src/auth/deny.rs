//! The deny-list: what revokes a token before it expires.
//!
//! It can only take away. Nothing fills it yet; it will come signed by the fleet.

use std::collections::{BTreeMap, BTreeSet};

use super::claims::Claims;
use crate::time::Timestamp;

/// Revocations by realm.
#[derive(Debug, Clone, Default)]
pub struct DenyList {
    /// By issuer.
    pub realms: BTreeMap<String, Revocations>,
}

/// What is revoked in one realm.
#[derive(Debug, Clone, Default)]
pub struct Revocations {
    /// Keys, by RFC 7638 thumbprint.
    pub thumbprints: BTreeSet<String>,
    pub subjects: BTreeSet<String>,
    /// `sid`.
    pub sessions: BTreeSet<String>,
    /// `jti`.
    pub token_ids: BTreeSet<String>,
    /// `azp`.
    pub clients: BTreeSet<String>,
    /// Tokens issued before this are revoked.
    pub not_before: Timestamp,
    /// The same for single clients (`azp`).
    pub not_before_by_client: BTreeMap<String, Timestamp>,
}

impl DenyList {
    /// What of the token is revoked, if anything is.
    pub(super) fn hit(&self, claims: &Claims, thumbprint: &str) -> Option<&'static str> {
        let realm = self.realms.get(&claims.principal.issuer)?;
        let client = &claims.principal.client;
        let named = |list: &BTreeSet<String>, value: &Option<String>| {
            value.as_ref().is_some_and(|value| list.contains(value))
        };
        let client_floor = realm.not_before_by_client.get(client).copied();
        let checks = [
            ("key", realm.thumbprints.contains(thumbprint)),
            (
                "subject",
                realm.subjects.contains(&claims.principal.subject),
            ),
            ("session", named(&realm.sessions, &claims.session)),
            ("token", named(&realm.token_ids, &claims.token_id)),
            ("client", realm.clients.contains(client)),
            ("not-before", claims.issued_at < realm.not_before),
            ("client's not-before", Some(claims.issued_at) < client_floor),
        ];
        checks.iter().find(|(_, hit)| *hit).map(|(what, _)| *what)
    }
}
