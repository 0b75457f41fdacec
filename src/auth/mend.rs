//! What to change in Keycloak, or here, where a token is refused: for each refusal that a person
//! can mend, the screen, the attribute or the command.

use serde_json::{Map, Value};

use super::access::{self, Asked};
use super::realm::Realm;
use super::snapshot::Snapshot;
use crate::reason::DenyReason;

/// What is known of the case. Claims may be only alleged.
pub(super) struct Facts<'f> {
    pub(super) snapshot: &'f Snapshot,
    pub(super) realm: Option<&'f Realm>,
    pub(super) claims: Option<&'f Map<String, Value>>,
    pub(super) asked: Asked<'f>,
}

/// The attribute of a client that Keycloak's switch "Use lightweight access token" sets.
const LIGHTWEIGHT: &str = "on the client's tab Advanced switch off \"Use lightweight access token\" \
    (attribute `client.use.lightweight.access.token.enabled=false`)";

pub(super) fn mend(reason: DenyReason, facts: &Facts<'_>) -> Option<String> {
    let plain = match reason {
        DenyReason::AudienceMismatch => return Some(audience(facts)),
        DenyReason::RolesMissing => return Some(roles(facts)),
        DenyReason::ScopeMissing => return Some(scope(facts)),
        DenyReason::IssuerUnknown => return Some(issuer(facts)),
        DenyReason::TypeRejected => return Some(kind(facts)),
        // Keycloak signs refresh tokens by HMAC.
        DenyReason::AlgorithmRejected if refresh(facts) => return Some(kind(facts)),
        DenyReason::SubjectMissing => {
            return Some(format!(
                "add the client scope `basic` to the client (tab Client scopes, as Default), or {LIGHTWEIGHT}"
            ));
        }
        DenyReason::LifetimeTooLong => {
            "set the client's access token lifespan (tab Advanced, attribute `access.token.lifespan` \
             in seconds) to what the realm allows here, or raise `max_lifetime` for this client"
        }
        DenyReason::Expired => {
            "get a new token; where it must outlive an outage, raise the client's \
             `access.token.lifespan` (tab Advanced) and `max_lifetime` here"
        }
        DenyReason::IssuedInFuture | DenyReason::NotYetValid | DenyReason::ClockUnsynchronised => {
            "compare the clocks of Keycloak and this device (`timedatectl`); where a wrong time was \
             believed here, `slmd keys reset-time`"
        }
        DenyReason::SignatureInvalid => {
            "the token was changed on its way, or another Keycloak signed it with a key of the same \
             `kid`; compare the thumbprints of `slmd keys list` with Keycloak's certs"
        }
        DenyReason::ProofMissing => {
            "send the token as `Authorization: DPoP` with a proof in the header `DPoP`; or switch off \
             \"Require DPoP bound tokens\" on the client (attribute `dpop.bound.access.tokens=false`)"
        }
        DenyReason::DpopRequired => {
            "switch on \"Require DPoP bound tokens\" on the client's tab Settings (attribute \
             `dpop.bound.access.tokens=true`) and ask for the token with a proof"
        }
        DenyReason::ConfirmationUnsupported => {
            "switch off \"OAuth 2.0 Mutual TLS Certificate Bound Access Tokens\" on the client's tab \
             Advanced (attribute `tls.client.certificate.bound.access.tokens=false`); DPoP is supported"
        }
        DenyReason::AlgorithmRejected => {
            "set the client's access token signature algorithm (tab Advanced, attribute \
             `access.token.signed.response.alg`) to RS256 or ES256, or leave it empty"
        }
        DenyReason::TokenTooLarge => {
            "switch off \"Full scope allowed\" on the client's tab Client scopes, dedicated scope \
             (`fullScopeAllowed=false`), so that only the roles it needs are in the token"
        }
        _ => return here(reason).map(str::to_owned),
    };
    Some(plain.to_owned())
}

/// What is mended at this device.
fn here(reason: DenyReason) -> Option<&'static str> {
    Some(match reason {
        DenyReason::KeyUnknown | DenyReason::KeysStale => {
            "`slmd keys refresh` while Keycloak can be reached, or `slmd keys pin` with its current keys"
        }
        DenyReason::KeyUnusable => {
            "choose another key for the realm's tokens in Keycloak (Realm settings, Keys, Add provider; \
             client, tab Advanced, access token signature algorithm): RSA from 2048 bits, P-256, P-384 \
             or Ed25519, with a `kid` of its own"
        }
        DenyReason::KeysMissing => "`slmd keys pin REALM --fetch`, or with a file",
        DenyReason::TrustUnread => {
            "it mends when a mirror of the fleet gives anew what can't be read; `slmd trust show` says \
             what that is, `slmd trust pin ROOT.json` begins again from the fleet's root"
        }
        DenyReason::TooOld => "get a new token; the realm's `max_age` here says how old one may be",
        DenyReason::ClaimInvalid => {
            "look at the mapper of the claim (tab Client scopes): limits need the claim JSON type int"
        }
        DenyReason::EndpointMissing => "name a model, or set the realm's default endpoint here",
        DenyReason::EndpointUnknown => "name an endpoint of the realm; see `slmd status`",
        _ => return None,
    })
}

fn audience(facts: &Facts<'_>) -> String {
    let endpoint = endpoint(facts);
    if text(facts, "azp") == Some(endpoint) {
        return format!(
            "the token was issued to the endpoint client `{endpoint}` itself, and Keycloak puts no \
             client into its own `aud`; give each caller a client of its own, or add an audience \
             mapper (client scope, Add mapper, Audience, included client audience `{endpoint}`)"
        );
    }
    let absent = |name: &str| {
        facts
            .claims
            .is_some_and(|claims| !claims.contains_key(name))
    };
    // Keycloak leaves audience and roles out of a lightweight token together.
    if absent("aud") && absent("resource_access") && absent("realm_access") {
        return format!(
            "the token names no client and no role: where it is a lightweight one, {LIGHTWEIGHT}; \
             else give the caller a client role of `{endpoint}` (Clients, {endpoint}, Roles), and \
             with full scope off map the role in the client's dedicated scope (tab Scope)"
        );
    }
    format!(
        "give the caller a client role of `{endpoint}` (Clients, {endpoint}, Roles; then the user's \
         or service account's Role mapping: `kcadm.sh add-roles --cclientid {endpoint} --rolename \
         read --uusername USER`), or add an audience mapper for it (client scope, Add mapper, \
         Audience)"
    )
}

fn roles(facts: &Facts<'_>) -> String {
    let endpoint = endpoint(facts);
    let claims = facts.claims;
    if claims.is_some_and(|claims| !claims.contains_key("resource_access")) {
        let realm_roles = claims.is_some_and(|claims| claims.contains_key("realm_access"));
        if !realm_roles {
            return format!("a lightweight token carries no roles: {LIGHTWEIGHT}");
        }
    }
    format!(
        "roles of the realm (`realm_access`) don't count here: make them client roles of \
         `{endpoint}` (Clients, {endpoint}, Roles) and give them to the caller (`kcadm.sh add-roles \
         --cclientid {endpoint} --rolename read --uusername USER`); the client scope `roles` must \
         be a Default one"
    )
}

fn scope(facts: &Facts<'_>) -> String {
    let scope = facts.asked.scope;
    let policy = facts.realm.map(|realm| &realm.policy);
    let roles = policy.map(|policy| &policy.roles).into_iter().flatten();
    let granting = roles.filter(|(_, scopes)| scopes.contains(&scope));
    let named: Vec<String> = granting.map(|(role, _)| format!("`{role}`")).collect();
    let mapped = policy.is_some_and(|policy| !policy.roles.is_empty());
    let roles = match (mapped, named.is_empty()) {
        (true, true) => {
            return format!(
                "no role grants `{}` here; map one in the realm's `roles`",
                scope.as_str()
            );
        }
        (true, false) => named.join(" or "),
        (false, _) => format!("`{}`", scope.as_str()),
    };
    format!(
        "give the caller the client role {roles} of `{}`",
        endpoint(facts)
    )
}

fn issuer(facts: &Facts<'_>) -> String {
    let known: Vec<&str> = facts.snapshot.realms.keys().map(String::as_str).collect();
    format!(
        "the token is from another realm, or by another name of Keycloak's host; `iss` must be one \
         of: {} (in Keycloak: `hostname` of the server, Realm settings, OpenID Endpoint Configuration)",
        known.join(", ")
    )
}

fn kind(facts: &Facts<'_>) -> String {
    match text(facts, "typ") {
        Some("ID") => {
            "an ID token was sent; send the `access_token` of the token answer".to_owned()
        }
        Some("Refresh" | "Offline") => {
            "a refresh token was sent; send the `access_token` of the token answer".to_owned()
        }
        _ => format!(
            "send the `access_token` of the token answer; a lightweight one has no `typ`: {LIGHTWEIGHT}"
        ),
    }
}

fn refresh(facts: &Facts<'_>) -> bool {
    matches!(text(facts, "typ"), Some("Refresh" | "Offline"))
}

/// The client id of the endpoint that the request is for.
fn endpoint<'f>(facts: &Facts<'f>) -> &'f str {
    let meant = facts
        .realm
        .and_then(|realm| access::meant(&facts.asked, realm).ok());
    let first = meant.and_then(|list| list.first().copied());
    first.map_or("ENDPOINT", |endpoint| &endpoint.client_id)
}

fn text<'f>(facts: &Facts<'f>, name: &str) -> Option<&'f str> {
    facts.claims?.get(name)?.as_str()
}
