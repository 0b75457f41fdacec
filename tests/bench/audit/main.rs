//! What the audit costs and how fast it can be read, on the disk of the build folder.
//!
//! Prints one line a figure, with what it must be and what is aimed at. `appends`, `log`, `first-token`,
//! `writes` and `export` are parts of it. With `BENCH_TINY` set all counts are tiny: it shows that it
//! runs, and the figures mean nothing.

mod appends;
mod disk;
mod export;
mod log;
mod open;
#[path = "../parts.rs"]
mod parts;
mod prompts;
mod records;
#[path = "../../system/support/mod.rs"]
#[allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "the system tests' toolbox: it may panic, and exports nothing"
)]
mod support;

fn main() {
    if let Some(folder) = std::env::var_os(open::FOLDER) {
        return open::child(folder.as_ref());
    }
    parts::measure(&[
        ("appends", appends::measure),
        ("log", log::measure),
        ("first-token", prompts::first_token),
        ("writes", prompts::writes),
        ("export", export::measure),
    ]);
}

/// How much of something: what is measured, or what shows that it runs.
fn full_or(full: u64, tiny: u64) -> u64 {
    match std::env::var_os("BENCH_TINY") {
        None => full,
        Some(_) => tiny,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(support::target()).expect("the build folder is writable")
}
