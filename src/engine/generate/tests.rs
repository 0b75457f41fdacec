//! Generation with a fake model.

use std::time::Duration;

use super::*;
use crate::engine::fake::{self, FakeForward};
use crate::prompt::{AnswerReceiver, Fragment, channel};
use crate::reason::DenyReason;

struct Ended {
    finish: Result<Finish, String>,
    text: String,
    progress: Progress,
    steps: usize,
}

/// Runs `prompt` on a fake model; `step` is called like generation's own, with the count of calls.
fn run(
    prompt: &Prompt,
    next: impl FnMut(&[u32]) -> Result<u32, EngineError>,
    deadline: Option<Instant>,
    mut step: impl FnMut(usize, &Interrupt, &mut Option<AnswerReceiver>),
) -> Ended {
    let text = fake::text();
    let (mut answer, receiver) = channel(1);
    let (interrupt, mut progress, mut steps) = (Interrupt::default(), Progress::new(prompt), 0);
    let mut receiver = Some(receiver);
    let generation = Generation {
        forward: &mut FakeForward::new(next),
        run: Run {
            prompt,
            tokenizer: text.tokenizer(),
            eos: &[fake::END],
            context: fake::CONTEXT as usize,
            deadline,
            interrupt: &interrupt,
        },
        answer: &mut answer,
        progress: &mut progress,
        step: &mut || {
            steps += 1;
            step(steps, &interrupt, &mut receiver);
        },
    };
    let finish = generation.run().map_err(|error| error.to_string());
    let outcome = crate::prompt::Outcome {
        finish: finish.clone().unwrap_or(Finish::Failed),
        usage: progress.usage,
    };
    answer.finish(outcome);
    let text = receiver.map_or_else(String::new, read);
    Ended {
        finish,
        text,
        progress,
        steps,
    }
}

fn read(mut receiver: AnswerReceiver) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut text = String::new();
        while let Some(fragment) = receiver.next().await {
            if let Fragment::Text(piece) = fragment {
                text.push_str(&piece);
            }
        }
        text
    })
}

fn undisturbed(prompt: &Prompt, line: &'static [u8]) -> Ended {
    run(prompt, fake::saying(line), None, |_, _, _| {})
}

fn usage(prompt_tokens: u32, completion_tokens: u32) -> Usage {
    Usage {
        prompt_tokens,
        completion_tokens,
    }
}

#[test]
fn ends_with_the_models_turn() {
    let ended = undisturbed(&fake::prompt("hi>", 100, &[]), "käse $".as_bytes());
    assert_eq!(ended.finish, Ok(Finish::Stop));
    assert_eq!(ended.text, "käse ");
    assert_eq!(ended.progress.usage, usage(3, 7));
    let expected = crate::digest::sha256("käse ".as_bytes());
    assert_eq!(ended.progress.answer_hash(), expected.as_ref());
    assert!(ended.progress.first_token.is_some());
}

#[test]
fn ends_with_its_bounds() {
    let ended = undisturbed(&fake::prompt("hi>", 4, &[]), b"abc");
    assert_eq!(
        (ended.finish, ended.text.as_str()),
        (Ok(Finish::Length), "abca")
    );
    // The last token may complete the answer all the same.
    let ended = undisturbed(&fake::prompt("hi>", 3, &[]), b"ab$");
    assert_eq!(
        (ended.finish, ended.text.as_str()),
        (Ok(Finish::Stop), "ab")
    );
    // A character that the bound cuts off isn't shown, however much of it is there.
    for (bound, line) in [(2, "aä"), (2, "a🦀"), (4, "a🦀")] {
        let ended = undisturbed(&fake::prompt("hi>", bound, &[]), line.as_bytes());
        assert_eq!(
            (ended.finish, ended.text.as_str()),
            (Ok(Finish::Length), "a")
        );
        let expected = crate::digest::sha256(b"a");
        assert_eq!(ended.progress.answer_hash(), expected.as_ref());
    }
    let ended = undisturbed(&fake::prompt("hi>", 10_000, &[]), b"a");
    assert_eq!(ended.finish, Ok(Finish::Length));
    // The last one is picked from the full context.
    assert_eq!(ended.progress.usage, usage(3, fake::CONTEXT - 3 + 1));
}

#[test]
fn ends_with_a_stop_sequence() {
    let ended = undisturbed(
        &fake::prompt("hi>", 100, &["User:", "\n\n"]),
        b"So.\nUs\nUser: more",
    );
    assert_eq!(
        (ended.finish, ended.text.as_str()),
        (Ok(Finish::Stop), "So.\nUs\n")
    );
    assert_eq!(ended.progress.usage, usage(3, 12));
    // What was held back for a stop sequence that never came is shown.
    let ended = undisturbed(&fake::prompt("hi>", 6, &["User:"]), b"So Use");
    assert_eq!(
        (ended.finish, ended.text.as_str()),
        (Ok(Finish::Length), "So Use")
    );
}

#[test]
fn every_cause_ends_it_between_two_tokens() {
    let prompt = fake::prompt("hi>", 100, &[]);
    for cause in [
        Finish::Cancelled,
        Finish::Deadline,
        Finish::Revoked(DenyReason::KeyUnknown),
        Finish::Shutdown,
    ] {
        let ended = run(&prompt, fake::saying(b"abc"), None, |step, interrupt, _| {
            if step == 3 {
                interrupt.raise(cause);
            }
        });
        // The first step is the prompt's.
        assert_eq!((ended.finish, ended.text.as_str()), (Ok(cause), "ab"));
    }
    let ended = run(&prompt, fake::saying(b"abc"), None, |step, _, receiver| {
        if step == 5 {
            *receiver = None;
        }
    });
    assert_eq!(ended.finish, Ok(Finish::Cancelled));
    assert_eq!(ended.progress.usage, usage(3, 4));
    let deadline = time::instant() + Duration::from_millis(30);
    let ended = run(&prompt, fake::saying(b"abc"), Some(deadline), |_, _, _| {
        std::thread::sleep(Duration::from_millis(10));
    });
    assert_eq!(ended.finish, Ok(Finish::Deadline));
    assert!((1..=4).contains(&ended.steps), "{}", ended.steps);
}

#[test]
fn a_long_prompt_is_left_between_chunks() {
    let long = "x".repeat(CHUNK * 3);
    let ended = run(
        &fake::prompt(&long, 5, &[]),
        fake::saying(b"a"),
        None,
        |step, interrupt, _| {
            if step == 2 {
                interrupt.raise(Finish::Cancelled);
            }
        },
    );
    assert_eq!(ended.finish, Ok(Finish::Cancelled));
    assert_eq!(ended.progress.usage, usage(2 * CHUNK as u32, 0));
    assert_eq!(ended.progress.first_token, None);
}

#[test]
fn a_failing_model_is_an_error() {
    let fails = |tokens: &[u32]| match tokens.len() {
        ..6 => Ok(fake::id(b'a')),
        _ => Err(EngineError::Failed("broken".to_owned())),
    };
    let ended = run(&fake::prompt("hi>", 100, &[]), fails, None, |_, _, _| {});
    assert_eq!(ended.finish, Err("the model can't run: broken".to_owned()));
    assert_eq!(ended.progress.usage, usage(3, 3));
}
