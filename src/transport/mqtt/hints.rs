//! What a refused MQTT client is to do, where the reason's own hint speaks of HTTP. Pure.

use super::request::{Form, Reply};
use crate::reason::{DenyReason, Reason, Refusal, RefuseReason};

/// The refusal with a hint for whoever reads it at `reply`.
pub(super) fn advise(reply: &Reply, refusal: Refusal) -> Refusal {
    let hint = match (refusal.reason, &reply.form) {
        (Reason::Denied(DenyReason::TokenMissing), Form::Properties) => {
            "no token was sent; send the user property `authorization`, in lower case, with \
             `Bearer`, a space and a Keycloak access token"
        }
        (Reason::Denied(DenyReason::TokenMissing), Form::Plain { .. }) => {
            "no token was sent; give the body a member `authorization` with `Bearer`, a space \
             and a Keycloak access token"
        }
        (Reason::Denied(DenyReason::ProofMissing), Form::Properties) => {
            "the token is DPoP-bound (`cnf.jkt`) and no proof was sent; send the user property \
             `dpop` with one"
        }
        (Reason::Denied(DenyReason::ProofMissing), Form::Plain { .. }) => {
            DenyReason::ProofUnsupported.hint()
        }
        (Reason::Denied(DenyReason::EndpointUnknown), _) => {
            "the request's `model` is no endpoint of the token's realm; leave it out for the \
             realm's default"
        }
        (Reason::Refused(RefuseReason::UnsupportedMediaType), _) => {
            "send the Content Type `application/json`, or none"
        }
        _ => return refusal,
    };
    refusal.hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(form: Form) -> Reply {
        Reply {
            topic: "slm/edge-1/reply/dev/1".to_owned(),
            correlation: None,
            request: String::new(),
            form,
        }
    }

    /// Nobody is told to set a header here.
    #[test]
    fn hints_are_mqtts_own() {
        let properties = reply(Form::Properties);
        let plain = reply(Form::Plain {
            client: "dev".to_owned(),
        });
        let missing = || Refusal::new(DenyReason::TokenMissing);
        let said = advise(&properties, missing()).message();
        assert!(
            said.contains("user property `authorization`, in lower case"),
            "{said}"
        );
        let said = advise(&plain, missing()).message();
        assert!(said.contains("body a member `authorization`"), "{said}");
        for reply in [&properties, &plain] {
            for reason in Reason::all() {
                let said = advise(reply, Refusal::new(reason)).message();
                for http in ["Authorization", "GET /", "Content-Type"] {
                    assert!(!said.contains(http), "{said}");
                }
            }
        }
    }
}
