//! Asking the mirrors in turn. Each is asked on its own, from what is trusted: what one of them
//! withholds, replays or makes up can't spoil what another one has.

use std::time::Duration;

use parking_lot::Mutex;

use super::mirror::Until;
use super::mirror::folder::Folder;
use super::mirror::https::Web;
use super::mirror::mqtt::Broker;
use super::{Held, Place, Settings, Signed, Wanted};
use crate::https::HttpsError;
use crate::time::{self, Moment, Timestamp, Uptime};
use crate::trust::{Client, Limits, Mirror, TrustError, Versions};

/// For one mirror.
const DEADLINE: Duration = Duration::from_secs(60);

/// The fleet's mirrors, and what is known of each.
#[derive(Debug)]
pub struct Follower {
    mirrors: Vec<Source>,
    reports: Mutex<Vec<MirrorReport>>,
}

#[derive(Debug)]
struct Source {
    place: Place,
    from: From,
}

#[derive(Debug)]
enum From {
    Mqtt(Broker),
    Web(Web),
    Folder(Folder),
}

/// Mirrors that are asked together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Broker,
    Others,
}

/// What came of asking a mirror last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorReport {
    pub place: String,
    pub asked_at: Option<Timestamp>,
    pub error: Option<TrustError>,
    /// When it was last asked and nothing was wrong with it.
    pub good_at: Option<Uptime>,
}

/// What a round has found.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest, which may be no news.
    pub signed: Option<Signed>,
    /// Mirrors that gave nothing good, and why.
    pub refused: Vec<(String, TrustError)>,
}

impl Follower {
    /// `broker`: the line to it, where there is a broker.
    pub fn new(settings: &Settings, broker: Option<&Broker>) -> Result<Follower, HttpsError> {
        let source = |place: &Place| {
            let from = match place {
                Place::Mqtt => From::Mqtt(broker?.clone()),
                Place::Https(url) => match Web::new(url, settings.ca_file.as_deref()) {
                    Ok(web) => From::Web(web),
                    Err(error) => return Some(Err(error)),
                },
                Place::Folder(path) => From::Folder(Folder(path.clone())),
            };
            let place = place.clone();
            Some(Ok(Source { place, from }))
        };
        let mirrors = settings.mirrors.iter().filter_map(source);
        let mirrors = mirrors.collect::<Result<Vec<_>, _>>()?;
        let report = |source: &Source| MirrorReport {
            place: source.place.to_string(),
            asked_at: None,
            error: None,
            good_at: None,
        };
        Ok(Follower {
            reports: Mutex::new(mirrors.iter().map(report).collect()),
            mirrors,
        })
    }

    pub fn reports(&self) -> Vec<MirrorReport> {
        self.reports.lock().clone()
    }

    /// Asks the lane's mirrors for what is newer than `held`. Blocks.
    pub fn look(&self, held: &Held, wanted: &Wanted, now: Moment, lane: Lane) -> Found {
        let asked = |source: &&Source| (source.place == Place::Mqtt) == (lane == Lane::Broker);
        let mut mirrors: Vec<(String, Box<dyn Mirror>)> = self
            .mirrors
            .iter()
            .filter(asked)
            .map(|source| (source.place.to_string(), source.from.mirror()))
            .collect();
        let found = look(&mut mirrors, held, wanted, now.known);
        let mut reports = self.reports.lock();
        for report in reports.iter_mut() {
            if !mirrors.iter().any(|(place, _)| *place == report.place) {
                continue;
            }
            let refused = found.refused.iter().find(|(at, _)| *at == report.place);
            report.asked_at = Some(now.known);
            report.error = refused.map(|(_, error)| error.clone());
            if refused.is_none() {
                report.good_at = Some(now.uptime);
            }
        }
        found
    }
}

impl From {
    fn mirror(&self) -> Box<dyn Mirror> {
        match self {
            From::Mqtt(broker) => Box::new(broker.clone()),
            From::Web(web) => Box::new(web.clone()),
            From::Folder(folder) => Box::new(folder.clone()),
        }
    }
}

/// A newer root that one mirror has counts for all of them: what its keys haven't signed is asked for
/// once more.
pub(super) fn look(
    mirrors: &mut [(String, Box<dyn Mirror>)],
    held: &Held,
    wanted: &Wanted,
    now: Timestamp,
) -> Found {
    let mut base = held.clone();
    let mut found = round(mirrors, (held, &base), wanted, now);
    if found.root != base.root()
        && (found.best.as_ref()).is_none_or(|b| b.held.root() != found.root)
    {
        base.metadata.insert(super::ROOT.to_owned(), found.root);
        found = round(mirrors, (held, &base), wanted, now);
    }
    let rooted = || {
        let newer = found.root != held.root();
        newer.then(|| Signed::rooted(held, &found.root).ok())?
    };
    Found {
        signed: found.best.or_else(rooted),
        refused: found.refused,
    }
}

struct Round {
    best: Option<Signed>,
    /// The newest that any mirror has.
    root: Vec<u8>,
    refused: Vec<(String, TrustError)>,
}

fn round(
    mirrors: &mut [(String, Box<dyn Mirror>)],
    (held, base): (&Held, &Held),
    wanted: &Wanted,
    now: Timestamp,
) -> Round {
    let mut round = Round {
        best: None,
        root: base.root().to_vec(),
        refused: Vec::new(),
    };
    let mut newest = 0;
    for (place, mirror) in mirrors {
        let mut mirror = Until {
            mirror: mirror.as_mut(),
            deadline: time::instant() + DEADLINE,
        };
        let mut client = match Client::new(base.root(), Limits::FLEET) {
            Ok(client) => client.with_kept(&base.metadata),
            Err(error) => {
                round.refused.push((place.clone(), error));
                continue;
            }
        };
        let refreshed = client.refresh(&mut mirror, now);
        if client.versions().root > newest {
            newest = client.versions().root;
            round.root = client.kept().get(super::ROOT).cloned().unwrap_or_default();
        }
        let asked = (held, base);
        let signed = refreshed.and_then(|_| Signed::fetch(client, &mut mirror, asked, wanted, now));
        match signed {
            Ok(signed) => {
                let known = round.best.as_ref();
                if known.is_none_or(|known| is_newer(signed.versions, known.versions)) {
                    round.best = Some(signed);
                }
            }
            Err(error) => round.refused.push((place.clone(), error)),
        }
    }
    round
}

/// One root's snapshots follow one another by their timestamps.
fn is_newer(one: Versions, other: Versions) -> bool {
    (one.root, one.timestamp) > (other.root, other.timestamp)
}
