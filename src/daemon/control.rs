//! What the running daemon offers behind its sockets besides prompts.

use serde_json::Value;

use super::administer::pinned_as;
use super::core::Core;
use super::health::keyless;
use crate::admin::{
    self, Fetched, Keys, Listed, Pinned, Refreshed, Reloaded, ResetTo, RootPinned, Status,
    TimeReset, Trusted,
};
use crate::audit::{self, What};
use crate::auth::{Explanation, ToExplain};
use crate::authority::Refused;
use crate::keysync::Why;
use crate::prompt::Origin;
use crate::reason::{Refusal, RefuseReason};
use crate::telemetry::Format;
use crate::time::Timestamp;
use crate::transport::http;

impl http::Control for Core {
    fn ready(&self) -> Result<(), String> {
        if self.shutdown.is_draining() {
            return Err(admin::draining().to_string());
        }
        // Without a record nothing is answered.
        if let Some(store) = self.state.store_status() {
            return Err(admin::store_problem(&store).to_string());
        }
        let (snapshot, force) = (
            self.state.authority.snapshot(),
            self.state.authority.force(),
        );
        let unread = force.fleet.as_ref().map(|fleet| &fleet.unread);
        if let Some(unread) = unread.filter(|_| snapshot.opens_none()) {
            return Err(admin::unread(&unread.to_string()).to_string());
        }
        match keyless(&snapshot.realms) {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    fn status(&self) -> Status {
        self.diagnosed(self.outside())
    }

    fn whole_status(&self) -> Status {
        self.diagnosed(self.whole())
    }

    fn metrics(&self, format: Format) -> String {
        self.exposition.text(&self.gauges(), format)
    }

    fn reload(&self) -> Result<Reloaded, Vec<String>> {
        self.reload_configuration()
    }

    fn keys(&self) -> Listed {
        let realms = self.state.realm_statuses(&self.state.authority.snapshot());
        Listed { realms }
    }

    fn pin_keys(&self, realm: &str, jwks: &[u8]) -> Result<Pinned, Refused> {
        let pinned = self.state.authority.pin(realm, jwks, &Origin::Daemon)?;
        Ok(pinned_as(realm, &pinned))
    }

    fn trust(&self) -> Trusted {
        let now = self.state.authority.moment();
        Trusted {
            fleet: self.state.fleet_status(&self.config.load(), now),
        }
    }

    fn pin_root(&self, root: &[u8]) -> Result<RootPinned, Refused> {
        self.state.pin_root(root, &Origin::Daemon)
    }

    fn fetch_keys(&self, realm: &str) -> Result<Fetched, Refused> {
        let (set, pinned) = self.state.authority.fetch(realm)?;
        Ok(Fetched {
            keys: Keys::from(&set.keys),
            pinned,
        })
    }

    fn pin_held_keys(&self, realm: &str, fingerprint: &str) -> Result<Pinned, Refused> {
        let authority = &self.state.authority;
        let pinned = authority.pin_held(realm, fingerprint, &Origin::Daemon)?;
        Ok(pinned_as(realm, &pinned))
    }

    fn refresh_keys(&self, realm: &str) -> Result<Refreshed, Refused> {
        let outcome = self.state.authority.refresh(realm, Why::Asked);
        let outcome = outcome.ok_or_else(|| Refused::NotRefreshed(realm.to_owned()))?;
        let now = self.state.authority.moment().known;
        let (refresh, held) = self.state.refresh_status(realm, now);
        Ok(Refreshed {
            realm: realm.to_owned(),
            outcome: outcome.as_str().to_owned(),
            why: refresh.and_then(|refresh| refresh.why),
            changed: self.state.keys_changed(realm),
            held,
        })
    }

    fn explain_token(&self, asked: &ToExplain) -> Explanation {
        let snapshot = self.state.authority.snapshot();
        self.state.explain(&snapshot, asked)
    }

    fn reset_time(&self, to: ResetTo) -> Result<TimeReset, Refused> {
        let to = match to {
            ResetTo::Now => None,
            ResetTo::Seconds(seconds) => Some(Timestamp::from_secs(seconds)),
        };
        let authority = &self.state.authority;
        let (was, floor) = authority.reset_time(to, &Origin::Daemon)?;
        let mended = self.admission.mend_time(authority.moment());
        mended.map_err(Refused::Delivered)?;
        let (was, floor) = (was.to_string(), floor.to_string());
        Ok(TimeReset { was, floor })
    }

    fn audit(&self) -> audit::Log {
        self.state.log.clone()
    }

    fn record_refused(&self, origin: Origin, what: String, refusal: &Refusal) -> bool {
        self.admission.refuse_admin(origin, what, refusal) == audit::Noted::ByItself
    }

    fn record(&self, origin: Origin, what: &What, is_look: bool) -> Result<(), Refusal> {
        let log = &self.state.log;
        let now = log.clocks().now();
        if is_look {
            if let Err(error) = log.look(origin, what, now) {
                tracing::error!(%error, %what, "a look by the admin socket could not be recorded yet");
            }
            return Ok(());
        }
        if let Origin::Admin { uid, .. } = origin {
            self.admission.take_admin_turn(uid).inspect_err(|refusal| {
                self.record_refused(origin.clone(), what.to_string(), refusal);
            })?;
        }
        let recorded = log.change(origin.clone(), what.clone(), Value::Null, now);
        recorded.map(drop).map_err(|error| {
            tracing::error!(?origin, %what, %error, "a use of the admin socket could not be recorded");
            RefuseReason::AuditUnavailable.into()
        })
    }
}
