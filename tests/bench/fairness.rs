//! How long a principal's answers take while another one floods the queue: the whole daemon, over
//! its socket, with the real model.
//!
//! The measure is a fair share: with two principals who take turns, an answer takes its own time
//! and one turn of the other's. Both are measured in the same run, each alone. Prints one line a
//! figure; a ratio above 1 means that the 95th percentile is within twice the fair share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use slmd::for_tests::time::instant;

use support::{Daemon, Issuer, Setup, chat, claims};

#[path = "../system/support/mod.rs"]
#[allow(
    clippy::unwrap_used,
    reason = "the system tests' toolbox: it may panic"
)]
mod support;

const ROUNDS: usize = 60;
/// Connections of the one who floods: more than the queue has places.
const FLOOD: usize = 12;
/// Tokens of each answer that floods; the others' have one.
const LONG: u32 = 64;
/// What the flooder does after a refusal: as little as a client that doesn't care.
const PAUSE: Duration = Duration::from_millis(5);

fn main() {
    let issuer = Issuer::new("ES256", "key-1");
    let limits = "tokens_per_minute = 100000000";
    let daemon = Daemon::start(Setup::new().issuer(&issuer).realm(limits));
    let token = |subject: &str| {
        let mut claims = claims();
        claims["sub"] = json!(subject);
        claims["exp"] = json!(claims["iat"].as_u64().unwrap_or_default() + 3000);
        issuer.token(claims)
    };
    let (quiet, flooder) = (token("quiet"), token("flooder"));
    let (short, long) = (
        chat("Say yes.", 1, false),
        chat("Tell a long story.", LONG, false),
    );
    // Warms what the first request of each kind pays for.
    milliseconds(&daemon, &quiet, &short);
    milliseconds(&daemon, &flooder, &long);
    let own = percentiles(|| milliseconds(&daemon, &quiet, &short));
    let turn = percentiles(|| milliseconds(&daemon, &flooder, &long));
    let ends = AtomicBool::new(false);
    let mut refused = 0;
    let beside = thread::scope(|scope| {
        for _ in 0..FLOOD {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    if daemon.chat(&flooder, &long).status != 200 {
                        thread::sleep(PAUSE);
                    }
                }
            });
        }
        let beside = percentiles(|| {
            loop {
                match milliseconds(&daemon, &quiet, &short) {
                    Some(took) => break Some(took),
                    None => refused += 1,
                }
            }
        });
        ends.store(true, Ordering::Relaxed);
        beside
    });
    let share = own.0 + turn.0;
    println!(
        "an answer of one token, alone: {:.1} ms, p95 {:.1} ms",
        own.0, own.1
    );
    println!(
        "the flooder's answer of {LONG}, alone: {:.1} ms, p95 {:.1} ms",
        turn.0, turn.1
    );
    println!(
        "an answer of one token beside {FLOOD} connections of the flooder: {:.1} ms, p95 {:.1} ms, \
         {refused} of {ROUNDS} refused at first",
        beside.0, beside.1
    );
    println!(
        "twice the fair share of {share:.1} ms over that p95: {:.2}",
        2.0 * share / beside.1
    );
}

/// `None`: refused.
fn milliseconds(daemon: &Daemon, token: &str, body: &str) -> Option<f64> {
    let start = instant();
    let response = daemon.chat(token, body);
    (response.status == 200).then(|| start.elapsed().as_secs_f64() * 1000.0)
}

/// Median and 95th percentile.
fn percentiles(mut sample: impl FnMut() -> Option<f64>) -> (f64, f64) {
    let mut samples: Vec<f64> = (0..ROUNDS).filter_map(|_| sample()).collect();
    assert_eq!(samples.len(), ROUNDS, "nobody is refused while alone");
    samples.sort_by(f64::total_cmp);
    (samples[ROUNDS / 2], samples[ROUNDS * 95 / 100])
}
