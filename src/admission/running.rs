//! What has been permitted and not finished, so that it can be stopped from outside.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::auth::{Permitted, Principal};
use crate::prompt::{Finish, Interrupt};

/// The requests that wait for a place, have one or run; bounded as each of these is. Cheap to
/// clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Running(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    permitted: Permitted,
    correlation: Option<Vec<u8>>,
    interrupt: Interrupt,
    cancelled: Arc<Notify>,
}

/// One request, known under one name from before it waits until it has finished, so that no cancel
/// falls between two states. Forgotten when dropped.
#[must_use]
#[derive(Debug)]
pub(super) struct Run {
    running: Running,
    key: u64,
    pub(super) interrupt: Interrupt,
    cancelled: Arc<Notify>,
}

impl Running {
    pub(super) fn enter(&self, permitted: Permitted, correlation: Option<Vec<u8>>) -> Run {
        let mut state = self.lock();
        let key = state.next;
        state.next += 1;
        let (interrupt, cancelled) = (Interrupt::default(), Arc::new(Notify::new()));
        let entry = Entry {
            permitted,
            correlation,
            interrupt: interrupt.clone(),
            cancelled: Arc::clone(&cancelled),
        };
        state.entries.insert(key, entry);
        Run {
            running: self.clone(),
            key,
            interrupt,
            cancelled,
        }
    }

    /// Cancels the principal's own requests with this correlation data; says whether there was one.
    pub(super) fn cancel(&self, principal: &Principal, correlation: &[u8]) -> bool {
        let state = self.lock();
        let own = state.entries.values().filter(|entry| {
            entry.correlation.as_deref() == Some(correlation)
                && entry.permitted.grant().principal == *principal
        });
        let cancelled = own.map(|entry| {
            entry.interrupt.raise(Finish::Cancelled);
            entry.cancelled.notify_one();
        });
        cancelled.count() > 0
    }

    /// Ends each request that there is a cause for.
    pub(super) fn interrupt_where(&self, cause: impl Fn(&Permitted) -> Option<Finish>) {
        for entry in self.lock().entries.values() {
            if let Some(cause) = cause(&entry.permitted) {
                entry.interrupt.raise(cause);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock()
    }
}

impl Run {
    /// Resolves once it was cancelled, be it before this call.
    pub(super) async fn cancelled(&self) {
        self.cancelled.notified().await;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.running.lock().entries.remove(&self.key);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::auth::{Clock, Credential, Decision, DenyList, Endpoint, KeySet, Policy, Realm};
    use crate::auth::{Snapshot, decide::decide};
    use crate::prompt::{Look, Operation, Origin, Request, RequestId, Scope};
    use crate::time::Timestamp;
    use crate::trace::Trace;

    /// What a local peer of this user id is permitted.
    pub(in crate::admission) fn permitted(uid: u32) -> Permitted {
        let endpoint = Endpoint {
            client_id: "slm".to_owned(),
            model: "m".to_owned(),
            ..Endpoint::default()
        };
        let realm = Realm {
            name: "r".to_owned(),
            issuer: "https://kc/realms/r".to_owned(),
            policy: Policy {
                local_groups: [(7, vec![Scope::Read])].into(),
                ..Policy::default()
            },
            endpoints: vec![Arc::new(endpoint)],
            keys: KeySet::default(),
            confirmed: None,
        };
        let snapshot = Snapshot::new(0, vec![realm], DenyList::default());
        let (gid, groups) = (7, Vec::new());
        let request = Arc::new(Request {
            id: RequestId::random(),
            model: None,
            origin: Origin::Socket {
                uid,
                gid,
                pid: None,
            },
            deadline: None,
            trace: Trace::default(),
            asks: Operation::Look(Look::Models),
        });
        let clock = Clock {
            now: Timestamp(0),
            floor: Timestamp(0),
            uptime: crate::time::Clocks::default().uptime(),
            synchronised: false,
            realm_floors: Arc::default(),
        };
        let credential = Credential::LocalPeer { uid, gid, groups };
        match decide(None, &credential, &request, &snapshot, &clock) {
            Decision::Permit(permitted) => permitted,
            Decision::Deny(denied) => panic!("{denied:?}"),
        }
    }

    #[tokio::test]
    async fn a_cancel_finds_a_request_wherever_it_is_and_nobody_elses() {
        let running = Running::default();
        let (own, other) = (permitted(1), permitted(2));
        let whose = own.grant().principal.clone();
        let enter = |of: &Permitted, name: &[u8]| running.enter(of.clone(), Some(name.to_vec()));
        let run = enter(&own, b"a");
        let others = [enter(&own, b"b"), enter(&other, b"a")];
        // Before anybody waits for it, as between the wait and the engine's queue.
        assert!(running.cancel(&whose, b"a"));
        run.cancelled().await;
        assert_eq!(run.interrupt.raised(), Some(Finish::Cancelled));
        assert!(others.iter().all(|run| run.interrupt.raised().is_none()));
        drop(run);
        assert!(!running.cancel(&whose, b"a"), "it has ended");
        drop(others);
        assert_eq!(running.len(), 0);
    }
}
