//! Compact JWS (RFC 7515), read strictly, and the types that tell an allegation from a proof.
//!
//! Nothing here looks at the meaning of claims. `jwk`, `jku`, `x5u` and `x5c` in a header are
//! never read: keys come from the realm's pinned set only.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, Zeroizing};

use super::key::Key;
use crate::algorithm::Algorithm;
use crate::json::{self, Members, Round, Value};
use crate::reason::DenyReason;

/// Beyond this a token isn't even split.
pub(super) const MAX_LEN: usize = 16 * 1024;

/// A well-formed compact JWS whose signature nobody has checked.
#[must_use]
pub(super) struct Jws<'a> {
    pub(super) header: Header<'a>,
    pub(super) alleged: Alleged<'a>,
    signing_input: &'a [u8],
    signature: Zeroizing<Vec<u8>>,
}

/// What a token's segments decode to; what is read from them borrows from it.
#[derive(Default)]
pub(super) struct Decoded {
    header: Vec<u8>,
    payload: Vec<u8>,
}

impl Drop for Decoded {
    fn drop(&mut self) {
        self.header.zeroize();
        self.payload.zeroize();
    }
}

/// The part of a JOSE header that counts here.
pub(super) struct Header<'a> {
    pub(super) alg: Algorithm,
    pub(super) kid: Cow<'a, str>,
    pub(super) kind: HeaderType,
}

/// What the header's `typ` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderType {
    /// `at+jwt` (RFC 9068 section 2.1): an access token, whatever the payload's `typ`.
    AccessToken,
    /// `JWT`: Keycloak's default; the payload's `typ` must say that it is an access token.
    Jwt,
}

/// What a token says of itself before its signature is checked: good for nothing but picking the
/// realm whose keys may prove it.
pub(super) struct Alleged<'a>(Payload<'a>);

/// Claims signed by a pinned key of the realm that they name. Only [`Jws::prove`] makes one.
#[must_use]
pub(super) struct Proven<'a>(Payload<'a>);

struct Payload<'a> {
    claims: Members<'a>,
    text: &'a [u8],
}

impl<'a> Jws<'a> {
    pub(super) fn parse(token: &'a str, room: &'a mut Decoded) -> Result<Jws<'a>, DenyReason> {
        if token.len() > MAX_LEN {
            return Err(DenyReason::TokenTooLarge);
        }
        let malformed = DenyReason::TokenMalformed;
        let (signing_input, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (header, payload) = signing_input.split_once('.').ok_or(malformed)?;
        let (header, _) = object(header, &mut room.header).ok_or(malformed)?;
        let header = Header::parse(header)?;
        let claims = object(payload, &mut room.payload);
        let (claims, text) = claims.ok_or(malformed)?;
        let alleged = Alleged(Payload { claims, text });
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed)?;
        if signature.is_empty() {
            return Err(malformed);
        }
        Ok(Jws {
            header,
            alleged,
            signing_input: signing_input.as_bytes(),
            signature: Zeroizing::new(signature),
        })
    }

    /// The claims, if `key` signed them with the algorithm that the header names.
    pub(super) fn prove(self, key: &Key) -> Result<Proven<'a>, DenyReason> {
        if !key.allows(self.header.alg) {
            return Err(DenyReason::AlgorithmRejected);
        }
        let genuine = key.verify(self.header.alg, self.signing_input, &self.signature);
        let Alleged(payload) = self.alleged;
        genuine
            .then_some(Proven(payload))
            .ok_or(DenyReason::SignatureInvalid)
    }
}

impl<'a> Header<'a> {
    fn parse(mut members: Members<'a>) -> Result<Header<'a>, DenyReason> {
        if members.contains_key("crit") {
            return Err(DenyReason::CriticalHeader);
        }
        let kind = match text(&members, "typ")? {
            Some(typ) if is_access_token_type(typ) => HeaderType::AccessToken,
            Some(typ) if typ.eq_ignore_ascii_case("JWT") => HeaderType::Jwt,
            _ => return Err(DenyReason::TypeRejected),
        };
        let alg = text(&members, "alg")?.and_then(Algorithm::parse);
        let alg = alg.ok_or(DenyReason::AlgorithmRejected)?;
        let kid = match members.remove("kid") {
            Some(Value::String(kid)) => kid,
            Some(_) => return Err(DenyReason::TokenMalformed),
            None => return Err(DenyReason::KeyIdMissing),
        };
        Ok(Header { alg, kid, kind })
    }
}

impl Alleged<'_> {
    /// The issuer that the token claims, a string or nothing.
    pub(super) fn issuer(&self) -> Result<&str, DenyReason> {
        match self.0.claims.get("iss") {
            None => Err(DenyReason::IssuerMissing),
            Some(Value::String(issuer)) => Ok(issuer),
            Some(_) => Err(DenyReason::ClaimInvalid),
        }
    }
}

impl<'a> Proven<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.claims.get(name)
    }

    /// A number that isn't negative, as a whole one.
    pub(super) fn whole(&self, name: &str, round: Round) -> Option<u64> {
        match self.get(name)? {
            value @ Value::Number(_) => value
                .as_u64()
                .or_else(|| json::whole(self.0.text, name, round)),
            _ => None,
        }
    }
}

/// Media types compare without case, and `application/` may be left out (RFC 7515 section 4.1.9).
fn is_access_token_type(typ: &str) -> bool {
    typ.eq_ignore_ascii_case("at+jwt") || typ.eq_ignore_ascii_case("application/at+jwt")
}

/// A segment as a JSON object: base64url without padding or stray bits, no duplicate members.
fn object<'a>(segment: &str, room: &'a mut Vec<u8>) -> Option<(Members<'a>, &'a [u8])> {
    URL_SAFE_NO_PAD.decode_vec(segment, room).ok()?;
    let text: &'a [u8] = room;
    match json::read(text).ok()? {
        Value::Object(members) => Some((members, text)),
        _ => None,
    }
}

/// A header member that must be a string where it is present.
fn text<'m>(members: &'m Members<'_>, name: &str) -> Result<Option<&'m str>, DenyReason> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(DenyReason::TokenMalformed),
    }
}
