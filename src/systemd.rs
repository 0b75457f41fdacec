//! Readiness, watchdog and socket activation, when systemd started us.
