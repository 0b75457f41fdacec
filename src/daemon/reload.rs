//! Reloading: a configuration is prepared whole, then put in force whole.
//!
//! [`Core::prepare`] does everything that can fail and changes nothing; [`Core::put_in_force`]
//! can't fail. So a refused configuration leaves no trace, however late it was refused.

use super::core::Core;
use super::state::Prepared;
use crate::admin::Reloaded;
use crate::config::Config;
use crate::transport::http::Renewed;

/// A configuration with all that it needs, recorded in the audit log.
struct Reload {
    running: Config,
    certificates: Renewed,
    prepared: Prepared,
}

impl Core {
    /// Reads the file whole, checks it whole, and puts in force what can change while running.
    /// Returns what was applied and what waits for a restart.
    pub(super) fn reload_configuration(&self) -> Result<Reloaded, Vec<String>> {
        let _turn = self.replacing();
        let (reload, reloaded) = self.prepare()?;
        self.put_in_force(reload);
        Ok(reloaded)
    }

    /// The record comes last, and is on the disk when this returns: what it tells can only
    /// succeed.
    fn prepare(&self) -> Result<(Reload, Reloaded), Vec<String>> {
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
        let prepared = self.state.prepare(&running);
        let prepared = prepared.map_err(|e| vec![e.to_string()])?;
        let reloaded = Reloaded {
            realms: running.realms.len(),
            needs_restart: needs_restart.into_iter().map(str::to_owned).collect(),
        };
        let recorded = self.state.record("configuration_reloaded", &reloaded);
        recorded.map_err(|e| vec![e.to_string()])?;
        let reload = Reload {
            running,
            certificates,
            prepared,
        };
        Ok((reload, reloaded))
    }

    /// The snapshot last: it looks again at what runs, by all that is in force then.
    fn put_in_force(&self, reload: Reload) {
        self.certificates.renew(reload.certificates);
        self.admission
            .replace_settings(reload.running.admission.clone());
        self.state.log.set_settings(reload.running.audit.clone());
        let snapshot = self.state.follow(reload.prepared);
        self.config.store(reload.running.into());
        self.admission.replace_snapshot(snapshot);
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
