//! `slmd trust-client` against a web server: what it asks for, keeps, says and ends with.
