//! Records as entries of this machine's journal, each member as a field of its own.
//!
//! The journal's socket takes an entry or refuses it, and keeps what it has taken while the journal is
//! restarted; so an entry that was taken is confirmed.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::sleep;

use super::failure::Failure;
use super::feed::{Feed, PAGE, Piece};
use super::outline::{Outline, Severity};
use super::syslog::Gap;
use crate::audit::{AuditError, Line};
use crate::identity::chance;
use crate::link::{self, Backoff};
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use crate::telemetry::{Entry, Journal};

/// Tells audit records from the log's lines: `journalctl -t slmd-audit`.
const IDENTIFIER: &str = "slmd-audit";

/// Of records, for who filters by such ids; it never changes.
const MESSAGE_ID: &str = "c5b81b8e8f6d4f0aa0d63a4d3c1c9d7e";

/// Unless told otherwise the journal drops what is beyond 10,000 entries in 30 s, without a word to who
/// sent them. After a full page there is a pause.
const PAUSE: Duration = Duration::from_secs(1);

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Until the daemon ends.
pub(super) async fn run(mut feed: Feed, shutdown: Shutdown) {
    tokio::select! {
        () = deliver(&mut feed) => {}
        () = shutdown.ended() => {}
    }
    feed.save().await;
}

async fn deliver(feed: &mut Feed) {
    let mut backoff = Backoff::new(SHORTEST, LONGEST);
    loop {
        feed.ready().await;
        while let Err(failure) = page(feed).await {
            feed.progress().failed(&failure);
            feed.back();
            sleep(backoff.pause(link::Failure::Unreachable, chance())).await;
        }
        feed.progress().well();
        backoff = Backoff::new(SHORTEST, LONGEST);
    }
}

/// Writes what there is next.
async fn page(feed: &mut Feed) -> Result<(), Failure> {
    let page = feed.page(PAGE).await?;
    let full = page.len() >= PAGE;
    let (taken, written) = tokio::task::spawn_blocking(move || write(&page))
        .await
        .map_err(|_| AuditError::from(StoreError::Io("writing to the journal panicked".into())))?;
    if let Some(last) = taken.last() {
        feed.progress().sent(taken.len());
        feed.confirm(last + 1).await;
    }
    written?;
    if full {
        sleep(PAUSE).await;
    }
    Ok(())
}

/// The indexes of the records that were taken, and why no more were.
fn write(page: &[Piece]) -> (Vec<u64>, Result<(), Failure>) {
    let mut taken = Vec::new();
    let mut write = || {
        let journal = Journal::open()?;
        for piece in page {
            match piece {
                Piece::Gap(told) => journal.write(&gap(*told))?,
                Piece::Record(line) => {
                    journal.write(&entry(line))?;
                    taken.push(line.index);
                }
            }
        }
        Ok(())
    };
    let written = write().map_err(Failure::Journal);
    (taken, written)
}

fn entry(line: &Line) -> Entry {
    let outline = Outline::of(line);
    let mut entry = begin(outline.severity(), &outline.words());
    let record: Map<String, Value> = serde_json::from_slice(&line.json).unwrap_or_default();
    for (name, value) in record.iter().filter(|(_, value)| !value.is_null()) {
        entry.own(name, value);
    }
    entry.own("record", &String::from_utf8_lossy(&line.json).into());
    entry
}

fn gap(gap: Gap) -> Entry {
    let words = format!(
        "export_gap: {} records, from {} to {}, were removed before they were exported",
        gap.count(),
        gap.first,
        gap.last
    );
    let mut entry = begin(Severity::Warning, &words);
    for (name, value) in [
        ("event", Value::from("export_gap")),
        ("first_index", gap.first.into()),
        ("last_index", gap.last.into()),
    ] {
        entry.own(name, &value);
    }
    entry
}

fn begin(severity: Severity, message: &str) -> Entry {
    let mut entry = Entry::default();
    entry.field("MESSAGE", message);
    entry.field("MESSAGE_ID", MESSAGE_ID);
    entry.field("PRIORITY", &(severity as u8).to_string());
    entry.field("SYSLOG_IDENTIFIER", IDENTIFIER);
    entry
}
