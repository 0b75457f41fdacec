//! Verifying a log: its records against its tree, the tree against itself, and both against what the
//! device has signed.
//!
//! A [`Verifier`] goes in steps of bounded work, over a log that is in use or over a store that nobody
//! has open. What a device alone can't see is what lies beyond what it has signed: a tail that was
//! dropped before there was a checkpoint, and a log that who holds the device's key has written anew.

mod gaps;
mod glance;
mod leaves;
mod report;

use std::path::Path;

use self::gaps::Gaps;
use self::leaves::{Compared, Looked, Seen, Span};
pub use self::report::{Covered, Damage, Finding, Report};
use super::checkpoint::{self, Known};
use super::epoch::{Broken, Epoch, ProofError, Source};
use super::head::{Found, Head};
use super::kept::index_of;
use super::recover::Begun;
use super::tile::{HEIGHT, Tile, WIDTH};
use super::{AuditError, Log};
use crate::identity::PublicKey;
use crate::store::{Store, StoreError, Tree};
use crate::tlog::tree::{Hash, Hashes};

/// Tiles that one step looks at.
const STEP: u64 = 16;

/// A checkpoint that the log must agree with.
struct Note {
    place: &'static str,
    bytes: Vec<u8>,
}

pub struct Verifier {
    over: Over,
    records: Tree,
    tiles: Tree,
    key: PublicKey,
    notes: Vec<Note>,
    stage: Stage,
    /// The epoch's number and the index of its first record.
    epoch: u64,
    base: u64,
    /// The index after the last record that is looked at.
    end: u64,
    /// Exactly how many records of the epoch are gone, where that is known.
    removed: Option<u64>,
    gaps: Gaps,
    report: Report,
}

/// What is verified.
enum Over {
    /// A log that goes on meanwhile.
    Open(Log),
    /// A tree as the store has it; `whole` is false where what is unfinished of it can't be read.
    Still { epoch: Box<Epoch>, whole: bool },
}

/// What comes next.
enum Stage {
    /// The records before the epoch, from this index on.
    Before(u64),
    /// The records of this tile, and their hashes.
    Leaves(u64),
    /// Tiles of this level, from this one on.
    Above(u8, u64),
    End,
}

impl Log {
    /// Verifies the log while it goes on; `given` is a checkpoint that somebody else has kept.
    pub fn verifier(&self, given: Option<Vec<u8>>) -> Result<Verifier, AuditError> {
        let shared = &self.0;
        let (epoch, base, end) = {
            let state = self.state();
            (state.epoch.number, state.epoch.base, state.next)
        };
        let kept = shared.signer.kept()?;
        let trees = (shared.records.clone(), shared.tiles.clone());
        Ok(Verifier::begin(
            Over::Open(self.clone()),
            trees,
            shared.signer.public().clone(),
            notes(kept, given),
            (epoch, base, end),
        ))
    }
}

/// The device's own, and one that somebody else has kept.
fn notes(kept: Vec<(&'static str, Vec<u8>)>, given: Option<Vec<u8>>) -> Vec<Note> {
    let given = given.map(|note| ("that was given", note));
    let all = kept.into_iter().chain(given);
    all.map(|(place, bytes)| Note { place, bytes }).collect()
}

impl Verifier {
    fn begin(
        over: Over,
        (records, tiles): (Tree, Tree),
        key: PublicKey,
        notes: Vec<Note>,
        (epoch, base, end): (u64, u64, u64),
    ) -> Verifier {
        Verifier {
            over,
            records,
            tiles,
            key,
            notes,
            stage: Stage::Before(0),
            epoch,
            base,
            end,
            removed: None,
            gaps: Gaps::default(),
            report: Report::new(epoch, base, end),
        }
    }

    /// Over a store that nobody else uses, with the state folder whose it is. It may be written to: it
    /// is somebody's copy.
    pub fn of_store(
        store: &Store,
        folder: &Path,
        key: PublicKey,
        given: Option<Vec<u8>>,
    ) -> Result<Verifier, AuditError> {
        let [records, _, tiles] = super::TREES.map(|name| store.tree(name));
        let (records, tiles) = (records?, tiles?);
        let checkpoints = store.tree("audit_checkpoints")?;
        let kept = checkpoint::kept(&checkpoints, &checkpoint::file(folder))?;
        let notes = notes(kept, given);
        let last = records.last()?;
        let end = last.map_or(Ok(0), |key| index_of(&key).map(|last| last + 1))?;
        let mut findings = Vec::new();
        if let Some(recovery) = store.recovery() {
            let what = Damage::StoreDamaged(recovery.error.clone());
            findings.push(Finding::of_all(what));
        }
        let begun = Begun::read(&checkpoints)?;
        if begun.is_none() {
            let signed = !notes.is_empty() || !tiles.keys(&[], 1)?.is_empty();
            match (signed, end) {
                (true, _) => findings.push(Finding::of_all(Damage::EpochDamaged)),
                (false, 0) => {}
                (false, _) => findings.push(Finding::of_all(Damage::NoTree)),
            }
        }
        let (epoch, base) = begun.as_ref().map_or((0, end), |b| (b.epoch, b.base));
        let over = still(store, (&records, &tiles), (epoch, base, end), &mut findings)?;
        let mut verifier = Verifier::begin(over, (records, tiles), key, notes, (epoch, base, end));
        findings
            .into_iter()
            .for_each(|found| verifier.report.find(found));
        verifier.head(&store.tree("audit_head")?)?;
        verifier.first_record(begun.as_ref())?;
        Ok(verifier)
    }

    /// Goes on; the report at the end. Blocks.
    pub fn step(&mut self) -> Result<Option<Report>, AuditError> {
        match self.stage {
            Stage::Before(from) => self.before(from)?,
            Stage::Leaves(tile) => self.leaves(tile)?,
            Stage::Above(level, tile) => self.above(level, tile)?,
            Stage::End => return self.conclude().map(Some),
        }
        Ok(None)
    }

    /// The report of all steps. Blocks.
    pub fn run(mut self) -> Result<Report, AuditError> {
        loop {
            if let Some(report) = self.step()? {
                return Ok(report);
            }
        }
    }

    /// Looks at the tree while nothing is appended or removed.
    fn with_epoch<T>(&self, look: impl FnOnce(&Epoch) -> T) -> Result<T, AuditError> {
        match &self.over {
            Over::Still { epoch, .. } => Ok(look(epoch)),
            Over::Open(log) => {
                let state = log.state();
                match (state.epoch.number, state.epoch.base) == (self.epoch, self.base) {
                    true => Ok(look(&state.epoch)),
                    // What was being verified is no more.
                    false => Err(ProofError::OtherEpoch.into()),
                }
            }
        }
    }

    /// A head that is right makes it known exactly how many records are gone.
    fn head(&mut self, heads: &Tree) -> Result<(), AuditError> {
        match Head::read(heads)? {
            Found::Damaged => self.report.find(Finding::of_all(Damage::HeadDamaged)),
            Found::Whole(head) if (head.epoch, head.base) != (self.epoch, self.base) => {
                self.report.find(Finding::of_all(Damage::HeadWrong));
            }
            Found::Whole(head) if head.next > self.end => {
                let missing = Finding::of(Damage::RecordsMissing, self.end, head.next);
                self.report.find(missing);
            }
            Found::Whole(head) if head.next == self.end => self.removed = Some(head.removed),
            Found::Whole(_) | Found::Nothing => {}
        }
        Ok(())
    }

    /// What the store says of the epoch is what its first record says.
    fn first_record(&mut self, begun: Option<&Begun>) -> Result<(), AuditError> {
        let record = self.records.get(&self.base.to_be_bytes())?;
        if let (Some(begun), Some(record)) = (begun, record)
            && !begun.is_told_by(&record)
        {
            self.report.find(Finding::of_all(Damage::EpochDamaged));
        }
        Ok(())
    }

    /// Of earlier epochs there are only the records' own words.
    fn before(&mut self, from: u64) -> Result<(), AuditError> {
        let page = self.page(from, self.base.min(self.end))?;
        self.stage = match page.last() {
            Some((last, _)) => Stage::Before(last + 1),
            None => Stage::Leaves(0),
        };
        self.report.before_epoch += page.len() as u64;
        for (index, json) in page {
            self.glance(Looked::new(index, json, Compared::NoTile));
        }
        Ok(())
    }

    /// Whether a record has the index that it says, and what it says of removed ones.
    fn glance(&mut self, looked: Looked) {
        let (index, said) = (looked.index, looked.glance.map(|glance| glance.index));
        if let Some(other) = said.filter(|said| *said != index) {
            let what = Damage::RecordElsewhere(other);
            self.report.find(Finding::of(what, index, index + 1));
        }
        if let Some(line) = looked.truncation.filter(|line| line.index >= self.base) {
            self.gaps.hear(&line);
        }
    }

    fn leaves(&mut self, first: u64) -> Result<(), AuditError> {
        let spans = self.spans(first);
        for (span, seen) in spans.iter().zip(self.look_at(&spans)?) {
            match seen {
                Seen::Records(looked, piece) => self.records_of(*span, looked, &piece),
                Seen::Damaged(why) => {
                    let what = Damage::StoreDamaged(why);
                    self.report.find(Finding::of(what, span.begin, span.end));
                }
            }
        }
        self.stage = match (spans.len() as u64) < STEP {
            true => Stage::Above(1, 0),
            false => Stage::Leaves(first + STEP),
        };
        Ok(())
    }

    /// The records of a tile, and their hashes in it.
    fn records_of(&mut self, span: Span, looked: Vec<Looked>, piece: &Piece) {
        let Span { begin, end, .. } = span;
        self.report.records += looked.len() as u64;
        self.gaps.look(begin, end, looked.iter().map(|l| l.index));
        let ends = looked.first().zip(looked.last());
        let ends = ends.map(|(first, last)| (first.index, last.index));
        let mut others = Vec::new();
        for record in looked {
            match record.hash {
                Compared::Same | Compared::NoTile => {}
                Compared::Other => others.push((record.index, Damage::RecordChanged)),
                Compared::Missing => others.push((record.index, Damage::HashMissing)),
            }
            self.glance(record);
        }
        let Some((first, last)) = ends else {
            self.judge(piece, begin, end);
            return;
        };
        if piece.tile.is_none() && !piece.damaged {
            let what = Damage::TileMissing(0, span.number);
            self.report.find(Finding::of(what, first, last + 1));
        }
        // Where the tile is what was changed, the records that differ say where.
        let changed = others.first().zip(others.last());
        let (from, to) = changed.map_or((begin, end), |(first, last)| (first.0, last.0 + 1));
        if self.judge(piece, from, to) {
            for (index, what) in others {
                self.report.find(Finding::of(what, index, index + 1));
            }
        }
    }

    /// Whether a tile is what the one above it says.
    fn judge(&mut self, piece: &Piece, from: u64, to: u64) -> bool {
        let Piece { level, number, .. } = *piece;
        if piece.damaged {
            let what = Damage::TileDamaged(level, number);
            self.report.find(Finding::of(what, from, to));
            return false;
        }
        let Some(root) = piece.root else {
            // Unfinished, or gone with its records.
            return true;
        };
        match piece.above {
            Some(above) if above != root => {
                let what = Damage::TileChanged(level, number);
                self.report.find(Finding::of(what, from, to));
                false
            }
            None if piece.open_above && !self.is_whole() => true,
            None if !piece.damaged_above => {
                let what = Damage::TileMissing(level + 1, number / WIDTH as u64);
                let (from, to) = self.span(level + 1, number / WIDTH as u64);
                self.report.find(Finding::of(what, from, to));
                true
            }
            _ => true,
        }
    }

    fn is_whole(&self) -> bool {
        match &self.over {
            Over::Open(_) => true,
            Over::Still { whole, .. } => *whole,
        }
    }

    /// The records that a tile is of: from the first to before the last.
    fn span(&self, level: u8, tile: u64) -> (u64, u64) {
        let bits = u32::from(level + 1) * u32::from(HEIGHT);
        let leaves = |tile: u64| tile.checked_shl(bits).filter(|leaf| leaf >> bits == tile);
        let index = |tile: u64| self.base.saturating_add(leaves(tile).unwrap_or(u64::MAX));
        (index(tile).min(self.end), index(tile + 1).min(self.end))
    }

    /// The tiles above, each against the one above it.
    fn above(&mut self, level: u8, first: u64) -> Result<(), AuditError> {
        let pieces = self.with_epoch(|epoch| {
            let full = epoch.full(level);
            let numbers = first..full.min(first + STEP);
            let pieces = numbers.map(|number| Piece::look(epoch, &self.tiles, level, number));
            Ok::<_, AuditError>((full, pieces.collect::<Result<Vec<_>, _>>()?))
        })?;
        let (full, pieces) = pieces?;
        self.stage = match (pieces.is_empty(), full) {
            (true, 0) => Stage::End,
            (true, _) => Stage::Above(level + 1, 0),
            (false, _) => Stage::Above(level, first + STEP),
        };
        for mut piece in pieces {
            let (from, to) = self.span(level, piece.number);
            piece.fold();
            self.judge(&piece, from, to);
        }
        Ok(())
    }

    fn conclude(&mut self) -> Result<Report, AuditError> {
        let removed = match &self.over {
            // More may have been removed than was so when their places were looked at.
            Over::Open(log) => log.state().removed,
            Over::Still { .. } => self.removed.unwrap_or(self.gaps.removed()),
        };
        for (from, to) in self.gaps.unexplained(removed) {
            let what = Damage::RecordsMissing;
            self.report.find(Finding::of(what, from, to));
        }
        self.report.removed = self.gaps.missing();
        for note in std::mem::take(&mut self.notes) {
            self.agree(&note)?;
        }
        if let (None, Some(last)) = (&self.report.signed, self.end.checked_sub(1)) {
            let remark = match last >= self.base {
                true => "nothing of this epoch is signed yet",
                false => "this epoch has no records",
            };
            self.report.remarks.push(remark.to_owned());
        }
        let signed = self.report.signed.as_ref().map_or(0, |signed| signed.size);
        let size = self.end.saturating_sub(self.base);
        self.report.unsigned = size.saturating_sub(signed);
        Ok(self.report.clone())
    }

    /// Whether the log is what a checkpoint says of it.
    fn agree(&mut self, note: &Note) -> Result<(), AuditError> {
        let place = || note.place.to_owned();
        let Some(known) = Known::read(&note.bytes, &self.key) else {
            let what = Damage::CheckpointDamaged(place());
            self.report.find(Finding::of_all(what));
            return Ok(());
        };
        if known.epoch > self.epoch {
            let what = Damage::EpochMissing(place(), known.epoch);
            self.report.find(Finding::of_all(what));
            return Ok(());
        }
        if known.epoch < self.epoch {
            let remark = format!("the checkpoint {} is of an earlier epoch", note.place);
            self.report.remarks.push(remark);
            return Ok(());
        }
        let covered = self.base.saturating_add(known.size);
        if covered > self.end {
            let what = Damage::TailMissing(place());
            let from = self.end.max(self.base);
            self.report.find(Finding::of(what, from, covered));
            return Ok(());
        }
        match self.with_epoch(|epoch| epoch.root(known.size, &self.tiles))? {
            Ok(root) if root == known.root => {
                let newest = self.report.signed.as_ref().map_or(0, |signed| signed.size);
                if known.size >= newest {
                    self.report.signed = Some(Covered {
                        origin: known.origin,
                        size: known.size,
                        note: known.note,
                    });
                }
            }
            Ok(_) => {
                let what = Damage::OtherHistory(place());
                self.report.find(Finding::of(what, self.base, covered));
            }
            Err(ProofError::Store(error)) => return Err(error.into()),
            Err(_) => {
                let remark = format!("the checkpoint {} can't be compared", note.place);
                self.report.remarks.push(remark);
            }
        }
        Ok(())
    }
}

/// A tile, and what the one above says of it.
struct Piece {
    level: u8,
    number: u64,
    tile: Option<Tile>,
    /// Once it is folded: of a full one.
    root: Option<Hash>,
    damaged: bool,
    above: Option<Hash>,
    damaged_above: bool,
    /// The one above is unfinished.
    open_above: bool,
}

impl Piece {
    fn look(epoch: &Epoch, tiles: &Tree, level: u8, number: u64) -> Result<Piece, StoreError> {
        let (tile, damaged) = match epoch.tile(tiles, level, number) {
            Err(ProofError::Store(error)) => return Err(error),
            Err(_) => (None, true),
            Ok(tile) => (tile, false),
        };
        let full = number < epoch.full(level);
        let above = full.then(|| epoch.view(tiles).hash((level + 1) * HEIGHT, number));
        let (above, damaged_above) = match above {
            Some(Err(ProofError::Store(error))) => return Err(error),
            Some(Err(ProofError::Damaged(..))) => (None, true),
            Some(Ok(hash)) => (Some(hash), false),
            Some(Err(_)) | None => (None, false),
        };
        Ok(Piece {
            level,
            number,
            tile,
            root: None,
            damaged,
            above,
            damaged_above,
            open_above: number / WIDTH as u64 == epoch.full(level + 1),
        })
    }

    /// Apart from the look, during which nothing is appended.
    fn fold(&mut self) {
        self.root = self.tile.as_ref().and_then(Tile::root);
    }
}

/// The tree of a store that nobody has open.
fn still(
    store: &Store,
    (records, tiles): (&Tree, &Tree),
    (number, base, end): (u64, u64, u64),
    findings: &mut Vec<Finding>,
) -> Result<Over, AuditError> {
    let loaded = store.write(|writer| {
        let from = Source {
            records,
            tiles,
            writer,
        };
        Ok::<_, StoreError>(Epoch::load(number, (base, end), &from))
    })?;
    let (epoch, whole) = match loaded {
        Ok(epoch) => (epoch, true),
        Err(Broken::Store(error)) => return Err(error.into()),
        Err(Broken::NoRecord(index)) => {
            findings.push(Finding::of(Damage::RecordsMissing, index, index + 1));
            (Epoch::unread(number, base, end), false)
        }
        Err(Broken::Tile(level, tile)) => {
            findings.push(Finding::of_all(Damage::TileDamaged(level, tile)));
            (Epoch::unread(number, base, end), false)
        }
    };
    let epoch = Box::new(epoch);
    Ok(Over::Still { epoch, whole })
}
