//! Which endpoints of its realm a token opens for a request (design: names, tokens and scopes).

use std::sync::Arc;

use super::claims::Claims;
use super::finding::Finding;
use super::policy::{Endpoint, Policy};
use super::realm::Realm;
use crate::prompt::{Operation, Request, Scope, Transport};
use crate::reason::DenyReason;
use crate::time::Moment;

/// What of a request the decision looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'r> {
    pub(super) scope: Scope,
    pub(super) model: Option<&'r str>,
    /// Belongs to one model: the realm's default where none is named.
    pub(super) of_one_model: bool,
    pub(super) transport: Option<Transport>,
}

impl<'r> Asked<'r> {
    pub(super) fn of(request: &'r Request) -> Asked<'r> {
        Asked {
            scope: request.asks.scope(),
            model: request.model.as_deref(),
            of_one_model: matches!(request.asks, Operation::Complete(_)),
            transport: request.origin.transport_kind(),
        }
    }

    /// A refusal of access, with what of the request it is about.
    pub(super) fn refused(&self, reason: DenyReason) -> Finding {
        let detail = match (reason, self.model) {
            (DenyReason::EndpointUnknown, Some(model)) => format!("`{model}`"),
            _ => format!("for `{}`", self.scope.as_str()),
        };
        Finding::new(reason, detail)
    }
}

/// The endpoints that the request may use, at least one. Where none is open, the refusal is that
/// of the endpoint whose checks went furthest.
pub(super) fn opened(
    claims: &Claims,
    asked: &Asked<'_>,
    realm: &Realm,
) -> Result<Vec<Arc<Endpoint>>, DenyReason> {
    let (mut open, mut furthest) = (Vec::new(), Shut::Audience);
    for endpoint in meant(asked, realm)? {
        match opens(claims, &realm.policy, endpoint, asked.scope) {
            Ok(()) => open.push(Arc::clone(endpoint)),
            Err(shut) => furthest = furthest.max(shut),
        }
    }
    if open.is_empty() {
        return Err(furthest.into());
    }
    Ok(open)
}

/// The endpoints that the request speaks of: the named one; for a chat else the realm's default;
/// for what belongs to no single model, all.
pub(super) fn meant<'r>(
    asked: &Asked<'_>,
    realm: &'r Realm,
) -> Result<Vec<&'r Arc<Endpoint>>, DenyReason> {
    let default = realm.policy.default_endpoint.as_deref();
    let name = match asked.model {
        Some(model) => model,
        None if asked.of_one_model => default.ok_or(DenyReason::EndpointMissing)?,
        None => return Ok(realm.endpoints.iter().collect()),
    };
    let endpoint = realm.endpoint(name).ok_or(DenyReason::EndpointUnknown)?;
    Ok(vec![endpoint])
}

/// Why an endpoint isn't open, by how far its checks went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shut {
    Audience = 1,
    Roles = 2,
    Scope = 3,
}

impl From<Shut> for DenyReason {
    fn from(shut: Shut) -> DenyReason {
        match shut {
            Shut::Audience => DenyReason::AudienceMismatch,
            Shut::Roles => DenyReason::RolesMissing,
            Shut::Scope => DenyReason::ScopeMissing,
        }
    }
}

/// Whether the token is for the endpoint, and its roles there grant the scope.
pub(super) fn opens(
    claims: &Claims,
    policy: &Policy,
    endpoint: &Endpoint,
    scope: Scope,
) -> Result<(), Shut> {
    if !claims.is_for(&endpoint.client_id) {
        return Err(Shut::Audience);
    }
    let roles = claims.roles_of(&endpoint.client_id);
    if roles.is_empty() {
        return Err(Shut::Roles);
    }
    if !policy.grants(roles, scope) {
        return Err(Shut::Scope);
    }
    Ok(())
}

/// Whether the keys were confirmed too long ago for the scope; never confirmed is too long.
pub(super) fn stale(realm: &Realm, scope: Scope, now: Moment) -> bool {
    let Some(grace) = realm.policy.offline_grace.get(&scope) else {
        return false;
    };
    let confirmed = realm.confirmed;
    confirmed.is_none_or(|confirmed| confirmed.age(now) > *grace)
}
