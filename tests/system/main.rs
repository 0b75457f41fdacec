//! The whole daemon with the real model, a real broker and tokens of its own issuer.
//!
//! One binary, because each links the model runtime anew. [`support`] starts and stops things;
//! the other modules are one subject each. Run one with `cargo test --test system crash`.

mod answers;
mod ask;
mod audit;
mod auditor;
mod badinput;
mod checks;
mod cli;
mod clocks;
mod crash;
mod demo;
mod dpop;
mod evidence;
mod export;
mod fair;
mod fleet;
mod full;
mod http;
mod install;
mod keys;
mod login;
mod logs;
mod look;
mod manual;
mod metrics;
mod mirror;
mod monitoring;
mod mqtt;
mod names;
mod newcomer;
mod newer;
mod peers;
mod questions;
mod readme;
mod reload;
mod replay;
mod secrets;
mod support;
mod tls;
mod traces;
mod verify;
mod watch;
mod wipe;
mod witness;
