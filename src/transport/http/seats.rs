//! Seats for connections: shared by whose they are, and given up by those who wait.
//!
//! A connection finds a seat while its user or address is below its cap and its share
//! ([`Shares`]). Else the one that has waited longest makes room, of whoever holds most and no
//! less than the newcomer: one that is idle, or hasn't sent a whole request yet. One that is being
//! answered is closed for nobody.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::door::Whose;
use super::metrics::Connections;
use super::reply::Body;
use crate::share::Shares;

/// Connections beyond all seats that may hear so at a time.
pub(super) const FAREWELLS: usize = 16;
/// Instead of the stamp of when its wait began: it is being answered.
const ANSWERED: u64 = 0;

/// The open connections of one listening socket.
pub(super) struct Room {
    seats: Mutex<Seats>,
    per_peer: usize,
    /// The next stamp: tells which wait began first.
    stamp: AtomicU64,
    connections: Connections,
}

struct Seats {
    shares: Shares<Whose>,
    /// By number.
    taken: BTreeMap<u64, Arc<Taken>>,
    farewells: Shares<Whose>,
}

/// A seat as the room sees it.
struct Taken {
    number: u64,
    whose: Whose,
    waits_since: AtomicU64,
    given_up: Notify,
}

/// One open connection's seat; free again when dropped.
pub(super) struct Seat {
    room: Arc<Room>,
    taken: Arc<Taken>,
}

/// Leave to say a last word on a connection without a seat.
pub(super) struct Farewell {
    room: Arc<Room>,
    whose: Whose,
}

/// One request on a connection. Travels with the request, so that whoever reads its body can say
/// when that is whole.
#[derive(Clone)]
pub(super) struct Turn {
    room: Arc<Room>,
    taken: Arc<Taken>,
}

/// An answer's body; when hyper has taken all of it, or the client has left, the connection waits
/// again.
pub(super) struct Answering {
    body: Body,
    turn: Turn,
}

impl Room {
    pub(super) fn new(total: usize, per_peer: usize, connections: Connections) -> Room {
        Room {
            seats: Mutex::new(Seats {
                shares: Shares::new(total),
                taken: BTreeMap::new(),
                farewells: Shares::new(FAREWELLS),
            }),
            per_peer,
            stamp: AtomicU64::new(ANSWERED + 1),
            connections,
        }
    }

    /// A seat for a new connection; another one may have to give up its own.
    pub(super) fn take(self: &Arc<Self>, whose: Whose) -> Option<Seat> {
        let mut seats = self.lock();
        let is_free =
            seats.shares.held(&whose) < self.per_peer && seats.shares.take(&whose).is_ok();
        if !is_free {
            let who_waits = seats.who_waits(whose, self.per_peer)?;
            self.connections.given_up.inc();
            seats.remove(&who_waits);
            who_waits.given_up.notify_one();
            seats.shares.restore(&whose);
        }
        let number = self.stamp();
        let taken = Arc::new(Taken {
            number,
            whose,
            waits_since: AtomicU64::new(number),
            given_up: Notify::new(),
        });
        seats.taken.insert(number, Arc::clone(&taken));
        self.connections.open.inc();
        let room = Arc::clone(self);
        Some(Seat { room, taken })
    }

    pub(super) fn farewell(self: &Arc<Self>, whose: Whose) -> Option<Farewell> {
        self.lock().farewells.take(&whose).ok()?;
        let room = Arc::clone(self);
        Some(Farewell { room, whose })
    }

    fn stamp(&self) -> u64 {
        self.stamp.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock()
    }
}

impl Seats {
    /// The connection that makes room for one more of `whose`.
    fn who_waits(&self, whose: Whose, per_peer: usize) -> Option<Arc<Taken>> {
        let own = self.shares.held(&whose);
        let waiting = self.taken.values().filter_map(|taken| {
            let since = taken.waits_since.load(Ordering::Relaxed);
            let held = self.shares.held(&taken.whose);
            let may_have_to = taken.whose == whose || (own < per_peer && held > own);
            (since != ANSWERED && may_have_to).then_some((held, Reverse(since), taken))
        });
        let most = waiting.max_by_key(|(held, since, _)| (*held, *since));
        most.map(|(_, _, taken)| Arc::clone(taken))
    }

    /// Whoever has given its seat up holds none any more.
    fn remove(&mut self, taken: &Taken) {
        if self.taken.remove(&taken.number).is_some() {
            self.shares.give_back(&taken.whose);
        }
    }
}

impl Seat {
    /// Returns when the seat is another's.
    pub(super) async fn given_up(&self) {
        self.taken.given_up.notified().await;
    }

    pub(super) fn is_answered(&self) -> bool {
        self.taken.waits_since.load(Ordering::Relaxed) == ANSWERED
    }

    pub(super) fn farewell(&self) -> Option<Farewell> {
        self.room.farewell(self.taken.whose)
    }

    pub(super) fn turn(&self) -> Turn {
        Turn {
            room: Arc::clone(&self.room),
            taken: Arc::clone(&self.taken),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.lock().remove(&self.taken);
        self.room.connections.open.dec();
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.room.lock().farewells.give_back(&self.whose);
    }
}

impl Turn {
    /// The request has come whole.
    pub(super) fn is_whole(&self) {
        self.taken.waits_since.store(ANSWERED, Ordering::Relaxed);
    }

    /// Until the body has been taken, or dropped, the request is being answered.
    pub(super) fn answering(self, body: Body) -> Answering {
        self.is_whole();
        Answering { body, turn: self }
    }
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let now = self.turn.room.stamp();
        self.turn.taken.waits_since.store(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(total: usize, per_peer: usize) -> Arc<Room> {
        Arc::new(Room::new(total, per_peer, Connections::default()))
    }

    fn has_given_up(seat: &Seat) -> bool {
        !seat.room.lock().taken.contains_key(&seat.taken.number)
    }

    fn empty() -> Body {
        http_body_util::BodyExt::boxed_unsync(http_body_util::Full::default())
    }

    const FLOODER: Whose = Whose::User(1);
    const ROOT: Whose = Whose::User(0);

    /// Takes seats that are being answered until there is none.
    fn flood(room: &Arc<Room>, whose: Whose) -> Vec<Seat> {
        let answered = || {
            let seat = room.take(whose)?;
            seat.turn().is_whole();
            Some(seat)
        };
        std::iter::from_fn(answered).collect()
    }

    #[test]
    fn users_come_to_their_share_and_the_next_one_finds_a_seat() {
        let room = room(64, 32);
        let held = [1, 2, 3].map(|user| flood(&room, Whose::User(user)));
        assert_eq!(held.each_ref().map(Vec::len), [32, 16, 8]);
        let root = room.take(ROOT).unwrap();
        assert_eq!(room.connections.open.get(), 57);
        drop((root, held));
        assert_eq!(
            (room.lock().shares.taken(), room.connections.open.get()),
            (0, 0)
        );
        assert_eq!(flood(&room, FLOODER).len(), 32);
    }

    #[test]
    fn the_longest_wait_of_whoever_holds_most_ends_and_no_answer_does() {
        let room = room(6, 3);
        let take = |user| room.take(Whose::User(user)).unwrap();
        let [a, b, c] = [take(1), take(1), take(1)];
        a.turn().is_whole();
        let [d, e] = [take(2), take(2)];
        // At its cap: its own makes room.
        let f = take(1);
        assert!(has_given_up(&b) && !has_given_up(&c) && !has_given_up(&d));
        // Beyond its share of what is free: who holds more makes room.
        let g = take(2);
        assert!(has_given_up(&c));
        // What was answered waits from then on only.
        drop(a.turn().answering(empty()));
        let h = take(2);
        assert!(has_given_up(&d) && !has_given_up(&a) && !has_given_up(&e));
        assert_eq!(room.connections.given_up.get(), 3);
        drop((a, b, c, d, e, f, g, h));
        assert_eq!(
            (room.lock().shares.taken(), room.connections.open.get()),
            (0, 0)
        );
    }

    #[test]
    fn where_all_are_answered_the_newcomer_is_turned_away() {
        let room = room(4, 4);
        let held = flood(&room, FLOODER);
        assert_eq!(held.len(), 2);
        let others = [2, 3].map(|user| flood(&room, Whose::User(user)));
        assert_eq!(others.each_ref().map(Vec::len), [1, 1]);
        assert!(room.take(ROOT).is_none());
        // Idle ones of many who hold one each yield to who holds none.
        drop(others[0][0].turn().answering(empty()));
        let root = room.take(ROOT).unwrap();
        assert!(has_given_up(&others[0][0]));
        assert!(room.take(ROOT).is_some_and(|_| has_given_up(&root)));
    }

    #[test]
    fn last_words_are_shared_too() {
        let room = room(1, 1);
        let held: Vec<Farewell> = std::iter::from_fn(|| room.farewell(FLOODER)).collect();
        assert_eq!(held.len(), FAREWELLS / 2);
        assert!(room.farewell(ROOT).is_some());
    }
}
