//! The store against what happens to it: restarts, leftovers, damage, a full disk.
