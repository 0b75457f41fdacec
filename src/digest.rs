//! SHA-256, and how bytes and names are shown.

use std::io::{self, Write};

use aws_lc_rs::digest::{self, Context, SHA256};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    // At once: a context of its own costs more than the hash of a node of a tree.
    array(&digest::digest(&SHA256, bytes))
}

fn finish(context: Context) -> [u8; 32] {
    array(&context.finish())
}

fn array(hash: &digest::Digest) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hash.as_ref());
    out
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// All but what is unreserved (RFC 3986 section 2.3).
const RESERVED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// As one segment of a URL's path, a form's field or a file's name.
pub fn percent_encoded(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

/// SHA-256 over `parts`, each preceded by its length, so that no two lists collide.
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    finish(context)
}

/// [`digest`] of an object's JSON text, which is hashed as it is written and kept nowhere.
pub fn digest_json(object: &Map<String, Value>) -> [u8; 32] {
    // INVARIANT: names and values of a JSON value have a text, and these writers take any.
    let write = |to: &mut dyn Write| serde_json::to_writer(to, object).expect("a JSON value");
    let mut length = Length(0);
    write(&mut length);
    let mut hash = Hash(Context::new(&SHA256));
    hash.0.update(&length.0.to_be_bytes());
    write(&mut hash);
    finish(hash.0)
}

struct Length(u64);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Hash(Context);

impl Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_isnt_unreserved_is_percent_encoded() {
        assert_eq!(percent_encoded("a b&c=ü"), "a%20b%26c%3D%C3%BC");
        assert_eq!(percent_encoded("../~a-1_b?"), "..%2F~a-1_b%3F");
    }

    #[test]
    fn json_is_hashed_by_its_text() {
        let value = serde_json::json!({"b": "\u{1F600}\n", "a": [1.5, null, {"c": true}]});
        let text = value.to_string();
        let object = value.as_object().unwrap();
        assert_eq!(digest_json(object), digest(&[text.as_bytes()]));
    }
}
