//! Who this device is: its name, this boot, and random ids. (Its signing key will live here too.)

use serde::Serialize;

/// The appliance as topics, audit and DPoP names speak of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// One MQTT topic level: no `/`, `+`, `#`, no control characters, at most 64 bytes.
    pub device: String,
    /// The kernel's id of this boot; random where the kernel tells none.
    pub boot_id: String,
}

impl Identity {
    /// `None` when `device` can't be a topic level.
    pub fn new(device: &str) -> Option<Identity> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_or_else(|_| random_hex::<16>(), |id| id.trim().to_owned());
        is_topic_level(device).then(|| Identity {
            device: device.to_owned(),
            boot_id,
        })
    }
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

/// `N` random bytes as hexadecimal.
pub fn random_hex<const N: usize>() -> String {
    hex(&random::<N>())
}

/// `N` random bytes from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // INVARIANT: aws-lc aborts rather than return when the system has no randomness left to give.
    aws_lc_rs::rand::fill(&mut bytes).expect("system randomness");
    bytes
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// SHA-256 over `parts`, each preceded by its length, so that no two lists collide.
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
