//! Thousands of retained messages by one connection.

use std::collections::BTreeSet;
use std::time::Duration;

use slmd::for_tests::identity::random_hex;
use slmd::for_tests::link::{Event, Link, Options, Properties, Publication};
use slmd::for_tests::time::Known;

const IN_FLIGHT: usize = 16;

/// How anybody connects to a broker on this machine.
pub fn options(port: u16, client: &str, max_packet: u32) -> Options {
    Options {
        host: "127.0.0.1".to_owned(),
        port,
        client_id: format!("{client}-{}", random_hex::<4>()),
        username: None,
        password_file: None,
        tls: None,
        keep_alive: Duration::from_secs(60),
        session_expiry: Duration::ZERO,
        receive_maximum: 64,
        max_packet,
        will: None,
        retain: true,
        known: Known::default(),
    }
}

/// Returns when the broker has them all, each under its topic.
pub fn retain_all(port: u16, messages: impl IntoIterator<Item = (String, Vec<u8>)>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let options = options(port, "retain", 1 << 20);
        let (link, mut events) = Link::connect(&options).expect("nothing else is needed");
        let mut left = messages.into_iter().zip(0_u64..);
        let mut waiting = BTreeSet::new();
        let mut connected = false;
        let mut done = false;
        while !done || !waiting.is_empty() {
            while connected && !done && waiting.len() < IN_FLIGHT {
                let Some(((topic, payload), token)) = left.next() else {
                    done = true;
                    break;
                };
                let publication = Publication {
                    topic,
                    payload: payload.into(),
                    retain: true,
                    properties: Properties::default(),
                };
                link.try_publish(token, &publication).expect("it fits");
                waiting.insert(token);
            }
            match events.recv().await.expect("the broker stays") {
                Event::Connected { .. } => connected = true,
                Event::Acknowledged { token, result } => {
                    result.expect("anybody may publish");
                    waiting.remove(&token);
                }
                Event::Lost(lost) => panic!("{lost}"),
                _ => {}
            }
        }
        link.disconnect().expect("it is connected");
        while events.recv().await.is_some() {}
    });
}
