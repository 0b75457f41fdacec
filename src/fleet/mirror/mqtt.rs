//! A broker's retained messages, on a connection of their own: no flood of them delays a prompt.
//!
//! MQTT knows no "not found" and no order across topics, and a wildcard would bring whatever anybody
//! has put beneath it. So each file is asked for by its exact topic: what nobody asks for never comes,
//! and nothing has to be thrown away. A file whose subscription was granted and that didn't come within
//! [`QUIET`] isn't there. Two topics stay subscribed: the timestamp's, whose change is news, and that of
//! the root that would come next, so that its absence is known and costs no wait. So do those that are
//! watched, which are no files of the fleet's: what comes there is handed on as it is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{is_plain, unreachable};
use crate::link::{self, Ack, Backoff, Event, Events, Failure, Link, Lost, Message, Subscription};
use crate::shutdown::Shutdown;
use crate::time;
use crate::trust::{Mirror, MirrorError};

/// What hasn't come by so long after its SUBACK isn't there.
const QUIET: Duration = Duration::from_secs(2);
/// For a broker to answer a SUBSCRIBE, and for what is asked to wait for a connection that is being
/// made.
const GRANT: Duration = Duration::from_secs(8);
/// A signed file of a fleet with its topic; the broker drops what is larger.
pub const MAX_PACKET: u32 = 64 * 1024;
const TICK: Duration = Duration::from_millis(200);
/// Acknowledgements that may wait for the link's queue: brokers send more at once than our Receive
/// Maximum allows (mosquitto 2.0 does so in a flood).
const UNACKNOWLEDGED: usize = 4096;

const TIMESTAMP: &str = "metadata/timestamp.json";

#[derive(Debug, Clone)]
pub struct Settings {
    pub options: link::Options,
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
    /// `slm/trust/{fleet}`.
    pub prefix: String,
    /// Topics beneath it whose content is handed on.
    pub watched: Vec<String>,
}

/// A line to the broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker {
    asks: mpsc::Sender<Ask>,
    news: Arc<Notify>,
    watched: Arc<Watched>,
}

/// What is watched, and what it holds: the newest alone, so that a flood costs no memory.
type Watched = BTreeMap<String, watch::Sender<Option<Bytes>>>;

#[derive(Debug)]
struct Ask {
    /// `metadata/…` or `targets/…`.
    file: String,
    since: Instant,
    answer: oneshot::Sender<Answer>,
}

type Answer = Result<Option<Bytes>, MirrorError>;

impl Broker {
    /// Connects and stays connected until `shutdown` ends. To be called on the runtime.
    pub fn start(settings: Settings, shutdown: Shutdown) -> Broker {
        let (asks, asked) = mpsc::channel(1);
        let watched = settings.watched.iter().cloned();
        let watched = watched.map(|file| (file, watch::Sender::new(None)));
        let broker = Broker {
            asks,
            news: Arc::default(),
            watched: Arc::new(watched.collect()),
        };
        let session = Session {
            backoff: Backoff::new(settings.reconnect_min, settings.reconnect_max),
            settings,
            news: Arc::clone(&broker.news),
            problem: String::new(),
            watched: Arc::clone(&broker.watched),
            live: None,
            retry_at: time::instant(),
            files: BTreeMap::new(),
            ask: None,
        };
        tokio::spawn(session.run(asked, shutdown));
        broker
    }

    /// Resolves when the timestamp has changed since the last time.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// What one of the watched topics holds, as it comes, and what has come already.
    pub fn watched(&self, file: &str) -> Option<watch::Receiver<Option<Bytes>>> {
        let mut held = self.watched.get(file)?.subscribe();
        held.mark_changed();
        Some(held)
    }

    fn get(&self, file: String, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        if !is_plain(&file) {
            return Ok(None);
        }
        let (answer, answered) = oneshot::channel();
        let ask = Ask {
            file,
            since: time::instant(),
            answer,
        };
        let down = || unreachable("the daemon is going down");
        self.asks.blocking_send(ask).map_err(|_| down())?;
        match answered.blocking_recv().map_err(|_| down())?? {
            Some(bytes) if bytes.len() as u64 > limit => Err(MirrorError::TooLarge(limit)),
            found => Ok(found.map(Vec::from)),
        }
    }
}

/// Blocks; not on the runtime's own threads.
impl Mirror for Broker {
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        self.get(format!("metadata/{name}"), limit)
    }

    fn target(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        self.get(format!("targets/{path}"), limit)
    }
}

/// The task that owns the connection.
struct Session {
    settings: Settings,
    backoff: Backoff,
    news: Arc<Notify>,
    /// Why there is no connection.
    problem: String,
    watched: Arc<Watched>,
    live: Option<Live>,
    retry_at: Instant,
    /// The files that are subscribed to: the timestamp, the next root, what is asked for.
    files: BTreeMap<String, File>,
    ask: Option<Ask>,
}

struct Live {
    link: Link,
    events: Events,
    up: Option<Instant>,
    /// Files whose SUBACK is to come, in order.
    subscribing: VecDeque<String>,
    /// In the order of their messages.
    acks: VecDeque<Ack>,
}

struct File {
    content: Option<Bytes>,
    asked: Instant,
    granted: Option<Instant>,
    denied: Option<String>,
}

impl File {
    fn new() -> File {
        File {
            content: None,
            asked: time::instant(),
            granted: None,
            denied: None,
        }
    }

    /// What is known of it by now, if that is enough.
    fn answer(&self, now: Instant) -> Option<Answer> {
        let since = |at: Instant| now.saturating_duration_since(at);
        match (&self.content, &self.denied, self.granted) {
            (Some(content), ..) => Some(Ok(Some(content.clone()))),
            (None, Some(why), _) => Some(Err(unreachable(&format!(
                "the broker denies the subscription: {why}"
            )))),
            (None, None, Some(granted)) if since(granted) >= QUIET => Some(Ok(None)),
            (None, None, None) if since(self.asked) >= GRANT => {
                Some(Err(unreachable("the broker didn't answer a SUBSCRIBE")))
            }
            _ => None,
        }
    }
}

impl Session {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>, shutdown: Shutdown) {
        // Before the first ask, which would find no connection on its way.
        self.connect();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = next(&mut self.live) => self.event(event),
                Some(ask) = asks.recv(), if self.ask.is_none() => self.begin(ask),
                () = tokio::time::sleep_until(self.retry_at.into()), if self.live.is_none() => {
                    self.connect();
                }
                _ = tick.tick(), if self.ask.is_some() || self.owes() => {}
                () = shutdown.ended() => break,
            }
            self.acknowledge();
            self.answer();
        }
        if let Some(live) = &self.live {
            let _ = live.link.disconnect();
        }
    }

    fn connect(&mut self) {
        match Link::connect(&self.settings.options) {
            Ok((link, events)) => {
                self.live = Some(Live {
                    link,
                    events,
                    up: None,
                    subscribing: VecDeque::new(),
                    acks: VecDeque::new(),
                });
            }
            Err(lost) => self.lost(&lost),
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected { .. } => {
                if let Some(live) = &mut self.live {
                    live.up = Some(time::instant());
                }
                self.subscribe(TIMESTAMP);
                self.seek();
                let watched: Vec<String> = self.watched.keys().cloned().collect();
                watched.iter().for_each(|file| self.subscribe(file));
            }
            Event::Subscribed(codes) => self.subscribed(&codes),
            Event::Message(message) => self.message(&message),
            Event::Acknowledged { .. } => {}
            Event::Lost(lost) => self.lost(&lost),
        }
    }

    fn subscribe(&mut self, file: &str) {
        self.files.insert(file.to_owned(), File::new());
        let subscription = Subscription {
            filter: format!("{}/{file}", self.settings.prefix),
            at_least_once: true,
            retained: true,
        };
        if let Some(live) = &mut self.live
            && live.link.subscribe(&[subscription]).is_ok()
        {
            live.subscribing.push_back(file.to_owned());
        }
    }

    fn forget(&mut self, file: &str) {
        if self.files.remove(file).is_none() {
            return;
        }
        let topic = format!("{}/{file}", self.settings.prefix);
        if let Some(live) = &self.live {
            // One that stays subscribed brings what is dropped.
            let _ = live.link.unsubscribe(&topic);
        }
    }

    fn subscribed(&mut self, codes: &[Result<bool, String>]) {
        let live = self.live.as_mut();
        let Some(name) = live.and_then(|live| live.subscribing.pop_front()) else {
            return;
        };
        let Some(file) = self.files.get_mut(&name) else {
            return;
        };
        match codes.first() {
            Some(Err(why)) => {
                file.denied = Some(why.clone());
                if name == TIMESTAMP || self.watched.contains_key(&name) {
                    let topics = format!("{}/#", self.settings.prefix);
                    tracing::warn!(topics, why, "the broker denies the fleet's topics");
                }
            }
            _ => file.granted = Some(time::instant()),
        }
    }

    fn message(&mut self, message: &Message) {
        if let (Some(ack), Some(live)) = (message.ack, &mut self.live) {
            if live.acks.len() >= UNACKNOWLEDGED {
                return self.lost(&Lost::Network("the connection is stuck".to_owned()));
            }
            live.acks.push_back(ack);
        }
        let name = message.topic.strip_prefix(&self.settings.prefix);
        let Some(name) = name.and_then(|name| name.strip_prefix('/')) else {
            return;
        };
        let Some(file) = self.files.get_mut(name) else {
            return;
        };
        // An empty retained message takes back the one before.
        let content = (!message.payload.is_empty()).then(|| message.payload.clone());
        let changed = content != file.content;
        file.content = content;
        if let Some(watched) = self.watched.get(name) {
            watched.send_replace(file.content.clone());
        }
        if changed && (name == TIMESTAMP || is_root(name)) {
            self.news.notify_one();
        }
    }

    fn owes(&self) -> bool {
        self.live.as_ref().is_some_and(|live| !live.acks.is_empty())
    }

    /// As far as there is room; the rest waits.
    fn acknowledge(&mut self) {
        let Some(live) = &mut self.live else { return };
        while let Some(ack) = live.acks.front()
            && live.link.try_ack(*ack).is_ok()
        {
            live.acks.pop_front();
        }
    }

    /// On a connection that is being made, once it is.
    fn begin(&mut self, ask: Ask) {
        self.ask = Some(ask);
        if self.live.as_ref().is_some_and(|live| live.up.is_some()) {
            self.seek();
        }
    }

    /// Subscribes to what is asked for.
    fn seek(&mut self) {
        let asked = self.ask.as_ref().map(|ask| ask.file.clone());
        let Some(file) = asked.filter(|file| !self.files.contains_key(file)) else {
            return;
        };
        if is_root(&file) {
            let roots = self.files.keys().filter(|name| is_root(name));
            let roots: Vec<String> = roots.cloned().collect();
            roots.iter().for_each(|root| self.forget(root));
        }
        self.subscribe(&file);
    }

    /// Answers what is asked, as soon as that is known.
    fn answer(&mut self) {
        let Some(ask) = &self.ask else { return };
        let now = time::instant();
        let waited = now.saturating_duration_since(ask.since);
        let answer = match (&self.live, self.files.get(&ask.file)) {
            (None, _) => Some(Err(unreachable(&self.problem))),
            (Some(_), Some(file)) => file.answer(now),
            (Some(_), None) if waited < GRANT => None,
            (Some(_), None) => Some(Err(unreachable("the broker isn't connected yet"))),
        };
        let Some(answer) = answer else { return };
        if let Some(Ask {
            file, answer: to, ..
        }) = self.ask.take()
        {
            if file != TIMESTAMP && !is_root(&file) {
                self.forget(&file);
            }
            // Whoever asked may have left.
            let _ = to.send(answer);
        }
    }

    fn lost(&mut self, lost: &Lost) {
        let up = self.live.take().and_then(|live| live.up);
        let now = time::instant();
        let lived = up.map(|up| now.saturating_duration_since(up));
        let failure = Failure::of(lost, lived);
        self.retry_at = now + self.backoff.pause(failure, crate::identity::chance());
        tracing::info!(%lost, "no broker for the fleet's files");
        self.problem = lost.to_string();
        self.files.clear();
    }
}

/// `metadata/2.root.json`.
fn is_root(name: &str) -> bool {
    let version = name.strip_prefix("metadata/");
    let version = version.and_then(|name| name.strip_suffix(".root.json"));
    version.is_some_and(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()))
}

/// Cancel-safe.
async fn next(live: &mut Option<Live>) -> Event {
    let Some(live) = live else {
        return std::future::pending().await;
    };
    let failed = || Event::Lost(Lost::Network("the connection's task failed".to_owned()));
    live.events.recv().await.unwrap_or_else(failed)
}
