//! The pure modules of the daemon under the names that they call each other by, and the worlds
//! that the fuzz targets decide in.

// The daemon has a caller for each of these; a target needs few of them.
#![allow(dead_code, unexpected_cfgs)]

#[path = "../../src/age.rs"]
pub mod age;
#[path = "../../src/algorithm.rs"]
pub mod algorithm;
#[path = "../../src/auth/mod.rs"]
pub mod auth;
#[path = "../../src/digest.rs"]
pub mod digest;
#[path = "../../src/files.rs"]
pub mod files;
#[path = "../../src/identity.rs"]
pub mod identity;
#[path = "../../src/json.rs"]
pub mod json;
#[path = "../../src/prompt/mod.rs"]
pub mod prompt;
#[path = "../../src/reason.rs"]
pub mod reason;
#[path = "../../src/secret.rs"]
pub mod secret;
#[path = "../../src/sys.rs"]
pub mod sys;
#[path = "../../src/time.rs"]
pub mod time;
#[path = "../../src/tlog/mod.rs"]
pub mod tlog;
#[path = "../../src/trace/mod.rs"]
pub mod trace;
#[path = "../../src/trust/mod.rs"]
pub mod trust;

/// What the cache of decisions is counted in; nobody asks for it here.
pub mod telemetry {
    pub use prometheus_client::registry::Registry;
}

pub mod fleet;
pub mod world;
