//! The fleet's settings: the kinds of values that only they have, and what must be true of them together.

use serde_json::json;
use toml::de::DeValue;

use super::MAX_MIRRORS;
use super::kind::Kind;
use super::read::Section;
use super::value::{list, path, text};
use crate::fleet::{self, Place};
use crate::https;

/// Where a fleet's files come from.
pub(super) fn mirrors() -> Kind<Vec<Place>> {
    let form = "write a list of \"mqtt\", https:// URLs and folders";
    let read = move |value: &DeValue<'_>| {
        list(value, form, |text| match text {
            "mqtt" => Ok(Place::Mqtt),
            url if url.contains("://") => Ok(Place::Https(url.to_owned())),
            folder => match path(&DeValue::String(folder.into())) {
                Ok(path) => Ok(Place::Folder(path)),
                Err(_) => Err(format!("holds {folder:?}; {form}")),
            },
        })
    };
    Kind::new(read, |places: &Vec<Place>| {
        json!(places.iter().map(ToString::to_string).collect::<Vec<_>>())
    })
}

/// What a realm's issuer may do to keys that a fleet has signed.
pub(super) fn adds_keys() -> Kind<bool> {
    let read = |value: &DeValue<'_>| match text(value)?.as_str() {
        "confirm" => Ok(false),
        "add" => Ok(true),
        other => Err(format!("is {other:?}; write \"confirm\" or \"add\"")),
    };
    Kind::new(read, |adds| json!(if *adds { "add" } else { "confirm" }))
}

pub(super) fn check_fleet(
    section: &Section<'_>,
    settings: &fleet::Settings,
    _: &[fleet::Settings],
) {
    for mirror in &settings.mirrors {
        let Place::Https(url) = mirror else { continue };
        if let Err(error) = https::check_url(url) {
            section.problem("mirrors", error.to_string());
        } else if url.starts_with("https:") && settings.ca_file.is_none() {
            section.problem("ca_file", "is missing: HTTPS needs the CA to trust, as PEM");
        }
    }
    if settings.password_file.is_some() && settings.username.is_none() {
        section.problem("password_file", "needs `username` too");
    }
    if settings.mirrors.len() > MAX_MIRRORS {
        let message = format!("names more than {MAX_MIRRORS}; name fewer");
        section.problem("mirrors", message);
    }
    if settings.mirrors.is_empty() {
        section.problem("mirrors", "is empty; name one");
    }
}
