//! The loop that owns the broker connection: events in, tasks and acknowledgements out.
//!
//! One task, which never waits for anything but its next event: requests are served by tasks of
//! their own, their publications come back through the outbox, and the
//! [`Machine`](crate::delivery::Machine) says what is to be done with a message and what may be
//! acknowledged. Connections come and go; machine, outbox and running requests stay.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{Id, JoinError, JoinSet};

use super::Reports;
use super::outbox::{Pending, Submission};
use super::request;
use super::serve::{self, Came, Context, Deciding};
use super::status::{self, Notices};
use super::topics::{Form, Route};
use crate::audit::Change;
use crate::delivery::{self, Arrival, Arrived, End, Exact};
use crate::identity;
use crate::link::{self, Backoff, Event, Events, Failure, Link, Lost, Message, Publication};
use crate::prompt::Dialect;
use crate::shutdown::Shutdown;
use crate::time;

/// The heart beats at least so often, whatever the broker does.
const TICK: Duration = Duration::from_secs(1);
/// For the broker to answer a SUBSCRIBE.
const SUBSCRIBE: Duration = Duration::from_secs(30);
/// A denied subscription is asked for again after so long.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(60);
/// For the last status and the DISCONNECT.
const LEAVE: Duration = Duration::from_secs(2);
/// Messages whose token may be undecided at once. While there are as many, none is read: deciding
/// takes milliseconds, and waits for nothing that the broker has to send. More than may wait for
/// an issuer's keys at once (`admission`), so that unknown keys can't hold up the others.
const UNDECIDED: usize = 48;
/// For the broker to acknowledge what was published. A broker that is fed faster than it can
/// deliver may drop an acknowledgement (mosquitto's `max_queued_messages`), and only a new
/// connection brings it.
const ACKNOWLEDGE: Duration = Duration::from_secs(30);
/// Reading that waited for so much of a tick was too slow for the broker, which may have dropped
/// messages that it counts as sent.
const TOO_SLOW: Duration = Duration::from_millis(500);
/// Between two connections that are made anew for it.
const ANEW: Duration = Duration::from_secs(30);
/// Connections in a row that ended without a word right after they were made, before it is
/// reported.
const FLAPS: u32 = 3;

pub(super) struct Session {
    pub(super) options: link::Options,
    pub(super) context: Arc<Context>,
    pub(super) max_body: usize,
    pub(super) backoff: Backoff,
    pub(super) notices: Notices,
    pub(super) shutdown: Shutdown,
    pub(super) reports: Reports,
    pub(super) beats: Arc<AtomicU64>,
    pub(super) state: Underway,
}

/// What changes.
pub(super) struct Underway {
    live: Option<Live>,
    retry_at: Instant,
    connections: u64,
    pending: Pending,
    tasks: JoinSet<End>,
    /// Of each task, its message.
    messages: HashMap<Id, delivery::Id>,
    cancels: JoinSet<()>,
    undecided: Arc<Semaphore>,
    held: Held,
}

/// The present connection.
struct Live {
    link: Link,
    events: Events,
    /// Since CONNACK.
    up: Option<Instant>,
    asked: Option<Instant>,
    subscribed: bool,
    denied: bool,
    /// The DPoP nonce last published.
    nonce: Option<String>,
    /// The report last published.
    report: Option<Arc<str>>,
    /// The broker may have dropped messages that it counts as sent.
    overrun: bool,
}

impl Underway {
    pub(super) fn new(now: Instant) -> Underway {
        Underway {
            live: None,
            retry_at: now,
            connections: 0,
            pending: Pending::default(),
            tasks: JoinSet::new(),
            messages: HashMap::new(),
            cancels: JoinSet::new(),
            undecided: Arc::new(Semaphore::new(UNDECIDED)),
            held: Held::default(),
        }
    }
}

impl Session {
    pub(super) async fn run(mut self, mut submissions: mpsc::Receiver<Submission>) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            self.beats.fetch_add(1, Ordering::Relaxed);
            let state = &mut self.state;
            tokio::select! {
                (event, deciding) = next(&mut state.live, &state.undecided, &mut state.held) => {
                    self.event(event, deciding);
                }
                Some(joined) = state.tasks.join_next_with_id() => self.served(joined),
                Some(_) = state.cancels.join_next() => {}
                Some(submission) = submissions.recv() => state.pending.add(submission),
                () = tokio::time::sleep_until(state.retry_at.into()), if state.live.is_none() => {
                    self.connect();
                }
                _ = tick.tick() => self.tick(),
                () = self.shutdown.draining(), if !self.shutdown.is_draining() => {}
                () = self.shutdown.ended() => break,
            }
            self.flush();
            if self.shutdown.is_draining() && self.is_idle() {
                break;
            }
        }
        drop(submissions);
        self.release().await;
        self.leave().await;
    }

    fn connect(&mut self) {
        let (link, events) = match Link::connect(&self.options) {
            Ok(connected) => connected,
            Err(lost) => return self.lost(&lost),
        };
        self.state.live = Some(Live {
            link,
            events,
            up: None,
            asked: None,
            subscribed: false,
            denied: false,
            nonce: None,
            report: None,
            overrun: false,
        });
    }

    fn event(&mut self, event: Event, deciding: Deciding) {
        match event {
            Event::Connected {
                at_least_once: false,
                ..
            } => self.lost(&Lost::Refused(link::NEEDS_QOS_1.to_owned())),
            Event::Connected {
                session_present,
                max_packet,
                retains,
                ..
            } => {
                tracing::info!(session_present, max_packet, retains, "broker connected");
                // For the next connection: a broker may come back with what it lacked.
                self.options.retain = retains;
                self.connected(session_present);
            }
            Event::Subscribed(codes) => self.subscribed(&codes),
            Event::Message(message) => self.message(&message, deciding),
            Event::Acknowledged { token, result } => {
                if let Some(why) = self.state.pending.acknowledged(token, result) {
                    let problem = format!("the broker refused our status message: {why}");
                    self.context.status.answer_refused(problem);
                }
            }
            Event::Lost(lost) => self.lost(&lost),
        }
    }

    fn connected(&mut self, session_present: bool) {
        let reconnect = self.state.connections > 0;
        self.state.connections += 1;
        self.context.status.connected(reconnect);
        self.context.metrics.connected(true);
        if reconnect {
            self.context.metrics.reconnect();
        }
        self.context
            .admission
            .deliveries()
            .connected(session_present);
        if let Some(live) = &mut self.state.live {
            live.up = Some(time::instant());
        }
        self.subscribe();
    }

    fn subscribe(&mut self) {
        if let Some(live) = &mut self.state.live {
            // The queue of a new link is empty, and a later one is asked for at rest.
            let _ = live.link.subscribe(&self.context.topics.subscriptions());
            live.asked = Some(time::instant());
            (live.subscribed, live.denied) = (false, false);
        }
    }

    /// Says "up" once requests can arrive, and to the operator what can't.
    fn subscribed(&mut self, codes: &[Result<bool, String>]) {
        let subscriptions = self.context.topics.subscriptions();
        let denied: Vec<String> = subscriptions
            .iter()
            .zip(codes)
            .filter_map(|(subscription, code)| {
                let why = match code {
                    Ok(false) if subscription.at_least_once => "only QoS 0 is granted",
                    Ok(_) => return None,
                    Err(why) => why,
                };
                Some(format!("{} ({why})", subscription.filter))
            })
            .collect();
        let listens = subscriptions
            .iter()
            .zip(codes)
            .any(|(subscription, code)| subscription.at_least_once && code.is_ok());
        if let Some(live) = &mut self.state.live {
            (live.subscribed, live.denied) = (true, !denied.is_empty());
        }
        if listens {
            self.publish_status(status::up(self.notices.now()));
            self.publish_nonce();
            self.publish_report();
        }
        if denied.is_empty() {
            return self.context.status.denied(None);
        }
        let problem = format!(
            "the broker denies the subscription to {}",
            denied.join(", ")
        );
        self.context.status.denied(Some(problem));
        let detail = json!({ "filters": denied });
        self.notices
            .tell(Change::MqttSubscriptionDenied, detail, time::instant());
    }

    /// Its token, where the link took it. Not sent again after a reconnect: that has its own.
    fn publish_status(&mut self, payload: Vec<u8>) -> Option<u64> {
        self.publish_retained(self.context.topics.status(), payload)
    }

    /// Tells clients what their DPoP proofs must say, where they haven't heard on this connection.
    fn publish_nonce(&mut self) {
        let now = self.context.admission.moment();
        let nonce = self.context.nonces.current(now);
        let told = self
            .state
            .live
            .as_ref()
            .and_then(|live| live.nonce.as_ref());
        if told == Some(&nonce.value) {
            return;
        }
        let payload = json!({"nonce": nonce.value, "expires": nonce.expires_at.as_secs()});
        let topic = self.context.topics.nonce();
        let sent = self.publish_retained(topic, payload.to_string().into_bytes());
        if let (Some(_), Some(live)) = (sent, &mut self.state.live) {
            live.nonce = Some(nonce.value);
        }
    }

    /// Tells the fleet what it hasn't heard on this connection.
    fn publish_report(&mut self) {
        let report = self.reports.borrow().clone();
        let told = self.state.live.as_ref().map(|live| &live.report);
        let Some(report) = report.filter(|report| told != Some(&Some(Arc::clone(report)))) else {
            return;
        };
        let topic = self.context.topics.report();
        let sent = self.publish_retained(topic, report.as_bytes().to_vec());
        if let (Some(_), Some(live)) = (sent, &mut self.state.live) {
            live.report = Some(report);
        }
    }

    fn publish_retained(&mut self, topic: String, payload: Vec<u8>) -> Option<u64> {
        let token = self.state.pending.take_token();
        let publication = Publication {
            topic,
            payload: payload.into(),
            retain: self.options.retain,
            properties: link::Properties::default(),
        };
        let live = self.state.live.as_ref()?;
        live.link.try_publish(token, &publication).ok()?;
        Some(token)
    }

    fn message(&mut self, message: &Message, deciding: Deciding) {
        let draining = self.shutdown.is_draining();
        let context = Arc::clone(&self.context);
        let route = context.topics.route(&message.topic);
        if route == Some(Route::Cancel) {
            if !draining {
                self.cancel(message, deciding);
            }
            return;
        }
        let exact = request::exact(message);
        let arrived = Arrived {
            message: exact,
            ack: message.ack,
            redelivered: message.dup,
            draining,
        };
        let mut deliveries = context.admission.deliveries();
        let before = deliveries.unacknowledged();
        match (deliveries.arrived(arrived), route) {
            (Arrival::New(id), Some(Route::Request(dialect, form))) => {
                drop(deliveries);
                self.request(message, (dialect, form), (id, exact), deciding);
            }
            // A topic that our subscriptions cover but that can't be answered on.
            (Arrival::New(id), _) => {
                let _ = deliveries.ended(id, End::Done);
                drop(deliveries);
                return context.set_aside(&request::origin(message));
            }
            (Arrival::Known, _) => return context.metrics.duplicate(),
            (Arrival::Excess, _) => context.excess(&request::origin(message)),
            (Arrival::NotNow, _) => return,
        }
        if message.ack.is_some() && before >= usize::from(self.options.receive_maximum) {
            context.metrics.excess();
        }
    }

    /// Begins a request, be it beyond our Receive Maximum: some brokers exceed it when PUBACKs
    /// come in a row (mosquitto 2.0.11), and one that was cut off for it would do so again with
    /// the same messages. What runs and waits has bounds of its own in admission.
    fn request(
        &mut self,
        message: &Message,
        form: (Dialect, Form<'_>),
        (id, exact): (delivery::Id, Exact),
        deciding: Deciding,
    ) {
        let came = match message.ack {
            Some(_) => Came::AtLeastOnce,
            None => Came::AtMostOnce,
        };
        let read = serve::read(&self.context, message, form, self.max_body);
        let task = serve::request(Arc::clone(&self.context), (id, exact), read, came, deciding);
        let handle = self.state.tasks.spawn(task);
        self.state.messages.insert(handle.id(), id);
    }

    fn cancel(&mut self, message: &Message, deciding: Deciding) {
        let read = serve::read_cancel(&self.context, message);
        let task = serve::cancel(Arc::clone(&self.context), read, deciding);
        self.state.cancels.spawn(task);
    }

    fn served(&mut self, joined: Result<(Id, End), JoinError>) {
        let (task, end) = match joined {
            Ok((task, end)) => (task, end),
            // A request that panics the server would do it again; its like isn't asked for twice.
            Err(error) => {
                if error.is_panic() {
                    tracing::error!("a request's task panicked");
                }
                (error.id(), End::Done)
            }
        };
        let Some(id) = self.state.messages.remove(&task) else {
            return;
        };
        let anew = self.context.admission.deliveries().ended(id, end);
        if anew && self.state.live.is_some() {
            let why = "an answer could not be recorded, so its request is to come again";
            self.lost(&Lost::Network(why.to_owned()));
        }
    }

    fn lost(&mut self, lost: &Lost) {
        let up = self.state.live.take().and_then(|live| live.up);
        self.context.admission.deliveries().lost();
        self.state.pending.lost();
        let now = time::instant();
        let lived = up.map(|up| now.saturating_duration_since(up));
        let failure = Failure::of(lost, lived);
        let pause = self.backoff.pause(failure, identity::chance());
        self.state.retry_at = now + pause;
        tracing::warn!(%lost, pause_ms = pause.as_millis(), "no broker");
        self.context.metrics.connected(false);
        self.context.status.lost(lost.to_string());
        if *lost == Lost::NoRetained {
            self.options.retain = false;
        }
        self.report_takeover(lost, now);
    }

    /// mosquitto before 2.0.12 doesn't say when another client takes our session; what shows is
    /// that connections are closed without a word soon after they were made.
    fn report_takeover(&mut self, lost: &Lost, now: Instant) {
        let client_id = self.options.client_id.as_str();
        let flaps = self.backoff.flaps();
        let (what, text) = if *lost == Lost::TakenOver {
            let text = format!("another client took the session of {client_id:?}: a cloned card?");
            (Change::MqttTakenOver, text)
        } else if flaps >= FLAPS {
            let text = format!(
                "{flaps} connections in a row were closed without a word right after they were \
                 made: does another client use {client_id:?}, a cloned card?"
            );
            (Change::MqttUnstable, text)
        } else {
            return;
        };
        self.context.status.taken_over(&text, now);
        let detail = json!({"client_id": client_id, "lost": lost.to_string(), "in_a_row": flaps});
        self.notices.tell(what, detail, now);
    }

    fn tick(&mut self) {
        let now = time::instant();
        let slow = self.state.held.take(now) > TOO_SLOW;
        let Some(live) = &mut self.state.live else {
            return;
        };
        live.overrun |= slow;
        let Some(asked) = live.asked else { return };
        let waited = now.saturating_duration_since(asked);
        let calm = !slow && self.state.tasks.is_empty();
        let old = live
            .up
            .is_some_and(|up| now.saturating_duration_since(up) > ANEW);
        if !live.subscribed && waited > SUBSCRIBE {
            let why = "the broker didn't answer a SUBSCRIBE";
            self.lost(&Lost::Network(why.to_owned()));
        } else if self.state.pending.is_overdue(now, ACKNOWLEDGE) {
            let why = "the broker hasn't acknowledged what was published 30 s ago";
            self.lost(&Lost::Network(why.to_owned()));
        } else if live.overrun && calm && old {
            let why = "the broker sent faster than could be read; a new connection brings what it \
                       may have dropped";
            self.lost(&Lost::Network(why.to_owned()));
        } else if live.denied && waited > SUBSCRIBE_AGAIN && self.state.pending.is_empty() {
            self.subscribe();
        } else if live.subscribed {
            self.publish_nonce();
            self.publish_report();
        }
    }

    /// Hands to the link what it can take. No publish before the SUBACK: rumqttc could give
    /// both the same packet id.
    fn flush(&mut self) {
        let Some(live) = &self.state.live else { return };
        if !live.subscribed {
            return;
        }
        let mut deliveries = self.context.admission.deliveries();
        while let Some(ack) = deliveries.next_ack() {
            if live.link.try_ack(ack).is_err() {
                break;
            }
            deliveries.acknowledged();
        }
        drop(deliveries);
        self.state.pending.send(&live.link, time::instant());
    }

    /// Whether nothing is left to finish.
    fn is_idle(&self) -> bool {
        let next_ack = self.context.admission.deliveries().next_ack();
        let acknowledged = self.state.live.is_none() || next_ack.is_none();
        self.state.tasks.is_empty() && self.state.pending.is_empty() && acknowledged
    }

    /// What still waits for the broker learns that nothing more is sent, and gives its attempt
    /// back: an orderly stop is no failed one.
    async fn release(&mut self) {
        self.state.pending.close();
        let tasks = &mut self.state.tasks;
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LEAVE, all).await.is_err() {
            self.state.tasks.abort_all();
        }
    }

    /// Says "down" and leaves without a will, within a bounded time.
    async fn leave(mut self) {
        let said = self.publish_status(status::down(self.notices.now()));
        if let Some(live) = &mut self.state.live
            && live.up.is_some()
        {
            let goodbye = async {
                while let Some(event) = live.events.recv().await {
                    match event {
                        Event::Acknowledged { token, .. } if Some(token) == said => break,
                        Event::Lost(_) => return,
                        _ => {}
                    }
                }
                let _ = live.link.disconnect();
                while live.events.recv().await.is_some() {}
            };
            let _ = tokio::time::timeout(LEAVE, goodbye).await;
        }
        self.context.metrics.connected(false);
        self.context
            .status
            .lost("the daemon is going down".to_owned());
    }
}

/// How long reading has waited for room.
#[derive(Default)]
struct Held {
    /// It waits since then.
    since: Option<Instant>,
    before: Duration,
}

impl Held {
    fn end(&mut self, now: Instant) {
        let since = self.since.take().unwrap_or(now);
        self.before += now.saturating_duration_since(since);
    }

    /// All since the last call.
    fn take(&mut self, now: Instant) -> Duration {
        let waits = self.since.is_some();
        self.end(now);
        self.since = waits.then_some(now);
        std::mem::take(&mut self.before)
    }
}

/// The next event of the present connection, if there is one, and room to decide what it asks.
/// Cancel-safe.
async fn next(
    live: &mut Option<Live>,
    undecided: &Arc<Semaphore>,
    held: &mut Held,
) -> (Event, Deciding) {
    if undecided.available_permits() == 0 {
        held.since.get_or_insert_with(time::instant);
    }
    let (Some(live), Ok(deciding)) = (live, Arc::clone(undecided).acquire_owned().await) else {
        return std::future::pending().await;
    };
    held.end(time::instant());
    let failed = || Event::Lost(Lost::Network("the connection's task failed".to_owned()));
    (live.events.recv().await.unwrap_or_else(failed), deciding)
}
