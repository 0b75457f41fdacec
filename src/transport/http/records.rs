//! `GET /audit` of the admin socket: the records that a query asks for, as lines of JSON.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use hyper::Response;

use super::query::{self, bad_value, number};
use super::reply::{self, Body, JSON_LINES, Refused};
use crate::admin::LeftOut;
use crate::audit::{Log, MAX_LAST, Reader, Start, Step, Wanted};
use crate::reason::Refusal;
use crate::shutdown::Shutdown;
use crate::time;

/// Beside those of a filter.
const NAMES: [&str; 5] = ["from", "last", "before", "limit", "follow"];

pub(super) fn answer(
    query: Option<&str>,
    log: Log,
    keep_alive: Duration,
    shutdown: Shutdown,
) -> Result<Response<Body>, Refused> {
    let wanted = wanted(query.unwrap_or_default(), log.next_index())?;
    let lines = Lines {
        reader: Some(Reader::new(log.clone(), wanted)),
        log,
        keep_alive,
        said: time::instant(),
        shutdown,
    };
    let lines = stream::unfold(lines, async |mut lines| {
        let bytes = lines.next().await?;
        Some((bytes, lines))
    });
    Ok(reply::streamed(JSON_LINES, lines))
}

/// What a query asks for of a log that ends before `next`.
fn wanted(query: &str, next: u64) -> Result<Wanted, Refusal> {
    let ([from, last, before, limit, follow], filter) = query::read(query, NAMES)?;
    let start = match (number("from", from)?, number("last", last)?) {
        (Some(_), Some(_)) => return Err(bad_value("last", "alone, without `from`")),
        (None, Some(last)) if last > MAX_LAST && !filter.is_empty() => {
            let most = format!("{MAX_LAST} or less with a filter; `from=0` shows all that match");
            return Err(bad_value("last", &most));
        }
        (None, Some(last)) => Start::Last(last),
        (from, None) => Start::At(from.unwrap_or(0)),
    };
    Ok(Wanted {
        start,
        before: number("before", before)?.unwrap_or(u64::MAX).min(next),
        follow: match follow.as_deref() {
            None | Some("false") => false,
            Some("" | "true") => true,
            Some(_) => return Err(bad_value("follow", "true or false")),
        },
        limit: number("limit", limit)?.unwrap_or(u64::MAX),
        filter,
    })
}

/// Goes on with a reader as fast as the client takes it, and waits at the log's end where it is to
/// follow.
struct Lines {
    /// `None`: at its end.
    reader: Option<Reader>,
    log: Log,
    /// Between signs of life, which are empty lines.
    keep_alive: Duration,
    said: Instant,
    shutdown: Shutdown,
}

impl Lines {
    /// The next lines; `None` at the end, or when the log can't be read.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.step().await? {
                Step::Lines(records) => {
                    let mut bytes = Vec::new();
                    for record in &records {
                        bytes.extend_from_slice(&record.json);
                        bytes.push(b'\n');
                    }
                    return self.say(bytes);
                }
                Step::Searching if self.said.elapsed() < self.keep_alive => {}
                Step::Searching => return self.say(b"\n".to_vec()),
                Step::Wait(index) => tokio::select! {
                    () = self.log.wait(index) => {}
                    () = tokio::time::sleep(self.keep_alive) => return self.say(b"\n".to_vec()),
                    () = self.shutdown.draining() => return self.end(),
                },
                Step::End => return self.end(),
            }
        }
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "as the stream has it that this is an item of"
    )]
    fn say(&mut self, bytes: Vec<u8>) -> Option<Bytes> {
        self.said = time::instant();
        Some(bytes.into())
    }

    /// The last line, where there is something to say.
    fn end(&mut self) -> Option<Bytes> {
        let left_out = self.reader.take()?.left_out();
        let said = serde_json::to_vec(&LeftOut { left_out }).ok()?;
        (left_out > 0).then(|| [said, b"\n".to_vec()].concat().into())
    }

    async fn step(&mut self) -> Option<Step> {
        let mut reader = self.reader.take()?;
        let stepped = tokio::task::spawn_blocking(move || (reader.step(), reader)).await;
        match stepped {
            Ok((Ok(step), reader)) => {
                self.reader = Some(reader);
                Some(step)
            }
            Ok((Err(error), _)) => {
                tracing::error!(%error, "the audit log can't be read");
                None
            }
            Err(error) => {
                tracing::error!(%error, "an audit reader failed");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::{open_in, settings};
    use crate::audit::{Change, Filter};
    use crate::prompt::Origin;
    use crate::store::Store;
    use crate::time::Timestamp;

    /// Who follows hears that the daemon lives, and of what comes; the stop ends it.
    #[tokio::test]
    async fn a_silent_log_gives_signs_of_life() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("db")).unwrap();
        let log = open_in(&store, &folder, settings());
        let shutdown = Shutdown::default();
        let mut lines = Lines {
            reader: Some(Reader::new(log.clone(), wanted("follow", 0).unwrap())),
            log: log.clone(),
            keep_alive: Duration::from_millis(20),
            said: time::instant(),
            shutdown: shutdown.clone(),
        };
        assert_eq!(lines.next().await.unwrap(), "\n");
        let change = || log.change(Origin::Daemon, Change::Stop, true.into(), Timestamp(1));
        change().unwrap();
        let line = lines.next().await.unwrap();
        assert!(line.ends_with(b"}\n"), "{line:?}");
        shutdown.drain();
        while let Some(line) = lines.next().await {
            assert_eq!(line, "\n");
        }
    }

    #[test]
    fn a_query_asks_for_what_it_says() {
        let asked = wanted("last=5&user=J%C3%BCrgen%20K&before=99&decision=refuse", 7).unwrap();
        assert_eq!((asked.start, asked.before), (Start::Last(5), 7));
        let mut filter = Filter::default();
        filter.set("user", "Jürgen K").unwrap();
        filter.set("decision", "deny").unwrap();
        assert_eq!(asked.filter, filter);
        let all = wanted("", 7).unwrap();
        assert_eq!(
            (all.start, all.before, all.limit),
            (Start::At(0), 7, u64::MAX)
        );
        assert!(all.filter.is_empty() && !all.follow);
        assert!(wanted("follow&from=3", 7).unwrap().follow);
    }

    #[test]
    fn what_would_show_other_records_is_refused() {
        for (query, words) in [
            ("clinet=a", "did you mean `client`?"),
            ("x=1", "known are from, last"),
            ("client=a&client=b", "`client` must be there once"),
            ("client=%ff", "percent-encoded"),
            ("client=", "names nothing"),
            ("decision=expird", "did you mean expired?"),
            ("since=yesterday", "write a time in UTC"),
            ("uid=root", "a user's number"),
            ("from=1&last=1", "`last` must be alone"),
            ("last=70000&client=a", "65536 or less"),
            ("last=-1", "a number"),
            ("follow=yes", "true or false"),
        ] {
            let refusal = wanted(query, 7).unwrap_err();
            assert!(refusal.message().contains(words), "{query}: {refusal}");
        }
        assert!(wanted("last=70000", 7).is_ok());
        let long = format!("client={}", "a".repeat(17 << 10));
        assert!(wanted(&long, 7).is_err());
    }
}
