//! A fleet's repository by the program that people run, read by those who were there before: python-tuf
//! reads the metadata, OpenSSL the keys, a real mosquitto takes what is published.

#[path = "../system/support/mod.rs"]
mod support;

mod audit;
mod broker;
mod devices;
mod fleet;
mod follow;
mod keys;
mod metadata;
mod readme;
