//! What devices trust: the TUF client against repositories that python-tuf has made, sound ones and
//! attacks; and `slmd trust-client`, which is the same client behind the public conformance suite's
//! command line.

mod attacks;
mod properties;
mod protocol;
mod support;
