//! Where a collector listens: `host:port`.

use std::fmt;
use std::str::FromStr;

/// Of syslog over TLS (RFC 5425 section 4.1).
const PORT: u16 = 6514;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Fails with what should have been written.
impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let wrong = || format!("is {text:?}; write host:port, such as \"logs.example:6514\"");
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (text, PORT),
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let host = bare.unwrap_or(host);
        match !host.is_empty() && host.chars().all(clean) && port != 0 {
            true => Ok(Address {
                host: host.to_owned(),
                port,
            }),
            false => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_what_it_shows() {
        for (text, shown) in [
            ("logs.example:6515", "logs.example:6515"),
            ("logs.example", "logs.example:6514"),
            ("127.0.0.1:514", "127.0.0.1:514"),
            ("[::1]:514", "[::1]:514"),
            ("::1", "[::1]:6514"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse(), Ok(address));
        }
        for bad in [
            "",
            ":1",
            "h:",
            "h:0",
            "h:x",
            "h:70000",
            "tcp://h:1",
            "u@h:1",
            "a b:1",
            "[:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
