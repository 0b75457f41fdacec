//! `fleet.toml`: what a person decides about the fleet and no device is told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

const DAY: u64 = 86_400;
/// Nobody plans further ahead; an end beyond it is a mistake.
const MOST_DAYS: u64 = 3650;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What devices call the fleet: one level of a topic.
    pub name: String,
    #[serde(default)]
    pub expiry: Expiry,
    #[serde(default, rename = "realm")]
    pub realms: BTreeMap<String, Realm>,
    #[serde(default)]
    pub publish: Vec<Destination>,
}

/// How long each role's metadata counts from when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expiry {
    #[serde(deserialize_with = "days")]
    pub root: Duration,
    #[serde(deserialize_with = "days")]
    pub targets: Duration,
    #[serde(deserialize_with = "days")]
    pub revocation: Duration,
    #[serde(deserialize_with = "days")]
    pub snapshot: Duration,
    #[serde(deserialize_with = "days")]
    pub timestamp: Duration,
}

/// A Keycloak realm whose keys the fleet carries.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Realm {
    pub issuer: String,
    /// The one CA that is trusted for the issuer's HTTPS.
    pub ca_file: Option<PathBuf>,
    /// Where its key set is, if not at Keycloak's own place beneath the issuer.
    pub jwks_uri: Option<String>,
}

/// Where `slmd fleet publish` brings what devices read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// A folder, or `mqtt://host:port` or `mqtts://host:port`.
    pub to: String,
    pub ca_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
}

impl Default for Expiry {
    fn default() -> Expiry {
        let days = |days| Duration::from_secs(days * DAY);
        Expiry {
            root: days(365),
            targets: days(90),
            revocation: days(90),
            snapshot: days(7),
            timestamp: days(7),
        }
    }
}

impl Settings {
    /// Files are named from the repository's folder on.
    pub fn parse(text: &str, folder: &Path) -> Result<Settings, String> {
        let mut settings: Settings = toml::from_str(text).map_err(|error| error.to_string())?;
        if !is_name(&settings.name) {
            return Err(format!("{:?} is no name for a fleet", settings.name));
        }
        if let Some(realm) = settings.realms.keys().find(|name| !is_name(name)) {
            return Err(format!("{realm:?} is no name of a realm"));
        }
        let from = |file: &mut Option<PathBuf>| {
            *file = file.take().map(|file| folder.join(file));
        };
        for realm in settings.realms.values_mut() {
            from(&mut realm.ca_file);
        }
        for destination in &mut settings.publish {
            from(&mut destination.ca_file);
            from(&mut destination.password_file);
        }
        Ok(settings)
    }
}

impl Destination {
    /// One that asks for no password and no CA.
    #[cfg(test)]
    pub fn plain(to: &str) -> Destination {
        Destination {
            to: to.to_owned(),
            ca_file: None,
            username: None,
            password_file: None,
        }
    }
}

impl Realm {
    /// Where the issuer serves its keys.
    pub fn jwks_uri(&self) -> String {
        let own = || {
            let issuer = self.issuer.trim_end_matches('/');
            format!("{issuer}/protocol/openid-connect/certs")
        };
        self.jwks_uri.clone().unwrap_or_else(own)
    }
}

/// Whether a text can name a fleet, a realm, a key, a model: a file and a level of a topic.
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= 64 && !text.starts_with('.') && text.chars().all(plain)
}

/// The file of a new fleet. `realms`: name, issuer, CA file.
pub fn new_file(name: &str, realms: &[(String, String, Option<PathBuf>)]) -> String {
    let mut text = format!(
        "\
# A fleet of slmd devices. What they trust is in metadata/ and targets/; this is for the manager alone.
name = {name:?}

# How long signed metadata counts from when it is made. Devices go on with the keys they have when it
# ends, but take nothing new. A stolen or withheld update is noticed after `timestamp` at the latest.
[expiry]
root = \"365d\"
targets = \"90d\"
revocation = \"90d\"
snapshot = \"7d\"
timestamp = \"7d\"

"
    );
    for (realm, issuer, ca_file) in realms {
        text.push_str(&format!("[realm.{realm}]\nissuer = {issuer:?}\n"));
        if let Some(file) = ca_file {
            text.push_str(&format!("ca_file = {:?}\n", file.display().to_string()));
        }
        text.push('\n');
    }
    if realms.is_empty() {
        text.push_str(
            "# [realm.prod]\n# issuer = \"https://keycloak.example/realms/prod\"\n\
             # ca_file = \"keycloak-ca.pem\"\n\n",
        );
    }
    text.push_str(
        "# Where `slmd fleet publish` brings it, beside --to.\n\
         # [[publish]]\n# to = \"mqtts://broker.example:8883\"\n# ca_file = \"broker-ca.pem\"\n\
         # username = \"fleet\"\n# password_file = \"broker-password\"\n",
    );
    text
}

fn days<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
    match days {
        Some(days @ 1..=MOST_DAYS) => Ok(Duration::from_secs(days * DAY)),
        _ => Err(serde::de::Error::custom(format!(
            "{text:?} is no number of days, such as \"90d\", from 1 to {MOST_DAYS}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(text, Path::new("/f"))
    }

    #[test]
    fn a_new_file_has_the_defaults_and_its_realms() {
        let ca = Some(PathBuf::from("ca \"1\".pem"));
        let realms = [("prod".to_owned(), "https://k/realms/prod/".to_owned(), ca)];
        let settings = parse(&new_file("plant", &realms)).unwrap();
        assert_eq!(settings.expiry, Expiry::default());
        assert_eq!(settings.name, "plant");
        let realm = &settings.realms["prod"];
        assert_eq!(
            realm.jwks_uri(),
            "https://k/realms/prod/protocol/openid-connect/certs"
        );
        assert_eq!(realm.ca_file, Some("/f/ca \"1\".pem".into()));
        assert!(parse(&new_file("plant", &[])).unwrap().realms.is_empty());
        // What it shows as an example is one.
        let shown = new_file("plant", &[]).replace("\n# ca_", "\nca_");
        let shown = shown
            .replace("# [", "[")
            .replace("# iss", "iss")
            .replace("# to", "to");
        let shown = shown.replace("# user", "user").replace("# pass", "pass");
        let shown = parse(&shown).unwrap();
        assert_eq!(shown.publish[0].to, "mqtts://broker.example:8883");
        assert_eq!(
            shown.realms["prod"].ca_file,
            Some("/f/keycloak-ca.pem".into())
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, said) in [
            ("", "name"),
            ("name = \"a/b\"", "a/b"),
            ("name = \"a\"\nnames = 1", "names"),
            ("name = \"a\"\n[expiry]\nroot = \"1y\"", "1y"),
            ("name = \"a\"\n[expiry]\nroot = \"0d\"", "0d"),
            ("name = \"a\"\n[expiry]\nroots = \"1d\"", "roots"),
            ("name = \"a\"\n[realm.p]\n", "issuer"),
            ("name = \"a\"\n[realm.\"p/q\"]\nissuer = \"x\"", "p/q"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
        }
    }
}
