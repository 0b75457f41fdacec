//! The kinds of values that the configuration knows: each reads one TOML value or says what it
//! should have been, and shows it in the same form.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Component, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use toml::de::DeValue;

use super::kind::{Kind, Wrong, name_of};
use super::machine::Thing;
use crate::engine::Family;
use crate::https;
use crate::identity::{Identity, is_topic_level};
use crate::json;
use crate::link::Broker;
use crate::prompt::{Scope, Transport};
use crate::telemetry::{self, LogFormat};

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
        other => Err(format!("is {}; write a string, \"…\"", name_of(other))),
    }
}

/// A whole number from `least` to `most`.
pub(super) fn count<T: TryFrom<u64>>(
    least: u64,
    most: u64,
) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let range = format!("write a whole number from {least} to {most}");
        let DeValue::Integer(integer) = value else {
            return Err(format!("is {}; {range}", name_of(value)));
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let fits = number.filter(|number| (least..=most).contains(number));
        fits.and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("is {integer}; {range}"))
    }
}

/// A number of the range, judged in the precision that is used.
pub(super) fn number(range: RangeInclusive<f32>) -> Kind<f32> {
    let read = move |value: &DeValue<'_>| {
        let (least, most) = (range.start(), range.end());
        let (number, shown) = match value {
            DeValue::Float(float) => (float.as_str().parse().ok(), float.to_string()),
            DeValue::Integer(integer) => (integer.as_str().parse().ok(), integer.to_string()),
            other => (None, name_of(other).to_owned()),
        };
        let number = number.filter(|number| range.contains(number));
        number.ok_or_else(|| format!("is {shown}; write a number from {least} to {most}"))
    };
    Kind::new(read, |number| json::number(number))
}

/// `"30s"`, `"5m"`, `"24h"`, `"90d"`, `"50ms"`, from `least` to `most`.
pub(super) fn time(least: Duration, most: Duration) -> Kind<Duration> {
    Kind::new(duration(least, most), |d| json!(show_duration(*d)))
}

fn duration(least: Duration, most: Duration) -> impl Fn(&DeValue<'_>) -> Result<Duration, String> {
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

/// `"256 KiB"`, from `least` to `most`.
pub(super) fn bytes<T>(least: u64, most: u64) -> Kind<T>
where
    T: Copy + TryFrom<u64> + TryInto<u64> + 'static,
{
    let read = move |value: &DeValue<'_>| {
        let bytes = size(least, most)(value)?;
        T::try_from(bytes).map_err(|_| "is too large for this machine".to_owned())
    };
    let number = |bytes: T| bytes.try_into().unwrap_or(u64::MAX);
    Kind::new(read, move |bytes| json!(show_size(number(*bytes))))
}

fn size(least: u64, most: u64) -> impl Fn(&DeValue<'_>) -> Result<u64, String> {
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
        other => return Err(format!("is {}; {form}", name_of(other))),
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
fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    largest_unit(millis, &DURATIONS, "")
}

/// The shortest exact form that [`size`] reads.
fn show_size(bytes: u64) -> String {
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

/// `"auto"` or a family of kernels, which this CPU should have.
pub(super) fn kernels() -> Kind<Option<Family>> {
    let read = |value: &DeValue<'_>| {
        let name = text(value)?;
        let family = Family::ALL.into_iter().find(|f| f.as_str() == name);
        if name == "auto" || family.is_some() {
            return Ok(family);
        }
        let known = Family::ALL.map(Family::as_str).join(", ");
        Err(format!("is {name:?}; write \"auto\" or one of {known}"))
    };
    let show = |family: &Option<Family>| json!(family.map_or("auto", Family::as_str));
    Kind::new(read, show).looked(|family| family.iter().copied().map(Thing::Kernels).collect())
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

/// A path of which the machine has more to say.
pub(super) fn path_to(thing: fn(PathBuf) -> Thing) -> Kind<PathBuf> {
    here(path, thing)
}

/// What the machine has more to say of.
pub(super) fn here<T: Clone + 'static>(kind: impl Into<Kind<T>>, thing: fn(T) -> Thing) -> Kind<T> {
    kind.into().looked(move |value| vec![thing(value.clone())])
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

/// What a transparency log's name begins with: a name without a scheme, as C2SP recommends.
pub(super) fn log_origin(value: &DeValue<'_>) -> Result<String, String> {
    let origin = text(value)?;
    let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let label = |label: &str| !label.is_empty() && label.chars().all(clean);
    if origin.len() <= 255 && origin.split('/').all(label) && !origin.starts_with("cosignature") {
        Ok(origin)
    } else {
        Err(format!(
            "is {origin:?}; write a domain of yours, and what you like of a path, like \
             \"logs.example.com/devices\""
        ))
    }
}

/// The device's name.
pub(super) fn identity() -> Kind<Identity> {
    let read = |value: &DeValue<'_>| {
        let name = topic_level(value)?;
        let taken = || format!("is {name:?}, which the fleets' topics have; choose another");
        Identity::new(&name).ok_or_else(taken)
    };
    Kind::new(read, |identity| json!(identity.device))
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

/// `"explain"` would be taken for what `slmd keys explain` asks.
pub(super) fn realm_name(value: &DeValue<'_>) -> Result<String, String> {
    match plain_name(value)? {
        name if name == "explain" => Err(format!("is {name:?}, which is taken; choose another")),
        name => Ok(name),
    }
}

/// An issuer as tokens carry it, which is compared byte by byte.
pub(super) fn issuer(value: &DeValue<'_>) -> Result<String, String> {
    let issuer = text(value)?;
    let host = issuer
        .strip_prefix("https://")
        .or_else(|| issuer.strip_prefix("http://"));
    let clean = |c: char| !c.is_whitespace() && !matches!(c, '?' | '#');
    let wrong = |why: &str| {
        Err(format!(
            "is {issuer:?}{why}; write the realm's URL as in the tokens' `iss`, e.g. \
             \"https://keycloak.example/realms/prod\""
        ))
    };
    match host {
        Some(host) if host.ends_with('/') => wrong(", and Keycloak's `iss` doesn't end with `/`"),
        Some(host) if !host.is_empty() && !host.starts_with('/') && host.chars().all(clean) => {
            match https::check_url(&issuer) {
                Ok(()) => Ok(issuer),
                Err(_) if issuer.starts_with("http:") => wrong(
                    ", plain HTTP beyond this machine, where anybody in between can read tokens; \
                     Keycloak behind a proxy needs `--hostname=https://…`",
                ),
                Err(error) => Err(error.to_string()),
            }
        }
        _ => wrong(""),
    }
}

fn scope(name: &str) -> Result<Scope, String> {
    let found = Scope::ALL.into_iter().find(|scope| scope.as_str() == name);
    found.ok_or_else(|| {
        let known = Scope::ALL.map(Scope::as_str).join(", ");
        format!("{name:?} is no scope; known: {known}")
    })
}

pub(super) fn scopes(value: &DeValue<'_>) -> Result<Vec<Scope>, String> {
    let mut scopes = list(value, "write a list of scopes, [\"read\"]", scope)?;
    scopes.sort();
    scopes.dedup();
    Ok(scopes)
}

pub(super) fn transports(value: &DeValue<'_>) -> Result<Vec<Transport>, String> {
    let form = "write a list of \"socket\", \"tcp\" and \"mqtt\"";
    list(value, form, |name| {
        let found = Transport::ALL.into_iter().find(|t| t.as_str() == name);
        found.ok_or_else(|| format!("{name:?} is no transport; {form}"))
    })
}

pub(super) fn list<T>(
    value: &DeValue<'_>,
    form: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let DeValue::Array(items) = value else {
        return Err(format!("is {}; {form}", name_of(value)));
    };
    let texts = items.iter().map(|item| text(item.get_ref()));
    texts.map(|text| read(&text?)).collect()
}

/// Groups of this machine by name, with what their members may do.
pub(super) fn groups() -> Kind<BTreeMap<String, Vec<Scope>>> {
    Kind::from(scopes)
        .by_name()
        .looked(|groups| groups.keys().cloned().map(Thing::Group).collect())
}

/// How old keys may be, by scope; one that isn't named keeps its default, so that leaving it out
/// never lifts a limit.
pub(super) fn grace() -> Kind<BTreeMap<Scope, Duration>> {
    let show = |grace: &BTreeMap<Scope, Duration>| {
        let shown = Scope::ALL.map(|scope| {
            let limit = grace.get(&scope).copied();
            let shown = limit.map_or_else(|| "none".to_owned(), show_duration);
            (scope.as_str().to_owned(), Value::String(shown))
        });
        Value::Object(shown.into_iter().collect())
    };
    Kind::over_default(show, |value, default| {
        let mut grace = BTreeMap::new();
        for value in default.into_iter().chain([value]) {
            change_grace(&mut grace, value)?;
        }
        Ok(grace)
    })
}

fn change_grace(grace: &mut BTreeMap<Scope, Duration>, value: &DeValue<'_>) -> Result<(), Wrong> {
    let none = |value: &DeValue<'_>| matches!(value, DeValue::String(text) if text == "none");
    let DeValue::Table(entries) = value else {
        grace.clear();
        let form = "write \"none\" or { read = \"30d\", write = \"24h\", fine-tune = \"1h\" }";
        return match none(value) {
            true => Ok(()),
            false => Err(format!("is {}; {form}", name_of(value)).into()),
        };
    };
    let limit = duration(Duration::from_secs(1), Duration::from_secs(3650 * 86_400));
    for (name, value) in entries {
        let (scope, value) = (scope(name.get_ref())?, value.get_ref());
        if none(value) {
            grace.remove(&scope);
        } else {
            let limit = limit(value).map_err(|e| format!("{}: {e}", name.get_ref()))?;
            grace.insert(scope, limit);
        }
    }
    Ok(())
}

/// An address to listen on.
pub(super) fn address(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    let text = text(value)?;
    text.parse().map_err(|_| {
        format!("is {text:?}; write an address and a port, e.g. \"0.0.0.0:8443\" or \"[::]:8443\"")
    })
}

/// Without TLS tokens travel in the clear, so such an address is for this machine only.
pub(super) fn loopback(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    let address = address(value)?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(format!(
        "is {address}, which others can reach, without TLS; write \"127.0.0.1:{}\", or listen \
         there in [http.tls]",
        address.port()
    ))
}

/// Host names or addresses, as `Host` names them without a port.
pub(super) fn hosts(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let clean =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '[' | ']' | ':');
    let form = "write a list like [\"edge-1.example\"]";
    list(value, form, |host| {
        let port = host.ends_with(']') || !host.contains(':');
        let fits = host.chars().all(clean) && port;
        fits.then(|| host.to_owned())
            .ok_or_else(|| format!("holds {host:?}; {form}"))
    })
}

/// Origins: scheme, host and perhaps a port, and nothing after them.
pub(super) fn origins(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let form = "write a list like [\"https://edge-1.example:8443\"]";
    let clean = |c: char| !c.is_whitespace() && !matches!(c, '/' | '?' | '#' | '@');
    list(value, form, |origin| {
        let host = origin
            .split_once("://")
            .filter(|(s, _)| matches!(*s, "http" | "https"));
        let fits = host.is_some_and(|(_, host)| !host.is_empty() && host.chars().all(clean));
        fits.then(|| origin.to_owned())
            .ok_or_else(|| format!("holds {origin:?}; {form}"))
    })
}

/// Whether `"required"`, otherwise `"optional"`.
pub(super) fn required() -> Kind<bool> {
    let read = |value: &DeValue<'_>| match text(value)?.as_str() {
        "required" => Ok(true),
        "optional" => Ok(false),
        other => Err(format!("is {other:?}; write \"optional\" or \"required\"")),
    };
    Kind::new(read, |yes| {
        json!(if *yes { "required" } else { "optional" })
    })
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    match value {
        DeValue::Boolean(value) => Ok(*value),
        other => Err(format!("is {}; write true or false", name_of(other))),
    }
}

pub(super) fn log_filter(value: &DeValue<'_>) -> Result<String, String> {
    let filter = text(value)?;
    let checked = telemetry::check_filter(&filter);
    checked
        .map(|()| filter)
        .map_err(|error| format!("is no {error}"))
}

pub(super) fn log_format() -> Kind<LogFormat> {
    let read = |value: &DeValue<'_>| {
        let name = text(value)?;
        let known = LogFormat::ALL.into_iter().find(|f| f.as_str() == name);
        known.ok_or_else(|| {
            let all = LogFormat::ALL.map(LogFormat::as_str).join(", ");
            format!("is {name:?}; write one of {all}")
        })
    };
    Kind::new(read, |format| json!(format.as_str()))
}

/// An `mqtt://` or `mqtts://` URL.
pub(super) fn broker_url() -> Kind<Broker> {
    Kind::new(broker, |broker| json!(broker.to_string()))
}

fn broker(value: &DeValue<'_>) -> Result<Broker, String> {
    text(value)?.parse()
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
