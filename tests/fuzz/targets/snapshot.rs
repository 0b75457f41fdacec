//! The snapshot role's metadata: any bytes as its file, and any bytes signed by its keys.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slmd_fuzz::fleet::judge;

fuzz_target!(|data: &[u8]| judge("snapshot", data));
