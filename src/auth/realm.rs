//! A realm: its policy, its endpoints and its keys.

use std::sync::Arc;

use super::keyset::KeySet;
use super::policy::{Endpoint, Policy};
use crate::prompt::Scope;
use crate::time::{Mark, Moment, Timestamp};

#[derive(Debug, Clone)]
pub struct Realm {
    pub name: String,
    pub issuer: String,
    pub policy: Policy,
    pub endpoints: Vec<Arc<Endpoint>>,
    pub keys: KeySet,
    /// When the keys were last confirmed.
    pub confirmed: Option<Mark>,
}

impl Realm {
    /// When the keys will be too old for the scope, if ever, by the clock of `now`.
    pub fn stops_at(&self, scope: Scope, now: Moment) -> Option<Timestamp> {
        let grace = self.policy.offline_grace.get(&scope)?;
        Some(self.confirmed?.shown(now).saturating_add(*grace))
    }

    pub fn endpoint(&self, client_id: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|e| e.client_id == client_id)
    }
}
