//! `slmd audit export`: the exact bytes of records, a line each.

use std::fs;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::filters::since;
use super::since::Since;
use super::source::{Asked, Source, index_of};
use super::texts::{self, Texts};
use crate::audit::Filter;
use crate::cli::access::Access;
use crate::cli::client::Problem;
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::terminal::count;
use crate::cli::{Global, output};
use crate::files;
use crate::reason::{Reason, RefuseReason};
use crate::time::Clocks;

/// Gaps that are told one by one.
const TOLD: u64 = 8;

/// Write records as JSON Lines, each the exact bytes that the log's tree has as a leaf.
#[derive(Debug, Args)]
#[command(after_help = "\
A line without its newline is what a proof of the record is about, so keep lines as they are.
Indexes that are missing are told on standard error: their records were removed by the log's cap or
retention, or are not for the token to see. Who shows a token (--token-file, SLMD_TOKEN or slmd
login) with the role audit exports the records of its realm; root and the daemon's user all.

The texts (--texts) are for root and the daemon's user: age files, which only the endpoint's
text_recipients can read, in files that only their owner can read. A file that is there already stays
if it is the same, and else ends the export. Texts that were erased are counted on standard error.

Examples:
  slmd audit export --since 2026-11-01 --until 2026-12-01 -o november.jsonl
  slmd audit export --from 120000 --follow >>audit.jsonl
  slmd audit export --from 4711 --to 4720 --proofs proofs/ -o some.jsonl
  slmd audit export --since 2026-11-01 --texts texts/ -o november.jsonl")]
pub(in crate::cli) struct Export {
    /// The first index (default: the log's first).
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u64,
    /// The last index.
    #[arg(long, value_name = "INDEX", conflicts_with = "follow")]
    to: Option<u64>,
    /// Nothing older: 10m, 2h or 3d, a date, or a time.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Nothing from then on.
    #[arg(long, value_name = "TIME", value_parser = since)]
    until: Option<Since>,
    /// Go on with new records as they come, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// Write to this new file, which only its owner can read (default: standard output).
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Put a proof of each record into this folder, as INDEX.tlog-proof.
    #[arg(long, value_name = "DIR")]
    proofs: Option<PathBuf>,
    /// Put the encrypted text of each record that names one into this folder, as INDEX.age.
    #[arg(long, value_name = "DIR")]
    texts: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
}

impl Export {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let now = Clocks::default().now();
        let mut filter = Filter::default();
        for (name, at) in [("since", self.since), ("until", self.until)] {
            if let Some(at) = at {
                let set = filter.set(name, &at.at(now).to_string());
                set.map_err(|unfit| Failure::new(Exit::Usage, unfit.to_string()))?;
            }
        }
        let asked = Asked {
            from: self.from,
            before: self.to.map(|to| to.saturating_add(1)),
            follow: self.follow,
            filter,
        };
        if let Some(folder) = &self.proofs {
            fs::create_dir_all(folder)?;
        }
        let source = Source::open(&self.access, global)?;
        if self.texts.is_some() && source.is_of_realm() {
            return Err(Failure::new(Exit::Refused, texts::CLOSED));
        }
        let mut texts = self.texts.as_deref().map(Texts::open).transpose()?;
        let mut out = Out::open(self.output.as_deref())?;
        // Between records of a time nobody can tell what is missing.
        let mut gaps = asked.filter.is_empty().then(|| Gaps::new(self.from));
        let mut unproven = 0;
        source.each(&asked, |line| {
            let index = index_of(line)?;
            out.line(line)?;
            if self.follow {
                out.flush()?;
            }
            if let Some(gaps) = &mut gaps {
                gaps.seen(index);
            }
            if let Some(folder) = &self.proofs {
                unproven += u64::from(!prove(&source, index, folder)?);
            }
            if let Some(texts) = &mut texts {
                texts.of(&source, index, line)?;
            }
            Ok(true)
        })?;
        out.flush()?;
        if let Some(gaps) = gaps {
            gaps.tell(source.is_of_realm());
        }
        if let Some(texts) = texts {
            texts.tell();
        }
        if unproven > 0 {
            let records = count(unproven, "record");
            let what =
                format!("{records} not covered by a checkpoint yet, or too old to be proven");
            return Err(Failure::failed(what));
        }
        Ok(())
    }
}

/// `false`: there is none.
fn prove(source: &Source, index: u64, folder: &Path) -> Result<bool, Failure> {
    match source.proof(index) {
        Ok(proof) => {
            fs::write(folder.join(format!("{index}.tlog-proof")), proof)?;
            Ok(true)
        }
        Err(Problem::Refused(Some(Reason::Refused(RefuseReason::NotFound)), _)) => Ok(false),
        Err(problem) => Err(problem.into()),
    }
}

/// Where lines go.
enum Out {
    Terminal,
    File(BufWriter<Box<dyn Write>>),
}

impl Out {
    fn open(file: Option<&Path>) -> Result<Out, Failure> {
        let to: Box<dyn Write> = match file {
            None if io::stdout().is_terminal() => return Ok(Out::Terminal),
            None => Box::new(io::stdout()),
            Some(file) => Box::new(
                files::create_new(file)
                    .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?,
            ),
        };
        Ok(Out::File(BufWriter::new(to)))
    }

    fn line(&mut self, line: &str) -> Done {
        match self {
            Out::Terminal => output::json_line(line),
            Out::File(file) => {
                let written = file.write_all(line.as_bytes());
                left(written.and_then(|()| file.write_all(b"\n")))
            }
        }
    }

    fn flush(&mut self) -> Done {
        match self {
            Out::Terminal => Ok(()),
            Out::File(file) => left(file.flush()),
        }
    }
}

/// A reader that has left (`| head`) is no failure.
fn left(written: io::Result<()>) -> Done {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Indexes that are missing between those that were seen.
struct Gaps {
    next: u64,
    gaps: u64,
    records: u64,
}

impl Gaps {
    fn new(next: u64) -> Gaps {
        let (gaps, records) = (0, 0);
        Gaps {
            next,
            gaps,
            records,
        }
    }

    fn seen(&mut self, index: u64) {
        if index > self.next {
            self.gaps += 1;
            self.records += index - self.next;
            if self.gaps <= TOLD {
                eprintln!("slmd: {} to {} missing", self.next, index - 1);
            }
        }
        self.next = index + 1;
    }

    fn tell(&self, of_realm: bool) {
        let why = match of_realm {
            true => "removed, or not for this token to see",
            false => "removed by the log's cap or retention",
        };
        if self.gaps > 0 {
            let (records, gaps) = (count(self.records, "record"), count(self.gaps, "gap"));
            eprintln!("slmd: {records} missing in {gaps}: {why}");
        }
    }
}
