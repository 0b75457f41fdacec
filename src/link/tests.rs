//! A link against a real mosquitto.

use std::fmt::Write;
use std::process::{Child, Command, Stdio};

use super::*;

/// A broker of its own on a loopback port, gone when dropped.
struct Broker {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Broker {
    fn start(settings: &str) -> Broker {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = tempfile::tempdir().unwrap();
        let mut config = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        writeln!(config, "{settings}").unwrap();
        std::fs::write(folder.path().join("mosquitto.conf"), config).unwrap();
        let child = spawn(folder.path());
        wait_for(port);
        Broker {
            child,
            port,
            folder,
        }
    }

    /// Stops it and starts it anew on the same port, without its sessions.
    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.folder.path());
        wait_for(self.port);
    }

    fn options(&self, client_id: &str) -> Options {
        Options {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            client_id: client_id.to_owned(),
            username: None,
            password_file: None,
            tls: None,
            known: Known::default(),
            keep_alive: Duration::from_secs(5),
            session_expiry: Duration::from_secs(60),
            receive_maximum: 4,
            max_packet: 100_000,
            will: Some(Will {
                topic: "will".to_owned(),
                payload: b"gone".to_vec(),
            }),
            retain: true,
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &std::path::Path) -> Child {
    // Debian keeps it where only root looks.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    Command::new("mosquitto")
        .env("PATH", path)
        .arg("-c")
        .arg(folder.join("mosquitto.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto must be installed")
}

fn wait_for(port: u16) {
    for _ in 0..200 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("mosquitto doesn't listen");
}

async fn next(events: &mut Events) -> Event {
    let wait = tokio::time::timeout(Duration::from_secs(10), events.recv());
    wait.await.expect("an event in time").expect("an event")
}

/// Connects; tells whether the broker had a session.
async fn connect(options: &Options) -> (Link, Events, bool) {
    let (link, mut events) = Link::connect(options).unwrap();
    match next(&mut events).await {
        Event::Connected {
            session_present, ..
        } => (link, events, session_present),
        Event::Lost(lost) => panic!("{lost}"),
        _ => panic!("no CONNACK"),
    }
}

async fn subscribe(link: &Link, events: &mut Events, filter: &str) -> Vec<Result<bool, String>> {
    let subscription = Subscription {
        filter: filter.to_owned(),
        at_least_once: true,
        retained: false,
    };
    link.subscribe(&[subscription]).unwrap();
    match next(events).await {
        Event::Subscribed(codes) => codes,
        _ => panic!("no SUBACK"),
    }
}

async fn message(events: &mut Events) -> Message {
    loop {
        match next(events).await {
            Event::Message(message) => return message,
            Event::Lost(lost) => panic!("{lost}"),
            _ => {}
        }
    }
}

fn publication(topic: &str, payload: &str) -> Publication {
    Publication {
        topic: topic.to_owned(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        retain: false,
        properties: Properties::default(),
    }
}

#[tokio::test]
async fn properties_and_tokens_come_through() {
    let broker = Broker::start("");
    let (link, mut events, present) = connect(&broker.options("a")).await;
    assert!(!present);
    assert_eq!(subscribe(&link, &mut events, "x/#").await, [Ok(true)]);
    let properties = Properties {
        response_topic: Some("answer/here".to_owned()),
        correlation: Some(Bytes::from_static(&[0, 255, 1])),
        content_type: Some("application/json".to_owned()),
        expiry: Some(Duration::from_secs(90)),
        user: vec![("authorization".to_owned(), "Bearer x".to_owned())],
    };
    for token in 0..40 {
        let mut publication = publication(&format!("x/{token}"), "hello");
        publication.properties = properties.clone();
        publication.retain = token == 0;
        link.try_publish(token, &publication).unwrap();
    }
    let (mut received, mut acknowledged) = (0, Vec::new());
    while received < 40 || acknowledged.len() < 40 {
        match next(&mut events).await {
            Event::Acknowledged { token, result } => {
                assert_eq!(result, Ok(()));
                acknowledged.push(token);
            }
            Event::Message(message) => {
                assert_eq!(message.topic, format!("x/{received}"));
                assert_eq!(message.retain, received == 0, "retain as published");
                // A broker takes off what it held the message for (MQTT 5 section 3.3.2.3.3).
                let left = message.properties.expiry.expect("what is left of it");
                assert!((60..=90).contains(&left.as_secs()), "{left:?}");
                let expiry = properties.expiry;
                assert!(
                    Properties {
                        expiry,
                        ..message.properties
                    } == properties
                );
                // Only four may be unacknowledged, so this also shows that acks arrive.
                link.try_ack(message.ack.expect("QoS 1")).unwrap();
                received += 1;
            }
            Event::Lost(lost) => panic!("{lost}"),
            _ => {}
        }
    }
    assert_eq!(acknowledged, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn unacknowledged_comes_again_and_a_late_ack_is_harmless() {
    let broker = Broker::start("");
    let options = broker.options("a");
    let (link, mut events, _) = connect(&options).await;
    subscribe(&link, &mut events, "x").await;
    link.try_publish(1, &publication("x", "one")).unwrap();
    let first = message(&mut events).await;
    assert!(!first.dup);
    drop((link, events));

    let (link, mut events, present) = connect(&options).await;
    assert!(present);
    let again = message(&mut events).await;
    assert_eq!(again.payload, first.payload);
    assert!(again.dup);
    // The first link's right to acknowledge is void here, though the packet id is the same.
    link.try_ack(first.ack.unwrap()).unwrap();
    drop((link, events));

    let (link, mut events, _) = connect(&options).await;
    let again = message(&mut events).await;
    link.try_ack(again.ack.unwrap()).unwrap();
    link.disconnect().unwrap();
    while !matches!(next(&mut events).await, Event::Lost(_)) {}

    let (link, mut events, present) = connect(&options).await;
    assert!(present);
    link.try_publish(2, &publication("x", "two")).unwrap();
    assert_eq!(message(&mut events).await.payload.as_ref(), b"two");
}

#[tokio::test]
async fn denials_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let acl = folder.path().join("acl");
    std::fs::write(&acl, "topic readwrite open/#\n").unwrap();
    let broker = Broker::start(&format!("acl_file {}", acl.display()));
    let (link, mut events, _) = connect(&broker.options("a")).await;
    // mosquitto 2.0 grants the subscription and withholds the messages; a publish it refuses.
    link.try_publish(7, &publication("closed", "x")).unwrap();
    let Event::Acknowledged { token, result } = next(&mut events).await else {
        panic!("no PUBACK");
    };
    assert_eq!((token, result), (7, Err("not authorized".to_owned())));
}

#[tokio::test]
async fn broker_limit_is_kept_before_anything_is_sent() {
    let broker = Broker::start("max_packet_size 2000");
    let (link, mut events, _) = connect(&broker.options("a")).await;
    let large = publication("x", &"y".repeat(3000));
    let max = 2000;
    assert!(matches!(
        link.try_publish(1, &large),
        Err(SendError::TooLarge { max: m, .. }) if m == max
    ));
    // As large as it may be: the connection survives.
    let size = (1..2000).rev().find(|n| {
        link.try_publish(2, &publication("x", &"y".repeat(*n)))
            .is_ok()
    });
    assert!(size.unwrap() > 1950);
    assert!(matches!(
        next(&mut events).await,
        Event::Acknowledged { token: 2, .. }
    ));
}

#[tokio::test]
async fn second_client_with_our_id_ends_the_link() {
    let broker = Broker::start("");
    let options = broker.options("a");
    let (_first, mut events, _) = connect(&options).await;
    let (_second, _events, present) = connect(&options).await;
    assert!(present);
    // mosquitto 2.0.11 closes without the DISCONNECT that MQTT 5 section 3.1.4 asks for.
    assert!(matches!(
        next(&mut events).await,
        Event::Lost(Lost::TakenOver | Lost::Dropped(_))
    ));
}

#[tokio::test]
async fn takeover_is_told_where_the_broker_tells_it() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = Broker::start("").options("a");
    options.port = listener.local_addr().unwrap().port();
    let (_link, mut events) = Link::connect(&options).unwrap();
    let (mut socket, _) = listener.accept().await.unwrap();
    let _ = socket.read(&mut [0; 1024]).await.unwrap();
    // CONNACK, then DISCONNECT with 0x8E, session taken over.
    let bytes = [0x20, 3, 0, 0, 0, 0xe0, 2, 0x8e, 0];
    socket.write_all(&bytes).await.unwrap();
    assert!(matches!(next(&mut events).await, Event::Connected { .. }));
    assert!(matches!(
        next(&mut events).await,
        Event::Lost(Lost::TakenOver)
    ));
}

/// A broker that answers a CONNECT with these bytes, and closes.
async fn answered_with(bytes: &'static [u8]) -> Lost {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = Broker::start("").options("a");
    options.port = listener.local_addr().unwrap().port();
    let (_link, mut events) = Link::connect(&options).unwrap();
    let (mut socket, _) = listener.accept().await.unwrap();
    let _ = socket.read(&mut [0; 1024]).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    drop(socket);
    match next(&mut events).await {
        Event::Lost(lost) => lost,
        _ => panic!("{bytes:?} is no CONNACK of MQTT 5"),
    }
}

#[tokio::test]
async fn a_broker_without_mqtt_5_is_named() {
    // CONNACK of 3.1.1 with "unacceptable protocol version", nothing at all, and of MQTT 5.
    for bytes in [&[0x20, 2, 0, 1][..], &[], &[0x20, 3, 0, 0x84, 0]] {
        let said = answered_with(bytes).await.to_string();
        assert!(
            said.contains("MQTT 5") && said.contains("needs"),
            "{bytes:?}: {said}"
        );
    }
}

#[tokio::test]
async fn a_broker_that_takes_only_qos_0_is_named() {
    let broker = Broker::start("max_qos 0");
    let (_link, mut events) = Link::connect(&broker.options("a")).unwrap();
    match next(&mut events).await {
        // As MQTT 5 section 3.1.2.6 asks for, the will being at QoS 1.
        Event::Lost(lost) => assert!(lost.to_string().contains("only QoS 0"), "{lost}"),
        Event::Connected { at_least_once, .. } => assert!(!at_least_once),
        _ => panic!("no CONNACK"),
    }
}

#[tokio::test]
async fn a_broker_without_retained_messages_takes_a_will_that_is_not_retained() {
    let broker = Broker::start("retain_available false");
    let mut options = broker.options("a");
    let (_link, mut events) = Link::connect(&options).unwrap();
    assert!(matches!(
        next(&mut events).await,
        Event::Lost(Lost::NoRetained)
    ));
    options.retain = false;
    let (_link, mut events) = Link::connect(&options).unwrap();
    assert!(matches!(
        next(&mut events).await,
        Event::Connected { retains: false, .. }
    ));
}

#[tokio::test]
async fn session_is_gone_after_a_restart() {
    let mut broker = Broker::start("");
    let options = broker.options("a");
    let (_link, mut events, _) = connect(&options).await;
    broker.restart();
    assert!(matches!(
        next(&mut events).await,
        Event::Lost(Lost::Dropped(_) | Lost::Closed(_))
    ));
    let (_link, _events, present) = connect(&options).await;
    assert!(!present);
}

#[tokio::test]
async fn will_is_published_unless_disconnected() {
    let broker = Broker::start("");
    let (watcher, mut seen, _) = connect(&broker.options("watcher")).await;
    subscribe(&watcher, &mut seen, "will").await;
    let (link, mut events, _) = connect(&broker.options("a")).await;
    link.disconnect().unwrap();
    while !matches!(next(&mut events).await, Event::Lost(_)) {}
    drop(link);
    let (link, events, _) = connect(&broker.options("b")).await;
    drop((link, events));
    let message = message(&mut seen).await;
    assert_eq!(message.payload.as_ref(), b"gone");
    watcher.try_ack(message.ack.unwrap()).unwrap();
    // One will, not two.
    let more = tokio::time::timeout(Duration::from_millis(300), seen.recv());
    assert!(more.await.is_err());
}

#[tokio::test]
async fn nobody_there_is_a_lost_link() {
    let mut options = Broker::start("").options("a");
    options.port = 1;
    let (_link, mut events) = Link::connect(&options).unwrap();
    assert!(matches!(
        next(&mut events).await,
        Event::Lost(Lost::Network(_))
    ));
    assert!(events.recv().await.is_none());
}
