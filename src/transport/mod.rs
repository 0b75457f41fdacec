//! Bytes in, fragments out: HTTP on Unix sockets, and MQTT.

pub mod http;
pub mod mqtt;
