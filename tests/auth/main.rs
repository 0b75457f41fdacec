//! The token decision against tokens minted here: one case for each refusal, properties, and a
//! storm of mutated tokens. (Published vectors for the signatures stand in `auth::key`.)

mod case;
mod mint;
mod mutations;
mod properties;
mod refusals;
