//! A log, and what is written to it: for the store's tests and for benchmarks.

use std::path::Path;
use std::time::Duration;

use slmd::for_tests::audit::{Access, Device, Log, Settings, Verdict};
use slmd::for_tests::identity::{Identity, Key};
use slmd::for_tests::prompt::{Origin, RequestId};
use slmd::for_tests::store::Store;
use slmd::for_tests::time::Clocks;

/// As a device has them, but for the bounds.
pub fn settings() -> Settings {
    Settings {
        max_bytes: 64 * 1024 * 1024,
        retention: Duration::from_secs(90 * 86_400),
        refusals_per_minute: 60,
        origin: "slmd.internal".to_owned(),
        checkpoint_records: 1000,
        checkpoint_interval: Duration::from_secs(60),
        export: Default::default(),
        witnesses: Vec::new(),
    }
}

/// The log of a state folder, whose store is open.
pub fn open(store: &Store, folder: &Path, settings: Settings) -> Log {
    let device = Device {
        identity: &Identity::new("edge-1").expect("a good name"),
        key: &Key::open(folder).expect("the folder is writable"),
        folder,
    };
    Log::open(store, settings, device, Clocks::default()).expect("the folder is writable")
}

/// As a prompt over MQTT has it.
pub fn permit(id: &RequestId) -> Access {
    let text = |text: &str| Some(text.to_owned());
    Access {
        request_id: id.clone(),
        origin: Origin::Mqtt {
            topic: "slm/edge-1/v1/chat/completions".into(),
        },
        action: "chat".into(),
        decision: Verdict::Permit,
        reason: None,
        detail: None,
        realm: text("dev"),
        endpoint: text("slm"),
        issuer: text("https://keycloak.test/realms/dev"),
        subject: text("6b5e4a9c-3f43-4a5c-8a2f-0d5e6f7a8b9c"),
        username: None,
        client: text("device-1"),
        token_id: text("trrtcc:6f0c9f6e-6f0e-4a7e-9b0f-0c4f0e6f0c9f"),
        scope: text("read"),
        prompt_hash: Some("0".repeat(64)),
        model_digest: Some("0".repeat(64)),
        kernels: text("neon-dotprod"),
        sampling: None,
        prompt_tokens: Some(31),
        prompt_time: None,
        attempt: None,
        text: None,
        dpop: false,
        local_peer: false,
    }
}
