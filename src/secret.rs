//! A value that never shows itself in logs, errors or debug output, and is wiped when it is no longer
//! needed: tokens, prompts, passwords, keys.

use std::fmt;

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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use zeroize::Zeroize;

    use super::Secret;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(format!("{:?}", Some(secret.clone())), "Some([redacted])");
        assert_eq!(secret.expose(), "hunter2");
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
