//! The saved login: one file for its owner's eyes only, replaced whole.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::cli::exit::Failure;
use crate::files::{self, Care, FileError};
use crate::oauth::{Client, Login, ProofKey, Tokens};
use crate::secret::Secret;
use crate::time::Timestamp;

/// Far above two tokens and a key.
const MAX_FILE: u64 = 512 << 10;
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Where the login lies.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Place {
    folder: PathBuf,
}

/// Holding one keeps other commands from refreshing the same login; a refresh token may be good
/// for one use only.
#[derive(Debug)]
pub(super) struct Lock {
    /// Closing it lifts the lock.
    _file: File,
}

/// The file's own form. Times are seconds since 1970.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u8,
    issuer: String,
    client_id: String,
    ca_file: Option<PathBuf>,
    /// PKCS#8 in base64.
    dpop_key: String,
    access_token: String,
    dpop_bound: bool,
    expires_at: u64,
    refresh_token: Option<String>,
    refresh_expires_at: Option<u64>,
}

impl Place {
    /// `$XDG_STATE_HOME/slmd`, by default `~/.local/state/slmd`. A relative path counts as unset
    /// (XDG base directory specification).
    pub(in crate::cli) fn of_this_user() -> Result<Place, Failure> {
        let absolute = |name: &str| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let state = absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
        let state = state.ok_or_else(|| {
            Failure::failed("neither XDG_STATE_HOME nor HOME names a folder for the login; set one")
        })?;
        Ok(Place::at(state.join("slmd")))
    }

    pub(super) fn at(folder: PathBuf) -> Place {
        Place { folder }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.join("login.json")
    }

    /// The login, where there is one. Refuses a file that others could have read or written.
    pub(in crate::cli) fn load(&self) -> Result<Option<Login>, Failure> {
        let path = self.file();
        let wrong = |what: &str| Failure::failed(format!("login file {}: {what}", path.display()));
        let bytes = match files::read(&path, MAX_FILE, Care::Own) {
            Ok(bytes) => Secret::new(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(FileError::Readable { .. } | FileError::Writable { .. }) => {
                return Err(wrong(
                    "others can read it, so its tokens may be known; run slmd logout, then slmd login",
                ));
            }
            Err(FileError::Link | FileError::Foreign { .. } | FileError::NotPlain) => {
                return Err(wrong(
                    "it isn't a file of yours; remove it and run slmd login",
                ));
            }
            Err(error) => return Err(wrong(&error.to_string())),
        };
        // The parser's own words could quote a token.
        let stored: Option<Stored> = serde_json::from_slice(bytes.expose()).ok();
        let login = stored.and_then(Stored::into_login);
        let login = login.ok_or_else(|| wrong("it is damaged; run slmd login"))?;
        Ok(Some(login))
    }

    /// Replaces the file as a whole: whoever is interrupted leaves the old one.
    pub(super) fn save(&self, login: &Login) -> Result<(), Failure> {
        let text = serde_json::to_vec(&Stored::from(login));
        let text = Secret::new(text.map_err(Failure::failed)?);
        let written = self
            .prepare()
            .and_then(|()| files::replace(&self.file(), text.expose()));
        written.map_err(|e| Failure::failed(format!("{}: {e}", self.file().display())))
    }

    fn prepare(&self) -> std::io::Result<()> {
        Ok(files::private_folder(&self.folder)?)
    }

    /// Whether there was one.
    pub(in crate::cli) fn remove(&self) -> Result<bool, Failure> {
        match fs::remove_file(self.file()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Failure::failed(format!(
                "{}: {error}",
                self.file().display()
            ))),
        }
    }

    /// `None` when another command holds it for too long.
    pub(super) fn lock(&self) -> Result<Option<Lock>, Failure> {
        let failed = |e: std::io::Error| Failure::failed(format!("{}: {e}", self.folder.display()));
        self.prepare().map_err(failed)?;
        let file = files::lock_file(&self.folder.join("login.lock")).map_err(failed)?;
        for _ in 0..LOCK_TRIES {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Lock { _file: file })),
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(None)
    }
}

impl Stored {
    fn into_login(self) -> Option<Login> {
        let key = Secret::new(BASE64.decode(self.dpop_key).ok()?);
        let tokens = Tokens {
            access: Secret::new(self.access_token),
            dpop_bound: self.dpop_bound,
            expires_at: Timestamp::from_secs(self.expires_at),
            refresh: self.refresh_token.map(Secret::new),
            refresh_expires_at: self.refresh_expires_at.map(Timestamp::from_secs),
        };
        let client = Client {
            issuer: self.issuer,
            client_id: self.client_id,
            ca_file: self.ca_file,
        };
        (self.version == 1).then_some(Login {
            client,
            key: ProofKey::from_pkcs8(key)?,
            tokens,
        })
    }
}

impl From<&Login> for Stored {
    fn from(login: &Login) -> Stored {
        let (client, tokens) = (&login.client, &login.tokens);
        Stored {
            version: 1,
            issuer: client.issuer.clone(),
            client_id: client.client_id.clone(),
            ca_file: client.ca_file.clone(),
            dpop_key: BASE64.encode(login.key.pkcs8().expose()),
            access_token: tokens.access.expose().clone(),
            dpop_bound: tokens.dpop_bound,
            expires_at: tokens.expires_at.as_secs(),
            refresh_token: tokens.refresh.as_ref().map(|token| token.expose().clone()),
            refresh_expires_at: tokens.refresh_expires_at.map(Timestamp::as_secs),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    use super::*;

    fn login(access: &str) -> Login {
        Login {
            client: Client {
                issuer: "https://k/realms/dev".to_owned(),
                client_id: "slmd-technician".to_owned(),
                ca_file: Some("/ca.pem".into()),
            },
            key: ProofKey::generate().unwrap(),
            tokens: Tokens {
                access: Secret::new(access.to_owned()),
                dpop_bound: true,
                expires_at: Timestamp::from_secs(1000),
                refresh: Some(Secret::new("r".to_owned())),
                refresh_expires_at: None,
            },
        }
    }

    fn place() -> (tempfile::TempDir, Place) {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::at(folder.path().join("state/slmd"));
        (folder, place)
    }

    #[test]
    fn a_login_is_its_owners_alone_and_comes_back_whole() {
        let (_folder, place) = place();
        assert!(place.load().unwrap().is_none());
        place.save(&login("a")).unwrap();
        place.save(&login("b")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&place.file()), 0o600);
        assert_eq!(mode(&place.folder), 0o700);
        assert_eq!(fs::read_dir(&place.folder).unwrap().count(), 1);
        let loaded = place.load().unwrap().unwrap();
        assert_eq!(loaded.tokens.access.expose(), "b");
        assert_eq!(loaded.tokens.expires_at, Timestamp::from_secs(1000));
        assert_eq!(loaded.client.ca_file, Some("/ca.pem".into()));
        assert!(place.remove().unwrap());
        assert!(!place.remove().unwrap());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_and_never_quoted() {
        let (_folder, place) = place();
        place.save(&login("hunter2")).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(place.file(), Permissions::from_mode(mode)).unwrap();
            let said = place.load().unwrap_err().message;
            assert!(said.contains("others can read it"), "{said}");
        }
        fs::set_permissions(place.file(), Permissions::from_mode(0o600)).unwrap();
        fs::write(place.file(), "{\"version\":1,\"hunter2\":1}").unwrap();
        let said = place.load().unwrap_err().message;
        assert!(
            said.contains("damaged") && !said.contains("hunter2"),
            "{said}"
        );
        fs::remove_file(place.file()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", place.file()).unwrap();
        assert!(place.load().is_err());
    }

    #[test]
    fn one_command_at_a_time_refreshes() {
        let (_folder, place) = place();
        let held = place.lock().unwrap().unwrap();
        let second = place.clone();
        let waiting = std::thread::spawn(move || second.lock().unwrap().is_some());
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished());
        drop(held);
        assert!(waiting.join().unwrap());
    }
}
