//! Which endpoints of its realm a token opens for a request (design: names, tokens and scopes).

use std::sync::Arc;

use super::claims::Claims;
use super::{Endpoint, Policy, Realm};
use crate::prompt::{Action, Request, Scope};
use crate::reason::DenyReason;
use crate::time::Timestamp;

/// The endpoints that the request may use, at least one. Where none is open, the refusal is that
/// of the endpoint whose checks went furthest.
pub(super) fn opened(
    claims: &Claims,
    request: &Request,
    realm: &Realm,
) -> Result<Vec<Arc<Endpoint>>, DenyReason> {
    let scope = request.action.scope();
    let (mut open, mut furthest) = (Vec::new(), DenyReason::AudienceMismatch);
    for endpoint in meant(request, realm)? {
        match opens(claims, &realm.policy, endpoint, scope) {
            Ok(()) => open.push(Arc::clone(endpoint)),
            // The reasons are declared in the order of the checks.
            Err(reason) => furthest = furthest.max(reason),
        }
    }
    if open.is_empty() {
        return Err(furthest);
    }
    Ok(open)
}

/// The endpoints that the request speaks of: the named one; for a chat else the realm's default;
/// for what belongs to no single model, all.
fn meant<'r>(request: &Request, realm: &'r Realm) -> Result<Vec<&'r Arc<Endpoint>>, DenyReason> {
    let name = match (&request.model, &request.action) {
        (Some(model), _) => model,
        (None, Action::Chat(_)) => {
            let default = realm.policy.default_endpoint.as_ref();
            default.ok_or(DenyReason::EndpointMissing)?
        }
        (
            None,
            Action::ListModels | Action::Cancel { .. } | Action::ReadAudit | Action::ReadMetrics,
        ) => {
            return Ok(realm.endpoints.iter().collect());
        }
    };
    let endpoint = realm.endpoint(name).ok_or(DenyReason::EndpointUnknown)?;
    Ok(vec![endpoint])
}

/// Whether the token is for the endpoint, and its roles there grant the scope.
pub(super) fn opens(
    claims: &Claims,
    policy: &Policy,
    endpoint: &Endpoint,
    scope: Scope,
) -> Result<(), DenyReason> {
    if !claims.is_for(&endpoint.client_id) {
        return Err(DenyReason::AudienceMismatch);
    }
    let roles = claims.roles_of(&endpoint.client_id);
    if roles.is_empty() {
        return Err(DenyReason::RolesMissing);
    }
    if !policy.grants(roles, scope) {
        return Err(DenyReason::ScopeMissing);
    }
    Ok(())
}

/// Whether the keys were confirmed too long ago for the scope; never confirmed is too long.
pub(super) fn stale(realm: &Realm, scope: Scope, now: Timestamp) -> bool {
    let Some(grace) = realm.policy.offline_grace.get(&scope) else {
        return false;
    };
    realm.confirmed_at.is_none_or(|at| now.since(at) > *grace)
}
