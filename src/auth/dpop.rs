//! DPoP proofs (RFC 9449 section 4.3): whether the client holds the key that its token is bound
//! to, and made the proof for this very request.
//!
//! Cheap checks come before the signature. That a proof is used once is for the caller to see to
//! ([`ProofUse`]).

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::credential::{Binding, NonceRule, ProofUse, Until};
use super::jwk::not_known_weak;
use super::jws::Compact;
use super::key::Key;
use super::members::is_secret;
use crate::algorithm::Algorithm;
use crate::digest::{digest, sha256};
use crate::json::{self, Round};
use crate::reason::DenyReason;
use crate::time::{MAX_SECS, Timestamp};

const MAX_LEN: usize = 8 * 1024;
const MAX_ID_LEN: usize = 128;
/// How old a proof may be that no nonce dates.
pub const PROOF_MAX_AGE: Duration = Duration::from_secs(120);
/// No nonce is accepted for longer, so a proof with one needs no longer remembrance.
pub const NONCE_MAX_AGE: Duration = Duration::from_secs(600);

/// When a proof is looked at.
pub(super) struct When {
    pub(super) now: Timestamp,
    pub(super) synchronised: bool,
    pub(super) leeway: Duration,
}

/// Why a proof isn't one: the reason, and which check said so. Never anything from the proof.
pub(super) type ProofError = (DenyReason, &'static str);

/// The key that a token is bound to.
pub(super) struct BoundTo<'t> {
    /// The token's `cnf.jkt`.
    pub(super) thumbprint: &'t str,
    /// Whether it isn't known to be weak: the same for every proof, so it is found once a token.
    pub(super) strong: &'t OnceLock<bool>,
}

/// Checks `proof` against the token that it came with, the key that this is bound to and the
/// request.
pub(super) fn verify(
    proof: &str,
    token: &str,
    bound_to: &BoundTo<'_>,
    binding: &Binding,
    when: &When,
) -> Result<ProofUse, ProofError> {
    if proof.len() > MAX_LEN {
        return Err(invalid("form: the proof is larger than 8 KiB"));
    }
    let malformed = invalid("form: the proof is no compact JWS with strict JSON inside");
    let jws = Compact::parse(proof).ok_or(malformed)?;
    let claims = jws.payload_object().ok_or(malformed)?;
    let (key, alg, jwk) = header(&jws)?;
    if key.thumbprint() != bound_to.thumbprint {
        return Err(invalid("jwk: the token is bound to another key"));
    }
    if !bound_to.strong.get_or_init(|| not_known_weak(jwk).is_ok()) {
        return Err(invalid(
            "jwk: a weak key, whose private half can be computed; make a new one",
        ));
    }
    request(&claims, token, binding)?;
    let id = text(&claims, "jti").filter(|id| !id.is_empty() && id.len() <= MAX_ID_LEN);
    let id = id.ok_or(invalid("jti: missing, empty or longer than 128 bytes"))?;
    let until = age(&jws.payload, &binding.nonce, when)?;
    nonce(&claims, &binding.nonce)?;
    if !jws.signed_by(&key, alg) {
        return Err(invalid("signature: not made by the proof's key"));
    }
    Ok(ProofUse {
        id: digest(&[bound_to.thumbprint.as_bytes(), id.as_bytes()]),
        until,
    })
}

/// Checks 4, 5 and 7, and the key that the signature (6) is checked with.
fn header<'j>(
    jws: &'j Compact<'_>,
) -> Result<(Key, Algorithm, &'j Map<String, Value>), ProofError> {
    let typ = text(&jws.header, "typ").unwrap_or_default();
    let types = ["dpop+jwt", "application/dpop+jwt"];
    if !types.iter().any(|known| typ.eq_ignore_ascii_case(known)) {
        return Err(invalid("typ: not `dpop+jwt`"));
    }
    if jws.header.contains_key("crit") {
        return Err(invalid("crit: no extension is supported"));
    }
    let alg = jws.algorithm();
    let alg = alg.ok_or(invalid(
        "alg: not an asymmetric algorithm that is supported",
    ))?;
    let Some(Value::Object(jwk)) = jws.header.get("jwk") else {
        return Err(invalid("jwk: missing"));
    };
    if is_secret(jwk) {
        return Err(invalid("jwk: a private key; make a new one, it has leaked"));
    }
    let key = Key::of_proof(jwk, alg);
    let key =
        key.map_err(|_| invalid("jwk: no public key, and nothing else, of a supported kind"))?;
    if !key.allows(alg) {
        return Err(invalid("alg: doesn't fit the `jwk`"));
    }
    Ok((key, alg, jwk))
}

/// Checks 8, 9 and 12: the request and the token that the proof speaks of.
fn request(claims: &Map<String, Value>, token: &str, binding: &Binding) -> Result<(), ProofError> {
    if text(claims, "htm") != Some(&*binding.method) {
        return Err(invalid("htm: another method than the request's"));
    }
    let target = text(claims, "htu").and_then(normalised);
    let meant = |known: &String| normalised(known) == target;
    if target.is_none() || !binding.targets.iter().any(meant) {
        return Err(invalid("htu: not this device's address of the request"));
    }
    let hash = URL_SAFE_NO_PAD.encode(sha256(token.as_bytes()));
    if text(claims, "ath") != Some(hash.as_str()) {
        return Err(invalid("ath: not the hash of the token"));
    }
    match &binding.message {
        Some(message) if text(claims, "msh") != Some(message) => {
            Err(invalid("msh: not the hash of the message"))
        }
        _ => Ok(()),
    }
}

/// Check 11; gives until when the proof would be taken again. Where a nonce is wanted,
/// the nonce bounds the age, and a device without the time can't hold `iat` against anything.
fn age(claims: &[u8], rule: &NonceRule, when: &When) -> Result<Until, ProofError> {
    let issued = |round| {
        let secs = json::whole(claims, "iat", round);
        secs.filter(|secs| *secs <= MAX_SECS)
            .map(Timestamp::from_secs)
            .ok_or(invalid("iat: missing or no number of seconds"))
    };
    let (issued, latest) = (issued(Round::Down)?, issued(Round::Up)?);
    let dated = *rule != NonceRule::None;
    let future = latest > when.now.saturating_add(when.leeway);
    if future && (when.synchronised || !dated) {
        return Err(invalid("iat: in the future; compare the clocks"));
    }
    if dated {
        return Ok(Until::Nonce);
    }
    let expires_at = issued.saturating_add(PROOF_MAX_AGE);
    if when.now >= expires_at {
        return Err(invalid(
            "iat: too long ago; make a new proof for each request",
        ));
    }
    Ok(Until::Time(expires_at))
}

/// Check 10.
fn nonce(claims: &Map<String, Value>, rule: &NonceRule) -> Result<(), ProofError> {
    let NonceRule::OneOf(good) = rule else {
        return Ok(());
    };
    match text(claims, "nonce") {
        Some(nonce) if good.iter().any(|good| good == nonce) => Ok(()),
        Some(_) => Err((
            DenyReason::UseDpopNonce,
            "nonce: an old one or another device's",
        )),
        None => Err((DenyReason::UseDpopNonce, "nonce: missing")),
    }
}

/// A URI as it is compared (RFC 9449 section 4.3, RFC 3986 sections 6.2.2.1 and 6.2.3): scheme and
/// host in lower case, no default port, a path. Query and fragment of an HTTP URI don't count; an
/// MQTT topic may hold a `?` that does.
fn normalised(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let (default, rest) = match scheme.as_str() {
        "http" => ("80", without_query(rest)),
        "https" => ("443", without_query(rest)),
        "mqtt" => ("1883", rest),
        "mqtts" => ("8883", rest),
        _ => return None,
    };
    let slash = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(slash);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.is_empty() || port == default => host,
        _ => authority,
    };
    if host.is_empty() || host.contains('@') {
        return None;
    }
    let path = if path.is_empty() { "/" } else { path };
    Some(format!("{scheme}://{}{path}", host.to_ascii_lowercase()))
}

fn without_query(rest: &str) -> &str {
    rest.find(['?', '#']).map_or(rest, |end| &rest[..end])
}

fn text<'m>(members: &'m Map<String, Value>, name: &str) -> Option<&'m str> {
    members.get(name).and_then(Value::as_str)
}

fn invalid(what: &'static str) -> ProofError {
    (DenyReason::ProofInvalid, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9449 section 7.1: the proof, its access token and (section 6.1) the token's `jkt`.
    const PROOF: &str = concat!(
        "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0Vj",
        "NoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5",
        "VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUI",
        "iwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI",
        "2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqz",
        "hrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
    );
    const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
    const THUMBPRINT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    const ISSUED: u64 = 1_562_262_618;

    fn published(proof: &str, token: &str, thumbprint: &str) -> Result<ProofUse, ProofError> {
        let binding = Binding {
            method: "GET".to_owned(),
            targets: vec!["HTTPS://Resource.Example.org:443/protectedresource".to_owned()],
            message: None,
            nonce: NonceRule::None,
        };
        let when = When {
            now: Timestamp::from_secs(ISSUED + 5),
            synchronised: true,
            leeway: Duration::from_secs(30),
        };
        let bound_to = BoundTo {
            thumbprint,
            strong: &OnceLock::new(),
        };
        verify(proof, token, &bound_to, &binding, &when)
    }

    #[test]
    fn the_published_proof_verifies() {
        let used = published(PROOF, TOKEN, THUMBPRINT).unwrap();
        let expires_at = Timestamp::from_secs(ISSUED + 120);
        assert_eq!(used.until, Until::Time(expires_at));
        let other = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
        let forged = PROOF.replace("JpLjA", "JpLjQ");
        for (proof, token, key, check) in [
            (PROOF, "another", THUMBPRINT, "ath"),
            (PROOF, TOKEN, other, "jwk"),
            (forged.as_str(), TOKEN, THUMBPRINT, "signature"),
        ] {
            let (reason, detail) = published(proof, token, key).unwrap_err();
            assert_eq!(reason, DenyReason::ProofInvalid);
            assert!(detail.starts_with(check), "{detail}");
        }
    }

    #[test]
    fn addresses_compare_as_uris() {
        let same = [
            ("http://a/b", "HTTP://A:80/b"),
            ("https://a:443", "https://a/"),
            ("https://a:/b?c#d", "https://a/b"),
            ("https://[::1]:8443/b", "https://[::1]:8443/b#"),
            ("mqtt://dev/t", "MQTT://DEV:1883/t"),
        ];
        for (a, b) in same {
            assert!(
                normalised(a).is_some() && normalised(a) == normalised(b),
                "{a}"
            );
        }
        let different = [
            ("http://a/b", "https://a/b"),
            ("http://a/b", "http://a/B"),
            ("http://a/b", "http://a:8080/b"),
            ("http://a/b", "http://a/b/"),
            ("mqtt://dev/t?x", "mqtt://dev/t"),
        ];
        for (a, b) in different {
            assert_ne!(normalised(a), normalised(b), "{a}");
        }
        for bad in ["", "a/b", "ftp://a/b", "http:///b", "http://u@a/b"] {
            assert_eq!(normalised(bad), None, "{bad}");
        }
    }
}
