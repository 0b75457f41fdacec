//! The one door into the library for what is beside it: `tests/`, its benches and nothing else.
//!
//! Everything else is private to the crate, so that the compiler says what nobody uses. It can't
//! say it of what is passed on here: the feature's absence closes the door, and shows the rest.

pub mod audit {
    pub use crate::audit::{
        Access, AuditError, Change, Device, Event, Finished, Log, Record, Settings, TREES, Tag,
        Verdict, What, counts::COUNTED_FOR,
    };
}

pub mod auth {
    pub use crate::auth::{
        Binding, Cache, Clock, Credential, Decision, Denied, DenyList, Endpoint, Explanation,
        Grant, KeySet, LimitClaims, Moved, NonceRule, PROOF_MAX_AGE, Permitted, Policy, ProofUse,
        Published, Realm, RealmFloor, Revocations, Snapshot, ToExplain, Until,
        decide::decide,
        explain::{Check, Outcome, explain},
        recheck, verify_jws,
    };
}

pub mod catalog {
    pub use crate::catalog::{Bundle, FileEntry, GRAPH, MANIFEST, Manifest, WEIGHTS, hash_file};
}

pub mod config {
    pub use crate::config::Config;
}

pub mod daemon {
    pub use crate::daemon::worst::Worst;
}

pub mod engine {
    pub use crate::engine::{
        EngineError, Family, LoadOptions, Model, Sequence, gguf, import, sample::Sampler, text,
        tokenizer,
    };
}

pub mod fleet {
    pub use crate::fleet::mirror::mqtt::{Broker, MAX_PACKET, Settings as BrokerSettings};
    pub use crate::fleet::{Follower, Held, Lane, Place, Settings, Wanted};
}

pub mod identity {
    pub use crate::identity::{Identity, Key, PublicKey, random, random_hex};
}

pub mod link {
    pub use crate::link::{Event, Link, Options, Properties, Publication};
}

pub mod prompt {
    pub use crate::prompt::{
        Dialect, Finish, Input, Look, Message, Operation, Origin, Request, RequestId, Role,
        Sampling, SamplingOptions, Scope, Transport, Usage,
    };
}

pub mod reason {
    pub use crate::reason::{DenyReason, Reason, Refusal};
}

pub mod secret {
    pub use crate::secret::Secret;
}

pub mod shutdown {
    pub use crate::shutdown::Shutdown;
}

pub mod store {
    pub use crate::store::Store;
}

pub mod telemetry {
    pub use crate::telemetry::Format;
}

pub mod time {
    pub use crate::time::{Clocks, Known, Mark, Moment, Timestamp, Uptime, instant};

    pub fn now() -> Timestamp {
        Clocks::default().now()
    }
}

pub mod tls {
    pub use crate::tls::{KeyPair, client, fingerprint};
}

pub mod trace {
    pub use crate::trace::Trace;
}

pub mod trust {
    pub use crate::trust::report::{Enrolled, Report, ReportError, verify};
    pub use crate::trust::{
        Client, Limits, Mirror, MirrorError, Target, TrustError, Versions, canonical,
    };
}

pub mod wire {
    pub use crate::wire::error;
}
