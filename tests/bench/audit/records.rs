//! Records as a prompt leaves them: a permit, and how it ended.

use std::path::Path;

use slmd::for_tests::audit::{Access, Finished, Log, Settings, Tag};
use slmd::for_tests::identity::random;
use slmd::for_tests::prompt::{Finish, RequestId, Usage};
use slmd::for_tests::store::Store;
use slmd::for_tests::time::now;

#[path = "../../store/log.rs"]
mod kept;

/// Those who ask.
const PRINCIPALS: u64 = 100;

/// The log of a state folder. None of its records is removed.
pub fn open(store: &Store, folder: &Path) -> Log {
    let settings = Settings {
        max_bytes: 1 << 36,
        ..kept::settings()
    };
    kept::open(store, folder, settings)
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
    Access {
        subject: Some(subject(prompt)),
        ..kept::permit(&RequestId::random())
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
