//! What must be true of where a realm's keys are refreshed from.

use super::read::Section;
use crate::https;
use crate::keysync::Source;

pub(super) fn check_key_source(section: &Section<'_>, source: &Source, _: &[Source]) {
    if let Err((key, what)) = trusted(source) {
        section.problem(key, what);
    }
    if source.min_interval > source.refresh_interval {
        section.problem("min_interval", "is longer than `refresh_interval`");
    }
}

/// Whoever answers in the issuer's place can hand over keys, and on loopback that is every user who
/// binds its port while it is away.
fn trusted(source: &Source) -> Result<(), (&'static str, String)> {
    https::check_url(&source.uri).map_err(|error| ("uri", error.to_string()))?;
    match (source.uri.starts_with("https:"), &source.ca_file) {
        (true, None) => Err((
            "ca_file",
            "is missing: HTTPS needs the CA to trust, as PEM".to_owned(),
        )),
        (false, _) if !source.plain_http_trusts_this_host => Err((
            "uri",
            "is plain HTTP: any user of this machine who gets its port while Keycloak is away \
             could serve keys; write https:// and `ca_file`, or \
             `plain_http_trusts_this_host = true` where all of them are trusted"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}
