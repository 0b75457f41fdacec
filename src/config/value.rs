//! The kinds of values that the configuration knows: each reads one TOML value or says what it
//! should have been.

use std::path::{Component, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use crate::identity::is_topic_level;
use crate::prompt::Scope;

/// Linux takes socket paths of at most this many bytes (`sun_path` less its NUL, unix(7)).
const SOCKET_PATH_MAX: usize = 107;

const DURATIONS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

const SIZES: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

pub(super) fn text(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) if text.is_empty() => Err("is empty".to_owned()),
        DeValue::String(text) if text.chars().any(char::is_control) => {
            Err("holds a control character".to_owned())
        }
        DeValue::String(text) => Ok(text.to_string()),
        other => Err(format!("is {}; write a string, \"…\"", kind(other))),
    }
}

/// A whole number from `least` to `most`.
pub(super) fn count<T: TryFrom<u64>>(
    least: u64,
    most: u64,
) -> impl FnOnce(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let range = format!("write a whole number from {least} to {most}");
        let DeValue::Integer(integer) = value else {
            return Err(format!("is {}; {range}", kind(value)));
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let fits = number.filter(|number| (least..=most).contains(number));
        fits.and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("is {integer}; {range}"))
    }
}

/// `"30s"`, `"5m"`, `"24h"`, `"90d"`, `"50ms"`, from `least` to `most`.
pub(super) fn duration(
    least: Duration,
    most: Duration,
) -> impl Fn(&DeValue<'_>) -> Result<Duration, String> {
    move |value| {
        let form = "write a duration like \"50ms\", \"30s\", \"5m\", \"24h\" or \"90d\"";
        let millis = with_unit(value, &DURATIONS, form)?;
        let duration = Duration::from_millis(millis);
        if (least..=most).contains(&duration) {
            return Ok(duration);
        }
        let (least, most) = (show_duration(least), show_duration(most));
        Err(format!(
            "is {}; it may be from {least} to {most}",
            show_duration(duration)
        ))
    }
}

/// `"256 KiB"`, from `least` to `most` bytes.
pub(super) fn size(least: u64, most: u64) -> impl FnOnce(&DeValue<'_>) -> Result<u64, String> {
    move |value| {
        let form = "write a size like \"256 KiB\", \"64 MiB\" or \"1 GiB\"";
        let bytes = with_unit(value, &SIZES, form)?;
        if (least..=most).contains(&bytes) {
            return Ok(bytes);
        }
        Err(format!(
            "is {}; it may be from {} to {}",
            show_size(bytes),
            show_size(least),
            show_size(most)
        ))
    }
}

fn with_unit(value: &DeValue<'_>, units: &[(&str, u64)], form: &str) -> Result<u64, String> {
    let text = match value {
        DeValue::String(text) => text.trim(),
        other => return Err(format!("is {}; {form}", kind(other))),
    };
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let factor = units.iter().find(|(name, _)| *name == unit.trim());
    let number = number.parse::<u64>().ok();
    number
        .zip(factor)
        .and_then(|(number, (_, factor))| number.checked_mul(*factor))
        .ok_or_else(|| format!("is {text:?}; {form}"))
}

/// The shortest exact form that [`duration`] reads.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    largest_unit(millis, &DURATIONS, "")
}

/// The shortest exact form that [`size`] reads.
pub(super) fn show_size(bytes: u64) -> String {
    largest_unit(bytes, &SIZES, " ")
}

fn largest_unit(value: u64, units: &[(&str, u64)], space: &str) -> String {
    let exact = units
        .iter()
        .find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor));
    match exact.or(units.last()) {
        Some((unit, factor)) => format!("{}{space}{unit}", value / factor),
        None => value.to_string(),
    }
}

pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = PathBuf::from(text(value)?);
    let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if path.is_absolute() && path.components().all(plain) {
        Ok(path)
    } else {
        let path = path.display();
        Err(format!("is {path}; write an absolute path without `..`"))
    }
}

pub(super) fn socket_path(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = path(value)?;
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(format!(
            "is {length} bytes long; a socket's path may be {SOCKET_PATH_MAX}, choose a shorter folder"
        ));
    }
    Ok(path)
}

/// A name that is safe as a file name and in log lines.
pub(super) fn plain_name(value: &DeValue<'_>) -> Result<String, String> {
    let name = text(value)?;
    let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.len() <= 64 && name.chars().all(clean) {
        Ok(name)
    } else {
        Err(format!(
            "is {name:?}; use up to 64 letters, digits, `-`, `_` and `.`, beginning with a letter or digit"
        ))
    }
}

pub(super) fn topic_level(value: &DeValue<'_>) -> Result<String, String> {
    let name = text(value)?;
    if is_topic_level(&name) {
        Ok(name)
    } else {
        Err(format!(
            "is {name:?}; it stands in MQTT topics, so use at most 64 bytes without `/`, `+`, `#`, `$`"
        ))
    }
}

/// An issuer as tokens carry it, which is compared byte by byte.
pub(super) fn issuer(value: &DeValue<'_>) -> Result<String, String> {
    let issuer = text(value)?;
    let host = issuer
        .strip_prefix("https://")
        .or_else(|| issuer.strip_prefix("http://"));
    let clean = |c: char| !c.is_whitespace() && !matches!(c, '?' | '#');
    match host {
        Some(host) if !host.is_empty() && !host.starts_with('/') && host.chars().all(clean) => {
            Ok(issuer)
        }
        _ => Err(format!(
            "is {issuer:?}; write the realm's URL as in the tokens' `iss`, e.g. \"https://keycloak.example/realms/dev\""
        )),
    }
}

pub(super) fn scope(name: &str) -> Result<Scope, String> {
    let found = Scope::ALL.into_iter().find(|scope| scope.as_str() == name);
    found.ok_or_else(|| {
        let known = Scope::ALL.map(Scope::as_str).join(", ");
        format!("{name:?} is no scope; known: {known}")
    })
}

pub(super) fn scopes(value: &DeValue<'_>) -> Result<Vec<Scope>, String> {
    let DeValue::Array(items) = value else {
        return Err(format!(
            "is {}; write a list of scopes, [\"read\"]",
            kind(value)
        ));
    };
    let names = items.iter().map(|item| text(item.get_ref()));
    let mut scopes = names
        .map(|name| scope(&name?))
        .collect::<Result<Vec<_>, _>>()?;
    scopes.sort();
    scopes.dedup();
    Ok(scopes)
}

pub(super) fn log_filter(value: &DeValue<'_>) -> Result<String, String> {
    let filter = text(value)?;
    match tracing_subscriber::EnvFilter::try_new(&filter) {
        Ok(_) => Ok(filter),
        Err(error) => Err(format!(
            "is no log filter: {error}; write e.g. \"info\" or \"warn,slmd::auth=debug\""
        )),
    }
}

/// Host and port of an `mqtt://` URL.
pub(super) fn broker(value: &DeValue<'_>) -> Result<(String, u16), String> {
    let url = text(value)?;
    let form = "write mqtt://host:port";
    if url.starts_with("mqtts://") {
        return Err(
            "is an mqtts:// URL; TLS to the broker doesn't exist in this version: use mqtt:// with a \
             broker on this machine, which can bridge over TLS"
                .to_owned(),
        );
    }
    let Some(rest) = url.strip_prefix("mqtt://") else {
        return Err(format!("is {url:?}; {form}"));
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
    let port = port.map_or(Some(1883), |port| port.parse().ok().filter(|p| *p != 0));
    match port {
        Some(port) if !host.is_empty() && host.chars().all(clean) => Ok((host.to_owned(), port)),
        _ => Err(format!("is {url:?}; {form}")),
    }
}

/// A value's type, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> String {
    let name = value.type_str();
    let article = if name.starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> DeValue<'_> {
        DeValue::String(text.into())
    }

    #[test]
    fn durations_and_sizes_read_back_what_they_show() {
        let any = duration(Duration::ZERO, Duration::MAX);
        for shown in ["0ms", "1ms", "1500ms", "30s", "90s", "5m", "1h", "90d"] {
            assert_eq!(show_duration(any(&string(shown)).unwrap()), shown);
        }
        for shown in ["0 B", "1000 B", "256 KiB", "64 MiB", "3 GiB"] {
            let bytes = size(0, u64::MAX)(&string(shown)).unwrap();
            assert_eq!(show_size(bytes), shown);
        }
        assert_eq!(size(0, u64::MAX)(&string("256KiB")).unwrap(), 256 << 10);
    }

    #[test]
    fn units_are_not_guessed() {
        let any = duration(Duration::ZERO, Duration::MAX);
        let overflow = format!("{}d", u64::MAX);
        for bad in ["30", "s", "", "1.5h", "-1s", "1 month", "5M", &overflow] {
            assert!(any(&string(bad)).is_err(), "{bad}");
        }
        assert!(size(0, 9)(&string("1 MB")).is_err());
        assert!(size(0, 9)(&string("10 B")).unwrap_err().contains("9 B"));
    }

    #[test]
    fn broker_urls() {
        let ok = |url, host: &str, port| {
            assert_eq!(broker(&string(url)), Ok((host.to_owned(), port)), "{url}");
        };
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
            assert!(broker(&string(bad)).is_err(), "{bad}");
        }
        assert!(broker(&string("mqtts://h")).unwrap_err().contains("TLS"));
        let secret = broker(&string("mqtt://u:hunter2@h")).unwrap_err();
        assert!(!secret.contains("hunter2"), "{secret}");
    }

    #[test]
    fn paths_are_absolute() {
        assert!(path(&string("/var/lib/slmd")).is_ok());
        for bad in ["slmd.sock", "./x", "/a/../b", ""] {
            assert!(path(&string(bad)).is_err(), "{bad}");
        }
        let long = format!("/{}", "x".repeat(SOCKET_PATH_MAX));
        assert!(socket_path(&string(&long)).is_err());
    }

    #[test]
    fn names_can_be_file_names() {
        assert!(plain_name(&string("smollm2-135m_v1.0")).is_ok());
        for bad in ["..", ".hidden", "a/b", "a b", "-x", "é"] {
            assert!(plain_name(&string(bad)).is_err(), "{bad}");
        }
    }
}
