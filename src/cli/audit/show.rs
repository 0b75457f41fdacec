//! How records are shown: as lines, or with all that they say (`slmd audit show`).

use std::io::IsTerminal;

use clap::Args;
use serde_json::Value;

use super::describe;
use super::source::{Asked, Source, index_of};
use crate::admin::LeftOut;
use crate::audit::Filter;
use crate::cli::access::Access;
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::terminal::{Style, Terminal, count};
use crate::cli::{Global, output};
use crate::digest::hex;
use crate::tlog::tree::leaf_hash;

/// How lines are shown.
pub(super) struct Show {
    json: bool,
    terminal: Terminal,
    /// Lines that are too long are broken between words only where somebody looks at them.
    fit: bool,
}

impl Show {
    pub(super) fn new(global: &Global) -> Show {
        Show {
            json: global.json,
            terminal: Terminal::stdout(),
            fit: std::io::stdout().is_terminal(),
        }
    }

    pub(super) fn line(&self, line: &str) -> Done {
        if line.is_empty() {
            // The daemon's sign of life.
            return Ok(());
        }
        if let Ok(LeftOut { left_out }) = serde_json::from_str(line) {
            return self.left_out(left_out);
        }
        if self.json {
            return output::json_line(line);
        }
        let told = describe(line, self.terminal);
        match self.fit {
            true => self
                .terminal
                .fit(&told, 2)
                .iter()
                .try_for_each(|part| output::line(part)),
            false => output::line(&told),
        }
    }

    /// Where the records are for a script, people are told beside them.
    pub(super) fn left_out(&self, left_out: u64) -> Done {
        let told = format!("{} of a newer release left out", count(left_out, "record"));
        match left_out {
            0 => Ok(()),
            _ if self.json => {
                eprintln!("slmd: {told}");
                Ok(())
            }
            _ => output::line(&self.terminal.paint(Style::Quiet, &told)),
        }
    }
}

/// Show all that the log says of one record, or of one request.
#[derive(Debug, Args)]
#[command(after_help = "\
Of a request both records are shown, the access and how it ended, and that the salt of its prompt's
hash was erased, where it was. The leaf is the record's hash in the log's tree: SHA-256 over a zero
byte and the record's exact bytes, which slmd audit export and --json print.

Examples:
  slmd audit show 4711
  slmd audit show req_3f2a9c41
  slmd audit show req_3f2a9c41… --json | jq .")]
pub(in crate::cli) struct ShowOne {
    /// The record's index, or the request's id: ours or the beginning of it (req_…), or the client's.
    #[arg(value_name = "INDEX|REQUEST")]
    what: String,
    #[command(flatten)]
    access: Access,
}

impl ShowOne {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let source = Source::open(&self.access, global)?;
        let request = match self.what.parse::<u64>() {
            Err(_) => self.what.clone(),
            Ok(index) => {
                let line = source.line(index)?;
                match request_of(&line) {
                    Some(request) => request,
                    None => return show(global, &line),
                }
            }
        };
        let mut lines = found(&source, &[("request", &request)])?;
        let ids: Vec<String> = lines.iter().filter_map(|line| request_of(line)).collect();
        let Some(own) = ids
            .first()
            .filter(|first| ids.iter().all(|id| id == *first))
        else {
            return Err(match ids.is_empty() {
                true => Failure::failed(format!("the log has no request {:?}", self.what)),
                false => {
                    let what =
                        "several requests are called so; slmd audit search --request shows them";
                    Failure::failed(what)
                }
            });
        };
        let erased = format!("detail.request_id={own}");
        lines.extend(found(
            &source,
            &[("event", "change"), (Filter::MEMBER, &erased)],
        )?);
        lines.iter().try_for_each(|line| show(global, line))
    }
}

/// Records that have all of this.
pub(super) fn found(source: &Source, pairs: &[(&str, &str)]) -> Result<Vec<String>, Failure> {
    let mut filter = Filter::default();
    for (name, value) in pairs {
        let set = filter.set(name, value);
        set.map_err(|unfit| Failure::new(Exit::Usage, unfit.to_string()))?;
    }
    let mut lines = Vec::new();
    let asked = Asked {
        filter,
        ..Asked::default()
    };
    source.each(&asked, |line| {
        lines.push(line.to_owned());
        // A client can give all its requests one id.
        Ok(lines.len() < 64)
    })?;
    Ok(lines)
}

fn request_of(line: &str) -> Option<String> {
    let record: Value = serde_json::from_str(line).ok()?;
    Some(record.get("request_id")?.as_str()?.to_owned())
}

fn show(global: &Global, line: &str) -> Done {
    if global.json {
        return output::json_line(line);
    }
    let terminal = Terminal::stdout();
    let index = index_of(line)?;
    let title = terminal.paint(Style::Strong, &format!("record {index}"));
    output::line(&format!("{title}  {}", describe(line, terminal)))?;
    let mut record: Value = serde_json::from_str(line).map_err(Failure::failed)?;
    if let Some(record) = record.as_object_mut() {
        // Told by the line above.
        record.shift_remove("index");
        record.insert("leaf".to_owned(), hex(&leaf_hash(line.as_bytes())).into());
        let proof = format!("slmd audit prove {index} -o {index}.tlog-proof");
        record.insert("proof".to_owned(), proof.into());
    }
    let text = output::human(&record);
    text.trim_end()
        .lines()
        .try_for_each(|line| output::line(&format!("  {line}")))
}
