//! `slmd audit search`: all records that match, and how many.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::Value;

use super::filters::Filters;
use super::show::Show;
use super::source::{Asked, Source};
use crate::cli::access::Access;
use crate::cli::exit::{Done, Failure};
use crate::cli::terminal::count;
use crate::cli::{Global, output};
use crate::time::Clocks;

/// Values that are counted apart; what is beyond is counted together.
const MAX_VALUES: usize = 10_000;

/// Show all records that match, oldest first, and how many there are.
#[derive(Debug, Args)]
#[command(after_help = "\
Filters and lines are those of slmd audit tail. Without a token it is for root and the daemon's user,
who see everything; with one (--token-file, SLMD_TOKEN or slmd login) that has the role audit it
shows the records of the token's realm.

--where looks at any member of a record, as --json has it: --where finish=length,
--where origin.uid=1000, --where what=keys_pinned. A value that ends in … finds all that begin so.

Examples:
  slmd audit search --since 2026-11-01 --until 2026-12-01 --realm prod --decision refuse
  slmd audit search --event change --where what=keys_pinned
  slmd audit search --since 1d --event access --count-by client
  SLMD_TOKEN=\"$token\" slmd audit search --user alice --json")]
pub(in crate::cli) struct Search {
    #[command(flatten)]
    filters: Filters,
    /// Print how many match, and nothing of them.
    #[arg(long, conflicts_with = "count_by")]
    count: bool,
    /// Print how many match for each value of this member, the most first.
    #[arg(long, value_name = "MEMBER")]
    count_by: Option<String>,
    #[command(flatten)]
    access: Access,
}

impl Search {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let asked = Asked {
            filter: self.filters.filter(Clocks::default().now())?,
            ..Asked::default()
        };
        let source = Source::open(&self.access, global)?;
        let show = Show::new(global);
        let (mut found, mut by_value) = (0, BTreeMap::<String, u64>::new());
        source.each(&asked, |line| {
            found += 1;
            match &self.count_by {
                Some(member) => {
                    let value = value(line, member);
                    let room = by_value.len() < MAX_VALUES || by_value.contains_key(&value);
                    let value = if room { value } else { "…".to_owned() };
                    *by_value.entry(value).or_default() += 1;
                }
                None if self.count => {}
                None => show.line(line)?,
            }
            Ok(true)
        })?;
        match &self.count_by {
            Some(_) => counted(global, by_value),
            None if self.count => output::line(&found.to_string()),
            None => {
                if !global.json {
                    eprintln!("slmd: {}", count(found, "record"));
                }
                Ok(())
            }
        }
    }
}

/// What a record says in a member, by dots; `-` where it says nothing there.
fn value(line: &str, member: &str) -> String {
    let record: Value = serde_json::from_str(line).unwrap_or_default();
    let mut steps = member.split('.');
    let found = steps.try_fold(&record, |value, name| value.get(name));
    match found {
        None => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn counted(global: &Global, by_value: BTreeMap<String, u64>) -> Done {
    if global.json {
        let counts = serde_json::to_string(&by_value).map_err(Failure::failed)?;
        return output::json_line(&counts);
    }
    let mut rows: Vec<(String, u64)> = by_value.into_iter().collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    rows.iter().try_for_each(|(value, count)| {
        output::line(&format!("{count:>8}  {}", output::printable(value)))
    })
}
