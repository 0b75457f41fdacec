//! Our plain types to and from rumqttc's.

use std::io::Read;
use std::time::Duration;

use rumqttc::v5::MqttOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, LastWill, Publish, PublishProperties, RetainForwardRule};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};

use super::{
    Ack, CONNECT, IN_FLIGHT, Lost, Message, Options, Properties, Publication, Subscription, Tls,
};
use crate::files::{self, Care, FileError};
use crate::secret::Secret;
use crate::tls;

/// rumqttc panics below it.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What a CONNECT may carry (MQTT 5 section 1.5.6).
const MAX_PASSWORD: u64 = 65_535;

pub(super) fn options(options: &Options) -> Result<MqttOptions, Lost> {
    // rumqttc joins host and port with a colon.
    let host = match options.host.contains(':') && !options.host.starts_with('[') {
        true => format!("[{}]", options.host),
        false => options.host.clone(),
    };
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);

    let mut mqtt = MqttOptions::new(options.client_id.as_str(), host, options.port);
    mqtt.set_clean_start(options.session_expiry.is_zero())
        .set_manual_acks(true)
        .set_keep_alive(options.keep_alive.max(MIN_KEEP_ALIVE))
        .set_connection_timeout(CONNECT.as_secs())
        // Absent, the session would end with the connection (MQTT 5 section 3.1.2.11.2).
        .set_session_expiry_interval(Some(seconds(options.session_expiry)))
        .set_receive_maximum(Some(options.receive_maximum.max(1)))
        .set_max_packet_size(Some(options.max_packet))
        // rumqttc reports an aliased message before it looks the topic up.
        .set_topic_alias_max(Some(0))
        .set_outgoing_inflight_upper_limit(IN_FLIGHT)
        .set_network_options(network);
    if let Some(will) = &options.will {
        mqtt.set_last_will(LastWill::new(
            will.topic.as_str(),
            will.payload.as_slice(),
            QoS::AtLeastOnce,
            options.retain,
            None,
        ));
    }
    if let Some(username) = &options.username {
        let password = password(options)?;
        let password = password.as_ref().map(|p| p.expose().as_str());
        mqtt.set_credentials(username.as_str(), password.unwrap_or_default());
    }
    if let Some(Tls { ca_file, own }) = &options.tls {
        let tls = tls::client(ca_file, own.as_ref(), &options.known);
        let tls = tls.map_err(|error| Lost::Network(format!("TLS: {error}")))?;
        mqtt.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    Ok(mqtt)
}

fn password(options: &Options) -> Result<Option<Secret<String>>, Lost> {
    let Some(file) = &options.password_file else {
        return Ok(None);
    };
    let read = || {
        let mut text = String::new();
        let open = files::open(file, Care::Secret)?;
        open.take(MAX_PASSWORD).read_to_string(&mut text)?;
        Ok::<_, FileError>(Secret::new(text))
    };
    match read() {
        Ok(text) => {
            let text = text.expose().trim_end_matches(['\r', '\n']);
            Ok(Some(Secret::new(text.to_owned())))
        }
        Err(error) => {
            let file = file.display();
            Err(Lost::Network(format!(
                "the password file {file} can't be read: {error}"
            )))
        }
    }
}

pub(super) fn filter(subscription: &Subscription) -> Filter {
    let qos = match subscription.at_least_once {
        true => QoS::AtLeastOnce,
        false => QoS::AtMostOnce,
    };
    let mut filter = Filter::new(subscription.filter.as_str(), qos);
    filter.preserve_retain = true;
    filter.retain_forward_rule = match subscription.retained {
        true => RetainForwardRule::OnEverySubscribe,
        false => RetainForwardRule::Never,
    };
    filter
}

pub(super) fn publish(publication: &Publication) -> Publish {
    let properties = &publication.properties;
    let properties = PublishProperties {
        payload_format_indicator: None,
        message_expiry_interval: properties.expiry.map(seconds),
        topic_alias: None,
        response_topic: properties.response_topic.clone(),
        correlation_data: properties.correlation.clone(),
        user_properties: properties.user.clone(),
        subscription_identifiers: Vec::new(),
        content_type: properties.content_type.clone(),
    };
    let mut publish = Publish::new(
        publication.topic.as_str(),
        QoS::AtLeastOnce,
        publication.payload.clone(),
        Some(properties),
    );
    publish.retain = publication.retain;
    publish
}

/// A topic that isn't UTF-8, which no broker may pass on, becomes one that nobody routes.
pub(super) fn message(publish: Publish, link: u64) -> Message {
    let properties = publish.properties.unwrap_or_default();
    let ack = Ack {
        link,
        packet_id: publish.pkid,
    };
    Message {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        payload: publish.payload,
        retain: publish.retain,
        dup: publish.dup,
        properties: Properties {
            response_topic: properties.response_topic,
            correlation: properties.correlation_data,
            content_type: properties.content_type,
            expiry: properties
                .message_expiry_interval
                .map(|secs| Duration::from_secs(secs.into())),
            user: properties.user_properties,
        },
        ack: (publish.qos != QoS::AtMostOnce).then_some(ack),
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
