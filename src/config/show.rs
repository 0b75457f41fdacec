//! The effective configuration, written back in the file's own form.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::value::{show_duration, show_kernels, show_size};
use super::{Config, Login, RealmConfig};
use crate::auth::{Endpoint, LimitClaims, Policy};
use crate::keysync::Source;
use crate::prompt::Scope;
use crate::{admission, audit, engine, link, transport};

pub(super) fn show(config: &Config) -> Value {
    let mut root = object(json!({
        "device": config.identity.device,
        "state_dir": config.state_dir,
        "models_dir": config.models_dir,
        "drain_deadline": show_duration(config.drain_deadline),
        "log": config.log,
        "http": http(&config.http),
    }));
    if let Some(settings) = &config.mqtt {
        root.insert("mqtt".to_owned(), mqtt(settings));
    }
    root.insert("engine".to_owned(), engine(&config.engine));
    root.insert("admission".to_owned(), admission(&config.admission));
    root.insert("audit".to_owned(), audit(&config.audit));
    root.insert(
        "realm".to_owned(),
        config.realms.iter().map(realm).collect(),
    );
    if config.login != Login::default() {
        root.insert("login".to_owned(), login(&config.login));
    }
    Value::Object(root)
}

fn login(login: &Login) -> Value {
    sparse(json!({
        "issuer": login.issuer,
        "client_id": login.client_id,
        "ca_file": login.ca_file,
    }))
}

fn http(settings: &transport::http::Settings) -> Value {
    sparse(json!({
        "listen": settings.listen,
        "hosts": settings.hosts,
        "public_urls": settings.public_urls,
        "tls": settings.tls.as_ref().map(http_tls),
        "socket": settings.socket,
        "admin_socket": settings.admin_socket,
        "max_body": show_size(settings.max_body as u64),
        "header_timeout": show_duration(settings.header_timeout),
        "body_timeout": show_duration(settings.body_timeout),
        "max_connections": settings.max_connections,
        "max_connections_per_uid": settings.max_connections_per_uid,
        "keep_alive": show_duration(settings.keep_alive),
    }))
}

fn http_tls(tls: &transport::http::TlsSettings) -> Value {
    let required = tls.client_certificate_required;
    let clients = if required { "required" } else { "optional" };
    sparse(json!({
        "listen": tls.listen,
        "cert_file": tls.own.cert_file,
        "key_file": tls.own.key_file,
        "client_ca_file": tls.client_ca_file,
        "client_certificate": tls.client_ca_file.as_ref().map(|_| clients),
    }))
}

fn mqtt_tls(tls: &link::Tls) -> Value {
    let own = tls.own.as_ref();
    sparse(json!({
        "ca_file": tls.ca_file,
        "cert_file": own.map(|own| &own.cert_file),
        "key_file": own.map(|own| &own.key_file),
    }))
}

fn mqtt(settings: &transport::mqtt::Settings) -> Value {
    let scheme = if settings.tls.is_some() {
        "mqtts"
    } else {
        "mqtt"
    };
    let host = &settings.host;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.clone()
    };
    sparse(json!({
        "url": format!("{scheme}://{host}:{}", settings.port),
        "tls": settings.tls.as_ref().map(mqtt_tls),
        "client_id": settings.client_id,
        "username": settings.username,
        "password_file": settings.password_file,
        "keep_alive": show_duration(settings.keep_alive),
        "session_expiry": show_duration(settings.session_expiry),
        "receive_maximum": settings.receive_maximum,
        "reply_to": settings.reply_to,
        "fragment_interval": show_duration(settings.fragment_interval),
        "reconnect_min": show_duration(settings.reconnect_min),
        "reconnect_max": show_duration(settings.reconnect_max),
    }))
}

fn engine(settings: &engine::Settings) -> Value {
    json!({
        "threads": settings.threads,
        "context": settings.context,
        "queue": settings.queue,
        "kernels": show_kernels(settings.kernels),
    })
}

fn admission(settings: &admission::Settings) -> Value {
    json!({
        "answer_buffer": settings.answer_buffer,
        "default_deadline": show_duration(settings.default_deadline),
        "duplicate_window": show_duration(settings.duplicate_window),
        "duplicates": settings.duplicates,
        "tokens_per_minute": settings.tokens_per_minute,
        "prompts_per_minute": settings.prompts_per_minute,
        "operations_per_minute": settings.operations_per_minute,
    })
}

fn audit(settings: &audit::Settings) -> Value {
    json!({
        "max_size": show_size(settings.max_bytes),
        "retention": show_duration(settings.retention),
        "refusals_per_minute": settings.refusals_per_minute,
    })
}

fn realm(realm: &RealmConfig) -> Value {
    let policy = &realm.policy;
    sparse(json!({
        "name": realm.name,
        "issuer": realm.issuer,
        "default_endpoint": policy.default_endpoint,
        "max_lifetime": show_duration(policy.max_lifetime),
        "max_age": policy.max_age.map(show_duration),
        "leeway": show_duration(policy.leeway),
        "offline_grace": offline_grace(policy),
        "unsynchronised_scopes": policy.unsynchronised_scopes,
        "tokens_per_minute": policy.tokens_per_minute,
        "max_lifetime_by_client": durations(&policy.max_lifetime_by_client),
        "roles": policy.roles,
        "require_dpop": policy.require_dpop.iter().map(|t| t.as_str()).collect::<Value>(),
        "deny_file": realm.deny_file,
        "jwks": realm.jwks.as_ref().map(jwks),
        "local_groups": (!realm.local_groups.is_empty()).then_some(&realm.local_groups),
        "claims": claims(&policy.limit_claims),
        "endpoint": realm.endpoints.iter().map(endpoint).collect::<Value>(),
    }))
}

fn jwks(source: &Source) -> Value {
    sparse(json!({
        "uri": source.uri,
        "ca_file": source.ca_file,
        "plain_http_trusts_this_host": source.plain_http_trusts_this_host,
        "refresh_interval": show_duration(source.refresh_interval),
        "min_interval": show_duration(source.min_interval),
        "vouch_after": show_duration(source.vouch_after),
        "timeout": show_duration(source.timeout),
    }))
}

fn claims(claims: &LimitClaims) -> Option<Value> {
    let named = *claims != LimitClaims::default();
    named.then(|| {
        sparse(json!({
            "tokens_per_minute": claims.tokens_per_minute,
            "max_context": claims.max_context,
            "priority": claims.priority,
        }))
    })
}

fn durations(by_name: &BTreeMap<String, Duration>) -> BTreeMap<&String, String> {
    let shown = by_name.iter().map(|(name, d)| (name, show_duration(*d)));
    shown.collect()
}

fn offline_grace(policy: &Policy) -> Value {
    let limits = Scope::ALL.map(|scope| {
        let limit = policy.offline_grace.get(&scope).copied();
        let shown = limit.map_or_else(|| "none".to_owned(), show_duration);
        (scope.as_str().to_owned(), Value::String(shown))
    });
    Value::Object(limits.into_iter().collect())
}

fn endpoint(endpoint: &Endpoint) -> Value {
    sparse(json!({
        "client_id": endpoint.client_id,
        "model": endpoint.model,
        "max_completion_tokens": endpoint.max_completion_tokens,
    }))
}

/// Without what isn't set: TOML has no null.
fn sparse(value: Value) -> Value {
    let mut members = object(value);
    members.retain(|_, member| !member.is_null());
    Value::Object(members)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
