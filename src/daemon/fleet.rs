//! Following the fleet: its mirrors at each interval, and the broker whenever that has news, also of
//! what witnesses have cosigned.

use std::time::Duration;

use tokio::sync::watch;

use super::State;
use crate::admin::{FleetStatus, MirrorStatus, RootPinned, TrustFailure};
use crate::authority::{Authority, Refused};
use crate::config::Config;
use crate::digest::{hex, sha256};
use crate::fleet::mirror::mqtt::{self, Broker};
use crate::fleet::{Follower, Lane, MirrorReport, Place};
use crate::https::HttpsError;
use crate::identity::chance;
use crate::prompt::Origin;
use crate::shutdown::Shutdown;
use crate::time::{self, Moment};
use crate::trust::report::cosigned_file;
use crate::witness::Witnesses;

/// Between two rounds: whoever floods a topic costs no more than this.
const GAP: Duration = Duration::from_millis(250);
/// The first pause after a look that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Asks the configured mirrors from now on. To be called on the runtime.
pub(super) fn follow(
    config: &Config,
    authority: &Authority,
    witnesses: &Witnesses,
    shutdown: &Shutdown,
) -> Result<(), HttpsError> {
    let Some(settings) = &config.fleet else {
        return Ok(());
    };
    let broker = config.mqtt.as_ref();
    let broker = broker.filter(|_| settings.mirrors.contains(&Place::Mqtt));
    let broker = broker.map(|mqtt| {
        let mut options = mqtt.apart("trust", mqtt::MAX_PACKET, authority.known());
        if settings.username.is_some() {
            options.username.clone_from(&settings.username);
            options.password_file.clone_from(&settings.password_file);
        }
        let settings = mqtt::Settings {
            options,
            reconnect_min: mqtt.reconnect_min,
            reconnect_max: mqtt.reconnect_max,
            prefix: format!("slm/trust/{}", settings.name),
            watched: cosigned(config, witnesses).map(|(_, file)| file).collect(),
        };
        Broker::start(settings, shutdown.clone())
    });
    if let Some(broker) = &broker {
        hear(config, broker, witnesses, shutdown);
    }
    authority.follow_fleet(Follower::new(settings, broker.as_ref())?);
    let others = settings.mirrors.iter().any(|place| *place != Place::Mqtt);
    let spawn = |lane, broker| {
        let round = Rounds {
            authority: authority.clone(),
            lane,
            broker,
            pace: Pace {
                interval: settings.interval,
                failed: 0,
            },
            due: authority.fleet_is_due(),
        };
        tokio::spawn(round.run(shutdown.clone()));
    };
    if broker.is_some() {
        spawn(Lane::Broker, broker);
    }
    if others {
        spawn(Lane::Others, None);
    }
    Ok(())
}

/// Where witnesses bring what they have cosigned, by their number.
fn cosigned<'a>(
    config: &'a Config,
    witnesses: &'a Witnesses,
) -> impl Iterator<Item = (usize, String)> + 'a {
    let device = &config.identity.device;
    let heard = witnesses.heard();
    heard.map(move |(number, name)| (number, cosigned_file(device, name)))
}

/// Takes up what they bring.
fn hear(config: &Config, broker: &Broker, witnesses: &Witnesses, shutdown: &Shutdown) {
    for (number, file) in cosigned(config, witnesses) {
        let Some(mut notes) = broker.watched(&file) else {
            continue;
        };
        let (witnesses, shutdown) = (witnesses.clone(), shutdown.clone());
        let hear = async move {
            while notes.changed().await.is_ok() {
                let note = notes.borrow_and_update().clone();
                let Some(note) = note else { continue };
                let witnesses = witnesses.clone();
                let take = move || witnesses.take(number, &note);
                if tokio::task::spawn_blocking(take).await.is_err() {
                    tracing::error!("taking up a witness's note panicked");
                }
                tokio::time::sleep(GAP).await;
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = hear => {}
                () = shutdown.ended() => {}
            }
        });
    }
}

/// The rounds of one lane: a web server that hangs delays no revocation that the broker has.
struct Rounds {
    authority: Authority,
    lane: Lane,
    broker: Option<Broker>,
    pace: Pace,
    /// Changes when a root was pinned, or other realms are configured.
    due: watch::Receiver<u64>,
}

impl Rounds {
    /// Also while draining: what still runs can be revoked.
    async fn run(mut self, shutdown: Shutdown) {
        let mut next = time::instant();
        loop {
            let regular = tokio::select! {
                () = tokio::time::sleep_until(next.into()) => true,
                () = news(self.broker.as_ref()) => false,
                Ok(()) = self.due.changed() => false,
                () = shutdown.ended() => return,
            };
            let (authority, lane) = (self.authority.clone(), self.lane);
            let round = tokio::task::spawn_blocking(move || authority.look_at_fleet(lane));
            let good = round.await.unwrap_or_else(|_| {
                tracing::error!("a look at the fleet's mirrors panicked");
                false
            });
            let now = time::instant();
            next = match regular {
                true => now + self.pace.due(good, chance()),
                false if good => next,
                false => next.min(now + self.pace.again(chance())),
            };
            tokio::time::sleep(GAP).await;
        }
    }
}

/// How long after a look the next one comes without news. Pure.
struct Pace {
    interval: Duration,
    /// How many looks in a row that were due have failed. One that news has brought doesn't count:
    /// whoever makes up news would set the pace.
    failed: u32,
}

impl Pace {
    /// After one that was due.
    fn due(&mut self, good: bool, chance: f64) -> Duration {
        if good {
            self.failed = 0;
            // A fleet that was started together doesn't ask together.
            return self.interval.mul_f64(0.9 + 0.2 * chance);
        }
        let pause = self.again(chance);
        self.failed = self.failed.saturating_add(1);
        pause
    }

    /// After one that failed.
    fn again(&self, chance: f64) -> Duration {
        let doubled = RETRY.saturating_mul(2_u32.saturating_pow(self.failed));
        doubled.min(self.interval).mul_f64(0.5 + chance)
    }
}

async fn news(broker: Option<&Broker>) {
    match broker {
        Some(broker) => broker.news().await,
        None => std::future::pending().await,
    }
}

impl State {
    /// Trusts a root that a person has chosen.
    pub fn pin_root(&self, root: &[u8], by: &Origin) -> Result<RootPinned, Refused> {
        let version = self.authority.pin_root(root, by)?;
        Ok(RootPinned {
            fingerprint: hex(&sha256(root)),
            version,
        })
    }

    /// `None`: this device follows no fleet.
    pub fn fleet_status(&self, config: &Config, now: Moment) -> Option<FleetStatus> {
        let force = self.authority.force();
        let fleet = force.fleet.as_ref();
        let settings = config.fleet.as_ref();
        if fleet.is_none() && settings.is_none() {
            return None;
        }
        let mirror = |report: MirrorReport| MirrorStatus {
            mirror: report.place,
            asked_at: report.asked_at.map(|at| at.to_string()),
            refused: report.error.map(|error| TrustFailure {
                reason: error.name().to_owned(),
                why: error.to_string(),
            }),
        };
        let mirrors = self.authority.mirrors().unwrap_or_default();
        let mut status = FleetStatus {
            name: settings.map(|settings| settings.name.clone()),
            mirrors: mirrors.into_iter().map(mirror).collect(),
            ..FleetStatus::default()
        };
        if let Some(fleet) = fleet {
            let signed = &fleet.signed;
            let unread = &fleet.unread;
            status.unread = (!unread.is_empty()).then(|| unread.to_string());
            let root = signed.held.root();
            status.root_fingerprint = (!root.is_empty()).then(|| hex(&sha256(root)));
            status.root = Some(signed.versions.root);
            status.timestamp = signed.versions.timestamp;
            status.snapshot = signed.versions.snapshot;
            status.targets = signed.versions.targets;
            status.revocation = signed.versions.revocation;
            status.expires_at = signed.expires.map(|at| at.to_string());
            status.expired = signed.expires.is_some_and(|at| at <= now.known);
            let realms = fleet.denied.iter();
            status.revoked = realms
                .map(|(realm, list)| (realm.clone(), list.entries()))
                .collect();
        }
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_fails_is_followed_by_others_up_to_the_interval() {
        let mut pace = Pace {
            interval: Duration::from_secs(60),
            failed: 0,
        };
        let due = |pace: &mut Pace, good| pace.due(good, 0.5).as_secs();
        let failed = [5, 10, 20, 40, 60, 60].map(|_| due(&mut pace, false));
        assert_eq!(failed, [5, 10, 20, 40, 60, 60]);
        assert_eq!(due(&mut pace, true), 60);
        assert_eq!(due(&mut pace, false), 5, "a good one begins anew");
        // News that is none brings the next look no closer each time.
        assert_eq!(due(&mut pace, false), 10);
        let by_news = [(); 100].map(|()| pace.again(0.5).as_secs());
        assert_eq!(by_news, [20; 100]);
        for _ in 0..100 {
            let _ = pace.due(false, 0.5);
        }
        assert_eq!(due(&mut pace, false), 60);
    }

    #[test]
    fn chance_spreads_both_and_an_interval_below_the_first_pause_holds() {
        let mut pace = Pace {
            interval: Duration::from_secs(1),
            failed: 0,
        };
        for (good, chance, pause) in [
            (true, 0.0, 900),
            (true, 1.0, 1100),
            (false, 0.0, 500),
            (false, 1.0, 1500),
        ] {
            let due = pace.due(good, chance);
            assert_eq!(due.as_millis(), pause, "{good} {chance}");
        }
    }
}
