//! `slmd audit replay`: a recorded request is run again, and its answer compared with the recorded one.
//!
//! It runs in this process, from the bundle: it takes no place in the daemon's queue, the daemon needn't
//! run, and nobody needs a permit for a principal who isn't there. What it needs of the log is the salt,
//! and that this was asked for is on record before it is shown.

mod asked;
mod compare;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use self::asked::Asked;
use self::compare::Verdict;
use super::show::found;
use super::source::Source;
use crate::audit::{self, Event, Finished, Line, prompt_commitment};
use crate::catalog::{Bundle, Catalog};
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::model_folder::Folder;
use crate::cli::terminal::{Style, Terminal, count};
use crate::cli::{Global, input, output};
use crate::config::Config;
use crate::digest::{hex, sha256};
use crate::engine::{self, Family, Replayed, Text};
use crate::prompt::{Dialect, Operation, Sampling};
use crate::time::Timestamp;

/// Longer than any request that a daemon takes.
const MAX_TEXT: u64 = 64 << 20;

/// Run a recorded request again and compare the answer.
#[derive(Debug, Args)]
#[command(after_help = "\
The log has no prompts, so the text comes from FILE (- for standard input): what slmd audit text gave
and age decrypted, the request's body as the client sent it (JSON with messages or prompt), or plain
text, which is the one user message of a chat, or the prompt of a completion. A final newline and the
endpoint's system_prompt are tried with and without. Nothing is run unless the text is the one that
was recorded, by the salted hash of its tokens; that the salt was looked at is recorded (salt_shown).

What is run is what the record says: the bundle by its digest, verified; sampling, seed and kernels
as recorded; as many tokens as the answer had. Stop sequences aren't recorded. If FILE is the
request's body they are taken from there; else an answer that may have ended by one is compared up to
its end. It runs here, not in the daemon, and takes as long and as much memory as the answer did.
It ends with 0 if the answer is the same, else with 1, and says why that may be.

For root and the daemon's user; it works on the state folder of a daemon that has stopped, too.

Examples:
  slmd audit replay 4711 --text prompt.json
  slmd audit text 4711 -o - | age -d -i auditor.key | slmd audit replay 4711 --text -
  slmd audit replay 4711 --text question.txt --json | jq .verdict")]
pub(in crate::cli) struct Replay {
    /// The index of the access, or of the finish.
    #[arg(value_name = "INDEX")]
    index: u64,
    /// The prompt.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    #[command(flatten)]
    folder: Folder,
}

const CLOSED: &str = "replaying is for root and the daemon's user (sudo slmd audit replay)";

impl Replay {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let text = input::read(&self.text, MAX_TEXT)?;
        let models = self.folder.resolve(global)?;
        let source = Source::whole(global, CLOSED)?;
        let recorded = Recorded::find(&source, self.index)?;
        let bundle = recorded.bundle(&Catalog::new(&models))?;
        let salt = source.salt(recorded.index)?;
        // Where no daemon runs, one may begin meanwhile.
        drop(source);
        let config = global.load()?;
        let instructions = recorded.instructions(&config);
        let (asked, tokens) = recorded.matching(&bundle, salt, &text, instructions)?;
        let kernels = recorded.kernels();
        if !global.json {
            let tokens = u64::from(recorded.finished.usage.completion_tokens);
            eprintln!("slmd: answering again, {}", count(tokens, "token"));
        }
        let replayed = engine::replay(
            &bundle,
            engine::Replay {
                dialect: recorded.dialect,
                tokens,
                sampling: recorded.sampling,
                stop: asked.stop,
                completion_tokens: recorded.finished.usage.completion_tokens,
                kernels,
                threads: config.engine.threads(),
            },
        );
        let replayed = replayed.map_err(Failure::failed)?;
        recorded.tell(global, &bundle, kernels, &replayed)
    }
}

/// What the log says of a request that was answered.
struct Recorded {
    index: u64,
    access: audit::Access,
    finished: Finished,
    dialect: Dialect,
    sampling: Sampling,
    digest: String,
}

/// What was found, as JSON.
#[derive(Serialize)]
struct Outcome<'a> {
    index: u64,
    request_id: &'a str,
    verdict: Verdict,
    why: Vec<String>,
    finish: &'static str,
    completion_tokens: u32,
    answer_hash: &'a str,
    replayed_hash: String,
    replayed_finish: &'static str,
    replayed_tokens: u32,
    model: &'a str,
    model_digest: &'a str,
    kernels: &'static str,
    recorded_kernels: Option<&'a str>,
}

impl Recorded {
    fn find(source: &Source, index: u64) -> Result<Recorded, Failure> {
        let (index, access) = access_of(source, index)?;
        let none = |what: &str| Failure::failed(format!("record {index} {what}"));
        let dialect = Dialect::ALL.iter().copied().find(|dialect| {
            access.prompt_hash.is_some() && Operation::Complete(*dialect).as_str() == access.action
        });
        let dialect = dialect.ok_or_else(|| none("asked nothing of the model"))?;
        let finished = finish_of(source, index, &access)?.ok_or_else(|| {
            none("has no finish on record: it still runs, or its end was lost or removed")
        })?;
        if finished.usage.completion_tokens == 0 {
            let how = finished.finish.as_str();
            let what = format!("ended ({how}) before its first token: there is nothing to compare");
            return Err(none(&what));
        }
        let sampling = access.sampling.ok_or_else(|| none("has no sampling"))?;
        if sampling.seed.is_none() && sampling.temperature > 0.0 {
            return Err(none(
                "has no seed, so its answer was drawn as no other will be",
            ));
        }
        let digest = access.model_digest.clone();
        let digest = digest.ok_or_else(|| none("doesn't say which model answered"))?;
        Ok(Recorded {
            index,
            finished,
            dialect,
            sampling,
            digest,
            access,
        })
    }

    /// The one with the recorded digest, every byte verified.
    fn bundle(&self, catalog: &Catalog) -> Result<Bundle, Failure> {
        let bundles: Vec<Bundle> = catalog.list().into_iter().filter_map(Result::ok).collect();
        let found = bundles.iter().find(|bundle| bundle.digest == self.digest);
        let Some(bundle) = found else {
            let have = bundles.iter().map(|bundle| bundle.name.as_str());
            let have: Vec<&str> = have.collect();
            return Err(Failure::failed(format!(
                "the model that answered, with the digest {}, isn't among those here ({}); \
                 --models-dir names another folder",
                self.digest,
                have.join(", ")
            )));
        };
        bundle.verify().map_err(Failure::failed)?;
        Ok(bundle.clone())
    }

    /// What the endpoint puts before a chat, as it is configured now.
    fn instructions<'a>(&self, config: &'a Config) -> Option<&'a str> {
        let realms = config.realms.iter();
        let realm = realms
            .filter(|realm| Some(&realm.name) == self.access.realm.as_ref())
            .flat_map(|realm| &realm.endpoints);
        let mut endpoints =
            realm.filter(|endpoint| Some(&endpoint.client_id) == self.access.endpoint.as_ref());
        endpoints.next()?.system_prompt.as_deref()
    }

    /// The reading of `text` that has the recorded hash, and its tokens.
    fn matching(
        &self,
        bundle: &Bundle,
        salt: [u8; 16],
        text: &[u8],
        instructions: Option<&str>,
    ) -> Result<(Asked, Vec<u32>), Failure> {
        let model = Text::load(&bundle.folder).map_err(Failure::failed)?;
        let now = self.access.prompt_time.unwrap_or(Timestamp::from_secs(0));
        let readings = asked::readings(text, self.dialect, instructions);
        let readings = readings.map_err(Failure::failed)?;
        for asked in readings {
            // What the template refuses wasn't asked.
            let Ok(encoded) = model.encode(&asked.input, now) else {
                continue;
            };
            let hash = prompt_commitment(&salt, &encoded.ids);
            if Some(&hash) == self.access.prompt_hash.as_ref() {
                return Ok((asked, encoded.ids));
            }
        }
        let cut = self.access.text.as_ref().is_some_and(|text| text.cut);
        let hint = match (cut, self.dialect) {
            (true, _) => "; of this request's text only the beginning was kept",
            (false, Dialect::Chat) => {
                "; a system_prompt that the endpoint had then, and has no more, must stand in it as the \
                 first message"
            }
            (false, Dialect::Text) => "",
        };
        Err(Failure::failed(format!(
            "the text isn't the one of record {}: its tokens have another hash; nothing was run{hint}",
            self.index
        )))
    }

    /// Those that computed it, where this CPU has them.
    fn kernels(&self) -> Family {
        let recorded = self.access.kernels.as_deref();
        recorded
            .and_then(Family::usable_as)
            .unwrap_or_else(Family::detect)
    }

    fn tell(&self, global: &Global, bundle: &Bundle, kernels: Family, replayed: &Replayed) -> Done {
        let text = replayed.text.expose();
        let verdict = compare::verdict(text, &self.finished);
        let recorded = self.access.kernels.as_deref();
        let outcome = Outcome {
            index: self.index,
            request_id: self.access.request_id.as_str(),
            verdict,
            why: compare::why(verdict, self.finished.finish, recorded, kernels.as_str()),
            finish: self.finished.finish.as_str(),
            completion_tokens: self.finished.usage.completion_tokens,
            answer_hash: &self.finished.answer_hash,
            replayed_hash: hex(&sha256(text.as_bytes())),
            replayed_finish: replayed.finish.as_str(),
            replayed_tokens: replayed.usage.completion_tokens,
            model: &bundle.name,
            model_digest: &bundle.digest,
            kernels: kernels.as_str(),
            recorded_kernels: recorded,
        };
        match global.json {
            true => output::show(global, &outcome)?,
            false => outcome.lines()?,
        }
        match verdict.is_same() {
            true => Ok(()),
            false => Err(Failure::told(Exit::Failed)),
        }
    }
}

impl Outcome<'_> {
    fn lines(&self) -> Done {
        let terminal = Terminal::stdout();
        let style = match self.verdict.is_same() {
            true => Style::Good,
            false => Style::Bad,
        };
        output::line(&format!(
            "{} (record {}): {} in {}, {}, by {} with the {} kernels",
            self.request_id,
            self.index,
            terminal.paint(style, self.verdict.words()),
            count(u64::from(self.completion_tokens), "token"),
            self.finish,
            self.model,
            self.kernels,
        ))?;
        self.why.iter().try_for_each(|line| output::line(line))
    }
}

/// The access that a record is of.
fn access_of(source: &Source, index: u64) -> Result<(u64, audit::Access), Failure> {
    let mut at = index;
    // A finish says where its access stands.
    for _ in 0..2 {
        let json = source.line(at)?.into_bytes();
        let record = Line { index: at, json }.record();
        match record.map(|record| record.event) {
            Some(Event::Access(access)) => return Ok((at, *access)),
            Some(Event::Finish(finished)) => match finished.access_index {
                Some(access) => at = access,
                None => break,
            },
            Some(_) => break,
            None => {
                let what = format!("record {at} was written by a newer release");
                return Err(Failure::failed(what));
            }
        }
    }
    Err(Failure::failed(format!("record {index} is of no request")))
}

/// How it ended.
fn finish_of(
    source: &Source,
    index: u64,
    access: &audit::Access,
) -> Result<Option<Finished>, Failure> {
    let pairs = [("request", access.request_id.as_str()), ("event", "finish")];
    let finishes = found(source, &pairs)?.into_iter().filter_map(|line| {
        let line = Line {
            index: 0,
            json: line.into_bytes(),
        };
        match line.record()?.event {
            Event::Finish(finished) => Some(*finished),
            _ => None,
        }
    });
    // Each attempt has its own.
    let mut own = finishes.filter(|finished| finished.access_index.is_none_or(|at| at == index));
    Ok(own.next())
}
