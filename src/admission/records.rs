//! Requests and decisions as audit records.

use crate::audit::{Access, Tag, Verdict};
use crate::auth::{Denied, Permitted};
use crate::engine::Prompt;
use crate::prompt::{Origin, Request, RequestId};
use crate::reason::Refusal;

/// A request that was refused before it could be read.
pub(super) fn unread(origin: Origin, id: &RequestId, refusal: &Refusal) -> Access {
    let mut access = blank(id.clone(), origin, "unread");
    access.reason = Some(refusal.reason);
    access.detail.clone_from(&refusal.detail);
    access
}

/// A use of the admin socket by who may not.
pub(super) fn admin(origin: Origin, what: String, refusal: &Refusal) -> Access {
    let mut access = blank(RequestId::random(), origin, "");
    access.action = what;
    access.reason = Some(refusal.reason);
    access
}

/// A request that the token doesn't allow. Names from the token appear only once it is verified.
pub(super) fn denied(request: &Request, denied: &Denied) -> Access {
    let mut access = of_request(request);
    access.reason = Some(denied.reason.into());
    access.detail = denied.moved.as_ref().map(ToString::to_string);
    access.realm.clone_from(&denied.realm);
    access.token_id.clone_from(&denied.token_id);
    if let Some(principal) = &denied.principal {
        access.issuer = Some(principal.issuer.clone());
        access.subject = Some(principal.subject.clone());
        access.username.clone_from(&denied.username);
        access.client = Some(principal.client.clone());
    }
    access
}

/// A request that is allowed.
pub(super) fn permitted(permitted: &Permitted) -> Access {
    let grant = permitted.grant();
    let mut access = of_request(permitted.request());
    access.decision = Verdict::Permit;
    access.realm = Some(grant.realm.clone());
    access.endpoint = Some(permitted.endpoint().client_id.clone());
    access.issuer = Some(grant.principal.issuer.clone());
    access.subject = Some(grant.principal.subject.clone());
    access.username.clone_from(&grant.username);
    access.client = Some(grant.principal.client.clone());
    access.token_id.clone_from(&grant.token_id);
    access.dpop = permitted.proof().is_some();
    access.local_peer = grant.local_peer;
    access
}

/// The answer of an earlier request, told once more to who was allowed it then.
pub(super) fn again(allowed: &Permitted, first: &RequestId) -> Access {
    let mut access = repeated(allowed, Repeat::Again);
    access.detail = Some(format!("the answer of {first}"));
    access
}

/// A request that is the same as one that runs.
pub(super) fn joined(allowed: &Permitted) -> Access {
    repeated(allowed, Repeat::Joined)
}

/// What comes of a request that was asked before.
#[derive(Debug, Clone, Copy)]
enum Repeat {
    Again,
    Joined,
}

/// With a name of its own in counts: it had the model do nothing.
fn repeated(allowed: &Permitted, how: Repeat) -> Access {
    let how = match how {
        Repeat::Again => "again",
        Repeat::Joined => "joined",
    };
    let mut access = permitted(allowed);
    access.action = format!("{} {how}", access.action);
    access
}

/// A prompt that is allowed: with all that it takes to replay its answer, but for its text.
pub(super) fn prompt(
    allowed: &Permitted,
    prompt: &Prompt,
    commitment: String,
    attempt: Option<u32>,
) -> Access {
    let mut access = permitted(allowed);
    access.prompt_hash = Some(commitment);
    access.model_digest = Some(prompt.model_digest.clone());
    access.kernels = Some(prompt.kernels.as_str().to_owned());
    access.sampling = Some(prompt.sampling);
    access.prompt_time = prompt.time;
    access.prompt_tokens = u32::try_from(prompt.tokens.len()).ok();
    access.attempt = attempt;
    access
}

/// A request that the token allows and that is refused all the same.
pub(super) fn refused(allowed: &Permitted, refusal: &Refusal) -> Access {
    let mut access = permitted(allowed);
    access.decision = Verdict::Deny;
    access.reason = Some(refusal.reason);
    access.detail.clone_from(&refusal.detail);
    access
}

/// Whose the finish is that follows.
pub(super) fn tag(allowed: &Permitted) -> Tag {
    let principal = &allowed.grant().principal;
    Tag::of(&principal.issuer, &principal.subject, &principal.client)
}

fn of_request(request: &Request) -> Access {
    let action = request.asks.as_str();
    let mut access = blank(request.id.clone(), request.origin.clone(), action);
    access.scope = Some(request.asks.scope().as_str().to_owned());
    access
}

fn blank(request_id: RequestId, origin: Origin, action: &str) -> Access {
    Access {
        request_id,
        origin,
        action: action.to_owned(),
        decision: Verdict::Deny,
        reason: None,
        detail: None,
        realm: None,
        endpoint: None,
        issuer: None,
        subject: None,
        username: None,
        client: None,
        token_id: None,
        dpop: false,
        local_peer: false,
        scope: None,
        prompt_hash: None,
        model_digest: None,
        kernels: None,
        sampling: None,
        prompt_tokens: None,
        prompt_time: None,
        attempt: None,
        text: None,
    }
}
