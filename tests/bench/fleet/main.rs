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
#[path = "../parts.rs"]
mod parts;
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
    parts::measure(&[
        ("reports", reports::measure),
        ("rotation", rotation::measure),
        ("foreign", foreign::measure),
    ]);
}
