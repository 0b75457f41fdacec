//! The engine thread: takes work from the queue, one at a time, until the queue is closed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::generate::{Forward, Generation, Progress, Run};
use super::queue::{Queue, Work};
use super::{EngineError, ServedModel};
use crate::prompt::Finish;
use crate::time;

/// Makes an empty sequence for that many tokens.
pub(super) type OpenSequence = Box<dyn Fn(u32) -> Result<Box<dyn Forward>, EngineError> + Send>;

/// A model on its way to the thread.
pub(super) struct Loaded {
    pub(super) model: Arc<ServedModel>,
    pub(super) open: OpenSequence,
}

/// A model as the thread holds it.
pub(super) struct Seat {
    loaded: Loaded,
    /// Kept between answers; given up after a failure, whose traces it may hold.
    sequence: Option<Box<dyn Forward>>,
}

/// Makes a sequence for each model, so that memory that isn't there is missed now and not with a
/// request.
pub(super) fn seats(models: Vec<Loaded>) -> Result<BTreeMap<String, Seat>, EngineError> {
    let seats = models.into_iter().map(|loaded| {
        let sequence = Some((loaded.open)(loaded.model.context)?);
        Ok((loaded.model.name.clone(), Seat { loaded, sequence }))
    });
    seats.collect()
}

/// Serves until the queue is closed, then ends what still waits.
pub(super) fn serve(queue: &Queue, mut seats: BTreeMap<String, Seat>) {
    while let Some(work) = queue.next() {
        let started = time::instant();
        let lines = work.lines.clone();
        lines.in_scope(|| {
            let served = catch_unwind(AssertUnwindSafe(|| {
                serve_one(queue, &mut seats, work, started);
            }));
            if served.is_err() {
                // The panic hook has logged it. The work's sender and place are dropped: its reader
                // sees `Failed`.
                tracing::error!("the end of an answer could not be reported");
            }
        });
        queue.ended(time::instant().saturating_duration_since(started));
        queue.beat();
    }
    queue.abandon();
}

fn serve_one(queue: &Queue, seats: &mut BTreeMap<String, Seat>, mut work: Work, started: Instant) {
    let queued = started.saturating_duration_since(work.submitted);
    let mut progress = Progress::new(&work.prompt);
    let finish = match (work.departed(), seats.get_mut(&work.prompt.model)) {
        (Some(cause), _) => cause,
        (None, Some(seat)) => run(queue, seat, &mut work, &mut progress),
        (None, None) => Finish::Failed,
    };
    work.end(finish, queued, progress);
}

/// Runs one answer; whatever happens inside, the thread goes on.
fn run(queue: &Queue, seat: &mut Seat, work: &mut Work, progress: &mut Progress) -> Finish {
    let result = catch_unwind(AssertUnwindSafe(|| try_run(queue, seat, work, progress)));
    let error = match result {
        Ok(Ok(finish)) => return finish,
        Ok(Err(error)) => error,
        Err(_) => EngineError::Failed("a panic; the log has it".to_owned()),
    };
    // Its content is unknown now.
    seat.sequence = None;
    tracing::error!(%error, "an answer failed");
    Finish::Failed
}

fn try_run(
    queue: &Queue,
    seat: &mut Seat,
    work: &mut Work,
    progress: &mut Progress,
) -> Result<Finish, EngineError> {
    let model = Arc::clone(&seat.loaded.model);
    let sequence = match &mut seat.sequence {
        Some(sequence) => sequence,
        empty => empty.insert((seat.loaded.open)(model.context)?),
    };
    let generation = Generation {
        forward: sequence.as_mut(),
        run: Run {
            prompt: &work.prompt,
            tokenizer: model.text.tokenizer(),
            eos: &model.eos,
            context: model.context as usize,
            deadline: work.deadline,
            interrupt: &work.interrupt,
        },
        answer: &mut work.answer,
        progress,
        step: &mut || {
            queue.beat();
            queue.sweep();
        },
    };
    generation.run()
}
