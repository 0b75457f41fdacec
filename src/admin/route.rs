//! The one table of the admin socket's operations, for the server and its clients.

use std::marker::PhantomData;

use super::{Fetched, Listed, Pinned, Refreshed, Reloaded, RootPinned, Status, TimeReset, Trusted};
use crate::audit::{Change, Forgotten, Salt};
use crate::auth::Explanation;
use crate::prompt::Place;

/// How an operation is asked for.
#[derive(Debug)]
pub struct Route {
    pub method: &'static str,
    /// With `{realm}` where the realm's name stands; metrics go by it.
    pub path: &'static str,
    /// What the audit says was done.
    pub what: Change,
    /// It changes nothing: such are counted in the audit, and work on a full disk too.
    pub is_look: bool,
}

const LOOK: bool = true;
const CHANGE: bool = false;

macro_rules! operations {
    ($($operation:ident: $is_look:ident, $method:literal $path:literal, $what:ident;)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Operation { $($operation,)+ }

        impl Operation {
            pub const ALL: &'static [Operation] = &[$(Operation::$operation,)+];

            pub fn route(self) -> Route {
                let (is_look, method, path, what) = match self {
                    $(Operation::$operation => ($is_look, $method, $path, Change::$what),)+
                };
                Route { method, path, what, is_look }
            }
        }
    };
}

operations! {
    Status: LOOK, "GET" "/status", AskedStatus;
    Metrics: LOOK, "GET" "/metrics", AskedMetrics;
    Audit: LOOK, "GET" "/audit", AskedAudit;
    AuditText: LOOK, "GET" "/audit/text", AskedText;
    Checkpoint: LOOK, "GET" "/audit/checkpoint", AskedAudit;
    Sign: CHANGE, "POST" "/audit/checkpoint", AskedSign;
    Proof: LOOK, "GET" "/audit/proof", AskedAudit;
    Forget: CHANGE, "POST" "/audit/forget", AskedForget;
    ShowSalt: CHANGE, "POST" "/audit/salt", AskedSalt;
    VerifyAudit: LOOK, "POST" "/audit/verify", AskedVerify;
    Reload: CHANGE, "POST" "/reload", AskedReload;
    ResetTime: CHANGE, "POST" "/time/reset", AskedTimeReset;
    Keys: LOOK, "GET" "/keys", AskedKeys;
    Explain: LOOK, "POST" "/keys/explain", AskedExplain;
    PinKeys: CHANGE, "PUT" "/keys/{realm}", AskedPin;
    FetchKeys: CHANGE, "POST" "/keys/{realm}/fetch", AskedFetch;
    PinHeld: CHANGE, "POST" "/keys/{realm}/pin-held", AskedPinHeld;
    RefreshKeys: CHANGE, "POST" "/keys/{realm}/refresh", AskedRefresh;
    Trust: LOOK, "GET" "/trust", AskedTrust;
    PinRoot: CHANGE, "PUT" "/trust/root", AskedPinRoot;
}

impl Operation {
    /// The operations at a path, with the realm that it names.
    pub fn at(path: &str) -> Option<Place<Operation>> {
        let rows = Operation::ALL.iter().map(|operation| {
            let Route { method, path, .. } = operation.route();
            (method, path, *operation)
        });
        Place::find(rows, path).filter(|place| !place.named.contains('/'))
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
pub const TRUST: Call<Trusted> = Call(Operation::Trust, PhantomData);
pub const PIN_ROOT: Call<RootPinned> = Call(Operation::PinRoot, PhantomData);
pub const FORGET: Call<Forgotten> = Call(Operation::Forget, PhantomData);
pub const SHOW_SALT: Call<Salt> = Call(Operation::ShowSalt, PhantomData);
pub const REFRESH_KEYS: Call<Refreshed> = Call(Operation::RefreshKeys, PhantomData);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_back_to_its_operation() {
        for operation in Operation::ALL.iter().copied() {
            let Route { method, path, .. } = operation.route();
            let place = Operation::at(&operation.path("dev")).unwrap();
            assert_eq!(place.named == "dev", path.contains("{realm}"));
            assert_eq!(place.take(method), Ok(operation));
        }
        for path in [
            "/v1/models",
            "/keys/",
            "/keys/dev/",
            "/keys/dev/other",
            "/keys/a/fetch/x",
            "/keys/a%2Fb",
        ] {
            assert!(Operation::at(path).is_none(), "{path}");
        }
    }
}
