//! What a verification has found.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::checkpoint::Known;
use crate::identity::PublicKey;

/// Findings that are told one by one.
const MOST: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Records of the epoch that are there.
    pub records: u64,
    /// Records of the epoch that were removed by cap and retention.
    pub removed: u64,
    /// Records of earlier epochs, and of releases without a tree: only their order is checked.
    pub before_epoch: u64,
    pub epoch: u64,
    /// The index of the epoch's first record, and the one after the last.
    pub base: u64,
    pub next: u64,
    /// The newest checkpoint that the log agrees with.
    pub signed: Option<Covered>,
    /// Records after it, which nothing vouches for yet.
    pub unsigned: u64,
    /// What is worth knowing and no damage.
    pub remarks: Vec<String>,
    /// What is damaged, and how much more beyond the first hundred.
    pub findings: Vec<Finding>,
    pub more_findings: u64,
}

/// What a checkpoint covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    pub origin: String,
    /// Leaves, of which the first is the epoch's first record.
    pub size: u64,
    /// As it was signed.
    pub note: String,
}

/// Damage, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Indexes of records, the last too; none where it concerns them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    #[serde(flatten)]
    pub what: Damage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "damage", content = "detail", rename_all = "snake_case")]
pub enum Damage {
    /// With the database's own words.
    StoreDamaged(String),
    RecordChanged,
    /// It says that it has this index.
    RecordElsewhere(u64),
    RecordsMissing,
    /// The tree has no hash of it.
    HashMissing,
    /// Level and number.
    TileDamaged(u8, u64),
    TileChanged(u8, u64),
    TileMissing(u8, u64),
    HeadDamaged,
    HeadWrong,
    EpochDamaged,
    /// Which checkpoint.
    CheckpointDamaged(String),
    /// Which checkpoint, and the epoch that it is of.
    EpochMissing(String, u64),
    /// Which checkpoint.
    TailMissing(String),
    OtherHistory(String),
    NoTree,
}

impl Report {
    pub(super) fn new(epoch: u64, base: u64, next: u64) -> Report {
        Report {
            records: 0,
            removed: 0,
            before_epoch: 0,
            epoch,
            base,
            next,
            signed: None,
            unsigned: 0,
            remarks: Vec::new(),
            findings: Vec::new(),
            more_findings: 0,
        }
    }

    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// The log's own device has verified it by its own key: whether it is this one.
    pub fn doubt(&mut self, key: &PublicKey) {
        let note = self.signed.as_ref().map(|signed| signed.note.as_bytes());
        if note.is_some_and(|note| Known::read(note, key).is_none()) {
            let what = Damage::CheckpointDamaged("of the daemon".to_owned());
            self.find(Finding::of_all(what));
        }
    }

    pub(super) fn find(&mut self, finding: Finding) {
        if self.findings.contains(&finding) {
            return;
        }
        match self.findings.len() < MOST {
            true => self.findings.push(finding),
            false => self.more_findings += 1,
        }
    }
}

impl Finding {
    /// From one index to before another.
    pub(in crate::audit) fn of(what: Damage, from: u64, to: u64) -> Finding {
        Finding {
            from: Some(from),
            to: Some(to.saturating_sub(1).max(from)),
            what,
        }
    }

    pub(in crate::audit) fn of_all(what: Damage) -> Finding {
        Finding {
            from: None,
            to: None,
            what,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from, self.to) {
            (Some(from), Some(to)) if from == to => write!(f, "record {from}: {}", self.what),
            (Some(from), Some(to)) => write!(f, "records {from} to {to}: {}", self.what),
            _ => self.what.fmt(f),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::StoreDamaged(why) => write!(f, "the database is damaged: {why}"),
            Damage::RecordChanged => f.write_str("its bytes aren't those that were recorded"),
            Damage::RecordElsewhere(index) => write!(f, "it says that it is record {index}"),
            Damage::RecordsMissing => f.write_str("gone, and nothing tells of a removal"),
            Damage::HashMissing => f.write_str("the tree has no hash of it"),
            Damage::TileDamaged(level, tile) => {
                write!(f, "tile {tile} of level {level} of the tree can't be read")
            }
            Damage::TileChanged(level, tile) => write!(
                f,
                "tile {tile} of level {level} of the tree isn't what the one above it says"
            ),
            Damage::TileMissing(level, tile) => {
                write!(f, "tile {tile} of level {level} of the tree is gone")
            }
            Damage::HeadDamaged => f.write_str("the head record can't be read"),
            Damage::HeadWrong => f.write_str("the head record isn't of this log"),
            Damage::EpochDamaged => {
                f.write_str("what the store says of the log's epoch is gone, or isn't so")
            }
            Damage::CheckpointDamaged(which) => {
                write!(
                    f,
                    "the checkpoint {which} isn't one that this device signed"
                )
            }
            Damage::EpochMissing(which, epoch) => write!(
                f,
                "the checkpoint {which} is of epoch {epoch}, which the log doesn't have"
            ),
            Damage::TailMissing(which) => {
                write!(f, "gone, though the checkpoint {which} covers them")
            }
            Damage::OtherHistory(which) => {
                write!(f, "not all are what the checkpoint {which} covers")
            }
            Damage::NoTree => {
                f.write_str("the log is of a release without a tree: nothing vouches for it")
            }
        }
    }
}
