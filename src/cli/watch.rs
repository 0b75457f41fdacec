//! Looks at something again and again, until Ctrl-C: drawn in place on a terminal, elsewhere told where
//! it has changed.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal as Kill, getpid, kill_process};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep_until;

use super::exit::{Done, Failure};
use super::output;
use super::screen::Screen;
use super::terminal::Terminal;
use crate::time;

/// Hears of each look where no terminal is drawn on.
pub(super) trait Listener<T> {
    /// Whether also a terminal gets what it says.
    fn wants_all(&self) -> bool;

    /// What is to be printed of a look, if anything.
    fn hear(&mut self, look: &T) -> Vec<String>;
}

/// `look` may take its time: signals and windows are answered meanwhile. Ends well at Ctrl-C.
pub(super) fn watch<T: Send + 'static>(
    every: Duration,
    look: impl Fn() -> T + Send + Sync + 'static,
    draw: impl Fn(&T, Terminal) -> Vec<String>,
    mut listener: impl Listener<T>,
) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let screen = match listener.wants_all() {
        true => None,
        false => Screen::open()?,
    };
    let show = |screen: &Option<Screen>, seen: &T, again: bool| match screen {
        Some(screen) => screen.draw(&draw(seen, Terminal::stdout())),
        None if again => Ok(()),
        None => listener
            .hear(seen)
            .iter()
            .try_for_each(|line| output::line(line)),
    };
    let done = runtime.block_on(go_on(every, Arc::new(look), screen, show));
    // A look that still waits for somebody ends with the process.
    runtime.shutdown_background();
    done
}

async fn go_on<T: Send + 'static>(
    every: Duration,
    look: Arc<impl Fn() -> T + Send + Sync + 'static>,
    mut screen: Option<Screen>,
    mut show: impl FnMut(&Option<Screen>, &T, bool) -> Done,
) -> Done {
    let mut signals = Signals::new()?;
    let mut next = time::instant();
    let (mut looking, mut seen) = (None::<JoinHandle<T>>, None::<T>);
    loop {
        tokio::select! {
            done = finished(looking.as_mut()) => {
                looking = None;
                next = time::instant() + every;
                let new = done?;
                show(&screen, &new, false)?;
                seen = Some(new);
            }
            () = sleep_until(next.into()), if looking.is_none() => {
                let look = Arc::clone(&look);
                looking = Some(spawn_blocking(move || look()));
            }
            sign = signals.next() => {
                match sign {
                    Sign::End => return Ok(()),
                    Sign::Pause => pause(&mut screen)?,
                    Sign::Resized => {}
                }
                seen.as_ref().map_or(Ok(()), |seen| show(&screen, seen, true))?;
            }
        }
    }
}

async fn finished<T>(looking: Option<&mut JoinHandle<T>>) -> Result<T, Failure> {
    match looking {
        Some(looking) => looking.await.map_err(Failure::failed),
        None => pending().await,
    }
}

/// Whoever is at the terminal gets it as it was, and us back by `fg`.
fn pause(screen: &mut Option<Screen>) -> Done {
    if let Some(screen) = screen {
        screen.leave();
    }
    kill_process(getpid(), Kill::STOP).map_err(std::io::Error::from)?;
    screen.as_mut().map_or(Ok(()), Screen::enter)
}

enum Sign {
    End,
    Resized,
    /// Ctrl-Z.
    Pause,
}

struct Signals {
    ends: [Signal; 3],
    resized: Signal,
    pause: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let on = |kind| signal(kind).map_err(Failure::from);
        Ok(Signals {
            ends: [
                on(SignalKind::interrupt())?,
                on(SignalKind::terminate())?,
                on(SignalKind::hangup())?,
            ],
            resized: on(SignalKind::window_change())?,
            pause: on(SignalKind::from_raw(libc::SIGTSTP))?,
        })
    }

    async fn next(&mut self) -> Sign {
        let [interrupt, terminate, hangup] = &mut self.ends;
        tokio::select! {
            _ = interrupt.recv() => Sign::End,
            _ = terminate.recv() => Sign::End,
            _ = hangup.recv() => Sign::End,
            _ = self.resized.recv() => Sign::Resized,
            _ = self.pause.recv() => Sign::Pause,
        }
    }
}
