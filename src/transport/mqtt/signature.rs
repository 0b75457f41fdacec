//! Signatures of answers: what the device says of one message, so that a broker can't forge it,
//! change it, cut it short, or tell it of another request.
//!
//! Each message of an answer has a JWT of its own, whose claims are the message's user properties
//! and what binds them: the device, the request, the answer and the body. `deploy/mqtt/README.md`
//! specifies it for those who write clients. MQTT 3.1.1 has no place for one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::digest::sha256;
use crate::identity::{Key, random_hex};

/// So that nothing else that a device signs passes for an answer.
const TYPE: &str = "slmd-answer+jwt";

pub(super) struct Signer {
    key: Key,
    device: String,
}

/// One telling of an answer. Pieces of another telling, of the same request even, don't belong to it.
pub(super) struct Telling<'a> {
    signer: &'a Signer,
    id: String,
}

impl Signer {
    pub(super) fn new(key: Key, device: &str) -> Signer {
        Signer {
            key,
            device: device.to_owned(),
        }
    }

    pub(super) fn begin(&self) -> Telling<'_> {
        Telling {
            signer: self,
            id: random_hex::<16>(),
        }
    }
}

impl Telling<'_> {
    /// Of the message with these user properties and this body. `request`: the hash of the request.
    pub(super) fn sign(&self, request: &str, user: &[(String, String)], body: &[u8]) -> String {
        let body = URL_SAFE_NO_PAD.encode(sha256(body));
        let bound = [
            ("device", &self.signer.device),
            ("msh", &request.to_owned()),
            ("answer", &self.id),
            ("body", &body),
        ];
        let bound = bound.map(|(name, value)| (name.to_owned(), value.clone()));
        let claims = bound.into_iter().chain(user.iter().cloned());
        let claims: Map<String, Value> = claims.map(|(name, value)| (name, value.into())).collect();
        let payload = Value::Object(claims).to_string();
        self.signer.key.jws(TYPE, payload.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Published;

    fn user(seq: &str) -> Vec<(String, String)> {
        let pairs = [
            ("status", "200"),
            ("request-id", "req_1"),
            ("seq", seq),
            ("final", "true"),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        pairs.map(owned).into()
    }

    /// For those who write clients.
    #[test]
    fn the_readme_has_what_comes_of_its_example() {
        let request = Published {
            topic: "slm/edge-1/v1/chat/completions",
            response_topic: Some("slm/edge-1/reply/dev/1"),
            correlation: Some(b"c"),
            payload: b"{}",
        };
        let signer = Signer::new(Key::published(), "edge-1");
        let telling = Telling {
            signer: &signer,
            id: "000102030405060708090a0b0c0d0e0f".to_owned(),
        };
        let signature = telling.sign(&request.hash(), &user("0"), b"{}");
        let readme = include_str!("../../../deploy/mqtt/README.md");
        let parts: Vec<&str> = signature.split('.').collect();
        for part in [signer.key.public().x().as_str()].iter().chain(&parts) {
            assert!(
                readme.contains(part),
                "README.md lacks {part} of {signature}"
            );
        }
    }

    #[test]
    fn every_part_of_a_message_changes_its_signature() {
        let signer = Signer::new(Key::published(), "edge-1");
        let telling = signer.begin();
        let own = telling.sign("r", &user("0"), b"{}");
        assert_eq!(telling.sign("r", &user("0"), b"{}"), own);
        let elsewhere = Signer::new(Key::published(), "edge-2");
        for other in [
            telling.sign("other", &user("0"), b"{}"),
            telling.sign("r", &user("1"), b"{}"),
            telling.sign("r", &user("0"), b"[]"),
            telling.sign("r", &user("0")[..3], b"{}"),
            signer.begin().sign("r", &user("0"), b"{}"),
            elsewhere.begin().sign("r", &user("0"), b"{}"),
        ] {
            assert_ne!(other, own);
        }
    }
}
