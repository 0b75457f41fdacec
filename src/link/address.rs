//! Where a broker is: `mqtt://host:port` or `mqtts://host:port`.

use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        match (&self.host, self.port) {
            (host, port) if host.contains(':') => write!(f, "{scheme}://[{host}]:{port}"),
            (host, port) => write!(f, "{scheme}://{host}:{port}"),
        }
    }
}

/// Fails with what is wrong with the URL.
impl FromStr for Broker {
    type Err = String;

    fn from_str(url: &str) -> Result<Broker, String> {
        let form = "write mqtt://host:port or mqtts://host:port";
        let (rest, tls) = match (url.strip_prefix("mqtt://"), url.strip_prefix("mqtts://")) {
            (Some(rest), _) => (rest, false),
            (_, Some(rest)) => (rest, true),
            (None, None) => return Err(format!("is {url:?}; {form}")),
        };
        if rest.contains('@') {
            return Err("holds credentials; use `username` and `password_file`".to_owned());
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let host = host
            .strip_prefix('[')
            .map_or(host, |h| h.trim_end_matches(']'));
        let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let default = if tls { 8883 } else { 1883 };
        let port = port.map_or(Some(default), |port| port.parse().ok().filter(|p| *p != 0));
        match port {
            Some(port) if !host.is_empty() && host.chars().all(clean) => Ok(Broker {
                host: host.to_owned(),
                port,
                tls,
            }),
            _ => Err(format!("is {url:?}; {form}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_urls() {
        let ok = |url: &str, host: &str, port| {
            let (host, tls) = (host.to_owned(), url.starts_with("mqtts"));
            assert_eq!(url.parse(), Ok(Broker { host, port, tls }), "{url}");
        };
        ok("mqtts://broker.local", "broker.local", 8883);
        ok("mqtts://broker.local:1", "broker.local", 1);
        ok("mqtt://127.0.0.1:1884", "127.0.0.1", 1884);
        ok("mqtt://broker.local", "broker.local", 1883);
        ok("mqtt://[::1]:1884", "::1", 1884);
        ok("mqtt://[::1]/", "::1", 1883);
        for bad in [
            "mqtt://",
            "mqtt://:1",
            "mqtt://h:0",
            "mqtt://h:x",
            "tcp://h",
            "mqtt://h/p",
        ] {
            assert!(bad.parse::<Broker>().is_err(), "{bad}");
        }
        let secret = "mqtt://u:hunter2@h".parse::<Broker>().unwrap_err();
        assert!(!secret.contains("hunter2"), "{secret}");
    }
}
