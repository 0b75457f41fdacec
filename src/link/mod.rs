//! The connection to the broker: the only module that names rumqttc.
//!
//! One [`Link`] is one connection. It is never reused: rumqttc's client and event loop carry
//! packet ids over a reconnect in ways that livelock or hit another session's message, so whoever
//! uses a link makes a new one, after the pause that [`Backoff`] names. The event loop is polled
//! on a task of its own; what it sees arrives on an [`Events`] queue, ending in [`Event::Lost`].
//!
//! rumqttc tells nobody the packet id of a publish and only logs the failure codes of PUBACK and
//! SUBACK. Here a publish carries a token, tokens are paired in order with `Outgoing::Publish`,
//! and every code comes out as an event.

mod address;
mod backoff;
mod convert;
mod poll;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use tokio::sync::mpsc;

use crate::time::Known;
use crate::tls::KeyPair;

pub use address::Broker;
pub use backoff::{Backoff, Failure};

/// Publishes and acknowledgements that may wait for the event loop.
const QUEUE: usize = 64;
/// Events that may wait for whoever uses the link; each may hold a packet of the largest size.
const EVENTS: usize = 16;
/// QoS 1 publishes on their way; the broker's Receive Maximum may lower it.
const IN_FLIGHT: u16 = 64;
/// MQTT brokers may be far away; a TCP and MQTT handshake still ends in this time.
const CONNECT: Duration = Duration::from_secs(10);

/// What a broker must have that only takes QoS 0.
pub const NEEDS_QOS_1: &str = "it takes only QoS 0, and slmd needs QoS 1: what is sent while either side is away must not be lost";

#[derive(Debug, Clone)]
pub struct Options {
    pub host: String,
    pub port: u16,
    pub client_id: String,
    pub username: Option<String>,
    /// Read at each connect: the password may be a short-lived token.
    pub password_file: Option<PathBuf>,
    pub tls: Option<Tls>,
    /// When the broker's certificate has to be good.
    pub known: Known,
    pub keep_alive: Duration,
    /// How long the broker keeps the session of a client that is away; zero: each begins anew.
    pub session_expiry: Duration,
    /// Unacknowledged QoS 1 messages that the broker may send.
    pub receive_maximum: u16,
    /// The broker drops what is larger.
    pub max_packet: u32,
    pub will: Option<Will>,
    /// Whether the will is to be retained: a broker that has no retained messages refuses the
    /// connection for it ([`Lost::NoRetained`]).
    pub retain: bool,
}

/// TLS to a broker whose CA is pinned. The files are read at each connect, so that they can be
/// renewed without a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub ca_file: PathBuf,
    pub own: Option<KeyPair>,
}

/// What the broker publishes when the connection is lost.
#[derive(Debug, Clone)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
}

/// A filter, subscribed so that retained messages say so when they come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub filter: String,
    /// QoS 1, otherwise 0.
    pub at_least_once: bool,
    /// What the broker retains comes at once, each time it is asked for.
    pub retained: bool,
}

/// The properties of MQTT 5 that requests and answers use. No `Debug`: one of them is a token.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties {
    pub response_topic: Option<String>,
    pub correlation: Option<Bytes>,
    pub content_type: Option<String>,
    /// What is left of it, when received.
    pub expiry: Option<Duration>,
    pub user: Vec<(String, String)>,
}

/// Something to publish, always at QoS 1.
#[derive(Clone, PartialEq, Eq)]
pub struct Publication {
    pub topic: String,
    pub payload: Bytes,
    pub retain: bool,
    pub properties: Properties,
}

/// Something received.
#[derive(Clone)]
pub struct Message {
    pub topic: String,
    pub payload: Bytes,
    pub retain: bool,
    pub dup: bool,
    pub properties: Properties,
    /// `None` at QoS 0.
    pub ack: Option<Ack>,
}

/// The right to acknowledge one message, on the link that it came by and on no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    link: u64,
    packet_id: u16,
}

pub enum Event {
    Connected {
        session_present: bool,
        /// The largest packet that the broker takes.
        max_packet: Option<u32>,
        /// Whether it keeps retained messages.
        retains: bool,
        /// Whether it takes QoS 1.
        at_least_once: bool,
    },
    /// The answer to the last [`Link::subscribe`]: for each filter, whether at QoS 1, or why it
    /// was denied.
    Subscribed(Vec<Result<bool, String>>),
    Message(Message),
    /// The broker has the publish with this token, or refused it.
    Acknowledged {
        token: u64,
        result: Result<(), String>,
    },
    /// The last event.
    Lost(Lost),
}

/// Why a connection ended or never came to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("another client connected with our client id")]
    TakenOver,
    #[error("the broker refused the connection: {0}")]
    Refused(String),
    #[error("the broker has no retained messages")]
    NoRetained,
    /// There was no CONNACK that can be read.
    #[error(
        "the broker closed the connection instead of answering ({0}); slmd needs MQTT 5, and a \
         broker that only speaks 3.1.1 does this"
    )]
    Unanswered(String),
    #[error("the broker closed the connection: {0}")]
    Closed(String),
    /// After CONNACK, and neither side has said why.
    #[error("the connection was closed without a word ({0})")]
    Dropped(String),
    #[error("{0}")]
    Network(String),
}

/// Why something can't be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the link's queue is full")]
    Full,
    #[error("the packet has {size} bytes and the broker takes {max}")]
    TooLarge { size: usize, max: usize },
    #[error("the topic can't be published on")]
    Topic,
}

pub type Events = mpsc::Receiver<Event>;

/// The sending side of one connection. Dropping it closes the socket without a DISCONNECT, so
/// the broker publishes the will.
pub struct Link {
    client: AsyncClient,
    shared: Arc<Shared>,
    task: tokio::task::AbortHandle,
}

/// What the sending side and the polling task both need.
struct Shared {
    number: u64,
    /// Tokens of publishes that rumqttc has not numbered yet, in order.
    unnumbered: Mutex<VecDeque<u64>>,
    max_packet: AtomicU32,
}

impl Link {
    /// Starts to connect; [`Event::Connected`] or [`Event::Lost`] tells how it went. Fails at
    /// once when a file that the connection needs can't be used.
    pub fn connect(options: &Options) -> Result<(Link, Events), Lost> {
        let mqtt = convert::options(options)?;
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let shared = Arc::new(Shared {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            unnumbered: Mutex::default(),
            max_packet: AtomicU32::new(u32::MAX),
        });
        let (client, event_loop) = AsyncClient::new(mqtt, QUEUE);
        let (sender, events) = mpsc::channel(EVENTS);
        let task = tokio::spawn(poll::run(event_loop, Arc::clone(&shared), sender));
        let task = task.abort_handle();
        let link = Link {
            client,
            shared,
            task,
        };
        Ok((link, events))
    }

    /// Queues a publish at QoS 1; [`Event::Acknowledged`] brings the token back. Never blocks.
    pub fn try_publish(&self, token: u64, publication: &Publication) -> Result<(), SendError> {
        let publish = convert::publish(publication);
        let size = packet_size(&publish);
        let max = self.shared.max_packet.load(Ordering::Relaxed) as usize;
        if size > max {
            return Err(SendError::TooLarge { size, max });
        }
        if !rumqttc::valid_topic(&publication.topic) {
            return Err(SendError::Topic);
        }
        let Publish {
            payload,
            properties,
            ..
        } = publish;
        // Held over the send, so that the queue has the same order as the event loop's.
        let mut unnumbered = self.shared.unnumbered.lock();
        self.client
            .try_publish_with_properties(
                publication.topic.as_str(),
                QoS::AtLeastOnce,
                publication.retain,
                payload,
                properties.unwrap_or_default(),
            )
            .map_err(|_| SendError::Full)?;
        unnumbered.push_back(token);
        Ok(())
    }

    /// Acknowledges a message. One of another link is left alone: its packet id means something
    /// else here.
    pub fn try_ack(&self, ack: Ack) -> Result<(), SendError> {
        if ack.link != self.shared.number {
            return Ok(());
        }
        let publish = Publish {
            qos: QoS::AtLeastOnce,
            pkid: ack.packet_id,
            ..Publish::default()
        };
        self.client.try_ack(&publish).map_err(|_| SendError::Full)
    }

    /// Asks for all filters in one packet. To be called while no publish is on its way: rumqttc
    /// numbers a SUBSCRIBE without looking whether a publish has the number.
    pub fn subscribe(&self, subscriptions: &[Subscription]) -> Result<(), SendError> {
        let filters = subscriptions.iter().map(convert::filter);
        self.client
            .try_subscribe_many(filters)
            .map_err(|_| SendError::Full)
    }

    /// Ends a subscription. Its answer is no event.
    pub fn unsubscribe(&self, filter: &str) -> Result<(), SendError> {
        self.client
            .try_unsubscribe(filter)
            .map_err(|_| SendError::Full)
    }

    /// Sends DISCONNECT, after what is queued; [`Event::Lost`] follows.
    pub fn disconnect(&self) -> Result<(), SendError> {
        self.client.try_disconnect().map_err(|_| SendError::Full)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The size on the wire, with the packet id that it doesn't have yet. The length field may grow
/// by a byte with it.
fn packet_size(publish: &Publish) -> usize {
    publish.size() + 3
}
