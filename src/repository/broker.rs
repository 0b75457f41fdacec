//! Published metadata at a broker: retained messages, each acknowledged before the timestamp goes.
//!
//! What the broker retains is read first, as far as it lets us: what is there already isn't sent
//! again, and what no device needs any more, or somebody else has put there, is taken away. None of
//! it is believed: only a timestamp that our own key has signed can say that ours is old.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout, timeout_at};

use super::devices::Devices;
use super::error::RepositoryError;
use super::export::{Piece, mirror};
use super::folder::not_older;
use super::metadata::{Metadata, Timestamp};
use super::settings::Destination;
use super::state::State;
use crate::digest::sha256;
use crate::identity::{chance, random_hex};
use crate::link::{
    Broker, Event, Events, Link, Lost, Options, Properties, Publication, SendError, Subscription,
    Tls,
};
use crate::time::{self, Known};
use crate::trust::report;

/// A broker that says nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Retained messages come at once, one after the other; after this much silence there are no more.
const QUIET: Duration = Duration::from_secs(1);
/// What is looked at of a broker that retains more than any fleet has.
const MOST_RETAINED: usize = 20_000;
const MOST_PACKET: u32 = 1 << 20;
/// After another client of our user was let in, how often it is tried again, and how long after.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_secs(2);
/// Publishes on their way at a time.
const IN_FLIGHT: usize = 16;
/// Devices' topics that are waited for at a time. A broker queues so many messages for a client, and
/// drops what is beyond without a word: mosquitto 1,000 of them (`max_queued_messages`).
const AT_A_TIME: usize = 500;
/// Topics in one SUBSCRIBE.
const TOGETHER: usize = 50;

const TIMESTAMP: &str = "metadata/timestamp.json";

/// A broker of the fleet's.
pub struct Retained<'a> {
    fleet: &'a str,
    options: Options,
}

impl<'a> Retained<'a> {
    /// `None` where the destination is none, but a folder.
    pub fn at(
        destination: &Destination,
        fleet: &'a str,
    ) -> Option<Result<Retained<'a>, RepositoryError>> {
        let url = &destination.to;
        if !url.starts_with("mqtt://") && !url.starts_with("mqtts://") {
            return None;
        }
        Some(Retained::of(destination, fleet))
    }

    fn of(destination: &Destination, fleet: &'a str) -> Result<Retained<'a>, RepositoryError> {
        let broker: Broker = destination.to.parse().map_err(RepositoryError::Broker)?;
        let ca_file = destination.ca_file.clone();
        let tls = match (broker.tls, ca_file) {
            (false, _) => None,
            (true, Some(ca_file)) => Some(Tls { ca_file, own: None }),
            (true, None) => {
                let what = "mqtts needs a CA; give `ca_file` in fleet.toml, or --ca-file";
                return Err(RepositoryError::Broker(what.to_owned()));
            }
        };
        let options = Options {
            host: broker.host,
            port: broker.port,
            client_id: format!("slmd-fleet-{}", random_hex::<8>()),
            username: destination.username.clone(),
            password_file: destination.password_file.clone(),
            tls,
            known: Known::default(),
            keep_alive: Duration::from_secs(30),
            session_expiry: Duration::ZERO,
            receive_maximum: 64,
            max_packet: MOST_PACKET,
            will: None,
            retain: true,
        };
        Ok(Retained { fleet, options })
    }

    /// Brings all that is published there; may be repeated after any break.
    pub fn publish(&self, state: &State) -> Result<(), RepositoryError> {
        let pieces = mirror(state)?;
        block_on(async || {
            let mut session = self.connect().await?;
            // The timestamp first: what a flood beneath the wildcard drowns is sent again.
            let filters = [TIMESTAMP, "#"].map(|beneath| self.topic(beneath));
            let there = session.read(&filters).await?;
            self.not_older(state, &there)?;
            let (stamp, rest): (Vec<&Piece>, Vec<&Piece>) =
                pieces.iter().partition(|piece| piece.path == TIMESTAMP);
            session.send(self.missing(&rest, &there)).await?;
            session.send(self.missing(&stamp, &there)).await?;
            session.send(self.needless(&pieces, &there)).await?;
            session.close().await;
            Ok(())
        })
    }

    /// What these devices have said last. Each is asked for by its own topic: a wildcard would bring
    /// what anybody has put beneath it, and not all that devices have.
    pub fn reports(&self, devices: &Devices) -> Result<BTreeMap<String, Vec<u8>>, RepositoryError> {
        block_on(async || {
            let mut session = self.connect().await?;
            let mut reports = BTreeMap::new();
            let topics = devices.names().map(|device| format!("slm/{device}/trust"));
            let device = |topic: &str| {
                let device = topic.strip_prefix("slm/")?.strip_suffix("/trust")?;
                Some(device.to_owned())
            };
            let each = |topic: &str, payload: &Bytes| {
                // One that is too long is kept so far that it is seen to be.
                let payload = payload[..payload.len().min(report::MAX_LEN + 1)].to_vec();
                if let Some(device) = device(topic) {
                    reports.insert(device, payload);
                }
            };
            if !session.pick(topics, each).await? {
                let what = "it lets us read no reports (slm/+/trust); mend its access list";
                return Err(RepositoryError::Broker(what.to_owned()));
            }
            session.close().await;
            Ok(reports)
        })
    }

    /// Brings what the fleet's witness has cosigned: notes by the device.
    pub fn publish_cosigned(
        &self,
        witness: &str,
        notes: &[(String, String)],
    ) -> Result<(), RepositoryError> {
        let notes = notes.iter().map(|(device, note)| {
            let topic = self.topic(&report::cosigned_file(device, witness));
            publication(topic, note.clone().into())
        });
        let notes: Vec<Publication> = notes.collect();
        block_on(async || {
            let mut session = self.connect().await?;
            session.send(notes.clone()).await?;
            session.close().await;
            Ok(())
        })
    }

    fn topic(&self, beneath: &str) -> String {
        format!("slm/trust/{}/{beneath}", self.fleet)
    }

    fn missing(&self, pieces: &[&Piece], there: &BTreeMap<String, Kept>) -> Vec<Publication> {
        let missing = pieces.iter().filter(|piece| {
            let kept = there.get(&self.topic(&piece.path));
            kept.is_none_or(|kept| kept.digest != sha256(&piece.bytes))
        });
        let publication =
            |piece: &&Piece| publication(self.topic(&piece.path), piece.bytes.clone());
        missing.map(publication).collect()
    }

    /// Versions before the last but one, contents that nothing names, and what isn't ours. A device
    /// that reads while this happens may be at the version before.
    fn needless(&self, pieces: &[Piece], there: &BTreeMap<String, Kept>) -> Vec<Publication> {
        let ours: BTreeSet<String> = pieces.iter().map(|piece| self.topic(&piece.path)).collect();
        let before: BTreeSet<String> = pieces
            .iter()
            .filter_map(|piece| before(&piece.path))
            .collect();
        let before: BTreeSet<String> = before.iter().map(|path| self.topic(path)).collect();
        // What a witness brings is its own.
        let cosigned = self.topic(report::COSIGNED);
        let needless = there.keys().filter(|topic| !topic.starts_with(&cosigned));
        let needless = needless.filter(|topic| !ours.contains(*topic) && !before.contains(*topic));
        needless
            .map(|topic| publication(topic.clone(), Vec::new()))
            .collect()
    }

    fn not_older(
        &self,
        state: &State,
        there: &BTreeMap<String, Kept>,
    ) -> Result<(), RepositoryError> {
        let stamp = there.get(&self.topic(TIMESTAMP));
        let stamp = stamp.and_then(|kept| Metadata::<Timestamp>::parse(&kept.payload).ok());
        let Some(stamp) = stamp else {
            return Ok(());
        };
        let root = &state.root()?.signed.role;
        if !stamp.is_signed(&root.keys, &root.roles.timestamp) {
            return Ok(());
        }
        let ours = state.published()?.timestamp.signed.version;
        not_older(ours, stamp.signed.version)
    }

    async fn connect(&self) -> Result<Session, RepositoryError> {
        let (link, mut events) = Link::connect(&self.options).map_err(|lost| failed(&lost))?;
        loop {
            match next(&mut events).await? {
                Event::Connected { retains: false, .. } => {
                    let what = "it keeps no retained messages, and devices read nothing else";
                    return Err(RepositoryError::Broker(what.to_owned()));
                }
                Event::Connected { .. } => return Ok(Session { link, events }),
                _ => {}
            }
        }
    }
}

/// The version before, as devices may still be reading it.
fn before(path: &str) -> Option<String> {
    let (version, role) = path.strip_prefix("metadata/")?.split_once('.')?;
    let before = version.parse::<u64>().ok()?.checked_sub(1)?;
    Some(format!("metadata/{before}.{role}"))
}

/// What a broker retains under one topic; the payload of the timestamp only.
struct Kept {
    digest: [u8; 32],
    payload: Bytes,
}

struct Session {
    link: Link,
    events: Events,
}

impl Session {
    /// What is retained beneath `filters`; nothing, where we may not read.
    async fn read(
        &mut self,
        filters: &[String],
    ) -> Result<BTreeMap<String, Kept>, RepositoryError> {
        let mut there = BTreeMap::new();
        self.subscribe(filters).await?;
        let mut wait = PATIENCE;
        for _ in 0..MOST_RETAINED {
            match timeout(wait, self.events.recv()).await {
                Ok(Some(Event::Subscribed(codes))) if codes.iter().any(Result::is_err) => break,
                Ok(Some(Event::Subscribed(_))) => wait = QUIET,
                Ok(Some(Event::Message(message))) if message.retain => {
                    let stamp = message.topic.ends_with(TIMESTAMP);
                    let digest = sha256(&message.payload);
                    let payload = if stamp { message.payload } else { Bytes::new() };
                    there.insert(message.topic, Kept { digest, payload });
                }
                Ok(event) => {
                    going_on(event)?;
                }
                Err(_) if wait == QUIET => break,
                Err(_) => return Err(failed(&"the broker was silent")),
            }
        }
        Ok(there)
    }

    /// What is retained under each of these topics. `false`: the broker doesn't let us.
    async fn pick(
        &mut self,
        mut topics: impl Iterator<Item = String>,
        mut each: impl FnMut(&str, &Bytes),
    ) -> Result<bool, RepositoryError> {
        let mut waiting: BTreeSet<String> = BTreeSet::new();
        let mut ungranted = 0;
        let mut heard = time::instant();
        loop {
            while waiting.len() + TOGETHER <= AT_A_TIME {
                let some: Vec<String> = topics.by_ref().take(TOGETHER).collect();
                if some.is_empty() {
                    break;
                }
                self.subscribe(&some).await?;
                ungranted += 1;
                heard = time::instant();
                waiting.extend(some);
            }
            if waiting.is_empty() {
                return Ok(true);
            }
            // News of those that have answered is no answer of the others.
            let silent = heard + if ungranted == 0 { QUIET } else { PATIENCE };
            match timeout_at(silent.into(), self.events.recv()).await {
                Ok(Some(Event::Subscribed(codes))) => {
                    if codes.iter().any(Result::is_err) {
                        return Ok(false);
                    }
                    ungranted -= 1;
                    heard = time::instant();
                }
                Ok(Some(Event::Message(message))) => {
                    if waiting.remove(&message.topic) {
                        heard = time::instant();
                    }
                    each(&message.topic, &message.payload);
                }
                Ok(event) => {
                    going_on(event)?;
                }
                Err(_) if ungranted == 0 => waiting.clear(),
                Err(_) => return Err(failed(&"the broker was silent")),
            }
        }
    }

    /// At QoS 0: each file is whole or not there, and nothing has to be acknowledged.
    async fn subscribe(&mut self, filters: &[String]) -> Result<(), RepositoryError> {
        let subscription = |filter: &String| Subscription {
            filter: filter.clone(),
            at_least_once: false,
            retained: true,
        };
        let subscriptions: Vec<Subscription> = filters.iter().map(subscription).collect();
        match self.link.subscribe(&subscriptions) {
            Ok(()) => Ok(()),
            Err(SendError::Full) => Err(self.ended().await),
            Err(error) => Err(failed(&error)),
        }
    }

    /// A line that has ended takes nothing more; what it still has to tell says how it ended.
    async fn ended(&mut self) -> RepositoryError {
        for _ in 0..MOST_RETAINED {
            if let Err(why) = next(&mut self.events).await {
                return why;
            }
        }
        failed(&SendError::Full)
    }

    /// Publishes all of it, and returns when the broker has each.
    async fn send(&mut self, publications: Vec<Publication>) -> Result<(), RepositoryError> {
        let mut waiting: BTreeMap<u64, String> = BTreeMap::new();
        let mut left = publications.into_iter().zip(0..);
        loop {
            while waiting.len() < IN_FLIGHT {
                let Some((publication, token)) = left.next() else {
                    break;
                };
                match self.link.try_publish(token, &publication) {
                    Ok(()) => {}
                    Err(SendError::Full) => return Err(self.ended().await),
                    Err(error) => return Err(refused(&publication.topic, &error)),
                }
                waiting.insert(token, publication.topic);
            }
            if waiting.is_empty() {
                return Ok(());
            }
            // What is published comes back to whoever has subscribed.
            if let Event::Acknowledged { token, result } = next(&mut self.events).await? {
                let topic = waiting.remove(&token).unwrap_or_default();
                result.map_err(|why| refused(&topic, &why))?;
            }
        }
    }

    async fn close(mut self) {
        if self.link.disconnect().is_ok() {
            let lost = async { while self.events.recv().await.is_some() {} };
            let _ = timeout(QUIET, lost).await;
        }
    }
}

async fn next(events: &mut Events) -> Result<Event, RepositoryError> {
    match timeout(PATIENCE, events.recv()).await {
        Ok(event) => going_on(event),
        Err(_) => Err(failed(&"the broker was silent")),
    }
}

fn going_on(event: Option<Event>) -> Result<Event, RepositoryError> {
    match event {
        // mosquitto 2.0 closes the one that another client took over without a word.
        Some(Event::Lost(lost @ (Lost::TakenOver | Lost::Dropped(_)))) => {
            Err(RepositoryError::TakenOver(lost))
        }
        Some(Event::Lost(lost)) => Err(failed(&lost)),
        Some(event) => Ok(event),
        None => Err(failed(&"the connection was lost")),
    }
}

fn publication(topic: String, payload: Vec<u8>) -> Publication {
    Publication {
        topic,
        payload: payload.into(),
        retain: true,
        properties: Properties::default(),
    }
}

fn failed(why: &dyn std::fmt::Display) -> RepositoryError {
    RepositoryError::Broker(why.to_string())
}

fn refused(topic: &str, why: &dyn std::fmt::Display) -> RepositoryError {
    RepositoryError::Broker(format!("it didn't take {topic}: {why}"))
}

/// Where a broker gives each user one connection, two commands of one user end each other: it is tried
/// again, because each is short.
fn block_on<T>(work: impl AsyncFn() -> Result<T, RepositoryError>) -> Result<T, RepositoryError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| failed(&error))?;
    runtime.block_on(async {
        for _ in 1..TRIES {
            match work().await {
                Err(RepositoryError::TakenOver(_)) => sleep(PAUSE.mul_f64(0.5 + chance())).await,
                done => return done,
            }
        }
        work().await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_before_is_known_by_its_name() {
        assert_eq!(
            before("metadata/3.targets.json"),
            Some("metadata/2.targets.json".into())
        );
        for path in [
            "metadata/timestamp.json",
            "metadata/0.targets.json",
            "targets/1.a.json",
        ] {
            assert_eq!(before(path), None, "{path}");
        }
    }

    #[test]
    fn a_broker_without_tls_needs_no_ca_and_one_with_it_does() {
        let at = |to: &str| Retained::at(&Destination::plain(to), "plant");
        assert!(at("/srv/mirror").is_none());
        assert!(at("mqtt://127.0.0.1:1").is_some_and(|at| at.is_ok()));
        assert!(at("mqtts://h").is_some_and(|at| at.is_err()));
        assert!(at("mqtt://u:p@h").is_some_and(|at| at.is_err()));
    }
}
