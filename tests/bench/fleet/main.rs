//! What a large fleet costs its manager, its broker and its devices; all of it on this machine.
//!
//! Prints one line a figure. `fleet reports`, `fleet rotation` and `fleet foreign` are parts of it.

mod foreign;
#[path = "../../repository/fleet.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "the repository's tests' toolbox: it may panic, and exports nothing"
)]
mod managers;
mod reports;
mod rotation;
#[path = "../../system/support/mod.rs"]
#[allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "the system tests' toolbox: it may panic, and exports nothing"
)]
mod support;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let parts: [(&str, fn()); 3] = [
        ("reports", reports::measure),
        ("rotation", rotation::measure),
        ("foreign", foreign::measure),
    ];
    let named = parts
        .iter()
        .any(|(name, _)| asked.iter().any(|a| a == name));
    for (name, part) in parts {
        if !named || asked.iter().any(|asked| asked == name) {
            part();
        }
    }
}
