//! The signature algorithms that count (RFC 7518, RFC 9864): what a decision takes, and what a
//! challenge and a hint offer.

use std::fmt;

macro_rules! algorithms {
    ($first:ident $(, $next:ident)+; $($other:ident = $same:ident),*) => {
        /// Asymmetric ones only: `none` and HMAC have no place here (RFC 8725 section 3.1).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Algorithm { $first, $($next),+ }

        impl Algorithm {
            /// The names of all, of those with two both.
            pub const NAMES: &'static str =
                concat!(stringify!($first), $(" ", stringify!($next)),+ $(, " ", stringify!($other))*);

            /// What to do about another one.
            pub const HINT: &'static str = concat!(
                "the token's `alg` isn't its key's, or is none of ",
                stringify!($first), $(", ", stringify!($next)),+ $(, ", ", stringify!($other))*
            );

            /// The name that is shown.
            pub fn as_str(self) -> &'static str {
                match self {
                    Algorithm::$first => stringify!($first),
                    $(Algorithm::$next => stringify!($next),)+
                }
            }

            pub fn parse(name: &str) -> Option<Algorithm> {
                match name {
                    stringify!($first) => Some(Algorithm::$first),
                    $(stringify!($next) => Some(Algorithm::$next),)+
                    $(stringify!($other) => Some(Algorithm::$same),)*
                    _ => None,
                }
            }
        }
    };
}

// RFC 9864 section 2.2: Ed25519 is what EdDSA means with a key of that curve, the only one here.
algorithms! {
    RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA;
    Ed25519 = EdDSA
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Algorithm;

    #[test]
    fn what_is_offered_is_taken_and_nothing_else() {
        let names: Vec<&str> = Algorithm::NAMES.split(' ').collect();
        assert_eq!(names.len(), 10);
        assert!(names.iter().all(|name| Algorithm::parse(name).is_some()));
        let hint = Algorithm::HINT;
        assert!(hint.ends_with(&names.join(", ")), "{hint}");
        for name in ["none", "HS256", "ES512", "ES256K", "Ed448", "rs256", ""] {
            assert_eq!(Algorithm::parse(name), None, "{name}");
            assert!(!names.contains(&name), "{name}");
        }
    }
}
