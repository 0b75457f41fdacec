//! Whether every loop still makes progress: what the watchdog is fed by.

use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::time;
use crate::transport::mqtt;

/// A part that hasn't beaten for this long is stuck. Generous, because one chunk of prefill takes
/// seconds on a slow core.
const STUCK: Duration = Duration::from_secs(60);

/// The last beat seen of each part. A broker that is away or a full disk is no lack of progress.
pub(super) struct Health {
    engine: Engine,
    mqtt: Option<mqtt::Handle>,
    beats: Vec<Beat>,
}

#[derive(Clone, Copy)]
struct Beat {
    value: u64,
    seen: Instant,
}

impl Health {
    pub(super) fn new(engine: Engine, mqtt: Option<mqtt::Handle>) -> Health {
        let mut health = Health {
            engine,
            mqtt,
            beats: Vec::new(),
        };
        let seen = time::instant();
        let values = health.values();
        health.beats = values
            .into_iter()
            .map(|value| Beat { value, seen })
            .collect();
        health
    }

    pub(super) fn is_alive(&mut self, now: Instant) -> bool {
        let values = self.values();
        for (beat, value) in self.beats.iter_mut().zip(values) {
            if beat.value != value {
                *beat = Beat { value, seen: now };
            }
        }
        let alive = |beat: &Beat| now.saturating_duration_since(beat.seen) < STUCK;
        self.beats.iter().all(alive)
    }

    fn values(&self) -> Vec<u64> {
        let mqtt = self.mqtt.iter().map(mqtt::Handle::heartbeat);
        std::iter::once(self.engine.heartbeat())
            .chain(mqtt)
            .collect()
    }
}
