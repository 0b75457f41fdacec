//! `slmd keys verify-jws`: whether a signature is one of a key set's, and nothing else.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::exit::{Done, Exit, Failure};
use super::super::realm;
use super::super::{Global, output};
use crate::auth::{KeySet, verify_jws};
use crate::cli::input;

const MAX_JWKS: u64 = 1 << 20;
const MAX_JWS: u64 = 1 << 20;

/// Verify the signature of a compact JWS (RFC 7515) with a key set; no daemon is needed.
///
/// Says nothing of claims or types: a good signature alone allows nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Ends with 0 when a key of the set made the signature, with 3 when none did, and with 1 when set or
object can't be read.

Examples:
  slmd keys verify-jws --jwks jwks.json --token token
  slmd keys verify-jws --jwks jwks.json --token - --json < token")]
pub(in crate::cli) struct VerifyJws {
    /// The key set (JWKS).
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
    /// The signed object; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    token: PathBuf,
}

impl VerifyJws {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let keys = KeySet::parse(&input::read(&self.jwks, MAX_JWKS)?)
            .map_err(|error| Failure::failed(format!("{}: {error}", self.jwks.display())))?;
        let jws = String::from_utf8(input::read(&self.token, MAX_JWS)?);
        let jws = jws.map_err(|_| Failure::failed("the signed object isn't text"))?;
        let key = verify_jws(jws.trim(), &keys).map_err(|reason| {
            Failure::new(
                Exit::Refused,
                format!("not signed by a key of the set: {reason}"),
            )
        })?;
        if global.json {
            return output::show(global, &json!({"verified": true, "key": key}));
        }
        output::line("the signature is good; it was made with")?;
        output::line(&format!("  {}", realm::key(&key)))
    }
}
