//! An answer made again, as a record says that it was made: by the bundle alone, without a daemon's
//! queue, and no longer than it was.

use super::generate::{Generation, Progress, Run};
use super::{Family, LoadError, LoadOptions, Prompt, load};
use crate::catalog::Bundle;
use crate::prompt::{self, Dialect, Finish, Interrupt, Sampling, Usage};
use crate::secret::Secret;

/// What is made again.
#[derive(Debug)]
pub struct Replay {
    pub dialect: Dialect,
    pub tokens: Vec<u32>,
    /// With the seed.
    pub sampling: Sampling,
    /// Those that are known; without one that ended the answer, more text comes than came then.
    pub stop: Vec<String>,
    /// As many tokens as the answer had.
    pub completion_tokens: u32,
    pub kernels: Family,
    /// How many compute it changes nothing.
    pub threads: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Replayed {
    pub text: Secret<String>,
    pub finish: Finish,
    pub usage: Usage,
}

/// Loads `bundle`, whose hashes are the caller's matter, and answers once. Takes as long as the answer
/// does.
pub fn replay(bundle: &Bundle, replay: Replay) -> Result<Replayed, LoadError> {
    let options = LoadOptions {
        family: replay.kernels,
        threads: replay.threads,
    };
    let loaded = load(bundle, &options, u32::MAX)?;
    run(&loaded, replay).map_err(LoadError)
}

fn run(loaded: &super::thread::Loaded, replay: Replay) -> Result<Replayed, String> {
    let model = &loaded.model;
    let tokens = u32::try_from(replay.tokens.len()).unwrap_or(u32::MAX);
    let context = tokens.saturating_add(replay.completion_tokens);
    if context > model.context {
        let most = model.context;
        return Err(format!(
            "prompt and answer have {context} tokens; the model's context holds {most}"
        ));
    }
    let mut sequence = (loaded.open)(context).map_err(|error| error.to_string())?;
    let prompt = Prompt {
        dialect: replay.dialect,
        model: model.name.clone(),
        tokens: replay.tokens.into(),
        max_completion_tokens: replay.completion_tokens,
        sampling: replay.sampling,
        stop: replay.stop,
        model_digest: model.digest.clone(),
        kernels: replay.kernels,
        time: None,
        // So that the answer's is kept.
        text: Some(Secret::new(String::new())),
    };
    // The answer is read off `progress`; the reader stays, or it would be cancelled.
    let (mut answer, _reader) = prompt::channel(1);
    let mut progress = Progress::new(&prompt);
    let generation = Generation {
        forward: sequence.as_mut(),
        run: Run {
            prompt: &prompt,
            tokenizer: model.text.tokenizer(),
            eos: &model.eos,
            context: context as usize,
            deadline: None,
            interrupt: &Interrupt::default(),
        },
        answer: &mut answer,
        progress: &mut progress,
        step: &mut || {},
    };
    let finish = generation.run().map_err(|error| error.to_string())?;
    let text = progress.take_text();
    Ok(Replayed {
        text: text.ok_or("the answer is no text")?,
        finish,
        usage: progress.usage,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fake::{self, id, loaded, saying};
    use super::*;

    fn again(completion_tokens: u32, stop: &[&str]) -> Replayed {
        let replay = Replay {
            dialect: Dialect::Chat,
            tokens: ">".bytes().map(id).collect(),
            sampling: fake::prompt(">", 1, &[]).sampling,
            stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
            completion_tokens,
            kernels: Family::Scalar,
            threads: 1,
        };
        run(&loaded(saying(b"one two$")), replay).unwrap()
    }

    #[test]
    fn an_answer_comes_again_as_long_as_it_was() {
        for (tokens, stop, text, finish) in [
            (3, &[][..], "one", Finish::Length),
            (8, &[], "one two", Finish::Stop),
            // It isn't made longer than it was.
            (100, &[], "one two", Finish::Stop),
            (6, &[" tw"], "one", Finish::Stop),
        ] {
            let replayed = again(tokens, stop);
            assert_eq!((&**replayed.text.expose(), replayed.finish), (text, finish));
        }
    }
}
