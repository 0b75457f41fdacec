//! Where a request came from, as the audit log tells it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The way a request took into the daemon. The peer of a socket is told by the kernel
/// (`SO_PEERCRED`); an MQTT client's name is only what the broker lets through.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "transport", rename_all = "lowercase")]
pub enum Origin {
    /// The local HTTP socket. `pid` is informative: it may be reused.
    Socket {
        uid: u32,
        gid: u32,
        pid: Option<i32>,
    },
    /// HTTP over TCP, with TLS except on loopback. `certificate`: `sha256:` and the
    /// fingerprint of the client's, where it showed one.
    Tcp {
        peer: std::net::SocketAddr,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        certificate: Option<String>,
    },
    /// The admin socket.
    Admin {
        uid: u32,
        gid: u32,
        pid: Option<i32>,
    },
    /// The topic that the request came on.
    Mqtt { topic: String },
    /// The daemon itself: start, stop, reload.
    Daemon,
}

/// The ways by which prompts come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Socket,
    Tcp,
    Mqtt,
}

impl Transport {
    pub const ALL: [Transport; 3] = [Transport::Socket, Transport::Tcp, Transport::Mqtt];

    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Socket => "socket",
            Transport::Tcp => "tcp",
            Transport::Mqtt => "mqtt",
        }
    }
}

impl Origin {
    /// `None` where no prompts come from: administration and the daemon itself.
    pub fn transport_kind(&self) -> Option<Transport> {
        match self {
            Origin::Socket { .. } => Some(Transport::Socket),
            Origin::Tcp { .. } => Some(Transport::Tcp),
            Origin::Mqtt { .. } => Some(Transport::Mqtt),
            Origin::Admin { .. } | Origin::Daemon => None,
        }
    }

    /// Who sent it, as far as the transport alone tells: a user or an address. Of MQTT's clients
    /// it tells nothing, because a topic is as its publisher likes, so they are one.
    pub fn sender(&self) -> String {
        match self {
            Origin::Socket { uid, .. } | Origin::Admin { uid, .. } => format!("uid {uid}"),
            Origin::Tcp { peer, .. } => network(peer.ip()).to_string(),
            Origin::Mqtt { .. } => "mqtt".to_owned(),
            Origin::Daemon => String::new(),
        }
    }

    /// The name that metrics use.
    pub fn transport(&self) -> &'static str {
        match self {
            Origin::Socket { .. } => "socket",
            Origin::Tcp { .. } => "tcp",
            Origin::Admin { .. } => "admin",
            Origin::Mqtt { .. } => "mqtt",
            Origin::Daemon => "daemon",
        }
    }
}

/// An IPv6 host has a /64 of addresses to itself (RFC 4291 section 2.5.1), so it has one share; and
/// so has this machine, any process of which may use every address of its loopback.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        own if own.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_or_machine_has_one_share() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        for own in ["127.0.0.2", "127.255.255.254", "::1", "::ffff:127.0.0.3"] {
            assert_eq!(of(own), of("127.0.0.1"), "{own}");
        }
    }
}
