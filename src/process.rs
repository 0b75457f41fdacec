//! What the kernel is told about this process: that its memory is nobody else's.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Keeps tokens and prompts out of core dumps, and other processes of the same user out of this
/// one's memory (prctl(2), PR_SET_DUMPABLE). For the start, before a secret has been read.
pub fn keep_memory_private() {
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = hidden.and_then(|()| setrlimit(Resource::Core, none)) {
        eprintln!("slmd: warning: core dumps can't be switched off ({error})");
    }
}
