//! Prompts and answers over MQTT 5 and 3.1.1.
//!
//! A message's way: [`session`] receives it, [`topics`] routes it, [`request`] reads it,
//! [`serve`] brings it to admission in a task of its own, [`answer`] frames what comes back,
//! [`signature`] binds it to its request, [`outbox`] sees that the broker gets it, and the [`Machine`](crate::delivery::Machine) says when
//! the message may be acknowledged. What whoever has shown no token may be told, and where, is for
//! [`refusals`] and [`inboxes`] to say; what can't be told shows in [`untold`]. Delivery is at least
//! once: a PUBACK follows the broker's PUBACK for the last message of the answer, and the record that
//! the request is answered.

mod answer;
mod hints;
mod inboxes;
mod metrics;
mod outbox;
mod refusals;
mod request;
mod serve;
mod session;
mod signature;
mod spans;
mod status;
mod topics;
mod untold;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::admission::Admission;
use crate::audit;
use crate::identity::{Identity, Key, Nonces};
use crate::link::{self, Backoff, Broker};
use crate::shutdown::Shutdown;
use crate::telemetry::Registry;
use crate::time::{self, Known};

pub use metrics::Metrics;

/// What comes beside the body in a packet: the token (16 KiB at most), topics, correlation data.
const BESIDE_BODY: usize = 64 * 1024;
/// Unacknowledged messages on a connection beside; half of what waits in a link's queue.
const APART: u16 = 32;

/// No MQTT at all without them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub broker: Broker,
    /// Plain MQTT may go beyond this machine.
    pub plain_exposes_tokens: bool,
    /// Stable; default `slmd-{device}`.
    pub client_id: String,
    pub username: Option<String>,
    /// Where the password is read from at each connect, so that it may be a short-lived token.
    pub password_file: Option<PathBuf>,
    pub tls: Option<link::Tls>,
    pub keep_alive: Duration,
    pub session_expiry: Duration,
    pub receive_maximum: u16,
    /// The same as over HTTP.
    pub max_body: usize,
    /// With `{device}` and `{azp}`; default `slm/{device}/reply/{azp}/#`.
    pub reply_to: String,
    /// At most one streamed message per interval.
    pub fragment_interval: Duration,
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
    /// Tell the fleet what is in force; `None`: where one is followed.
    pub report: Option<bool>,
    /// Sign answers with the device's key.
    pub sign_answers: bool,
}

impl Settings {
    /// A connection beside, for something else: of its own client id, which keeps no session.
    pub fn apart(&self, what: &str, max_packet: u32, known: Known) -> link::Options {
        let client_id = format!("{}-{what}", self.client_id);
        link::Options {
            client_id,
            session_expiry: Duration::ZERO,
            // Acknowledged as they come.
            receive_maximum: APART,
            max_packet,
            will: None,
            ..options(self.clone(), String::new(), known)
        }
    }
}

/// What the transport is given to work with.
pub struct Parts {
    pub identity: Identity,
    pub key: Key,
    pub nonces: Nonces,
    pub admission: Admission,
    pub shutdown: Shutdown,
    pub audit: audit::Log,
    pub reports: Reports,
    /// When the broker's certificate has to be good.
    pub known: Known,
}

/// The device's report as it is to be published, where there is one.
pub type Reports = watch::Receiver<Option<Arc<str>>>;

/// The running transport. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    status: status::Cell,
    beats: Arc<AtomicU64>,
    /// Closed when the loop has ended.
    ended: watch::Receiver<()>,
}

impl Handle {
    pub fn status(&self) -> crate::admin::MqttStatus {
        self.status.get(time::instant())
    }

    /// Grows while the loop makes progress, broker or not.
    pub fn heartbeat(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Waits until it has left the broker.
    pub async fn join(self) {
        let mut ended = self.ended;
        while ended.changed().await.is_ok() {}
    }
}

/// Runs until `shutdown` ends; connects, reconnects, never gives up. To be called on the runtime.
pub fn start(settings: Settings, parts: Parts, registry: &mut Registry) -> Handle {
    let now = time::instant();
    let Parts {
        identity: Identity { device, .. },
        nonces,
        admission,
        shutdown,
        audit,
        ..
    } = parts;
    let topics = topics::Topics::new(&device, &settings.reply_to);
    let (max_body, fragment_interval) = (settings.max_body, settings.fragment_interval);
    let signs = settings.sign_answers;
    let signer = signs.then(|| signature::Signer::new(parts.key, &device));
    let backoff = Backoff::new(settings.reconnect_min, settings.reconnect_max);
    let options = options(settings, topics.status(), parts.known);
    let window = usize::from(options.receive_maximum);
    let (outbox, submissions) = outbox::Outbox::new(window);
    let (status, beats) = (status::Cell::default(), Arc::default());
    status.lost("not connected yet".to_owned());
    let context = serve::Context {
        admission,
        topics: Arc::new(topics),
        nonces,
        signer,
        outbox,
        metrics: Metrics::register(registry),
        status: status.clone(),
        fragment_interval,
        refusals: Mutex::new(refusals::Refusals::new(now)),
        inboxes: inboxes::Inboxes::default(),
    };
    let session = session::Session {
        options,
        context: Arc::new(context),
        max_body,
        backoff,
        notices: status::Notices::new(audit),
        shutdown,
        reports: parts.reports,
        beats: Arc::clone(&beats),
        state: session::Underway::new(now),
    };
    let (running, ended) = watch::channel(());
    tokio::spawn(async move {
        session.run(submissions).await;
        drop(running);
    });
    Handle {
        status,
        beats,
        ended,
    }
}

fn options(settings: Settings, status_topic: String, known: Known) -> link::Options {
    // Twice the body limit, so that a body somewhat too large gets its refusal: beyond the
    // packet limit the broker drops without a word.
    let max_packet = settings.max_body.saturating_mul(2) + BESIDE_BODY;
    link::Options {
        host: settings.broker.host,
        port: settings.broker.port,
        client_id: settings.client_id,
        username: settings.username,
        password_file: settings.password_file,
        tls: settings.tls,
        known,
        keep_alive: settings.keep_alive,
        session_expiry: settings.session_expiry,
        receive_maximum: settings.receive_maximum.max(1),
        max_packet: u32::try_from(max_packet).unwrap_or(u32::MAX),
        will: Some(link::Will {
            topic: status_topic,
            payload: status::will(),
        }),
        retain: true,
    }
}
