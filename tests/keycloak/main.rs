//! The real thing: Keycloak with the realms of `deploy/keycloak`, a real directory behind it, and
//! every kind of token that people get from there.
//!
//! [`server`] and [`directory`] are started once for all tests of this binary, and once more for the
//! test that stops Keycloak; what a test changes, it changes in a realm or for a user of its own. Run one subject with
//! `cargo test --test keycloak ldap`.

#[path = "../repository/fleet.rs"]
#[expect(dead_code, reason = "python-tuf reads what tests/repository has made")]
mod managers;
#[path = "../system/support/mod.rs"]
mod support;

mod admin;
mod appliance;
mod auditors;
mod certificates;
mod daemon;
mod demo;
mod directory;
mod dpop;
mod explain;
mod files;
mod fleet;
mod grants;
mod judge;
mod ldap;
mod login;
mod monitoring;
mod offline;
mod outage;
mod place;
mod proof;
mod readme;
mod realms;
mod rotation;
mod server;
mod tokens;
mod update;
