//! A sound request, token and world, to be spoiled by the tests one way at a time.

use std::sync::Arc;

use serde_json::Value;
use slmd::for_tests::auth::{
    Cache, Clock, Credential, Decision, Denied, DenyList, Realm, Revocations, Snapshot, decide,
};
use slmd::for_tests::prompt::{Operation, Origin, Request};

use crate::dpop::Bound;
use crate::mint::{self, ISSUER, Issuer, chat};

/// One request with its token and the world it meets; sound until a case spoils it.
pub(crate) struct Case {
    pub(crate) issuer: Issuer,
    pub(crate) header: Value,
    pub(crate) claims: Value,
    /// Applied to the finished token.
    pub(crate) spoil: fn(String) -> String,
    pub(crate) wrap: fn(String) -> Credential,
    /// Instead of `wrap`: with a proof.
    pub(crate) bound: Option<Bound>,
    pub(crate) origin: Origin,
    pub(crate) model: Option<&'static str>,
    pub(crate) operation: Operation,
    pub(crate) realm: Realm,
    pub(crate) revoked: Revocations,
    /// What is revoked beside isn't known.
    pub(crate) unknown: bool,
    pub(crate) clock: Clock,
}

impl Case {
    pub(crate) fn sound() -> Case {
        let issuer = Issuer::new("ES256", "key-1");
        let other = Issuer::new("EdDSA", "key-2");
        Case {
            header: issuer.header(),
            claims: mint::claims(),
            spoil: |token| token,
            wrap: mint::bearer,
            bound: None,
            origin: Origin::Daemon,
            model: None,
            operation: chat(),
            realm: mint::realm(&[&issuer, &other]),
            revoked: Revocations::default(),
            unknown: false,
            clock: mint::clock(),
            issuer,
        }
    }

    pub(crate) fn decide(&self) -> Decision {
        let token = self.token();
        let credential = match &self.bound {
            Some(bound) => bound.credential(token),
            None => (self.wrap)(token),
        };
        let request = mint::request(self.model, self.operation);
        let request = Arc::new(Request {
            origin: self.origin.clone(),
            ..(*request).clone()
        });
        let snapshot = self.snapshot();
        let decision = decide(None, &credential, &request, &snapshot, &self.clock);
        let cache = Cache::new(4);
        for _ in 0..2 {
            let cached = cache.decide(&credential, &request, &snapshot, &self.clock);
            assert_eq!(format!("{cached:?}"), format!("{decision:?}"));
        }
        // What is permitted by a token is found the second time, and nothing else is.
        let by_token =
            matches!(&decision, Decision::Permit(permitted) if !permitted.grant().local_peer);
        let uses = cache.uses();
        assert_eq!(
            (uses.entries, uses.hits),
            (usize::from(by_token), u64::from(by_token))
        );
        decision
    }

    pub(crate) fn token(&self) -> String {
        (self.spoil)(self.issuer.token_with(&self.header, &self.claims))
    }

    pub(crate) fn is_bearer(&self) -> bool {
        matches!((self.wrap)(String::new()), Credential::Bearer(_))
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let deny = DenyList {
            realms: [(ISSUER.to_owned(), self.revoked.clone())].into(),
            unknown: self
                .unknown
                .then(|| ISSUER.to_owned())
                .into_iter()
                .collect(),
        };
        Snapshot::new(1, vec![self.realm.clone()], deny)
    }

    pub(crate) fn denied(&self) -> Denied {
        match self.decide() {
            Decision::Deny(denied) => denied,
            Decision::Permit(_) => panic!("permitted"),
        }
    }

    pub(crate) fn drop_claim(&mut self, name: &str) {
        self.claims.as_object_mut().unwrap().remove(name);
    }

    pub(crate) fn drop_header(&mut self, name: &str) {
        self.header.as_object_mut().unwrap().remove(name);
    }
}

pub(crate) fn segments(token: &str, change: impl Fn(&mut Vec<String>)) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    change(&mut parts);
    parts.join(".")
}
