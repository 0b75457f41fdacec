//! Groups of this machine by name.

use std::ffi::CString;

/// The largest entry that is read: a group with very many members.
const MAX_ENTRY: usize = 1 << 20;

/// The group's id (`getgrnam_r(3)`).
pub(super) fn id(name: &str) -> Result<u32, String> {
    let text = CString::new(name).map_err(|_| format!("{name:?} is no group's name"))?;
    let mut room = 4096;
    loop {
        let mut buffer: Vec<libc::c_char> = vec![0; room];
        let mut found = std::ptr::null_mut();
        // SAFETY: `text` ends in NUL, `buffer` is `room` long, all outlive the call; a zeroed group
        // is a valid place for the answer, and of it only the plain number is read.
        let (error, gid) = unsafe {
            let mut entry: libc::group = std::mem::zeroed();
            let error = libc::getgrnam_r(
                text.as_ptr(),
                &raw mut entry,
                buffer.as_mut_ptr(),
                room,
                &raw mut found,
            );
            (error, entry.gr_gid)
        };
        match error {
            libc::ERANGE if room < MAX_ENTRY => room *= 4,
            _ if !found.is_null() => return Ok(gid),
            0 | libc::ENOENT => {
                return Err(format!(
                    "{name:?} is no group of this machine; make it with `groupadd {name}`"
                ));
            }
            error => {
                let error = std::io::Error::from_raw_os_error(error);
                return Err(format!("group {name:?} can't be looked up: {error}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_looked_up_on_this_machine() {
        assert_eq!(super::id("root"), Ok(0));
        assert!(super::id("no-such-group").unwrap_err().contains("groupadd"));
        assert!(super::id("a\0b").is_err());
    }
}
