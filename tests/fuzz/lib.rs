//! The pure modules of the daemon under the names that they call each other by, and the worlds
//! that the fuzz targets decide in.

// The daemon has a caller for each of these; a target needs few of them.
#![allow(dead_code, unexpected_cfgs)]

#[path = "../../src/age.rs"]
pub mod age;
#[path = "../../src/algorithm.rs"]
pub mod algorithm;
/// What a query and a filter ask for of the log, without the log.
#[path = "../../src/audit"]
pub mod audit {
    mod change;
    mod encrypted;
    mod filter;
    mod matcher;
    mod record;
    mod tag;
    mod text;

    pub use filter::{Filter, Unfit};
    pub use record::Line;

    /// Which of the records a filter shows, one after the other.
    pub fn shown(filter: &Filter, lines: &[Line]) -> Vec<bool> {
        let mut matcher = matcher::Matcher::new(filter.clone());
        let judged = lines.iter().map(|line| matcher.judge(line));
        judged.map(|fit| fit == matcher::Fit::Shown).collect()
    }
}
#[path = "../../src/auth/mod.rs"]
pub mod auth;
/// How people write a time on the command line.
#[path = "../../src/cli/audit"]
pub mod cli {
    mod since;

    use crate::time::Timestamp;

    /// Where this machine's zone is UTC.
    pub fn since(text: &str, now: Timestamp) -> Option<Timestamp> {
        let utc = |[year, month, day, hour, minute, second]: [u32; 6]| {
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z");
            text.parse().ok().map(Timestamp::as_secs)
        };
        let since = since::parse(text, utc).ok()?;
        Some(since.at(now))
    }
}
#[path = "../../src/digest.rs"]
pub mod digest;
#[path = "../../src/files.rs"]
pub mod files;
/// The query of `GET /v1/audit`.
#[path = "../../src/transport/http"]
pub mod http {
    mod query;

    use crate::audit::Filter;
    use crate::reason::Refusal;

    pub const NAMES: [&str; 3] = ["from", "limit", "order"];

    pub fn asked(query: &str) -> Result<([Option<String>; 3], Filter), Refusal> {
        query::read(query, NAMES)
    }

    pub fn number(text: &str) -> Result<Option<u64>, Refusal> {
        query::number("from", Some(text.to_owned()))
    }
}
#[path = "../../src/identity.rs"]
pub mod identity;
#[path = "../../src/json.rs"]
pub mod json;
#[path = "../../src/prompt/mod.rs"]
pub mod prompt;
#[path = "../../src/reason.rs"]
pub mod reason;
#[path = "../../src/secret.rs"]
pub mod secret;
#[path = "../../src/spelling.rs"]
pub mod spelling;
#[path = "../../src/sys.rs"]
pub mod sys;
#[path = "../../src/time.rs"]
pub mod time;
#[path = "../../src/tlog/mod.rs"]
pub mod tlog;
#[path = "../../src/trace/mod.rs"]
pub mod trace;
#[path = "../../src/trust/mod.rs"]
pub mod trust;

pub mod fleet;
pub mod world;
