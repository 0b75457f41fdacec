//! The one table of the admin socket's operations, for the server and its clients.

use std::marker::PhantomData;

use super::{Explanation, Fetched, Listed, Pinned, Refreshed, Reloaded, Status, TimeReset};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Status,
    Metrics,
    Audit,
    Reload,
    ResetTime,
    Keys,
    Explain,
    PinKeys,
    FetchKeys,
    PinHeld,
    RefreshKeys,
}

/// How an operation is asked for.
#[derive(Debug)]
pub struct Route {
    pub method: &'static str,
    /// With `{realm}` where the realm's name stands; metrics go by it.
    pub path: &'static str,
    /// What the audit says was done.
    pub what: &'static str,
    /// It changes nothing: such are counted in the audit, and work on a full disk too.
    pub is_look: bool,
}

impl Operation {
    /// `Explain` comes before the realms', of which none can have its name.
    pub const ALL: [Operation; 11] = [
        Operation::Status,
        Operation::Metrics,
        Operation::Audit,
        Operation::Reload,
        Operation::ResetTime,
        Operation::Keys,
        Operation::Explain,
        Operation::PinKeys,
        Operation::FetchKeys,
        Operation::PinHeld,
        Operation::RefreshKeys,
    ];

    #[rustfmt::skip]
    pub fn route(self) -> Route {
        let (look, change) = (true, false);
        let (method, path, what, is_look) = match self {
            Operation::Status => ("GET", "/status", "status", look),
            Operation::Metrics => ("GET", "/metrics", "metrics", look),
            Operation::Audit => ("GET", "/audit", "audit read", look),
            Operation::Reload => ("POST", "/reload", "reload", change),
            Operation::ResetTime => ("POST", "/time/reset", "time reset", change),
            Operation::Keys => ("GET", "/keys", "keys list", look),
            Operation::Explain => ("POST", "/keys/explain", "keys explain", look),
            Operation::PinKeys => ("PUT", "/keys/{realm}", "keys pin", change),
            Operation::FetchKeys => ("POST", "/keys/{realm}/fetch", "keys fetch", change),
            Operation::PinHeld => ("POST", "/keys/{realm}/pin-held", "keys pin held", change),
            Operation::RefreshKeys => ("POST", "/keys/{realm}/refresh", "keys refresh", change),
        };
        Route { method, path, what, is_look }
    }

    /// The operation at a path, and the realm that it names, still encoded.
    pub fn at(path: &str) -> Option<(Operation, &str)> {
        Operation::ALL.into_iter().find_map(|operation| {
            let Some((before, after)) = operation.route().path.split_once("{realm}") else {
                return (path == operation.route().path).then_some((operation, ""));
            };
            let realm = path.strip_prefix(before)?.strip_suffix(after)?;
            (!realm.is_empty() && !realm.contains('/')).then_some((operation, realm))
        })
    }

    /// Its path for a realm, whose name needs no encoding.
    pub fn path(self, realm: &str) -> String {
        self.route().path.replace("{realm}", realm)
    }
}

/// An operation with the type that answers it: what the daemon sends is what the client reads.
pub struct Call<A>(Operation, PhantomData<fn() -> A>);

impl<A> Call<A> {
    pub fn operation(self) -> Operation {
        self.0
    }
}

pub const STATUS: Call<Status> = Call(Operation::Status, PhantomData);
pub const RELOAD: Call<Reloaded> = Call(Operation::Reload, PhantomData);
pub const RESET_TIME: Call<TimeReset> = Call(Operation::ResetTime, PhantomData);
pub const KEYS: Call<Listed> = Call(Operation::Keys, PhantomData);
pub const EXPLAIN: Call<Explanation> = Call(Operation::Explain, PhantomData);
pub const PIN_KEYS: Call<Pinned> = Call(Operation::PinKeys, PhantomData);
pub const FETCH_KEYS: Call<Fetched> = Call(Operation::FetchKeys, PhantomData);
pub const PIN_HELD: Call<Pinned> = Call(Operation::PinHeld, PhantomData);
pub const REFRESH_KEYS: Call<Refreshed> = Call(Operation::RefreshKeys, PhantomData);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_back_to_its_operation() {
        for operation in Operation::ALL {
            let realm = match operation.route().path.contains("{realm}") {
                true => "dev",
                false => "",
            };
            assert_eq!(
                Operation::at(&operation.path("dev")),
                Some((operation, realm))
            );
        }
        let encoded = Some((Operation::PinKeys, "a%2Fb"));
        assert_eq!(Operation::at("/keys/a%2Fb"), encoded);
        for path in [
            "/v1/models",
            "/keys/",
            "/keys/dev/",
            "/keys/dev/other",
            "/keys/a/fetch/x",
        ] {
            assert_eq!(Operation::at(path), None, "{path}");
        }
    }
}
