//! The schema of realms: whose tokens are accepted, for which endpoints, within which limits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml::de::DeValue;

use super::RealmConfig;
use super::group;
use super::read::Section;
use super::sections::DAY;
use super::value::{
    boolean, count, duration, issuer, kind, plain_name, scope, scopes, text, trusted_file,
};
use crate::auth::{Endpoint, LimitClaims, Policy};
use crate::https;
use crate::keysync::Source;
use crate::prompt::{Scope, Transport};

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
    let mut with_groups = None;
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
            if realm.name == "explain" {
                section.problem("name", "\"explain\" is taken; choose another name");
            }
            if !realm.local_groups.is_empty()
                && let Some(other) = with_groups.replace(realm.name.clone())
            {
                let what = format!("realm {other:?} has it already; only one realm may");
                section.problem("local_groups", what);
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
    let mut policy = policy(section);
    let local_groups = local_groups(section, &mut policy);
    let deny_file = section.optional("deny_file", trusted_file);
    let endpoints = endpoints(section);
    let jwks = jwks(section, issuer.as_deref());
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
        jwks,
        deny_file,
        local_groups,
    })
}

/// Break-glass by the names of groups; the policy gets their ids.
fn local_groups(section: &mut Section<'_>, policy: &mut Policy) -> BTreeMap<String, Vec<Scope>> {
    let names = section.names("local_groups", scopes);
    for (name, scopes) in &names {
        match group::id(name) {
            // Two names of one group grant what both do.
            Ok(id) => policy.local_groups.entry(id).or_default().extend(scopes),
            Err(what) => section.problem("local_groups", what),
        }
    }
    names
}

/// Where the realm's keys are fetched from; `None` without the section.
fn jwks(section: &mut Section<'_>, issuer: Option<&str>) -> Option<Source> {
    let given = section.has("jwks");
    let default = issuer.map(|issuer| format!("{issuer}/protocol/openid-connect/certs"));
    let source = section.section("jwks", |section| {
        let uri = section.optional("uri", text).or(default);
        let ca_file = section.optional("ca_file", trusted_file);
        let plain_http = section.or("plain_http_trusts_this_host", boolean, false);
        let refresh_interval = duration(60 * SECOND, 30 * DAY);
        let min_interval = duration(SECOND, HOUR);
        let vouch_after = duration(SECOND, 365 * DAY);
        let timeout = duration(SECOND, 60 * SECOND);
        let source = Source {
            uri: uri?,
            ca_file,
            plain_http_trusts_this_host: plain_http,
            refresh_interval: section.or("refresh_interval", refresh_interval, 900 * SECOND),
            min_interval: section.or("min_interval", min_interval, 30 * SECOND),
            vouch_after: section.or("vouch_after", vouch_after, DAY),
            timeout: section.or("timeout", timeout, 10 * SECOND),
        };
        if !given {
            return None;
        }
        if let Err((key, what)) = trusted(&source) {
            section.problem(key, what);
        }
        if source.min_interval > source.refresh_interval {
            section.problem("min_interval", "is longer than `refresh_interval`");
        }
        Some(source)
    });
    source.filter(|_| given)
}

/// Whoever answers in the issuer's place can hand over keys, and on loopback that is every user who
/// binds its port while it is away.
fn trusted(source: &Source) -> Result<(), (&'static str, String)> {
    https::check_url(&source.uri).map_err(|error| ("uri", error.to_string()))?;
    match (source.uri.starts_with("https:"), &source.ca_file) {
        (true, None) => Err((
            "ca_file",
            "is missing: HTTPS needs the CA to trust, as PEM".to_owned(),
        )),
        (false, _) if !source.plain_http_trusts_this_host => Err((
            "uri",
            "is plain HTTP: any user of this machine who gets its port while Keycloak is away \
             could serve keys; write https:// and `ca_file`, or \
             `plain_http_trusts_this_host = true` where all of them are trusted"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Names of the claims that carry limits.
fn limit_claims(section: &mut Section<'_>) -> LimitClaims {
    section.section("claims", |section| LimitClaims {
        tokens_per_minute: section.optional("tokens_per_minute", text),
        max_context: section.optional("max_context", text),
        priority: section.optional("priority", text),
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
        require_dpop: section.or("require_dpop", transports, Vec::new()),
        limit_claims: limit_claims(section),
        local_groups: BTreeMap::new(),
    }
}

fn transports(value: &DeValue<'_>) -> Result<Vec<Transport>, String> {
    let form = "write a list of \"socket\", \"tcp\" and \"mqtt\"";
    let DeValue::Array(items) = value else {
        return Err(format!("is {}; {form}", kind(value)));
    };
    let transport = |name: String| {
        let found = Transport::ALL.into_iter().find(|t| t.as_str() == name);
        found.ok_or_else(|| format!("{name:?} is no transport; {form}"))
    };
    let names = items.iter().map(|item| text(item.get_ref()));
    names.map(|name| transport(name?)).collect()
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
