//! Reloading: whatever can fail comes before anything is in force.

use super::core::Core;
use super::models::check_instructions;
use crate::admin::Reloaded;
use crate::config::Config;

impl Core {
    /// Reads the file whole, checks it whole, and puts in force what can change while running, or
    /// nothing of it. Returns what was applied and what waits for a restart.
    pub(super) fn reload_configuration(&self) -> Result<Reloaded, Vec<String>> {
        let _turn = self.reloading.lock();
        let reloaded = self.read_again();
        let mut last = self.last_reload.lock();
        last.taken = reloaded.is_ok();
        if last.taken {
            last.in_force_since = self.state.authority.clocks().now();
        }
        reloaded
    }

    fn read_again(&self) -> Result<Reloaded, Vec<String>> {
        let Some(source) = &self.source else {
            return Err(vec!["started without a configuration file".to_owned()]);
        };
        let mut running = Config::load(source)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let certificates = self.certificates.read();
        let certificates = certificates
            .map_err(|e| vec![format!("http.tls: {e}; the old certificate stays in force")])?;
        let needs_restart = running.keep_until_restart(&self.config.load());
        check_instructions(&self.engine, &running).map_err(|e| vec![e.to_string()])?;
        let reloaded = Reloaded {
            realms: running.realms.len(),
            needs_restart,
        };
        let told = serde_json::to_value(&reloaded).map_err(|e| vec![e.to_string()])?;
        let authority = &self.state.authority;
        let followed = authority.prepare(running.realms.clone(), running.listed_models_only());
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
