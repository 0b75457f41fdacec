//! Changes that are made by a clock that is wrong.

use tempfile::TempDir;

use super::tests::{REALM, configured, jwks, open};
use super::*;
use crate::time::{Booted, Uptime};

/// A device on which as much time has passed as is said, whatever its clock does.
struct Device {
    clocks: Clocks,
    authority: Authority,
}

impl Device {
    fn start(folder: &TempDir, clocks: Clocks) -> Device {
        let (_, authority) = open(folder, clocks.clone());
        let prepared = authority.prepare(vec![configured(REALM)], false).unwrap();
        authority.follow(prepared, None).unwrap();
        Device { clocks, authority }
    }

    /// As the daemon does each second.
    fn tick(&self, reading: Reading) {
        self.clocks.set(reading);
        let floor = self.authority.floor();
        floor
            .advance(reading.now, reading.synchronised, reading.at)
            .unwrap();
    }

    fn confirmed(&self) -> Timestamp {
        self.authority.force().keys[REALM].confirmed.at()
    }

    fn pin(&self) -> Timestamp {
        let pinned = self.authority.pin(REALM, &jwks("own"), &Origin::Daemon);
        pinned.unwrap();
        self.confirmed()
    }
}

fn reading(secs: u64, uptime: u64, synchronised: bool) -> Reading {
    Reading {
        now: Timestamp::from_secs(secs),
        at: Booted {
            boot: 1,
            uptime: Uptime(uptime * 1000),
        },
        synchronised,
    }
}

#[test]
fn keys_pinned_by_a_wrong_clock_are_as_old_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let right = reading(1_900_000_000, 5, true);
    let device = Device::start(&folder, Clocks::at(right));
    device.tick(right);
    // In 1970, by a clock that nobody keeps.
    device.tick(reading(7, 9, false));
    assert_eq!(device.pin(), Timestamp::from_secs(1_900_000_004));
    // Years ahead; when the clock is right again, a start mends it.
    device.tick(reading(2_000_000_000, 10, false));
    assert_eq!(device.pin(), Timestamp::from_secs(2_000_000_000));
    let right = reading(1_900_000_010, 11, true);
    device.tick(right);
    drop(device);
    let device = Device::start(&folder, Clocks::at(right));
    assert!(device.confirmed() <= right.now, "{}", device.confirmed());
}
