//! What a DPoP proof over MQTT is made for. RFC 9449 speaks of HTTP alone, so this is our own;
//! `deploy/mqtt/README.md` specifies it for those who write clients, and `dpop-vectors.json` beside
//! it has a case for each rule.

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::credential::{Binding, NonceRule};

/// The parts of a PUBLISH that its proof covers: what is asked, and where the answer goes.
#[derive(Debug, Clone, Copy)]
pub struct Published<'a> {
    pub topic: &'a str,
    pub response_topic: Option<&'a str>,
    pub correlation: Option<&'a [u8]>,
    pub payload: &'a [u8],
}

impl Published<'_> {
    /// What a proof for the device must say. `nonces`: those that it takes now.
    pub fn binding(&self, device: &str, nonces: Vec<String>) -> Binding {
        Binding {
            method: "PUBLISH".to_owned(),
            targets: vec![format!("mqtt://{device}/{}", self.topic)],
            message: Some(self.hash()),
            nonce: NonceRule::OneOf(nonces),
        }
    }

    /// `msh`, also of a signed answer: the broker and its other clients see the proof, so it holds for this message only.
    /// Each part is preceded by its length, so that no two messages collide.
    pub fn hash(&self) -> String {
        let parts = [
            self.topic.as_bytes(),
            self.response_topic.unwrap_or_default().as_bytes(),
            self.correlation.unwrap_or_default(),
            self.payload,
        ];
        let mut context = Context::new(&SHA256);
        for part in parts {
            // An MQTT packet has less than 2^28 bytes.
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            context.update(&length.to_be_bytes());
            context.update(part);
        }
        URL_SAFE_NO_PAD.encode(context.finish())
    }
}
