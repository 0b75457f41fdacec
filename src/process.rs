//! What the kernel is told about this process: that its memory is nobody else's, and how many
//! descriptors it needs.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

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

/// Raises the limit of open files to `needed`, as far as it may be raised. Returns what it is.
pub fn raise_descriptors(needed: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let (Some(current), most) = (limit.current, limit.maximum.unwrap_or(u64::MAX)) else {
        return u64::MAX;
    };
    let wanted = Rlimit {
        current: Some(needed.min(most)),
        maximum: limit.maximum,
    };
    match current < needed && setrlimit(Resource::Nofile, wanted).is_ok() {
        true => needed.min(most),
        false => current,
    }
}

/// The memory that this process holds now, the files that it has mapped included (proc(5), `statm`).
pub fn resident_bytes() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let resident: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(resident.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_held_is_told_in_bytes() {
        let held = vec![1_u8; 64 << 20];
        let told = resident_bytes().unwrap();
        assert!(told > held.len() as u64, "{told}");
        assert!(std::hint::black_box(held).iter().all(|byte| *byte == 1));
    }

    #[test]
    fn the_limit_is_raised_and_never_lowered() {
        let before = getrlimit(Resource::Nofile);
        let (Some(current), most) = (before.current, before.maximum.unwrap_or(u64::MAX)) else {
            return;
        };
        assert_eq!(raise_descriptors(1), current);
        assert_eq!(raise_descriptors(current), current);
        let raised = raise_descriptors(u64::MAX);
        assert!(raised >= current && raised <= most, "{raised}");
    }
}
