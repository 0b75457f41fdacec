//! The device authorization grant (RFC 8628): show a code, wait until somebody has entered it.

use std::time::Duration;

use serde_json::Value;

use super::dpop::ProofKey;
use super::error::OauthError;
use super::provider::{Provider, Tokens};
use crate::secret::Secret;

/// RFC 8628 section 3.2.
const DEFAULT_INTERVAL: u64 = 5;
/// RFC 8628 section 3.5.
const SLOW_DOWN: Duration = Duration::from_secs(5);
/// What we ourselves allow, whatever the server says.
const MAX_INTERVAL: Duration = Duration::from_secs(60);
const MAX_WAIT: u64 = 3600;

/// What the person is shown, and what is polled with.
#[derive(Debug)]
pub struct Code {
    device_code: Secret<String>,
    pub user_code: String,
    pub verification_uri: String,
    pub complete_uri: Option<String>,
    pub expires_in: Duration,
    interval: Duration,
}

impl Code {
    pub fn request(provider: &Provider, scope: Option<&str>) -> Result<Code, OauthError> {
        provider.device_code(scope, Code::read)
    }

    fn read(answer: &Value) -> Option<Code> {
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        let interval = answer["interval"].as_u64().unwrap_or(DEFAULT_INTERVAL);
        Some(Code {
            device_code: Secret::new(text("device_code")?),
            user_code: text("user_code")?,
            verification_uri: text("verification_uri")?,
            complete_uri: text("verification_uri_complete"),
            expires_in: Duration::from_secs(answer["expires_in"].as_u64()?.min(MAX_WAIT)),
            interval: Duration::from_secs(interval.max(1)).min(MAX_INTERVAL),
        })
    }

    /// Polls until there is a decision, `wait`ing in between, at most as long as the code is good.
    pub fn poll(
        &self,
        provider: &mut Provider,
        key: &ProofKey,
        mut wait: impl FnMut(Duration),
    ) -> Result<Tokens, OauthError> {
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", self.device_code.expose().as_str()),
        ];
        let (mut interval, mut waited) = (self.interval, Duration::ZERO);
        while waited < self.expires_in {
            wait(interval);
            waited += interval;
            match provider.tokens(key, &fields) {
                Err(OauthError::Refused { error, .. }) if error == "authorization_pending" => {}
                Err(OauthError::Refused { error, .. }) if error == "slow_down" => {
                    interval = (interval + SLOW_DOWN).min(MAX_INTERVAL);
                }
                // RFC 8628 section 3.5: polls less often after a time-out.
                Err(error) if error.is_passing() => interval = (interval * 2).min(MAX_INTERVAL),
                decided => return decided,
            }
        }
        Err(OauthError::Refused {
            error: "expired_token".to_owned(),
            said: String::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_is_bounded_and_needs_its_parts() {
        let whole = json!({
            "device_code": "d", "user_code": "ABCD-EFGH", "verification_uri": "https://k/device",
            "expires_in": 1_000_000, "interval": 0,
        });
        let code = Code::read(&whole).unwrap();
        assert_eq!(code.interval, Duration::from_secs(1));
        assert_eq!(code.expires_in, Duration::from_secs(MAX_WAIT));
        assert!(!format!("{code:?}").contains("\"d\""));
        for name in ["device_code", "user_code", "verification_uri", "expires_in"] {
            let mut part = whole.clone();
            part.as_object_mut().unwrap().remove(name);
            assert!(Code::read(&part).is_none(), "{name}");
        }
    }
}
