//! Who this device is: its name, this boot, its signing key, the nonces it gives out for DPoP
//! proofs, and random ids.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde::Serialize;

use crate::digest::{hex, sha256};
use crate::files::{self, Care, FileError};
use crate::secret::Secret;
use crate::time::{Moment, Timestamp};

/// Where a device's name stands in topics, fleets have this one.
const FLEETS: &str = "trust";

/// The device's key in the state folder.
pub const KEY_FILE: &str = "device.key";

/// A PKCS #8 Ed25519 key takes less than 100 bytes.
const MAX_KEY_FILE: u64 = 1024;

/// What a witness signs begins with this line (C2SP tlog-cosignature), and a device is none.
const COSIGNATURE: &str = "cosignature/";

/// How long one nonce is the current one, in seconds. It is taken for as long again.
const NONCE_PERIOD: u64 = 300;

/// The appliance as topics, audit and DPoP names speak of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// See [`is_device_name`].
    pub device: String,
    /// The kernel's id of this boot; random where the kernel tells none.
    pub boot_id: String,
}

impl Identity {
    /// `None` when `device` can't be a device's name.
    pub fn new(device: &str) -> Option<Identity> {
        // Where the kernel's can't be read (`ProcSubset=pid`) this process has one all the same.
        static BOOT_ID: OnceLock<String> = OnceLock::new();
        let boot_id = BOOT_ID.get_or_init(|| {
            let kernels = fs::read_to_string("/proc/sys/kernel/random/boot_id");
            kernels.map_or_else(|_| random_hex::<16>(), |id| id.trim().to_owned())
        });
        is_device_name(device).then(|| Identity {
            device: device.to_owned(),
            boot_id: boot_id.clone(),
        })
    }
}

/// The device's Ed25519 key. Cheap to clone.
#[derive(Clone)]
pub struct Key(Arc<Pair>);

struct Pair {
    private: Ed25519KeyPair,
    public: PublicKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Reads the key, or makes it at the first start; it is durable when this returns. A file that
    /// is damaged is an error: a new key would silently make this another device.
    pub fn open(state_folder: &Path) -> io::Result<Key> {
        let file = state_folder.join(KEY_FILE);
        let told = |e: FileError| io::Error::new(e.kind(), format!("{}: {e}", file.display()));
        let mut read = files::read(&file, MAX_KEY_FILE, Care::Own);
        if let Err(FileError::Readable { .. }) = read {
            tracing::warn!("others could read the device's key; from now on they can't");
            files::close(&file).map_err(told)?;
            read = files::read(&file, MAX_KEY_FILE, Care::Own);
        }
        let pkcs8 = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(&file)?,
            read => Secret::new(read.map_err(told)?),
        };
        Key::of(&pkcs8)
    }

    fn of(pkcs8: &Secret<Vec<u8>>) -> io::Result<Key> {
        let private = parse_key(pkcs8)?;
        let public = PublicKey::of(&private)?;
        Ok(Key(Arc::new(Pair { private, public })))
    }

    /// The key, where there is one; nothing is made or mended.
    pub fn find(state_folder: &Path) -> io::Result<Option<Key>> {
        match files::read(&state_folder.join(KEY_FILE), MAX_KEY_FILE, Care::Own) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => Key::of(&Secret::new(read?)).map(Some),
        }
    }

    /// Whether [`Key::open`] would find fault with it; nothing is made or mended.
    pub fn check(state_folder: &Path) -> io::Result<()> {
        let file = state_folder.join(KEY_FILE);
        match files::read(&file, MAX_KEY_FILE, Care::Own) {
            Ok(pkcs8) => parse_key(&Secret::new(pkcs8)).map(drop),
            Err(FileError::Readable { .. }) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The one of RFC 8037 appendix A.1.
    #[cfg(test)]
    pub fn published() -> Key {
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A");
        let private = Ed25519KeyPair::from_seed_unchecked(&seed.unwrap()).unwrap();
        let public = PublicKey::of(&private).unwrap();
        Key(Arc::new(Pair { private, public }))
    }

    /// What others know the device by.
    pub fn public(&self) -> &PublicKey {
        &self.0.public
    }

    /// A compact JWS (RFC 7515) over `payload`. `typ` is a media type of its own for each kind of
    /// document, so that none passes for another; nor does a nonce, which is signed without a header.
    pub fn jws(&self, typ: &str, payload: &[u8]) -> String {
        let kid = self.0.public.thumbprint();
        let header = format!(r#"{{"alg":"EdDSA","typ":"{typ}","kid":"{kid}"}}"#);
        let parts = [header.as_bytes(), payload].map(|part| URL_SAFE_NO_PAD.encode(part));
        let input = parts.join(".");
        let signature = URL_SAFE_NO_PAD.encode(self.0.private.sign(input.as_bytes()));
        format!("{input}.{signature}")
    }

    /// A signature over a note's text (C2SP signed-note). `None` where it isn't whole lines: the input
    /// of a JWS has no line's end, and a nonce has control characters, so neither passes for a note. Nor
    /// does what a witness signs.
    pub fn sign_note(&self, text: &str) -> Option<[u8; 64]> {
        let lines = text.ends_with('\n') && !text.starts_with('\n');
        let clean = text.bytes().all(|byte| byte >= b' ' || byte == b'\n');
        let note = lines && clean && !text.starts_with(COSIGNATURE);
        let signature = note.then(|| self.0.private.sign(text.as_bytes()));
        signature.and_then(|signature| signature.as_ref().try_into().ok())
    }
}

/// The public half of a device's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    x: [u8; 32],
    thumbprint: String,
}

impl PublicKey {
    fn of(private: &Ed25519KeyPair) -> io::Result<PublicKey> {
        let x = private.public_key().as_ref().try_into();
        x.map(PublicKey::new)
            .map_err(|_| unusable("its public half isn't of 32 bytes"))
    }

    /// As RFC 8032 encodes it.
    pub fn new(x: [u8; 32]) -> PublicKey {
        // RFC 7638 section 3.2: the required members in lexicographic order.
        let x_text = URL_SAFE_NO_PAD.encode(x);
        let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x_text}"}}"#);
        PublicKey {
            x,
            thumbprint: URL_SAFE_NO_PAD.encode(sha256(jwk.as_bytes())),
        }
    }

    /// What [`PublicKey::x`] writes.
    pub fn parse(x: &str) -> Option<PublicKey> {
        let x = URL_SAFE_NO_PAD.decode(x).ok()?;
        x.try_into().ok().map(PublicKey::new)
    }

    /// As it is shown and enrolled: the `x` of its JWK (RFC 8037), 43 characters of base64url.
    pub fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.x)
    }

    /// As RFC 8032 encodes it.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.x
    }

    /// RFC 7638, SHA-256, base64url.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.x);
        key.verify(message, signature).is_ok()
    }
}

fn parse_key(pkcs8: &Secret<Vec<u8>>) -> io::Result<Ed25519KeyPair> {
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.expose());
    pair.map_err(|_| unusable("it is no PKCS #8 Ed25519 key; restore it"))
}

fn make_key(file: &Path) -> io::Result<Secret<Vec<u8>>> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new());
    let pkcs8 = pkcs8.map_err(|_| io::Error::other("no key could be made"))?;
    files::replace(file, pkcs8.as_ref())?;
    Ok(Secret::new(pkcs8.as_ref().to_vec()))
}

fn unusable(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// DPoP nonces (RFC 9449 section 8) that this device signs, so that it needn't remember them: the
/// periods of both clocks, and a signature over these and the boot. A wall clock that is set back
/// brings none back, because the uptime doesn't go back; and none outlives its boot. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Nonces {
    key: Key,
    device: Arc<str>,
    boot: u64,
    /// Those last asked for, so that not every message costs signatures.
    recent: Arc<Mutex<VecDeque<(Periods, String)>>>,
}

/// When the periods of the wall clock and of the uptime began, in seconds.
type Periods = (u64, u64);

/// Nonces that are asked for in turn: by each clock the current period and the one before.
const RECENT: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce {
    pub value: String,
    /// From then on it is refused.
    pub expires_at: Timestamp,
}

impl Nonces {
    /// `boot`: this boot's id.
    pub fn new(key: Key, device: &str, boot: u64) -> Nonces {
        Nonces {
            key,
            device: device.into(),
            boot,
            recent: Arc::default(),
        }
    }

    pub fn current(&self, now: Moment) -> Nonce {
        let periods = [now.known.as_secs(), now.uptime.as_secs()].map(|secs| {
            let start = period(secs);
            (
                start,
                start.saturating_add(2 * NONCE_PERIOD).saturating_sub(secs),
            )
        });
        let [(known, left), (uptime, left_of_uptime)] = periods;
        let left = Duration::from_secs(left.min(left_of_uptime));
        Nonce {
            value: self.of((known, uptime)),
            expires_at: now.known.saturating_add(left),
        }
    }

    /// Those of the current period and the one before, by each clock.
    pub fn accepted(&self, now: Moment) -> Vec<String> {
        let [known, uptime] = [now.known.as_secs(), now.uptime.as_secs()].map(|secs| {
            let start = period(secs);
            std::iter::once(start).chain(start.checked_sub(NONCE_PERIOD))
        });
        known
            .flat_map(|known| uptime.clone().map(move |uptime| (known, uptime)))
            .map(|periods| self.of(periods))
            .collect()
    }

    fn of(&self, periods: Periods) -> String {
        let mut recent = self.recent.lock();
        if let Some((_, nonce)) = recent.iter().find(|(of, _)| *of == periods) {
            return nonce.clone();
        }
        let nonce = self.signed(periods);
        recent.truncate(RECENT - 1);
        recent.push_front((periods, nonce.clone()));
        nonce
    }

    fn signed(&self, (known, uptime): Periods) -> String {
        let said = [known, uptime].map(u64::to_be_bytes).concat();
        let boot = self.boot.to_be_bytes();
        let device = self.device.as_bytes();
        let signed = [b"slmd-dpop-nonce-2\0", device, b"\0", &boot, &said].concat();
        let signature = self.key.0.private.sign(&signed);
        URL_SAFE_NO_PAD.encode([&said, signature.as_ref()].concat())
    }
}

/// When the period that holds `secs` began.
fn period(secs: u64) -> u64 {
    secs / NONCE_PERIOD * NONCE_PERIOD
}

/// The machine's host name, as a default for the device's.
pub fn host_name() -> Option<String> {
    let name = rustix::system::uname();
    let name = name.nodename().to_str().ok()?;
    is_topic_level(name).then(|| name.to_owned())
}

/// Whether `text` may stand as one level of an MQTT topic (MQTT 5 section 4.7) and in a file name.
pub fn is_topic_level(text: &str) -> bool {
    let clean = |c: char| !matches!(c, '/' | '+' | '#' | '$') && !c.is_control();
    !text.is_empty() && text.len() <= 64 && text.chars().all(clean)
}

/// Whether `text` may name a device: one level of a topic, but not that of the fleets' topics,
/// `slm/trust/…`.
pub fn is_device_name(text: &str) -> bool {
    is_topic_level(text) && text != FLEETS
}

/// `N` random bytes as hexadecimal.
pub fn random_hex<const N: usize>() -> String {
    hex(&random::<N>())
}

/// Uniform in 0..1.
pub fn chance() -> f64 {
    let bits = u32::from_be_bytes(random());
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// `N` random bytes from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // INVARIANT: aws-lc aborts rather than return when the system has no randomness left to give.
    aws_lc_rs::rand::fill(&mut bytes).expect("system randomness");
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::time::Uptime;

    #[test]
    fn the_device_key_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let now = moment(0, 0);
        let nonce = || Nonces::new(Key::open(folder.path()).unwrap(), "edge-1", 7).current(now);
        let first = nonce();
        assert_eq!(nonce(), first, "the key survives");
        let file = folder.path().join(KEY_FILE);
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let other = tempfile::tempdir().unwrap();
        let other = Nonces::new(Key::open(other.path()).unwrap(), "edge-1", 7);
        assert_ne!(other.current(now), first);
    }

    #[test]
    fn what_it_signs_is_known_by_its_public_half() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Key::find(folder.path()).unwrap().is_none());
        let key = Key::open(folder.path()).unwrap();
        let found = Key::find(folder.path()).unwrap().unwrap();
        assert_eq!(found.public(), key.public());
        let shown = key.public().x();
        assert_eq!(shown.len(), 43);
        assert_eq!(PublicKey::parse(&shown).as_ref(), Some(key.public()));
        let jws = key.jws("a+jwt", b"{}");
        let (input, signature) = jws.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(key.public().verify(input.as_bytes(), &signature));
        assert!(!key.public().verify(b"another", &signature));
        // RFC 8037 appendices A.2 and A.3.
        let published = PublicKey::parse("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let thumbprint = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
        assert_eq!(published.thumbprint(), thumbprint);
        assert!(!published.verify(input.as_bytes(), &signature));
        for bad in ["", "11qY", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo="] {
            assert_eq!(PublicKey::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_damaged_device_key_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(KEY_FILE);
        for damage in [&b""[..], b"no key", &[0; 4096]] {
            fs::write(&file, damage).unwrap();
            assert!(Key::open(folder.path()).is_err());
            assert_eq!(fs::read(&file).unwrap(), damage);
        }
    }

    fn moment(secs: u64, uptime: u64) -> Moment {
        Moment {
            known: Timestamp::from_secs(1_800_000_000 + secs),
            uptime: Uptime(uptime * 1000),
        }
    }

    #[test]
    fn the_device_key_is_never_reached_through_a_link_and_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        Key::open(folder.path()).unwrap();
        let file = folder.path().join(KEY_FILE);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let change = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        change(&file, 0o644);
        Key::open(folder.path()).unwrap();
        assert_eq!(mode(&file), 0o600);
        // Who could write it may have put his own there.
        change(&file, 0o660);
        assert!(Key::open(folder.path()).is_err());
        let target = folder.path().join("somebody's");
        fs::rename(&file, &target).unwrap();
        change(&target, 0o644);
        std::os::unix::fs::symlink(&target, &file).unwrap();
        let refused = Key::open(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("symbolic link"), "{refused}");
        assert_eq!(mode(&target), 0o644, "its mode is its owner's affair");
    }

    #[test]
    fn what_is_no_note_is_not_signed_as_one() {
        let key = Key::published();
        let text = "slmd.internal/edge-1/1\n3\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let signature = key.sign_note(text).unwrap();
        assert!(key.public().verify(text.as_bytes(), &signature));
        let jws = key.jws("slmd-report+jwt", b"{}");
        let (input, _) = jws.rsplit_once('.').unwrap();
        let cosigned = format!("cosignature/v1\ntime 7\n{text}");
        for other in [
            "",
            "\n",
            "\na\n",
            input,
            "a\nb",
            "slmd-dpop-nonce-2\0a\n",
            "a\r\n",
            &cosigned,
        ] {
            assert_eq!(key.sign_note(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_nonce_is_taken_for_two_periods_on_one_device_in_one_boot() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::open(folder.path()).unwrap();
        let nonces = Nonces::new(key.clone(), "edge-1", 7);
        let nonce = nonces.current(moment(10, 910));
        assert_eq!(nonce.expires_at, moment(600, 0).known);
        for (secs, taken) in [
            (0, true),
            (299, true),
            (300, true),
            (599, true),
            (600, false),
        ] {
            let by_the_wall = nonces.accepted(moment(secs, 910));
            assert_eq!(by_the_wall.contains(&nonce.value), taken, "{secs}");
            let by_the_uptime = nonces.accepted(moment(10, 900 + secs));
            assert_eq!(by_the_uptime.contains(&nonce.value), taken, "{secs}");
        }
        for other in [
            Nonces::new(key.clone(), "edge-2", 7),
            Nonces::new(key.clone(), "edge-1", 8),
        ] {
            assert!(!other.accepted(moment(10, 910)).contains(&nonce.value));
        }
        let again = Nonces::new(key, "edge-1", 7);
        assert!(
            again.accepted(moment(10, 911)).contains(&nonce.value),
            "after a restart"
        );
        // The one that ends first counts.
        assert_eq!(
            nonces.current(moment(10, 1190)).expires_at,
            moment(320, 0).known
        );
        assert_eq!(nonces.accepted(Moment::default()).len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_brings_no_nonce_back() {
        let folder = tempfile::tempdir().unwrap();
        let nonces = Nonces::new(Key::open(folder.path()).unwrap(), "edge-1", 7);
        let nonce = nonces.current(moment(10, 910)).value;
        for back in 0..700 {
            let later = nonces.accepted(moment(back, 910 + 600));
            assert!(!later.contains(&nonce), "{back}");
        }
    }
}
