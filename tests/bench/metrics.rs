//! How long `/metrics` takes at worst: as many realms, models and mirrors as a configuration may have,
//! with every refusal of every realm by every transport.
//!
//! Left out are the device's own gauges, exports and witnesses, some 200 series at most. Prints one line
//! a format.

use std::time::Duration;

use slmd::for_tests::daemon::Worst;
use slmd::for_tests::telemetry::Format;
use slmd::for_tests::time::instant;

const ROUNDS: usize = 101;

fn main() {
    let worst = Worst::default();
    for format in Format::ALL {
        let mut times: Vec<Duration> = Vec::new();
        let mut text = String::new();
        for _ in 0..ROUNDS {
            let start = instant();
            text = worst.text(format);
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        println!(
            "/metrics at worst, {format:?}: {:.2} ms in the median, {:.2} ms at most (must 5); {series} \
             series (must 16000), {} bytes",
            times[ROUNDS / 2].as_secs_f64() * 1000.0,
            times[ROUNDS - 1].as_secs_f64() * 1000.0,
            text.len(),
        );
    }
}
