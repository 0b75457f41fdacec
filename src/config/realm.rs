//! What must be true of a realm's settings together, and of its endpoints'.

use std::path::PathBuf;

use super::machine::Thing;
use super::read::Section;
use crate::auth::Endpoint;
use crate::authority::RealmConfig;

pub(super) fn check_realm(section: &Section<'_>, realm: &RealmConfig, before: &[RealmConfig]) {
    if before.iter().any(|other| other.name == realm.name) {
        let message = format!("{:?} is taken by another realm", realm.name);
        section.problem("name", message);
    }
    if before.iter().any(|other| other.issuer == realm.issuer) {
        section.problem(
            "issuer",
            "is another realm's too; a token's `iss` must name one realm",
        );
    }
    let with_groups = before.iter().find(|other| !other.local_groups.is_empty());
    if let Some(other) = with_groups
        && !realm.local_groups.is_empty()
    {
        let message = format!("realm {:?} has it already; only one realm may", other.name);
        section.problem("local_groups", message);
    }
    if realm.endpoints.is_empty() && !section.has("endpoint") {
        section.problem(
            "endpoint",
            "is missing: the realm opens no model; add a [[realm.endpoint]] section",
        );
    }
    let clients: Vec<&str> = realm
        .endpoints
        .iter()
        .map(|e| e.client_id.as_str())
        .collect();
    if let Some(default) = &realm.policy.default_endpoint
        && !clients.contains(&default.as_str())
    {
        let known = clients.join(", ");
        section.problem(
            "default_endpoint",
            format!("{default:?} is no endpoint of this realm; its endpoints: {known}"),
        );
    }
}

pub(super) fn check_endpoint(section: &Section<'_>, endpoint: &Endpoint, before: &[Endpoint]) {
    let models: PathBuf = section.named("models_dir").into();
    let model = endpoint.model.clone();
    if let Some(text) = endpoint.system_prompt.clone() {
        let instructions = Thing::Instructions(models.clone(), model.clone(), text);
        section.to_look_at("system_prompt", vec![instructions]);
    }
    section.to_look_at("model", vec![Thing::Model(models, model)]);
    if before
        .iter()
        .any(|other| other.client_id == endpoint.client_id)
    {
        let message = format!(
            "{:?} is another endpoint of this realm already",
            endpoint.client_id
        );
        section.problem("client_id", message);
    }
}
