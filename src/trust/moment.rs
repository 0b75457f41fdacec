//! Our time and the verifier's.

use crate::time::Timestamp;

/// Before all that can be signed: nothing has expired then.
pub(super) const EARLIEST: jiff::Timestamp = jiff::Timestamp::MIN;

/// What the verifier is told of `now`. It takes metadata to be good up to and with the moment at
/// which it expires; the specification takes that moment to be too late (5.4.4: "the expiration
/// timestamp ... is higher than the fixed update start time"), so it is told the one after.
pub(super) fn moment(now: Timestamp) -> jiff::Timestamp {
    let millis = i64::try_from(now.0).unwrap_or(i64::MAX);
    let exact = jiff::Timestamp::from_millisecond(millis);
    let later = exact.and_then(|exact| exact.checked_add(jiff::SignedDuration::from_nanos(1)));
    later.unwrap_or(jiff::Timestamp::MAX)
}

/// A time of signed metadata; one before 1970 is 1970.
pub(super) fn stamp(moment: jiff::Timestamp) -> Timestamp {
    Timestamp(u64::try_from(moment.as_millisecond()).unwrap_or(0))
}
