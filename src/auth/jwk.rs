//! The mathematics of a JWK: which public keys are good enough, and their thumbprints.
//!
//! RSA of 2048 to 4096 bits with a sound exponent, P-256 and P-384 points that lie on their curve,
//! Ed25519 keys of exactly 32 bytes; none that is weak ([`super::weak`]).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{tested, weak};
use crate::algorithm::Algorithm;
use crate::digest::sha256;

const RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::RS256, &RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::RS384, &RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::RS512, &RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::PS256, &RSA_PSS_2048_8192_SHA256),
    (Algorithm::PS384, &RSA_PSS_2048_8192_SHA384),
    (Algorithm::PS512, &RSA_PSS_2048_8192_SHA512),
];
/// Shorter ones are breakable (NIST SP 800-131A); longer ones only slow every check down.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// aws-lc takes no public exponent of more than 33 bits.
const RSA_EXPONENT: std::ops::Range<u64> = 65_537..1 << 33;

/// Whether a key shall be made ready for an algorithm: RSA has six, and each takes its time.
pub(super) type Wanted<'w> = &'w dyn Fn(Algorithm) -> bool;

/// What is to be done about a key of another kind.
const SUPPORTED: &str = "supported are RSA, P-256, P-384 and Ed25519: choose one of these for the \
    realm's tokens";
/// What is to be done about a weak one.
const WEAK: &str = "its private key can be computed; make a new one, and remove this";

/// A public key that passed, ready for use.
pub(super) struct Material {
    /// For each algorithm that it can verify and that is wanted.
    pub(super) verifiers: Vec<(Algorithm, ParsedPublicKey)>,
    /// RFC 7638, base64url.
    pub(super) thumbprint: String,
}

impl Material {
    /// The key, or why it isn't one of ours; ready for the algorithms that are `wanted`.
    pub(super) fn import(jwk: &Map<String, Value>, wanted: Wanted<'_>) -> Result<Material, String> {
        let kind = (member(jwk, "kty").ok(), member(jwk, "crv").ok());
        match kind {
            (Some("RSA"), _) => rsa(jwk, wanted),
            (Some("EC"), Some("P-256")) => {
                let curve = &ECDSA_P256_SHA256_FIXED;
                elliptic(jwk, "P-256", 32, (Algorithm::ES256, curve), wanted)
            }
            (Some("EC"), Some("P-384")) => {
                let curve = &ECDSA_P384_SHA384_FIXED;
                elliptic(jwk, "P-384", 48, (Algorithm::ES384, curve), wanted)
            }
            (Some("OKP"), Some("Ed25519")) => edwards(jwk, wanted),
            (Some("EC" | "OKP"), Some(crv)) => {
                Err(format!("its `crv` is {}; {SUPPORTED}", short(crv)))
            }
            (Some("EC" | "OKP"), None) => Err("it has no `crv`".into()),
            (Some(kty), _) => Err(format!("its `kty` is {}; {SUPPORTED}", short(kty))),
            (None, _) => Err("it has no `kty`".into()),
        }
    }
}

/// As much of the member of a key as can be shown.
fn short(text: &str) -> String {
    format!("{:?}", text.chars().take(32).collect::<String>())
}

/// Whether anybody can compute the private half: all that can be told of it.
pub(super) fn strong(jwk: &Map<String, Value>) -> Result<(), String> {
    let found = match member(jwk, "kty")? {
        "RSA" => tested::rsa(&integer(jwk, "n")?),
        "OKP" => weak::thorough_ed25519(&point(jwk)?),
        _ => Ok(()),
    };
    found.map_err(|why| format!("{why}: {WEAK}"))
}

/// [`strong`], as far as it can be told before each use of a key.
pub(super) fn not_known_weak(jwk: &Map<String, Value>) -> Result<(), String> {
    match member(jwk, "kty")? {
        "RSA" => weak::quick_rsa(&integer(jwk, "n")?),
        "OKP" => weak::quick_ed25519(&point(jwk)?),
        _ => Ok(()),
    }
}

fn rsa(jwk: &Map<String, Value>, wanted: Wanted<'_>) -> Result<Material, String> {
    let (n, e) = (integer(jwk, "n")?, integer(jwk, "e")?);
    let bits = n.len() * 8 - n[0].leading_zeros() as usize;
    if !RSA_BITS.contains(&bits) {
        return Err(format!("its modulus has {bits} bits, not 2048 to 4096"));
    }
    let in_range = e.len() <= 8 && {
        let exponent = e.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        RSA_EXPONENT.contains(&exponent) && exponent % 2 == 1
    };
    if !in_range {
        return Err("its exponent is below 65537, above 33 bits or even".into());
    }
    let components = RsaPublicKeyComponents { n: &n, e: &e };
    let prepare = |(alg, parameters)| match components.to_parsed_public_key(parameters) {
        Ok(key) => Ok((alg, key)),
        Err(_) => Err("its modulus and exponent make no RSA key"),
    };
    let algorithms = RSA.into_iter().filter(|(alg, _)| wanted(*alg));
    let verifiers = algorithms.map(prepare).collect::<Result<_, _>>()?;
    let canonical = format!(
        r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#,
        member(jwk, "e")?,
        member(jwk, "n")?
    );
    Ok(Material {
        verifiers,
        thumbprint: thumbprint(&canonical),
    })
}

fn elliptic(
    jwk: &Map<String, Value>,
    crv: &str,
    len: usize,
    (alg, curve): (Algorithm, &'static dyn VerificationAlgorithm),
    wanted: Wanted<'_>,
) -> Result<Material, String> {
    let mut point = vec![4]; // SEC 1 section 2.3.3: uncompressed
    for name in ["x", "y"] {
        let coordinate = bytes(jwk, name)?;
        if coordinate.len() != len {
            return Err(format!("its `{name}` isn't of {len} bytes"));
        }
        point.extend(coordinate);
    }
    let key = ParsedPublicKey::new(curve, &point).map_err(|_| "its point isn't on the curve")?;
    let canonical = format!(
        r#"{{"crv":"{crv}","kty":"EC","x":"{}","y":"{}"}}"#,
        member(jwk, "x")?,
        member(jwk, "y")?
    );
    Ok(Material {
        verifiers: wanted(alg).then_some((alg, key)).into_iter().collect(),
        thumbprint: thumbprint(&canonical),
    })
}

fn edwards(jwk: &Map<String, Value>, wanted: Wanted<'_>) -> Result<Material, String> {
    let alg = Algorithm::EdDSA;
    let x = point(jwk)?;
    let key = ParsedPublicKey::new(&ED25519, x).map_err(|_| "its `x` is no Ed25519 key")?;
    let x_text = member(jwk, "x")?;
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x_text}"}}"#);
    Ok(Material {
        verifiers: wanted(alg).then_some((alg, key)).into_iter().collect(),
        thumbprint: thumbprint(&canonical),
    })
}

/// The encoded point of an Ed25519 key.
fn point(jwk: &Map<String, Value>) -> Result<[u8; 32], String> {
    let x = bytes(jwk, "x")?.try_into();
    x.map_err(|_| "its `x` isn't of 32 bytes".to_owned())
}

/// `canonical` holds the required members in lexicographic order (RFC 7638 section 3.2). Their
/// base64url is canonical too, because [`bytes`] read it strictly.
fn thumbprint(canonical: &str) -> String {
    URL_SAFE_NO_PAD.encode(sha256(canonical.as_bytes()))
}

/// A positive integer without leading zeros (RFC 7518 section 6.3.1.1).
fn integer(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let bytes = bytes(jwk, name)?;
    match bytes.first() {
        None | Some(0) => Err(format!("its `{name}` is empty or starts with zeros")),
        Some(_) => Ok(bytes),
    }
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let decoded = URL_SAFE_NO_PAD.decode(member(jwk, name)?);
    decoded.map_err(|_| format!("its `{name}` is no base64url without padding"))
}

fn member<'m>(jwk: &'m Map<String, Value>, name: &str) -> Result<&'m str, String> {
    let text = jwk.get(name).and_then(Value::as_str);
    text.ok_or_else(|| format!("its `{name}` is missing or no string"))
}
