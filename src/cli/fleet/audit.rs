//! `slmd fleet audit`: a witness of the devices' audit logs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::devices::{aligned, heard};
use super::opened::{Folder, Opened};
use super::passphrase::Passphrases;
use super::reports::Sources;
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::output::printable;
use crate::cli::terminal::{Style, Terminal, ago, count};
use crate::cli::{Global, output};
use crate::repository::{Cosigner, Device, Found, Heard, PrivateKey, Seen, WITNESS};

/// Watch the devices' audit logs: none may be rewritten or cut, whoever holds the device.
#[derive(Debug, Args)]
#[command(after_help = "\
Each device's report has a signed checkpoint of its log, and proofs that it has grown from what it was.
What was last seen of each is kept in audit/ of the fleet's folder; a log that doesn't fit to it is
refused, and both checkpoints are kept as evidence. The exit code is 1 where a log is forked, refused,
withheld, unproven, or began anew. What is good is cosigned and brought to the device, which then proves
that it has grown from there: so run this as often as you want to know, with --init once before, and
the key that it prints in the devices' slmd.toml.

A log begins anew (another epoch) when the device has lost or damaged it: look into it, then --accept
DEVICE.

Examples:
  slmd fleet audit --init witness.example/plant
  slmd fleet audit
  slmd fleet audit --json | jq '.devices[] | select(.state != \"good\")'
  slmd fleet audit --accept edge-7")]
pub(in crate::cli) struct Audit {
    /// Make the key that is cosigned with. NAME is what it is known by, such as a host with a path.
    #[arg(long, value_name = "NAME", conflicts_with = "accept")]
    init: Option<String>,
    /// Take the log of DEVICE as it is from now on: somebody has looked into what was wrong.
    #[arg(long, value_name = "DEVICE")]
    accept: Vec<String>,
    /// Where to keep what was seen, instead of audit/ in the fleet's folder.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// After how many hours without a report a device is called silent.
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    silent_after: u64,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    passphrases: Passphrases,
}

/// A device's line.
#[derive(Debug, Serialize)]
struct Row {
    device: String,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    /// Records that its checkpoint covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    cosigned: bool,
    /// By a name that doesn't change.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<PathBuf>,
}

/// The worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Forked,
    Refused,
    Withheld,
    BeganAnew,
    Unproven,
    Never,
    Silent,
    NoLog,
    Good,
}

impl State {
    const ALL: [State; 9] = [
        State::Forked,
        State::Refused,
        State::Withheld,
        State::BeganAnew,
        State::Unproven,
        State::Never,
        State::Silent,
        State::NoLog,
        State::Good,
    ];

    fn shown(self) -> (&'static str, Style) {
        match self {
            State::Forked => ("FORKED", Style::Bad),
            State::Refused => ("refused", Style::Bad),
            State::Withheld => ("withheld", Style::Bad),
            State::BeganAnew => ("began anew", Style::Bad),
            State::Unproven => ("unproven", Style::Bad),
            State::Never => ("never heard", Style::Warning),
            State::Silent => ("silent", Style::Warning),
            State::NoLog => ("no log", Style::Warning),
            State::Good => ("good", Style::Good),
        }
    }

    /// Whether nobody can say that the log has only grown.
    fn is_wrong(self) -> bool {
        self <= State::Unproven
    }
}

impl Audit {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let opened = self.folder.open()?;
        if let Some(name) = &self.init {
            return self.init(global, &opened, name);
        }
        let folder = opened.repository.folder().join("audit");
        let seen = Seen::open(self.state.as_ref().unwrap_or(&folder))?;
        let cosigner = self.cosigner(&opened)?;
        let heard = heard(&opened, &self.sources)?;
        if let Some(unknown) = self.accept.iter().find(|name| !heard.contains_key(*name)) {
            let what = format!("--accept {unknown}: no such device is enrolled");
            return Err(Failure::new(Exit::Usage, what));
        }
        let devices = opened.repository.devices()?;
        let (mut rows, mut notes) = (Vec::new(), Vec::new());
        for (name, heard) in &heard {
            let Some(key) = devices.key(name) else {
                continue;
            };
            let row = self.look(
                &opened,
                &seen,
                Device { name, key },
                heard,
                cosigner.as_ref(),
            );
            let (row, note) = row?;
            notes.extend(note.map(|note| (name.clone(), note)));
            rows.push(row);
        }
        rows.sort_by(|one, other| (one.state, &one.device).cmp(&(other.state, &other.device)));
        self.show(global, &rows)?;
        if let Some(cosigner) = &cosigner {
            let witness = cosigner.verifier().name();
            self.sources.bring(&opened, witness, &notes)?;
        } else if !global.json {
            output::line(
                "nothing is cosigned, so devices can't prove what they had when this ran: \
                 slmd fleet audit --init NAME",
            )?;
        }
        wrong(&rows)
    }

    fn init(&self, global: &Global, opened: &Opened, name: &str) -> Done {
        let passphrase = self.passphrases.choose(WITNESS)?;
        let (key, pem) = PrivateKey::generate(&passphrase).map_err(Failure::failed)?;
        let verifier = opened.repository.make_witness(name, &key, &pem)?;
        let private = opened.repository.private_file(WITNESS);
        if global.json {
            let made = serde_json::json!({"key": verifier.to_string(), "private": private});
            return output::show(global, &made);
        }
        output::line(&format!("made {}", private.display()))?;
        output::line("for the devices' slmd.toml:\n")?;
        output::line(&format!("[[audit.witness]]\nkey = \"{verifier}\""))
    }

    fn cosigner(&self, opened: &Opened) -> Result<Option<Cosigner>, Failure> {
        let Some(verifier) = opened.repository.witness()? else {
            return Ok(None);
        };
        let file = opened.repository.private_file(WITNESS);
        let private = self.passphrases.open(WITNESS, &file)?;
        Ok(Some(Cosigner::new(verifier, private)?))
    }

    /// Its line, and what was cosigned of it.
    fn look(
        &self,
        opened: &Opened,
        seen: &Seen,
        device: Device<'_>,
        heard: &Heard,
        cosigner: Option<&Cosigner>,
    ) -> Result<(Row, Option<String>), Failure> {
        let mut row = Row::new(device.name);
        let report = match heard {
            Heard::Nothing => return Ok((row, None)),
            Heard::Refused(why) => {
                row.state = State::Refused;
                row.reason = Some(why.name());
                row.why = Some(format!("its report: {why}"));
                return Ok((row, None));
            }
            Heard::Report(report) => report,
        };
        let accept = self.accept.iter().any(|name| name == device.name);
        let cosigner = cosigner.map(|cosigner| (cosigner, opened.now));
        let (found, shown) = seen.look(device, report.audit.as_ref(), accept, cosigner)?;
        let age = opened.now.since(report.time);
        row.age_seconds = Some(age.as_secs());
        row.say(found);
        if row.state == State::Good && age > hours(self.silent_after) {
            row.state = State::Silent;
        }
        let Some(shown) = shown else {
            return Ok((row, None));
        };
        row.epoch = Some(shown.epoch);
        row.size = Some(shown.checkpoint.size);
        let note = cosigner.and_then(|(cosigner, _)| {
            let cosigned = shown.note.verify(cosigner.verifier()).is_ok();
            cosigned.then(|| shown.note.to_string())
        });
        row.cosigned = note.is_some();
        Ok((row, note))
    }

    fn show(&self, global: &Global, rows: &[Row]) -> Done {
        if global.json {
            return output::line(&serde_json::json!({ "devices": rows }).to_string());
        }
        if rows.is_empty() {
            return output::line(
                "no device is enrolled; slmd fleet enroll DEVICE KEY makes one count",
            );
        }
        let terminal = Terminal::stdout();
        let head = ["DEVICE", "LOG", "EPOCH", "RECORDS", "REPORTED", ""].map(str::to_owned);
        let cells = rows.iter().map(|row| row.cells(terminal));
        aligned(std::iter::once(head).chain(cells))?;
        let counted = State::ALL.into_iter().rev().map(|state| {
            let number = rows.iter().filter(|row| row.state == state).count();
            (state.shown(), number)
        });
        let counted = counted.filter(|(_, number)| *number > 0);
        let counted = counted
            .map(|((name, style), number)| terminal.paint(style, &format!("{number} {name}")));
        let counted: Vec<String> = counted.collect();
        let logs = count(rows.len() as u64, "device");
        output::line(&format!("\n{logs}: {}", counted.join(", ")))
    }
}

impl Row {
    fn new(device: &str) -> Row {
        Row {
            device: device.to_owned(),
            state: State::Never,
            epoch: None,
            size: None,
            age_seconds: None,
            cosigned: false,
            reason: None,
            why: None,
            evidence: None,
        }
    }

    fn say(&mut self, found: Found) {
        let (state, why) = match found {
            Found::Good => (State::Good, None),
            Found::Nothing => {
                let what = "its reports have no checkpoint: its release is older than that";
                (State::NoLog, Some(what.to_owned()))
            }
            Found::Withheld => {
                let what = "its report no longer shows its log";
                (State::Withheld, Some(what.to_owned()))
            }
            Found::BeganAnew { before } => {
                let what = format!(
                    "nothing proves that what epoch {before} held is still there; \
                     look into it, then --accept it"
                );
                (State::BeganAnew, Some(what))
            }
            Found::Unproven(size) => {
                let what = format!(
                    "no proof that it has grown from {size} records: is this witness's key in \
                     its slmd.toml?"
                );
                (State::Unproven, Some(what))
            }
            Found::Refused(why) => (State::Refused, Some(why.to_string())),
            Found::Forked { why, evidence } => {
                self.reason = Some(why.name());
                let what = format!("{why}; evidence in {}", evidence.display());
                self.evidence = Some(evidence);
                (State::Forked, Some(what))
            }
        };
        (self.state, self.why) = (state, why);
    }

    fn cells(&self, terminal: Terminal) -> [String; 6] {
        let (name, style) = self.state.shown();
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let age = self.age_seconds.map(|age| ago(Duration::from_secs(age)));
        [
            printable(&self.device),
            terminal.paint(style, name),
            number(self.epoch),
            number(self.size),
            age.unwrap_or_else(|| "-".to_owned()),
            self.why.as_deref().map(printable).unwrap_or_default(),
        ]
    }
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours.saturating_mul(3600))
}

/// Names are in the table.
fn wrong(rows: &[Row]) -> Done {
    let wrong = rows.iter().filter(|row| row.state.is_wrong()).count();
    match wrong {
        0 => Ok(()),
        _ => Err(Failure::failed(format!(
            "{} can't be told to be whole",
            count(wrong as u64, "log")
        ))),
    }
}
