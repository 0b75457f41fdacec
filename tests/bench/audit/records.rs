//! Records as a prompt leaves them: a permit, and how it ended.

use std::path::Path;
use std::time::Duration;

use slmd::for_tests::audit::{Access, Device, Finished, Log, Settings, Tag, Verdict};
use slmd::for_tests::identity::{Identity, Key, random};
use slmd::for_tests::prompt::{Finish, Origin, RequestId, Usage};
use slmd::for_tests::store::Store;
use slmd::for_tests::time::{Clocks, now};

pub const DEVICE: &str = "edge-1";

/// Those who ask.
const PRINCIPALS: u64 = 100;

/// The log of a state folder. None of its records is removed.
pub fn open(store: &Store, folder: &Path) -> Log {
    let settings = Settings {
        max_bytes: 1 << 36,
        retention: Duration::from_secs(90 * 86_400),
        refusals_per_minute: 60,
        origin: "slmd.internal".to_owned(),
        checkpoint_records: 1000,
        checkpoint_interval: Duration::from_secs(60),
        export: Default::default(),
        witnesses: Vec::new(),
    };
    let device = Device {
        identity: &Identity::new(DEVICE).expect("a good name"),
        key: &Key::open(folder).expect("the folder is writable"),
        folder,
    };
    Log::open(store, settings, device, Clocks::default()).expect("the log opens")
}

/// Records with the next indexes, of prompts that were answered, with a checkpoint now and then. They
/// share a sync as far as the log lets them.
pub fn fill(log: &Log, count: u64) {
    for prompt in 0..count / 2 {
        let access = permit(prompt);
        let id = access.request_id.clone();
        let index = log.append_permit(access, random(), now()).expect("room");
        log.finish(finish(prompt, id, index), now()).expect("room");
        if prompt.is_multiple_of(50_000) {
            log.tick(now(), true).expect("room");
        }
    }
}

pub fn permit(prompt: u64) -> Access {
    let text = |text: &str| Some(text.to_owned());
    Access {
        request_id: RequestId::random(),
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
        subject: Some(subject(prompt)),
        username: None,
        client: text("device-1"),
        token_id: text("trrtcc:6f0c9f6e-6f0e-4a7e-9b0f-0c4f0e6f0c9f"),
        scope: text("read"),
        prompt_hash: Some("0".repeat(64)),
        model_digest: Some("0".repeat(64)),
        kernels: Some("neon-dotprod".to_owned()),
        sampling: None,
        prompt_tokens: Some(31),
        prompt_time: None,
        attempt: None,
        text: None,
        dpop: false,
        local_peer: false,
    }
}

fn finish(prompt: u64, request_id: RequestId, index: u64) -> Finished {
    let issuer = "https://keycloak.test/realms/dev";
    Finished {
        request_id,
        principal: Some(Tag::of(issuer, &subject(prompt), "device-1")),
        realm: Some("dev".to_owned()),
        endpoint: Some("slm".to_owned()),
        access_index: Some(index),
        finish: Finish::Stop,
        usage: Usage {
            prompt_tokens: 31,
            completion_tokens: 24,
        },
        answer_hash: "0".repeat(64),
        queue_ms: 1,
        first_token_ms: Some(60),
        total_ms: 200,
        text: None,
    }
}

fn subject(prompt: u64) -> String {
    format!("6b5e4a9c-3f43-4a5c-8a2f-{:012}", prompt % PRINCIPALS)
}
