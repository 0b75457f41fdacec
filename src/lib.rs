//! slmd: a small language model behind Keycloak tokens, decided offline.
//!
//! The tour, from the bottom (a module uses only those above it in this list; `tests/tidy.rs`
//! checks it):
//!
//! 1. [`prompt`] is what is asked and answered, [`reason`] why not, [`delivery`] how often; [`secret`], [`time`],
//!    [`age`], [`json`], [`files`], [`identity`], [`share`], [`link`], [`https`], [`oauth`], [`process`], [`tls`],
//!    [`shutdown`], [`spelling`], [`systemd`], [`telemetry`], [`trace`] are small tools.
//! 2. [`tlog`] proves what a log holds, [`trust`] says what to believe of what a fleet or its devices signed, [`auth`] decides, both purely.
//!    [`wire`] turns bytes into requests and fragments into bytes. [`store`] is the state folder's database.
//! 3. [`audit`] records, [`quota`] charges; [`repository`] is where a fleet's manager signs for its devices;
//!    [`engine`] runs the model that [`catalog`] finds; [`witness`] has others watch the log; [`keysync`] keeps keys and brings others,
//!    [`fleet`] what is signed; [`authority`] owns what is in force.
//! 4. [`admission`] is the single door: decide → reserve → prepare → charge → claim → record →
//!    queue. [`admin`] is what administration asks and is told.
//! 5. [`transport`] brings prompts to it over HTTP and MQTT.
//! 6. [`config`] reads the one file, 7. [`daemon`] puts all together, 8. [`cli`] is for people.
//!
//! To follow one prompt by file names, see `ARCHITECTURE.md`. The line that refuses a token is
//! in [`auth::judge`].

// Allowed in the engine's kernels and in `sys`, which say so.
#![deny(unsafe_code)]

mod admin;
mod admission;
mod age;
mod algorithm;
mod audit;
mod auth;
mod authority;
mod catalog;
mod cli;
mod config;
mod daemon;
mod delivery;
mod digest;
mod engine;
mod files;
mod fleet;
#[cfg(feature = "for-tests")]
pub mod for_tests;
mod https;
mod identity;
mod json;
mod keysync;
mod link;
mod oauth;
mod process;
mod prompt;
mod quota;
mod reason;
mod repository;
mod secret;
mod share;
mod shutdown;
mod spelling;
mod store;
mod sys;
mod systemd;
mod telemetry;
mod time;
mod tlog;
mod tls;
mod trace;
mod transport;
mod trust;
mod wire;
mod witness;

pub use cli::main;
