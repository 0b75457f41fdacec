//! What of the audit leaves the box, and who may read it: the kinds of values that only these settings
//! have, and what must be true of them together.

use serde_json::json;
use toml::de::DeValue;

use super::kind::Kind;
use super::read::Section;
use super::value::{list, text};
use crate::age::Recipient;
use crate::audit::export::{Address, Facility, Syslog};
use crate::https;

/// Where a collector listens.
pub(super) fn collector() -> Kind<Address> {
    let read = |value: &DeValue<'_>| text(value)?.parse();
    Kind::new(read, |address: &Address| json!(address.to_string()))
}

pub(super) fn facility() -> Kind<Facility> {
    let read = |value: &DeValue<'_>| {
        let name = text(value)?;
        let all = || Facility::NAMES.join(", ");
        let unknown = || format!("is {name:?}; write one of {}", all());
        Facility::of(&name).ok_or_else(unknown)
    };
    Kind::new(read, |facility: &Facility| json!(facility.as_str()))
}

/// Public keys of age.
pub(super) fn recipients() -> Kind<Vec<Recipient>> {
    let form = "write a list of public keys of age, [\"age1…\"]";
    let read = move |value: &DeValue<'_>| {
        list(value, form, |text| {
            text.parse()
                .map_err(|error| format!("holds {text:?}: {error}"))
        })
    };
    Kind::new(read, |keys: &Vec<Recipient>| {
        json!(keys.iter().map(ToString::to_string).collect::<Vec<_>>())
    })
}

pub(super) fn check_collector(section: &Section<'_>, syslog: &Syslog, _: &[Syslog]) {
    if syslog.ca_file.is_some() {
        return;
    }
    if !https::is_loopback(&syslog.address.host) {
        section.problem(
            "ca_file",
            "is missing: beyond this machine records go over TLS only; name the collector's CA, as PEM",
        );
    }
    if syslog.own.is_some() {
        section.problem("cert_file", "is for TLS, which needs `ca_file` too");
    }
    if syslog.server_name.is_some() {
        section.problem("server_name", "is for TLS, which needs `ca_file` too");
    }
}
