//! Encryption to who alone can read it again: the age format (age-encryption.org/v1, C2SP `age`), to
//! X25519 recipients, binary. What is encrypted here can't be decrypted here.
//!
//! A random file key encrypts the text in chunks (STREAM with ChaCha20-Poly1305), and is itself
//! encrypted to each recipient by a key that an ephemeral X25519 key and the recipient's agree on; an
//! HMAC by the file key covers that header.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use crate::secret::Secret;

const VERSION: &str = "age-encryption.org/v1";
/// Of X25519's key derivation.
const X25519_INFO: &str = "age-encryption.org/v1/X25519";
/// A recipient's prefix.
const PREFIX: &str = "age";
/// Of the text, encrypted by itself.
const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;
const CHARSET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// Bech32's checksum, in characters.
const CHECKSUM: usize = 6;

/// A public key, `age1…` as `age-keygen` tells it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Recipient([u8; 32]);

/// Why a text is no recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRecipient {
    #[error("it is a private key; name its public one, which age-keygen -y tells")]
    Private,
    #[error("it doesn't begin with age1")]
    Prefix,
    #[error("it has a typing mistake: its checksum doesn't fit")]
    Checksum,
    #[error("it is no X25519 key of 32 bytes")]
    Length,
    #[error("anybody could read what is encrypted to it")]
    Weak,
}

/// The crypto library failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a text could not be encrypted")]
pub struct NotEncrypted;

impl From<aws_lc_rs::error::Unspecified> for NotEncrypted {
    fn from(_: aws_lc_rs::error::Unspecified) -> NotEncrypted {
        NotEncrypted
    }
}

/// `text` as an age file. `random` fills with bytes that nobody can foresee.
pub fn encrypt(
    text: &[u8],
    to: &[Recipient],
    mut random: impl FnMut(&mut [u8]),
) -> Result<Vec<u8>, NotEncrypted> {
    let mut file_key = Secret::new([0; 16]);
    file_key.fill(&mut random);
    let mut file = format!("{VERSION}\n").into_bytes();
    for recipient in to {
        let mut ephemeral = Secret::new([0; 32]);
        ephemeral.fill(&mut random);
        file.extend(recipient.stanza(&file_key, &ephemeral)?);
    }
    file.extend(b"---");
    let key = derived(&[], file_key.expose(), b"header")?;
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()), &file);
    file.extend(format!(" {}\n", BASE64.encode(mac)).as_bytes());
    let mut nonce = [0; 16];
    random(&mut nonce);
    file.extend(nonce);
    let key = derived(&nonce, file_key.expose(), b"payload")?;
    stream(&key, text, &mut file)?;
    Ok(file)
}

/// Adds the text's chunks. Each has its number in its nonce, the last one says so, and only a text
/// without a byte has an empty one.
fn stream(key: &Secret<[u8; 32]>, text: &[u8], file: &mut Vec<u8>) -> Result<(), NotEncrypted> {
    let count = text.len().div_ceil(CHUNK).max(1);
    file.reserve(text.len() + count * TAG);
    for number in 0..count {
        let chunk = text.chunks(CHUNK).nth(number).unwrap_or_default();
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&(number as u64).to_be_bytes());
        nonce[11] = u8::from(number + 1 == count);
        seal(key, nonce, chunk, file)?;
    }
    Ok(())
}

fn seal(
    key: &Secret<[u8; 32]>,
    nonce: [u8; 12],
    text: &[u8],
    into: &mut Vec<u8>,
) -> Result<(), NotEncrypted> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.expose())?);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let begin = into.len();
    into.extend_from_slice(text);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut into[begin..])?;
    into.extend_from_slice(tag.as_ref());
    Ok(())
}

/// HKDF-SHA256, 32 bytes.
fn derived(salt: &[u8], secret: &[u8], info: &[u8]) -> Result<Secret<[u8; 32]>, NotEncrypted> {
    let mut key = [0; 32];
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    extracted
        .expand(&[info], hkdf::HKDF_SHA256)?
        .fill(&mut key)?;
    Ok(Secret::new(key))
}

impl Recipient {
    /// The file key, for the recipient alone.
    fn stanza(
        &self,
        file_key: &Secret<[u8; 16]>,
        ephemeral: &Secret<[u8; 32]>,
    ) -> Result<Vec<u8>, NotEncrypted> {
        let (share, key) = self.agree(ephemeral)?;
        let mut body = Vec::new();
        // The key is used for this one message.
        seal(&key, [0; 12], file_key.expose(), &mut body)?;
        let [share, body] = [&share[..], &body].map(|bytes| BASE64.encode(bytes));
        Ok(format!("-> X25519 {share}\n{body}\n").into_bytes())
    }

    /// The ephemeral public key, and what it and the recipient's agree on.
    fn agree(
        &self,
        ephemeral: &Secret<[u8; 32]>,
    ) -> Result<([u8; 32], Secret<[u8; 32]>), NotEncrypted> {
        let private = PrivateKey::from_private_key(&X25519, ephemeral.expose());
        let private = private.map_err(|_| NotEncrypted)?;
        let public = private.compute_public_key()?;
        let share: [u8; 32] = public.as_ref().try_into().map_err(|_| NotEncrypted)?;
        let theirs = UnparsedPublicKey::new(&X25519, self.0);
        let salt = [share, self.0].concat();
        let key = agree(&private, theirs, NotEncrypted, |secret| {
            derived(&salt, secret, X25519_INFO.as_bytes())
        })?;
        Ok((share, key))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bech32 (BIP 173).
impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut data = regroup(&self.0, 8, 5);
        let sum = checksum(PREFIX, &data) ^ 1;
        data.extend(
            (0..CHECKSUM)
                .rev()
                .map(|place| (sum >> (5 * place) & 31) as u8),
        );
        let text: String = data
            .iter()
            .map(|five| char::from(CHARSET[usize::from(*five)]))
            .collect();
        write!(f, "{PREFIX}1{text}")
    }
}

impl FromStr for Recipient {
    type Err = NoRecipient;

    fn from_str(text: &str) -> Result<Recipient, NoRecipient> {
        let small = text.to_ascii_lowercase();
        if small.starts_with("age-secret-key-") {
            return Err(NoRecipient::Private);
        }
        let rest = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_prefix('1'));
        let five = |c: u8| CHARSET.iter().position(|known| *known == c);
        let fives = rest.ok_or(NoRecipient::Prefix)?.bytes().map(five);
        let fives: Option<Vec<u8>> = fives.map(|five| u8::try_from(five?).ok()).collect();
        let fives = fives.ok_or(NoRecipient::Checksum)?;
        let Some(length) = fives.len().checked_sub(CHECKSUM) else {
            return Err(NoRecipient::Length);
        };
        let sum = fives[length..]
            .iter()
            .fold(0, |sum, five| sum << 5 | u32::from(*five));
        if checksum(PREFIX, &fives[..length]) ^ 1 != sum {
            return Err(NoRecipient::Checksum);
        }
        let key = regroup(&fives[..length], 5, 8);
        let key = Recipient(key.try_into().map_err(|_| NoRecipient::Length)?);
        // Another way to write it: bits that are left over.
        if key.to_string() != text {
            return Err(NoRecipient::Length);
        }
        // A key of small order agrees on nothing secret.
        match key.agree(&Secret::new([1; 32])) {
            Ok(_) => Ok(key),
            Err(NotEncrypted) => Err(NoRecipient::Weak),
        }
    }
}

/// Bits in groups of another size. What is left at the end is filled up with zeros towards five, and
/// dropped towards eight.
fn regroup(groups: &[u8], from: u32, to: u32) -> Vec<u8> {
    let (mut out, mut held, mut bits) = (Vec::new(), 0_u32, 0);
    for group in groups {
        held = held << from | u32::from(*group);
        bits += from;
        while bits >= to {
            bits -= to;
            out.push((held >> bits & ((1 << to) - 1)) as u8);
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 && to < from {
        out.push((held << (to - bits)) as u8);
    }
    out
}

/// Over the prefix and groups of five bits, before it is inverted.
fn checksum(prefix: &str, data: &[u8]) -> u32 {
    let high = prefix.bytes().map(|c| c >> 5);
    let low = prefix.bytes().map(|c| c & 31);
    let all = high.chain([0]).chain(low).chain(data.iter().copied());
    let all = all.chain([0; CHECKSUM]);
    all.fold(1, |sum: u32, five| {
        let top = sum >> 25;
        let sum = (sum & 0x01ff_ffff) << 5 ^ u32::from(five);
        let generators = [
            0x3b6a_57b2,
            0x2650_8e6d,
            0x1ea1_19fa,
            0x3d42_33dd,
            0x2a14_62b3,
        ];
        let chosen = generators.into_iter().enumerate();
        chosen
            .filter(|(bit, _)| top >> bit & 1 == 1)
            .fold(sum, |sum, (_, generator)| sum ^ generator)
    })
}

#[cfg(test)]
mod tests;
