//! The token that somebody hands in: by a file, standard input or the environment, bare or in what
//! it came in.

use std::path::Path;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::exit::Failure;
use super::{input, output};
use crate::files::{self, Care, FileError};
use crate::secret::Secret;

/// The daemon refuses larger tokens anyway.
const MAX_TOKEN: u64 = 64 << 10;
const VARIABLE: &str = "SLMD_TOKEN";
/// What Windows' editors begin a text with.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Why something handed in isn't a token. Nothing of it is quoted, but Keycloak's own error.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Wrong {
    #[error("is empty")]
    Empty,
    #[error("isn't text")]
    NotText,
    #[error("begins like JSON but can't be read as it")]
    BadJson,
    #[error("holds JSON without an access_token")]
    NoToken,
    #[error("holds Keycloak's refusal instead of a token: {0}")]
    Refusal(String),
    #[error("holds \"null\", which is what jq prints where there is no access_token")]
    Null,
    #[error("holds the scheme of a token without the token")]
    OnlyScheme,
    #[error("holds several words or lines, and a token is one word")]
    Words,
    #[error("holds characters that no token has")]
    Characters,
}

/// Keycloak's answer (RFC 6749 sections 5.1 and 5.2). What else it holds stays unread.
#[derive(Deserialize)]
struct Answer {
    access_token: Option<Secret<String>>,
    error: Option<String>,
    error_description: Option<String>,
}

/// The token in `file`; `-` is standard input. One that others can read or change may be theirs by
/// now: that is said, and no reason to refuse, because it is its owner's and lives minutes.
pub(super) fn in_file(file: &Path) -> Result<Secret<String>, Failure> {
    let stdin = file == Path::new("-");
    let care = files::check(file, Care::Secret);
    if let (false, Err(FileError::Open { .. } | FileError::Writable { .. })) = (stdin, care) {
        let file = file.display();
        eprintln!("slmd: warning: others can use the token in {file}; run chmod 0600 {file}");
    }
    let bytes = Zeroizing::new(input::read(file, MAX_TOKEN)?);
    let (what, instead) = match stdin {
        true => ("standard input".to_owned(), ""),
        false => (
            format!("token file {}", file.display()),
            ", or leave the file out",
        ),
    };
    parse(&bytes).map_err(|wrong| {
        Failure::failed(format!(
            "{what} {wrong}; put a Keycloak access token there{instead}"
        ))
    })
}

/// Whether there is anything in `SLMD_TOKEN`.
pub(super) fn is_in_environment() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// The token in `SLMD_TOKEN`, where that is set.
pub(super) fn in_environment() -> Result<Option<Secret<String>>, Failure> {
    let Some(value) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let bytes = Zeroizing::new(value.into_encoded_bytes());
    let token = parse(&bytes).map_err(|wrong| {
        Failure::failed(format!(
            "{VARIABLE} {wrong}; set it to a Keycloak access token, or unset it to use the login \
             of slmd login"
        ))
    });
    token.map(Some)
}

/// The access token in what was handed in: bare, as the value of `Authorization`, as a string of
/// JSON, or in Keycloak's whole answer. Each of these can hold one only.
fn parse(bytes: &[u8]) -> Result<Secret<String>, Wrong> {
    let text = std::str::from_utf8(bytes).map_err(|_| Wrong::NotText)?;
    let text = text.trim_start_matches(BYTE_ORDER_MARK).trim();
    match text.as_bytes().first() {
        None => Err(Wrong::Empty),
        Some(b'{') => {
            let answer: Answer = serde_json::from_str(text).map_err(|_| Wrong::BadJson)?;
            bare(answer.token()?.expose())
        }
        Some(b'"') => {
            let token: Secret<String> = serde_json::from_str(text).map_err(|_| Wrong::BadJson)?;
            bare(token.expose())
        }
        Some(_) => bare(text),
    }
}

impl Answer {
    fn token(self) -> Result<Secret<String>, Wrong> {
        match (self.access_token, self.error, self.error_description) {
            (Some(token), ..) => Ok(token),
            (None, None, _) => Err(Wrong::NoToken),
            (None, Some(error), None) => Err(Wrong::Refusal(output::printable(&error))),
            (None, Some(error), Some(said)) => {
                let said = format!("{error}: {said}");
                Err(Wrong::Refusal(output::printable(&said)))
            }
        }
    }
}

/// The one word that is a token, without the name of its header and its scheme.
fn bare(text: &str) -> Result<Secret<String>, Wrong> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let words = match words.as_slice() {
        [name, rest @ ..] if name.eq_ignore_ascii_case("authorization:") => rest,
        words => words,
    };
    let token = match words {
        [] => return Err(Wrong::Empty),
        ["null"] => return Err(Wrong::Null),
        [scheme] if is_scheme(scheme) => return Err(Wrong::OnlyScheme),
        [token] => token,
        [scheme, token] if is_scheme(scheme) => token,
        _ => return Err(Wrong::Words),
    };
    if !is_b64token(token) {
        return Err(Wrong::Characters);
    }
    Ok(Secret::new((*token).to_owned()))
}

fn is_scheme(word: &str) -> bool {
    ["bearer", "dpop"].contains(&word.to_ascii_lowercase().as_str())
}

/// RFC 6750 section 2.1.
fn is_b64token(word: &str) -> bool {
    let body = word.trim_end_matches('=');
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !body.is_empty() && body.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_out_of_what_it_came_in() {
        for handed_in in [
            "a.b-c_d.e~f+g/h==",
            "\u{feff} a.b-c_d.e~f+g/h==\r\n",
            "Bearer a.b-c_d.e~f+g/h==\n",
            "dpop  a.b-c_d.e~f+g/h==",
            "Authorization: Bearer a.b-c_d.e~f+g/h==",
            "\"a.b-c_d.e~f+g/h==\"\n",
            r#"{"access_token":"a.b-c_d.e~f+g/h==","expires_in":300,"refresh_token":"r","token_type":"Bearer"}"#,
        ] {
            let token = parse(handed_in.as_bytes()).unwrap();
            assert_eq!(token.expose(), "a.b-c_d.e~f+g/h==", "{handed_in}");
        }
    }

    #[test]
    fn what_holds_no_token_is_named_for_what_it_is() {
        let refusal = r#"{"error":"invalid_client","error_description":"no\u001b client"}"#;
        let refused = Wrong::Refusal("invalid_client: no\u{fffd} client".to_owned());
        for (handed_in, wrong) in [
            ("", Wrong::Empty),
            (" \n", Wrong::Empty),
            ("\"\"", Wrong::Empty),
            (r#"{"access_token":""}"#, Wrong::Empty),
            ("null\n", Wrong::Null),
            ("Bearer \n", Wrong::OnlyScheme),
            (refusal, refused),
            (r#"{"id_token":"a.b.c"}"#, Wrong::NoToken),
            (r#"{"access_token":null}"#, Wrong::NoToken),
            (r#"{"access_token":7}"#, Wrong::BadJson),
            (r#"{"access_token":"a","access_token":"b"}"#, Wrong::BadJson),
            (r#"{"access_token":"a.b"#, Wrong::BadJson),
            ("\"a.b", Wrong::BadJson),
            ("a.b\na.c", Wrong::Words),
            ("Bearer a b", Wrong::Words),
            ("Basic dTpw", Wrong::Words),
            ("a.b.\u{e9}", Wrong::Characters),
            ("<html>", Wrong::Characters),
            ("a=b", Wrong::Characters),
            ("==", Wrong::Characters),
        ] {
            assert_eq!(
                parse(handed_in.as_bytes()).unwrap_err(),
                wrong,
                "{handed_in}"
            );
        }
        assert_eq!(parse(b"a\xff").unwrap_err(), Wrong::NotText);
    }

    #[test]
    fn only_what_keycloak_says_itself_is_repeated() {
        for handed_in in ["sec ret", "{\"sec\": \"ret\"}", "\"sec", "sec\u{e9}ret"] {
            let wrong = parse(handed_in.as_bytes()).unwrap_err().to_string();
            assert!(!wrong.contains("sec") && !wrong.contains("ret"), "{wrong}");
        }
    }
}
