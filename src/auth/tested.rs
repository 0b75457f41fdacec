//! RSA moduli that were found sound before: a set of keys is read again at each start, refresh and
//! change, and their tests cost more than all else of it.
//!
//! What a test says depends on the modulus alone, and a name here is its SHA-256, so nobody can have
//! one pass for another. Only sound ones are remembered: whoever brings many can make others be tested
//! again, as they were before, and nothing else.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::weak;
use crate::digest::sha256;

/// More than the keys of all realms of an appliance; 8 KiB.
const MOST: usize = 256;

static SOUND: Tested = Tested::new(MOST);

/// [`weak::thorough_rsa`], once for each modulus that passes.
pub(super) fn rsa(modulus: &[u8]) -> Result<(), String> {
    SOUND.check(modulus, weak::thorough_rsa)
}

struct Tested {
    most: usize,
    /// The latest last.
    sound: Mutex<VecDeque<[u8; 32]>>,
}

impl Tested {
    const fn new(most: usize) -> Tested {
        Tested {
            most,
            sound: Mutex::new(VecDeque::new()),
        }
    }

    fn check(
        &self,
        modulus: &[u8],
        test: impl FnOnce(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let name = sha256(modulus);
        if self.sound.lock().contains(&name) {
            return Ok(());
        }
        test(modulus)?;
        let mut sound = self.sound.lock();
        if sound.contains(&name) {
            return Ok(());
        }
        if sound.len() >= self.most {
            sound.pop_front();
        }
        sound.push_back(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
    use aws_lc_rs::signature::{KeyPair, RsaKeyPair};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;
    use crate::auth::keyset::KeySet;

    #[test]
    fn what_was_sound_is_tested_once_and_what_was_weak_each_time() {
        let (tested, tests) = (Tested::new(4), Cell::new(0));
        let check = |modulus: &[u8], verdict: Result<(), &str>| {
            let known = tests.get();
            let said = tested.check(modulus, |_| {
                tests.set(known + 1);
                verdict.map_err(str::to_owned)
            });
            (said, tests.get() - known)
        };
        let weak = (Err("it is even".to_owned()), 1);
        for _ in 0..3 {
            assert_eq!(check(b"weak", Err("it is even")), weak);
        }
        assert_eq!(check(b"one", Ok(())), (Ok(()), 1));
        for _ in 0..3 {
            assert_eq!(check(b"one", Ok(())), (Ok(()), 0));
        }
        // A crowd of others, sound or weak, costs a test more and takes no more room.
        for n in 0..100_u8 {
            assert_eq!(check(&[n], Ok(())), (Ok(()), 1));
            assert_eq!(check(&[n, n], Err("it is even")), weak);
        }
        assert_eq!(tested.sound.lock().len(), 4);
        assert_eq!(check(b"one", Ok(())), (Ok(()), 1));
        assert_eq!(check(b"weak", Err("it is even")), weak);
    }

    /// A set is read at each start, refresh and change.
    #[test]
    fn a_set_that_is_read_again_tests_no_key_again() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let n = PublicKeyComponents::<Vec<u8>>::from(pair.public_key()).n;
        let n = URL_SAFE_NO_PAD.encode(n);
        let key = json!({"kty": "RSA", "kid": "a", "alg": "RS256", "n": n, "e": "AQAB"});
        let set = json!({"keys": [key]}).to_string();
        let before = weak::TESTS.get();
        for _ in 0..4 {
            assert!(!KeySet::parse(set.as_bytes()).unwrap().is_empty());
        }
        assert_eq!(weak::TESTS.get() - before, 1);
    }
}
