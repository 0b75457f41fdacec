//! `slmd audit forget`: erases the salt of a request's prompt hash, and its texts.

use clap::Args;

use crate::admin::{Forget as Asked, route};
use crate::audit::{Forgotten, Unforgotten};
use crate::cli::client::{Problem, body};
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::terminal::count;
use crate::cli::{Global, offline, output};

/// Erase what a request has left of its prompt: the salt of the hash, and the encrypted texts.
#[derive(Debug, Args)]
#[command(after_help = "\
The log has no prompts, only a hash over a random salt and the prompt's tokens. While the salt is kept
on the device, somebody who has the prompt can show that it was this one, and guess at short ones.
Without it nobody can. Where the endpoint has text_recipients, the encrypted texts of prompt and
answer are erased too. The records stay as they are, and so do all proofs of them. What was erased is
recorded (salt_erased; texts_erased where the salt was gone). A request of which nothing is left is no
failure. The answer of one that still runs comes later, with its text: do it again then. Copies that
were exported are elsewhere, and so may be bytes on the flash.

Examples:
  slmd audit forget req_3f2a9c41d07be8256f1c0a9be7d43518
  slmd audit forget 4711")]
pub(in crate::cli) struct Forget {
    /// The request's own id (req_… and eight characters at least), or the index of its access.
    #[arg(value_name = "REQUEST|INDEX")]
    request: String,
}

impl Forget {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let asked = Asked {
            request: self.request.clone(),
        };
        let admin = global.admin()?;
        let forgotten = match admin.call_with(route::FORGET, "", body(&asked)?) {
            Err(Problem::Down(_)) => self.offline(global)?,
            answer => answer?,
        };
        if global.json {
            return output::show(global, &forgotten);
        }
        let Forgotten {
            index,
            request_id,
            erased,
            texts,
        } = forgotten;
        let what = match erased {
            true => "the salt of its prompt's hash is erased",
            false => "the salt of its prompt's hash is gone already",
        };
        let texts = match texts.len() as u64 {
            0 => String::new(),
            texts => format!(", {} too", count(texts, "encrypted text")),
        };
        output::line(&format!("{request_id} (record {index}): {what}{texts}"))
    }

    fn offline(&self, global: &Global) -> Result<Forgotten, Failure> {
        let state = offline::open(&global.load()?)?;
        let now = state.log.clocks().now();
        let forgotten = state.log.forget(&self.request, offline::origin(), now);
        forgotten.map_err(|error| match error {
            Unforgotten::NoRequest => Failure::new(Exit::Usage, error.to_string()),
            other => Failure::failed(other),
        })
    }
}
