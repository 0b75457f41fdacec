//! A value that never shows itself in logs, errors or debug output, and is wiped when it is no longer
//! needed: tokens, prompts, passwords, keys.

use std::{fmt, io};

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use zeroize::Zeroize;

/// Wraps what must not be printed. Reading it is a visible act: [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    pub fn new(value: T) -> Secret<T> {
        Secret(value)
    }

    /// The value itself; never pass it to a log, an error or a format string.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<const N: usize> Secret<[u8; N]> {
    /// Has `fill` overwrite it.
    pub fn fill(&mut self, fill: impl FnOnce(&mut [u8])) {
        fill(&mut self.0);
    }
}

impl<'de, T: Zeroize + Deserialize<'de>> Deserialize<'de> for Secret<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Secret<T>, D::Error> {
        T::deserialize(from).map(Secret)
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Bytes that grow, and are wiped when they are no longer needed: also those of each buffer that
/// became too small, which a plain `Vec` leaves where they were.
#[derive(Default)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    pub fn push(&mut self, more: &[u8]) {
        let length = self.0.len() + more.len();
        if length > self.0.capacity() {
            let mut larger = Vec::with_capacity(length.max(2 * self.0.capacity()));
            larger.extend_from_slice(&self.0);
            std::mem::replace(&mut self.0, larger).zeroize();
        }
        self.0.extend_from_slice(more);
    }

    /// The same bytes as text; `None` where they aren't UTF-8.
    pub fn into_text(mut self) -> Option<Secret<String>> {
        let text = String::from_utf8(std::mem::take(&mut self.0));
        let wipe = |error: std::string::FromUtf8Error| error.into_bytes().zeroize();
        text.map_err(wipe).ok().map(Secret::new)
    }
}

impl io::Write for Wiped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::ops::Deref for Wiped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Wiped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Wipes a JSON value's strings: a parsed body is another copy of what it holds.
pub fn wipe_json(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe_json),
        Value::Object(members) => members.values_mut().for_each(wipe_json),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use zeroize::Zeroize;

    use super::{Secret, Wiped, wipe_json};

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(format!("{:?}", Some(secret.clone())), "Some([redacted])");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn growing_bytes_stay_what_they_are() {
        let mut bytes = Wiped::default();
        let mut plain = Vec::new();
        for n in 0..100u8 {
            let more = vec![n; usize::from(n)];
            bytes.push(&more);
            plain.extend_from_slice(&more);
        }
        assert_eq!(*bytes, *plain);
        assert_eq!(format!("{bytes:?}"), "[redacted]");
        assert_eq!(bytes.into_text().unwrap().expose().as_bytes(), plain);
        let mut broken = Wiped::default();
        broken.push(&[0xff]);
        assert!(broken.into_text().is_none());
    }

    #[test]
    fn no_string_of_a_json_value_is_left() {
        let mut value = serde_json::json!({"token": "hunter2", "list": [1, {"prompt": "hunter2"}]});
        wipe_json(&mut value);
        assert_eq!(
            value,
            serde_json::json!({"token": "", "list": [1, {"prompt": ""}]})
        );
    }

    /// Its bytes outlive it, so that they can be looked at.
    #[derive(Clone)]
    struct Watched(Rc<RefCell<Vec<u8>>>);

    impl Zeroize for Watched {
        fn zeroize(&mut self) {
            self.0.borrow_mut().as_mut_slice().zeroize();
        }
    }

    #[test]
    fn what_is_dropped_is_wiped() {
        let bytes = Rc::new(RefCell::new(b"hunter2".to_vec()));
        let secret = Secret::new(Watched(Rc::clone(&bytes)));
        assert_eq!(*bytes.borrow(), b"hunter2");
        drop(secret);
        assert_eq!(*bytes.borrow(), [0; 7]);
    }
}
