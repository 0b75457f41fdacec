//! The task that polls rumqttc's event loop and turns what it sees into events.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, DisconnectReasonCode, Packet, PubAckReason, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error as MqttError, QoS};
use rumqttc::v5::{ConnectionError, Event as Raw, EventLoop, StateError};
use tokio::sync::mpsc;

use super::{CONNECT, Event, Lost, NEEDS_QOS_1, Shared, convert};

/// Polls until the connection is lost or nobody listens any more.
pub(super) async fn run(
    mut event_loop: EventLoop,
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
) {
    let mut translate = Translate {
        shared,
        numbered: BTreeMap::new(),
        connected: false,
    };
    let lost = loop {
        // A healthy loop pings each keep-alive. One that stays silent hangs in a write to a
        // broker that reads no more, where rumqttc looks at no timer.
        let patience = CONNECT + 2 * event_loop.options.keep_alive();
        let raw = match tokio::time::timeout(patience, event_loop.poll()).await {
            Ok(Ok(raw)) => raw,
            Ok(Err(error)) => break lost(&error, translate.connected),
            Err(_) => break Lost::Network(silence(patience)),
        };
        if let Some(event) = translate.event(raw)
            && events.send(event).await.is_err()
        {
            return;
        }
    };
    // Read together with what ended the connection: each PUBACK here saves a repeat.
    for raw in std::mem::take(&mut event_loop.state.events) {
        if let Some(event) = translate.event(raw) {
            let _ = events.send(event).await;
        }
    }
    let _ = events.send(Event::Lost(lost)).await;
}

struct Translate {
    shared: Arc<Shared>,
    /// Packet id → token of the publishes on their way.
    numbered: BTreeMap<u16, u64>,
    /// Since CONNACK.
    connected: bool,
}

impl Translate {
    fn event(&mut self, raw: Raw) -> Option<Event> {
        match raw {
            Raw::Outgoing(Outgoing::Publish(packet_id)) => {
                let token = self.shared.unnumbered.lock().pop_front()?;
                self.numbered.insert(packet_id, token);
                None
            }
            Raw::Incoming(Packet::ConnAck(connack)) => {
                self.connected = true;
                let properties = connack.properties.as_ref();
                let max_packet = properties.and_then(|p| p.max_packet_size);
                if let Some(max) = max_packet {
                    self.shared.max_packet.store(max, Ordering::Relaxed);
                }
                Some(Event::Connected {
                    session_present: connack.session_present,
                    max_packet,
                    // What isn't said is there (MQTT 5 sections 3.2.2.3.4 and 3.2.2.3.5).
                    retains: properties.and_then(|p| p.retain_available) != Some(0),
                    at_least_once: properties.and_then(|p| p.max_qos) != Some(0),
                })
            }
            Raw::Incoming(Packet::Publish(publish)) => {
                let message = convert::message(publish, self.shared.number);
                Some(Event::Message(message))
            }
            Raw::Incoming(Packet::PubAck(puback)) => Some(Event::Acknowledged {
                token: self.numbered.remove(&puback.pkid)?,
                result: match puback.reason {
                    PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(()),
                    reason => Err(words(&reason)),
                },
            }),
            Raw::Incoming(Packet::SubAck(suback)) => {
                let code = |reason: &SubscribeReasonCode| match reason {
                    SubscribeReasonCode::Success(qos) => Ok(*qos != QoS::AtMostOnce),
                    reason => Err(words(reason)),
                };
                let codes = suback.return_codes.iter().map(code).collect();
                Some(Event::Subscribed(codes))
            }
            _ => None,
        }
    }
}

/// rumqttc's own texts hold whole packets, hence perhaps a token, so they aren't passed on.
fn lost(error: &ConnectionError, connected: bool) -> Lost {
    match error {
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            match reason_code {
                DisconnectReasonCode::SessionTakenOver => Lost::TakenOver,
                reason => Lost::Closed(words(reason)),
            }
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            closed("end of stream".to_owned(), connected)
        }
        // Of the network or of TLS: a broker that wants a certificate says so after the handshake.
        ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(MqttError::Io(error)),
        )
        | ConnectionError::Io(error) => match error.kind() {
            // `Other`: the stream ended in mid-packet, as a CONNACK of 3.1.1 does for MQTT 5.
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
            | ErrorKind::Other => closed(error.to_string(), connected),
            _ => Lost::Network(error.to_string()),
        },
        ConnectionError::MqttState(StateError::AwaitPingResp) => {
            Lost::Network("the broker didn't answer a ping".to_owned())
        }
        ConnectionError::MqttState(_) | ConnectionError::NotConnAck(_) => {
            Lost::Network("the broker broke the protocol".to_owned())
        }
        ConnectionError::Timeout(_) => Lost::Network(silence(CONNECT)),
        ConnectionError::ConnectionRefused(code) => refused(*code),
        // A certificate or name that doesn't fit; nothing of the session's is in there.
        ConnectionError::Tls(error) => Lost::Network(format!("TLS: {error}")),
        ConnectionError::RequestsDone => Lost::Network("the link was dropped".to_owned()),
    }
}

fn closed(how: String, connected: bool) -> Lost {
    match connected {
        true => Lost::Dropped(how),
        false => Lost::Unanswered(how),
    }
}

fn refused(code: ConnectReturnCode) -> Lost {
    match code {
        ConnectReturnCode::RetainNotSupported => Lost::NoRetained,
        ConnectReturnCode::QoSNotSupported => Lost::Refused(NEEDS_QOS_1.to_owned()),
        ConnectReturnCode::RefusedProtocolVersion
        | ConnectReturnCode::UnsupportedProtocolVersion => {
            Lost::Refused("it doesn't speak MQTT 5, which slmd needs".to_owned())
        }
        code => Lost::Refused(words(&code)),
    }
}

fn silence(patience: Duration) -> String {
    format!("the broker was silent for {} s", patience.as_secs())
}

/// `NotAuthorized` → `not authorized`.
fn words(code: &impl std::fmt::Debug) -> String {
    let name = format!("{code:?}");
    let mut words = String::with_capacity(name.len() + 8);
    for (index, letter) in name.chars().enumerate() {
        if index > 0 && letter.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}
