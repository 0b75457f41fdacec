//! The composition root: bind, ready, reload, drain.
