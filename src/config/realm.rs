//! The schema of realms: whose tokens are accepted, for which endpoints, within which limits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml::de::DeValue;

use super::RealmConfig;
use super::read::Section;
use super::sections::DAY;
use super::value::{count, duration, issuer, kind, plain_name, scope, scopes, text};
use crate::auth::{Endpoint, LimitClaims, Policy};
use crate::prompt::Scope;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// How old the pinned keys may grow for each scope, unless the realm says otherwise.
const GRACE: [(Scope, Duration); 4] = [
    (Scope::Read, Duration::from_secs(30 * 86_400)),
    (Scope::Write, DAY),
    (Scope::FineTune, HOUR),
    (Scope::Audit, Duration::from_secs(30 * 86_400)),
];

pub(super) fn realms(root: &mut Section<'_>) -> Vec<RealmConfig> {
    let mut names = BTreeSet::new();
    let mut issuers = BTreeSet::new();
    let realms = root.sections("realm", |section| {
        let realm = realm(section);
        if let Some(realm) = &realm {
            if !names.insert(realm.name.clone()) {
                section.problem(
                    "name",
                    format!("{:?} is taken by another realm", realm.name),
                );
            }
            if !issuers.insert(realm.issuer.clone()) {
                section.problem(
                    "issuer",
                    "is another realm's too; a token's `iss` must name one realm",
                );
            }
        }
        realm
    });
    if realms.is_empty() && !root.has("realm") {
        root.problem(
            "realm",
            "is missing: without a realm no token can be accepted; add a [[realm]] section",
        );
    }
    realms.into_iter().flatten().collect()
}

fn realm(section: &mut Section<'_>) -> Option<RealmConfig> {
    let name = section.required("name", plain_name);
    let issuer = section.required("issuer", issuer);
    let policy = policy(section);
    let endpoints = endpoints(section);
    if let Some(default) = &policy.default_endpoint
        && !endpoints.iter().any(|e| e.client_id == *default)
    {
        let known = endpoints.iter().map(|e| e.client_id.as_str());
        let known = known.collect::<Vec<_>>().join(", ");
        section.problem(
            "default_endpoint",
            format!("{default:?} is no endpoint of this realm; its endpoints: {known}"),
        );
    }
    Some(RealmConfig {
        name: name?,
        issuer: issuer?,
        policy,
        endpoints,
    })
}

fn policy(section: &mut Section<'_>) -> Policy {
    let lifetime = || duration(SECOND, 365 * DAY);
    let leeway = duration(Duration::ZERO, 10 * 60 * SECOND);
    let read_only = vec![Scope::Read];
    Policy {
        default_endpoint: section.optional("default_endpoint", text),
        max_lifetime: section.or("max_lifetime", lifetime(), HOUR),
        max_lifetime_by_client: section.names("max_lifetime_by_client", lifetime()),
        max_age: section.optional("max_age", lifetime()),
        leeway: section.or("leeway", leeway, 30 * SECOND),
        offline_grace: offline_grace(section),
        unsynchronised_scopes: section.or("unsynchronised_scopes", scopes, read_only),
        roles: section.names("roles", scopes),
        tokens_per_minute: section.optional("tokens_per_minute", count(1, 1 << 31)),
        require_dpop: Vec::new(),
        limit_claims: LimitClaims::default(),
        local_groups: BTreeMap::new(),
    }
}

/// A scope that isn't named keeps its default, so that leaving one out never lifts a limit.
fn offline_grace(section: &mut Section<'_>) -> BTreeMap<Scope, Duration> {
    let mut grace = BTreeMap::from(GRACE);
    let set = |value: &DeValue<'_>| match value {
        DeValue::String(text) if text == "none" => Ok(BTreeMap::new()),
        DeValue::Table(entries) => {
            for (name, value) in entries {
                let scope = scope(name.get_ref())?;
                match grace_of(value.get_ref()).map_err(|e| format!("{}: {e}", name.get_ref()))? {
                    Some(limit) => grace.insert(scope, limit),
                    None => grace.remove(&scope),
                };
            }
            Ok(grace)
        }
        other => Err(format!(
            "is {}; write \"none\" or {{ read = \"30d\", write = \"24h\", fine-tune = \"1h\" }}",
            kind(other)
        )),
    };
    section.or("offline_grace", set, BTreeMap::from(GRACE))
}

/// `None`: no limit.
fn grace_of(value: &DeValue<'_>) -> Result<Option<Duration>, String> {
    match value {
        DeValue::String(text) if text == "none" => Ok(None),
        other => duration(SECOND, 3650 * DAY)(other).map(Some),
    }
}

fn endpoints(section: &mut Section<'_>) -> Vec<Endpoint> {
    let mut clients = BTreeSet::new();
    let endpoints = section.sections("endpoint", |section| {
        let client_id = section.required("client_id", text);
        let model = section.required("model", plain_name);
        let limit = section.optional("max_completion_tokens", count(1, 1 << 20));
        if let Some(client_id) = &client_id
            && !clients.insert(client_id.clone())
        {
            section.problem(
                "client_id",
                format!("{client_id:?} is another endpoint of this realm already"),
            );
        }
        Some(Endpoint {
            client_id: client_id?,
            model: model?,
            max_completion_tokens: limit,
        })
    });
    if endpoints.is_empty() && !section.has("endpoint") {
        section.problem(
            "endpoint",
            "is missing: the realm opens no model; add a [[realm.endpoint]] section",
        );
    }
    endpoints.into_iter().flatten().collect()
}
