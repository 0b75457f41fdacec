//! Break-glass: what a local peer may do without a token, by the groups that the kernel tells of
//! it. Keys, lifetimes and clocks don't matter; the deny-list does.

use std::sync::Arc;

use super::access::{Asked, meant};
use super::clock::Clock;
use super::finding::Finding;
use super::policy::Endpoint;
use super::principal::Principal;
use super::realm::Realm;
use super::snapshot::Snapshot;
use crate::prompt::Scope;
use crate::reason::DenyReason;

/// `azp` of a grant without a token.
const CLIENT: &str = "local";

/// Who is at the other end of a local socket.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) uid: u32,
    /// The primary group among them.
    pub(super) groups: Vec<u32>,
}

impl Peer {
    pub(super) fn principal(&self, realm: &Realm) -> Principal {
        Principal {
            issuer: realm.issuer.clone(),
            subject: format!("uid:{}", self.uid),
            client: CLIENT.to_owned(),
        }
    }

    /// Whether one of the peer's groups grants the scope, and nobody took that back.
    pub(super) fn may(
        &self,
        scope: Scope,
        realm: &Realm,
        snapshot: &Snapshot,
        clock: &Clock,
    ) -> Result<(), Finding> {
        let granted = |gid: &u32| {
            let scopes = realm.policy.local_groups.get(gid);
            scopes.is_some_and(|scopes| scopes.contains(&scope))
        };
        if !self.groups.iter().any(granted) {
            let detail = format!("for `{}`", scope.as_str());
            return Err(Finding::new(DenyReason::PeerNotAllowed, detail));
        }
        let who = self.principal(realm);
        let now = clock.held_up(&who.issuer, &who.client);
        snapshot.deny.spares_peer(&who, now)
    }

    /// The endpoints that the peer may use, at least one.
    pub(super) fn opened(
        asked: &Asked<'_>,
        realm: &Realm,
    ) -> Result<Vec<Arc<Endpoint>>, DenyReason> {
        let endpoints: Vec<_> = meant(asked, realm)?.into_iter().map(Arc::clone).collect();
        if endpoints.is_empty() {
            return Err(DenyReason::EndpointUnknown);
        }
        Ok(endpoints)
    }
}

/// The one realm that grants anything to local groups.
pub(super) fn realm(snapshot: &Snapshot) -> Option<&Realm> {
    let grants = |realm: &&Realm| !realm.policy.local_groups.is_empty();
    snapshot.realms.values().find(grants)
}
