//! `[login]`: where `slmd login` logs in, so that a technician needn't type it.

use std::path::PathBuf;

use super::read::Section;
use super::value::{issuer, text, trusted_file};

/// Defaults of `slmd login`; the daemon itself doesn't use them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub issuer: Option<String>,
    pub client_id: Option<String>,
    /// The CA that Keycloak's certificate is checked against.
    pub ca_file: Option<PathBuf>,
}

pub(super) fn login(section: &mut Section<'_>) -> Login {
    Login {
        issuer: section.optional("issuer", issuer),
        client_id: section.optional("client_id", text),
        ca_file: section.optional("ca_file", trusted_file),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn the_defaults_of_a_login_are_read_and_shown() {
        let text = |ca: &str| {
            format!(
                "device = \"edge-1\"\n[[realm]]\nname = \"dev\"\n\
                 issuer = \"https://k.example/realms/dev\"\n\
                 [[realm.endpoint]]\nclient_id = \"slm\"\nmodel = \"m\"\n\
                 [login]\nissuer = \"https://k.example/realms/dev\"\n\
                 client_id = \"slmd-technician\"\nca_file = {ca:?}\n"
            )
        };
        let config = Config::parse(&text("/etc/slmd/ca.pem")).unwrap();
        assert_eq!(config.login.client_id.as_deref(), Some("slmd-technician"));
        let shown = config.show();
        assert_eq!(shown["login"]["ca_file"], "/etc/slmd/ca.pem");
        let again = Config::parse(&toml::to_string(&shown).unwrap()).unwrap();
        assert_eq!(again.login, config.login);
        let problems = Config::parse(&text("ca.pem")).unwrap_err();
        assert_eq!(problems[0].key, "login.ca_file");
    }
}
