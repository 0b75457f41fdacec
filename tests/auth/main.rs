//! The token decision against tokens minted here: one case for each refusal, properties, a storm of
//! mutated tokens, and npm's `jose` beside it. [`vectors`] are those that we publish; others', for the
//! signatures, stand in `auth::key`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy spares only `#[test]` functions, not their helpers"
)]
#![expect(
    clippy::semicolon_if_nothing_returned,
    reason = "the tables' one-line closures read better without"
)]

mod case;
mod differential;
mod dpop;
mod explain;
mod floors;
mod limits;
mod mint;
mod mutations;
mod names;
mod peers;
mod properties;
mod refusals;
mod samples;
mod signed;
mod vectors;
