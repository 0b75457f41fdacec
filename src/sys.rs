//! What the kernel and the C library tell that no safe interface has. With the engine's kernels
//! the only place where `unsafe` compiles.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the kernel takes for the error of a clock that nobody keeps (`NTP_PHASE_LIMIT`), in
/// microseconds.
const MAX_ERROR: libc::c_long = 16_000_000;
/// A peer in more groups than these is taken to be in none of them.
const MAX_GROUPS: usize = 1024;
/// The largest entry of a group that is read: one with very many members.
const MAX_ENTRY: usize = 1 << 20;

/// Whether the kernel's clock is kept in step with a time source: its maximum error is below the
/// limit. `STA_UNSYNC` isn't looked at, because chrony without `rtcsync` leaves it set so that the
/// kernel doesn't write the RTC; `timedatectl` judges likewise (systemd's `ntp_synced`,
/// src/basic/time-util.c).
pub fn clock_synchronised() -> bool {
    // SAFETY: a zeroed timex with modes = 0 is a pure query, and the struct outlives the call.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&mut timex), timex)
    };
    state >= 0 && timex.maxerror < MAX_ERROR
}

/// The supplementary groups of a Unix socket's peer; none where the kernel doesn't tell them.
pub fn peer_groups(socket: BorrowedFd<'_>) -> Vec<u32> {
    let mut groups = [0; MAX_GROUPS];
    let mut bytes = size_of_val(&groups) as libc::socklen_t;
    // SAFETY: the pointers are to a buffer and its size in bytes, both ours and alive for the call,
    // which writes at most that many bytes; any bytes make a gid_t.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    let count = match result {
        0 => bytes as usize / size_of::<libc::gid_t>(),
        _ => 0,
    };
    groups.iter().take(count).copied().collect()
}

/// What was written to a TCP socket and its other side hasn't acknowledged, in bytes; the end of
/// writing counts as one (`tcp(7)`, SIOCOUTQ).
pub fn unacknowledged(socket: BorrowedFd<'_>) -> Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the pointer is to an int, which is what this request writes, and it outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    match result {
        0 => Ok(usize::try_from(bytes).unwrap_or(0)),
        _ => Err(Error::last_os_error()),
    }
}

/// A group's id (`getgrnam_r(3)`); `None` where the machine has none of this name.
pub fn group(name: &str) -> Result<Option<u32>> {
    id(name, |name, room| {
        let mut found = std::ptr::null_mut();
        // SAFETY: `name` ends in NUL, `room` is written to no further than its length, all outlive
        // the call; a zeroed group is a valid place for the answer, and of it only the plain number
        // is read.
        let (error, gid) = unsafe {
            let mut entry: libc::group = std::mem::zeroed();
            let error = libc::getgrnam_r(
                name.as_ptr(),
                &raw mut entry,
                room.as_mut_ptr(),
                room.len(),
                &raw mut found,
            );
            (error, entry.gr_gid)
        };
        (error, (!found.is_null()).then_some(gid))
    })
}

/// A user's id (`getpwnam_r(3)`), likewise.
pub fn user(name: &str) -> Result<Option<u32>> {
    id(name, |name, room| {
        let mut found = std::ptr::null_mut();
        // SAFETY: as for `group`, with a zeroed passwd.
        let (error, uid) = unsafe {
            let mut entry: libc::passwd = std::mem::zeroed();
            let error = libc::getpwnam_r(
                name.as_ptr(),
                &raw mut entry,
                room.as_mut_ptr(),
                room.len(),
                &raw mut found,
            );
            (error, entry.pw_uid)
        };
        (error, (!found.is_null()).then_some(uid))
    })
}

/// What `ask` finds by a name, with as much room as the entry's text needs.
fn id(
    name: &str,
    ask: impl Fn(&CStr, &mut [libc::c_char]) -> (libc::c_int, Option<u32>),
) -> Result<Option<u32>> {
    let Ok(text) = CString::new(name) else {
        return Ok(None);
    };
    let mut room = 4096;
    loop {
        match ask(&text, &mut vec![0; room]) {
            (libc::ERANGE, _) if room < MAX_ENTRY => room *= 4,
            (_, Some(id)) => return Ok(Some(id)),
            (0 | libc::ENOENT, None) => return Ok(None),
            (error, None) => return Err(Error::from_raw_os_error(error)),
        }
    }
}

/// `2026-11-24 18:05 CET`: a time since the epoch in seconds, as this machine's people count it.
pub fn local_time(seconds: u64) -> Option<String> {
    local(seconds, c"%Y-%m-%d %H:%M %Z")
}

/// `2026-11-24 18:05:03`: likewise to the second, for columns.
pub fn local_second(seconds: u64) -> Option<String> {
    local(seconds, c"%Y-%m-%d %H:%M:%S")
}

/// By a short format that gives some text.
fn local(seconds: u64, format: &CStr) -> Option<String> {
    let seconds = libc::time_t::try_from(seconds).ok()?;
    let mut text = [0_u8; 64];
    // SAFETY: all pointers are to values that outlive the calls; strftime writes at most `text.len()`
    // bytes and tells how many, and the format ends with a zero byte.
    let length = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&raw const seconds, &raw mut parts).is_null() {
            return None;
        }
        let buffer = text.as_mut_ptr().cast();
        libc::strftime(buffer, text.len(), format.as_ptr(), &raw const parts)
    };
    Some(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// The other way: seconds since the epoch of a year, month (1 to 12), day, hour, minute and second in
/// this machine's zone. Which of two it is in the hour that comes twice is the C library's choice.
pub fn of_local([year, month, day, hour, minute, second]: [u32; 6]) -> Option<u64> {
    let number = |part: u32| libc::c_int::try_from(part).ok();
    // SAFETY: a zeroed tm is a valid one, and mktime reads and writes nothing but it.
    let seconds = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        parts.tm_year = number(year)? - 1900;
        parts.tm_mon = number(month)? - 1;
        parts.tm_mday = number(day)?;
        parts.tm_hour = number(hour)?;
        parts.tm_min = number(minute)?;
        parts.tm_sec = number(second)?;
        parts.tm_isdst = -1;
        libc::mktime(&raw mut parts)
    };
    u64::try_from(seconds).ok()
}

/// Gives up root for good, in all threads: for this user with the groups that it is in, and this
/// group.
pub fn become_user(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: plain system calls on numbers, and on the entry's name, which nothing replaces before
    // `initgroups` has read it: this is done before there is another thread. An empty group list
    // needs no pointer.
    let dropped = unsafe {
        let entry = libc::getpwuid(uid);
        let in_groups = match entry.is_null() {
            true => libc::setgroups(0, std::ptr::null()),
            false => libc::initgroups((*entry).pw_name, gid),
        };
        in_groups == 0 && libc::setgid(gid) == 0 && libc::setuid(uid) == 0
    };
    match dropped {
        true => Ok(()),
        false => Err(Error::last_os_error()),
    }
}

#[cfg(feature = "systemd")]
pub use passed::inherited;

#[cfg(feature = "systemd")]
mod passed {
    use std::io::Result;
    use std::os::fd::{FromRawFd, RawFd};
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// The listening sockets that this process was started with, to be owned. `find` names their
    /// descriptors, which nothing else owns; only the first call asks it.
    pub fn inherited<K>(
        find: impl FnOnce() -> Result<Vec<(K, RawFd)>>,
    ) -> Result<Vec<(K, UnixListener)>> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Ok(Vec::new());
        }
        let own = |(name, descriptor)| {
            // SAFETY: who started us passed this open descriptor for us to own, and TAKEN lets nobody
            // else in this process take it a second time.
            let socket = unsafe { UnixListener::from_raw_fd(descriptor) };
            (name, socket)
        };
        Ok(find()?.into_iter().map(own).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_peer_is_in_the_groups_of_its_process() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let own: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .iter()
            .map(|group| group.as_raw())
            .collect();
        assert_eq!(peer_groups(ours.as_fd()), own);
        let file = tempfile::tempfile().unwrap();
        assert!(peer_groups(file.as_fd()).is_empty(), "no socket, no groups");
    }

    #[test]
    fn groups_are_looked_up_on_this_machine() {
        assert_eq!(group("root").unwrap(), Some(0));
        assert_eq!(group("no-such-group").unwrap(), None);
        assert_eq!(group("a\0b").unwrap(), None);
        assert_eq!(user("root").unwrap(), Some(0));
        assert_eq!(user("no-such-user").unwrap(), None);
    }

    #[test]
    fn a_local_time_has_its_zone() {
        let text = local_time(1_795_500_799).unwrap();
        assert!(text.starts_with("2026-11-2") && text.len() > 17, "{text}");
        assert_eq!(local_time(u64::MAX), None);
        let text = local_second(1_795_500_799).unwrap();
        let parts: Vec<u32> = text
            .split(['-', ' ', ':'])
            .map(|part| part.parse().unwrap())
            .collect();
        let parts = parts.try_into().unwrap();
        assert_eq!(of_local(parts), Some(1_795_500_799));
        assert_eq!(of_local([1960, 1, 1, 0, 0, 0]), None);
    }
}
