//! `slmd ask`: one prompt over the local socket, its answer as it comes.

use std::io::{IsTerminal, Read};

use clap::Args;
use serde_json::{Value, json};

use super::access::Access;
use super::client::Answer;
use super::exit::{Done, Exit, Failure};
use super::sampling::Sampling;
use super::waiting::Waiting;
use super::{Global, output};

pub(super) const CHAT: &str = "/v1/chat/completions";
/// The comment that tells of the queue.
const QUEUED: &str = ": queued ";
/// The daemon refuses larger bodies anyway.
const MAX_PROMPT: u64 = 16 << 20;

/// Ask the model and print the answer as it is generated; Ctrl-C stops it.
#[derive(Debug, Args)]
#[command(after_help = "\
The token is a Keycloak access token. It comes from --token-file, SLMD_TOKEN_FILE, SLMD_TOKEN or
the login that slmd login saved, never from the command line, where other users could see it. A
saved login is prolonged when less than a minute is left and there is a connection.

Examples:
  slmd login && slmd ask 'Why is the sky blue?'
  slmd ask --token-file token 'Why is the sky blue?'
  slmd ask --system 'Answer in one word.' 'Capital of France?'
  journalctl -n 20 | SLMD_TOKEN=\"$token\" slmd ask 'What went wrong here?' -
  slmd ask --temperature 0 --seed 1 --json 'Hello' | jq .usage")]
pub(super) struct Ask {
    /// The prompt. Absent, or where a word is `-`, standard input is read too.
    prompt: Vec<String>,
    #[command(flatten)]
    access: Access,
    /// Instructions that come before the prompt.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// The endpoint's client id; slmd endpoints lists them (default: the realm's default endpoint).
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// At most this many tokens of answer (default: the endpoint's).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// The same seed and parameters give the same answer.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the answer before this text; up to four times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    #[command(
        flatten,
        next_help_heading = "How tokens are picked (default: the endpoint's)"
    )]
    sampling: Sampling,
}

impl Ask {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let prompt = self.prompt()?;
        let body = self.body(&prompt, !global.json).to_string().into_bytes();
        let asker = self.access.open(global)?;
        let answer = asker.send("POST", CHAT, body);
        let answer = answer.map_err(|problem| asker.explain(problem, self.model.as_deref()))?;
        if global.json {
            return output::show(global, &answer.json::<Value>()?);
        }
        let mut waiting = Waiting::new();
        let finish = stream(answer, |heard| match heard {
            Heard::Queued(place) => {
                waiting.at(place);
                Ok(())
            }
            Heard::Text(piece) => {
                waiting.over();
                output::piece(piece)
            }
        });
        drop(waiting);
        let finish = finish?;
        if finish.as_deref() == Some("length") {
            eprintln!("slmd: the answer was cut off by the token limit");
        }
        Ok(())
    }

    /// Standard input is read only where it is asked for, so that a script's own isn't swallowed.
    fn prompt(&self) -> Result<String, Failure> {
        let stdin = std::io::stdin();
        if self.prompt.is_empty() && stdin.is_terminal() {
            return Err(Failure::new(
                Exit::Usage,
                "no prompt; give it as arguments or on standard input (see slmd ask --help)",
            ));
        }
        let mut piped = String::new();
        let is_stdin = |word: &String| word == "-";
        if self.prompt.is_empty() || self.prompt.iter().any(is_stdin) {
            stdin.lock().take(MAX_PROMPT).read_to_string(&mut piped)?;
        }
        let words = self.prompt.iter().filter(|word| !is_stdin(word));
        let words: Vec<&str> = words.map(String::as_str).collect();
        let prompt = format!("{}\n\n{piped}", words.join(" "));
        match prompt.trim() {
            "" => Err(Failure::new(Exit::Usage, "the prompt is empty")),
            prompt => Ok(prompt.to_owned()),
        }
    }

    fn body(&self, prompt: &str, stream: bool) -> Value {
        let system = self.system.iter();
        let system = system.map(|text| json!({"role": "system", "content": text}));
        let user = std::iter::once(json!({"role": "user", "content": prompt}));
        let mut body =
            json!({"messages": system.chain(user).collect::<Vec<_>>(), "stream": stream});
        let stop = (!self.stop.is_empty()).then(|| json!(self.stop));
        let given = [
            ("model", self.model.clone().map(Value::from)),
            ("max_completion_tokens", self.max_tokens.map(Value::from)),
            ("seed", self.seed.map(Value::from)),
            ("stop", stop),
        ];
        let given = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        given.for_each(|(name, value)| body[name] = value);
        if let (Some(body), Value::Object(sampling)) =
            (body.as_object_mut(), json!(self.sampling.options()))
        {
            body.extend(sampling);
        }
        body
    }
}

/// What a stream brings.
pub(super) enum Heard<'a> {
    /// The place in the queue, as far as it is told: from 1 for who is next, 0 when the turn has
    /// come.
    Queued(u32),
    Text(&'a str),
}

/// Hands on what a stream of server-sent events brings, as it comes; returns its finish reason.
pub(super) fn stream(
    answer: Answer,
    mut heard: impl FnMut(Heard<'_>) -> Done,
) -> Result<Option<String>, Failure> {
    let broke_off = |why: &str| Failure::failed(format!("the answer broke off: {why}"));
    let mut finish = None;
    let mut ends_with_newline = true;
    for line in answer.lines() {
        let line = line?;
        if let Some(place) = line.strip_prefix(QUEUED) {
            if let Ok(place) = place.parse() {
                heard(Heard::Queued(place))?;
            }
            continue;
        }
        // Everything else is a comment or an event's name (the HTML standard's section 9.2).
        let Some(data) = line.strip_prefix("data:").map(str::trim) else {
            continue;
        };
        if data == "[DONE]" {
            if !ends_with_newline {
                heard(Heard::Text("\n"))?;
            }
            return Ok(finish);
        }
        let event: Value =
            serde_json::from_str(data).map_err(|_| broke_off("an event isn't JSON"))?;
        if let Some(error) = event["error"]["message"].as_str() {
            heard(Heard::Text("\n"))?;
            return Err(Failure::failed(format!("the answer ended early: {error}")));
        }
        let choice = &event["choices"][0];
        if let Some(piece) = choice["delta"]["content"].as_str() {
            ends_with_newline = piece.ends_with('\n');
            heard(Heard::Text(piece))?;
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            finish = Some(reason.to_owned());
        }
    }
    Err(broke_off("the daemon closed the connection"))
}
