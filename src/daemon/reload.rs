//! Reloading: whatever can fail comes before anything is in force.

use std::sync::PoisonError;

use super::core::Core;
use super::state::configured;
use crate::admin::Reloaded;
use crate::config::Config;

impl Core {
    /// Reads the file whole, checks it whole, and puts in force what can change while running, or
    /// nothing of it. Returns what was applied and what waits for a restart.
    pub(super) fn reload_configuration(&self) -> Result<Reloaded, Vec<String>> {
        let reloading = self.reloading.lock();
        let _turn = reloading.unwrap_or_else(PoisonError::into_inner);
        let Some(source) = &self.source else {
            return Err(vec!["started without a configuration file".to_owned()]);
        };
        let new = Config::load(source)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let certificates = self.certificates.read();
        let certificates = certificates
            .map_err(|e| vec![format!("http.tls: {e}; the old certificate stays in force")])?;
        let old = self.config.load_full();
        let needs_restart = needs_restart(&old, &new);
        let running = running_config(&old, new);
        let reloaded = Reloaded {
            realms: running.realms.len(),
            needs_restart: needs_restart.into_iter().map(str::to_owned).collect(),
        };
        let told = serde_json::to_value(&reloaded).map_err(|e| vec![e.to_string()])?;
        let authority = &self.state.authority;
        let followed = authority.prepare(configured(&running));
        let followed = followed.and_then(|prepared| authority.follow(prepared, Some(told)));
        followed.map_err(|e| vec![e.to_string()])?;
        // From here on nothing can fail.
        self.certificates.renew(certificates);
        self.admission.replace_settings(running.admission.clone());
        self.state.log.set_settings(running.audit.clone());
        self.config.store(running.into());
        Ok(reloaded)
    }
}

/// Sections whose settings are taken at start only, and differ.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let differs =
        |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| format!("{a:?}") != format!("{b:?}");
    let mut sections = Vec::new();
    if differs(&old.identity.device, &new.identity.device) {
        sections.push("device");
    }
    if old.state_dir != new.state_dir {
        sections.push("state_dir");
    }
    if old.models_dir != new.models_dir || models(old) != models(new) {
        sections.push("models");
    }
    if differs(&old.http, &new.http) {
        sections.push("http");
    }
    if differs(&old.mqtt, &new.mqtt) {
        sections.push("mqtt");
    }
    if differs(&old.engine, &new.engine) {
        sections.push("engine");
    }
    if old.log != new.log {
        sections.push("log");
    }
    sections
}

fn models(config: &Config) -> std::collections::BTreeSet<&str> {
    let endpoints = config.realms.iter().flat_map(|realm| &realm.endpoints);
    endpoints.map(|endpoint| endpoint.model.as_str()).collect()
}

/// The new configuration with the parts of the old that stay until a restart.
fn running_config(old: &Config, new: Config) -> Config {
    Config {
        identity: old.identity.clone(),
        state_dir: old.state_dir.clone(),
        models_dir: old.models_dir.clone(),
        http: old.http.clone(),
        mqtt: old.mqtt.clone(),
        engine: old.engine.clone(),
        log: old.log.clone(),
        ..new
    }
}
