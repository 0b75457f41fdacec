//! slmd's own judgement of real tokens: a snapshot made of what Keycloak publishes, and decisions.

use std::sync::Arc;
use std::time::Duration;

use slmd::for_tests::auth::{
    Clock, Credential, Decision, Denied, DenyList, Endpoint, Grant, KeySet, Policy, Realm,
    Snapshot, decide,
};
use slmd::for_tests::prompt::{Dialect, Operation, Origin, Request, RequestId, Scope};
use slmd::for_tests::reason::DenyReason;
use slmd::for_tests::secret::Secret;
use slmd::for_tests::time::{Mark, Timestamp, Uptime};
use slmd::for_tests::trace::Trace;

use crate::grants;

pub const ENDPOINT: &str = "slm-chat";
const DAY: Duration = Duration::from_secs(86_400);

/// The realms of an appliance.
pub struct Judge {
    pub realms: Vec<Realm>,
    pub clock: Clock,
}

/// A realm with its published keys, as the example configuration has it.
pub fn trusted(realm: &grants::Realm) -> Realm {
    trusted_with(realm, &realm.jwks())
}

pub fn trusted_with(realm: &grants::Realm, jwks: &str) -> Realm {
    let endpoint = |client_id: &str| {
        Arc::new(Endpoint {
            client_id: client_id.to_owned(),
            model: "smollm2-135m-instruct".to_owned(),
            ..Endpoint::default()
        })
    };
    Realm {
        name: realm.name.clone(),
        issuer: realm.issuer(),
        policy: Policy {
            default_endpoint: Some(ENDPOINT.to_owned()),
            max_lifetime_by_client: [
                ("device-2".to_owned(), DAY),
                ("slmd-technician".to_owned(), Duration::from_secs(36_000)),
            ]
            .into(),
            ..Policy::default()
        },
        endpoints: vec![endpoint(ENDPOINT), endpoint("slm-other")],
        keys: KeySet::parse(jwks.as_bytes()).expect("Keycloak publishes usable keys"),
        confirmed: Some(Mark::before(
            slmd::for_tests::time::now(),
            Duration::ZERO,
            Uptime(0),
        )),
    }
}

impl Judge {
    pub fn of(realms: &[&grants::Realm]) -> Judge {
        Judge::new(realms.iter().map(|realm| trusted(realm)).collect())
    }

    pub fn new(realms: Vec<Realm>) -> Judge {
        Judge {
            realms,
            clock: clock(slmd::for_tests::time::now()),
        }
    }

    pub fn at(mut self, now: Timestamp) -> Judge {
        self.clock = clock(now);
        self
    }

    pub fn policy(mut self, change: impl Fn(&mut Policy)) -> Judge {
        self.realms.iter_mut().for_each(|r| change(&mut r.policy));
        self
    }

    pub fn decide(&self, token: &str, model: Option<&str>, operation: Operation) -> Decision {
        let credential = Credential::Bearer(Secret::new(token.to_owned()));
        let request = Arc::new(Request {
            id: RequestId::random(),
            origin: Origin::Daemon,
            model: model.map(str::to_owned),
            asks: operation,
            deadline: None,
            trace: Trace::default(),
        });
        let snapshot = Snapshot::new(1, self.realms.clone(), DenyList::default());
        decide(None, &credential, &request, &snapshot, &self.clock)
    }

    /// The grant for a prompt to the realm's default endpoint.
    #[track_caller]
    pub fn permitted(&self, token: &str) -> Grant {
        match self.decide(token, None, chat()) {
            Decision::Permit(permitted) => (**permitted.grant()).clone(),
            Decision::Deny(denied) => panic!("{denied:?}: {}", grants::claims(token)),
        }
    }

    #[track_caller]
    pub fn denied(&self, token: &str) -> Denied {
        match self.decide(token, None, chat()) {
            Decision::Permit(permitted) => panic!("permitted: {:?}", permitted.grant()),
            Decision::Deny(denied) => denied,
        }
    }

    #[track_caller]
    pub fn refuses(&self, token: &str, reason: DenyReason) {
        let denied = self.denied(token);
        assert_eq!(
            denied.reason,
            reason,
            "{denied:?}: {}",
            grants::claims(token)
        );
    }

    /// The scopes that a token opens. Each is asked for through a role mapping that lets the role
    /// of its name read, because not every scope has an action yet.
    pub fn scopes(&self, token: &str) -> Vec<&'static str> {
        let opens = |scope: &Scope| {
            let role = scope.as_str().to_owned();
            let judge = Judge {
                realms: self.realms.clone(),
                clock: self.clock.clone(),
            };
            let judge = judge.policy(|p| p.roles = [(role.clone(), vec![Scope::Read])].into());
            matches!(judge.decide(token, None, chat()), Decision::Permit(_))
        };
        Scope::ALL
            .iter()
            .filter(|s| opens(s))
            .map(|s| s.as_str())
            .collect()
    }
}

fn chat() -> Operation {
    Operation::Complete(Dialect::Chat)
}

fn clock(now: Timestamp) -> Clock {
    Clock {
        now,
        floor: Timestamp::from_secs(0),
        uptime: Uptime(0),
        synchronised: true,
        realm_floors: Arc::default(),
    }
}
