//! `slmd audit text`: the encrypted text of a prompt or an answer, for who has the private key.

use std::fs::File;
use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;

use clap::Args;

use crate::audit::TextOf;
use crate::cli::client::Problem;
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::{Global, offline};

/// Get the text of a prompt or an answer, as it was encrypted to the endpoint's text_recipients.
#[derive(Debug, Args)]
#[command(after_help = "\
Only endpoints with text_recipients have texts kept, and only their private keys read them; this
machine has none. Of a prompt it is the JSON of the request's messages or prompt, of an answer the
text. A record with a text names it: \"text\":{\"sha256\":…,\"bytes\":…}.

Examples:
  slmd audit text req_4f0c6e1f4bd14f7e9a2f5c1f0e7d8a9b -o prompt.age
  slmd audit text req_4f0c6e1f4bd14f7e9a2f5c1f0e7d8a9b --answer -o answer.age
  age -d -i auditor.key prompt.age | jq -r '.messages[].content'")]
pub(in crate::cli) struct Text {
    /// The request's id (req_…), or the index of a record.
    #[arg(value_name = "REQUEST|INDEX")]
    of: TextOf,
    /// The request's answer, not its prompt.
    #[arg(long)]
    answer: bool,
    /// Where to write it; - for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Text {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let of = match (&self.of, self.answer) {
            (TextOf::Prompt(id), true) => TextOf::Answer(id.clone()),
            (TextOf::Record(_), true) => {
                let what = "--answer goes with a request; a record is the one or the other";
                return Err(Failure::new(Exit::Usage, what));
            }
            (of, _) => of.clone(),
        };
        let file = match global.admin()?.text(&of) {
            Err(Problem::Down(_)) => offline::open(&global.load()?)?
                .log
                .text_of(&of)
                .map_err(Failure::failed)?
                .map(|text| text.file),
            found => found.map_err(Problem::into_failure)?,
        };
        let none = || {
            let what = "there is no such text: nothing of the kind is on record, it was erased or went with \
                        its record, or the endpoint had no text_recipients then";
            Failure::failed(what)
        };
        self.write(&file.ok_or_else(none)?)
    }

    fn write(&self, file: &[u8]) -> Done {
        let failed =
            |error: std::io::Error| Failure::failed(format!("{}: {error}", self.output.display()));
        if self.output.as_os_str() != "-" {
            return File::create_new(&self.output)
                .and_then(|mut to| to.write_all(file))
                .map_err(failed);
        }
        if stdout().is_terminal() {
            let what =
                "an age file is no text for a terminal; write it to a file, or pipe it to age -d";
            return Err(Failure::new(Exit::Usage, what));
        }
        stdout().write_all(file).map_err(failed)
    }
}
