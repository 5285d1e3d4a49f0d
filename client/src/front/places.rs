//! How many connections are served at once, and which one goes when others wait.
//!
//! An application that has ended its sending may wait for an answer, or may have gone: TCP says the same of both. Where
//! the destination is silent too, nothing tells them apart for minutes. So such a connection keeps its place as long as
//! there are others; when there are none, the one in which nothing has moved for longest gives way. So does, before that
//! one, a connection that has asked for nothing yet: programs say at once what they want.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cepa_common::sync::lock;
use cepa_common::world::hangup::Hangup;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

/// How often it is asked whether an application that has ended its sending has gone.
const LOOK: Duration = Duration::from_secs(1);
/// The connection of an application that has gone goes on for so long: what was sent last may be on its way still.
const LINGER: Duration = Duration::from_secs(30);
/// An application that has just ended its sending keeps its place for so long: an answer takes a moment.
const GRACE: Duration = Duration::from_secs(2);

/// A connection, as its listener sees it.
pub(super) struct Seat {
    seen: Mutex<Seen>,
    changed: Notify,
}

struct Seen {
    /// Has the application asked for nothing yet?
    is_mute: bool,
    /// Has the application ended its sending?
    is_half: bool,
    /// Has it been sent anything of its stream?
    has_heard: bool,
    /// When it came, ended its sending, or was last sent something after that.
    moved: Instant,
    /// Must it go?
    must_go: bool,
    hangup: Option<Hangup>,
}

impl Seat {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            seen: Mutex::new(Seen {
                is_mute: true,
                is_half: false,
                has_heard: false,
                moved: Instant::now(),
                must_go: false,
                hangup: None,
            }),
            changed: Notify::new(),
        })
    }

    /// The application has ended its sending; by what `hangup` gives one can ask whether it has gone.
    pub(super) fn is_half(&self, hangup: impl FnOnce() -> Option<Hangup>) {
        let mut seen = lock(&self.seen);
        if seen.is_half {
            return;
        }
        (seen.is_half, seen.moved, seen.hangup) = (true, Instant::now(), hangup());
        drop(seen);
        self.changed.notify_one();
    }

    /// The application has said what it wants.
    pub(super) fn has_asked(&self) {
        lock(&self.seen).is_mute = false;
    }

    /// The application has been sent something.
    pub(super) fn has_moved(&self) {
        let mut seen = lock(&self.seen);
        seen.has_heard = true;
        if seen.is_half {
            seen.moved = Instant::now();
        }
    }

    /// What the application has been sent so far were words of the port.
    pub(super) fn stream_begins(&self) {
        lock(&self.seen).has_heard = false;
    }

    /// The connection must go.
    pub(super) fn goes(&self) {
        lock(&self.seen).must_go = true;
        self.changed.notify_one();
    }

    /// The connection has ended, and nothing of it stays.
    pub(super) fn is_over(&self) {
        lock(&self.seen).hangup = None;
    }

    /// Completes when the connection must go, or its application has gone a while ago.
    pub(super) async fn end(&self) {
        let mut gone = None;
        while let Some(look) = self.look(&mut gone) {
            match look {
                true => drop(timeout(LOOK, self.changed.notified()).await),
                false => self.changed.notified().await,
            }
        }
    }

    /// Must one look again after a while, as nobody tells when the application goes? `None`: it is over. `gone` is when
    /// the application was first seen to have gone.
    fn look(&self, gone: &mut Option<Instant>) -> Option<bool> {
        let (seen, now) = (lock(&self.seen), Instant::now());
        if seen.hangup.as_ref().is_some_and(Hangup::has_come) {
            gone.get_or_insert(now);
        }
        let is_over = seen.must_go || gone.is_some_and(|gone| now >= gone + LINGER);
        (!is_over).then(|| seen.hangup.is_some())
    }
}

/// The places of a listener.
pub(super) struct Places {
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    seats: BTreeMap<u64, Arc<Seat>>,
}

/// A place that a connection has until this value is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places.taken).seats.remove(&self.number);
    }
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(most)),
            taken: Mutex::default(),
        })
    }

    /// Takes a place for `seat`, within `patience`; `None` if there was none.
    pub(super) async fn take(
        self: &Arc<Self>,
        seat: &Arc<Seat>,
        patience: Duration,
    ) -> Option<Place> {
        let permit = match self.free.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => timeout(patience, self.room()).await.ok()??,
        };
        let mut taken = lock(&self.taken);
        let number = taken.next;
        taken.next += 1;
        taken.seats.insert(number, seat.clone());
        drop(taken);
        Some(Place {
            places: self.clone(),
            number,
            _permit: permit,
        })
    }

    /// Waits for a place, and has others give way.
    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        let give_way = async {
            loop {
                self.make_room(Instant::now());
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            permit = self.free.clone().acquire_owned() => permit.ok(),
            () = give_way => None,
        }
    }

    /// Has the connection go that has asked for nothing for longest. Where there is none, the one goes that has ended its
    /// sending and in which nothing has moved for longest; one that was sent something of its stream only where there is
    /// none that was not.
    fn make_room(&self, now: Instant) {
        let taken = lock(&self.taken);
        let idlest = taken.seats.values().filter_map(|seat| {
            let seen = lock(&seat.seen);
            let may_stay = now.saturating_duration_since(seen.moved) < GRACE;
            let goes = (seen.is_mute || seen.is_half) && !seen.must_go && !may_stay;
            let rank = (!seen.is_mute, seen.has_heard, seen.moved);
            goes.then_some((rank, seat))
        });
        if let Some((_, seat)) = idlest.min_by_key(|(rank, _)| *rank) {
            seat.goes();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn has_gone(seat: &Seat) -> bool {
        lock(&seat.seen).must_go
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_has_gone_is_noticed_and_one_that_waits_is_waited_for() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let seat = Seat::new();
        let day = Duration::from_secs(86_400);
        assert!(timeout(day, seat.end()).await.is_err());
        far.shutdown(std::net::Shutdown::Write).unwrap();
        seat.is_half(|| Hangup::of(&near).ok());
        assert!(timeout(day / 24, seat.end()).await.is_err());
        drop(far);
        assert!(timeout(LINGER / 2, seat.end()).await.is_err());
        timeout(2 * LINGER, seat.end()).await.unwrap();
    }

    #[tokio::test]
    async fn the_idlest_that_waits_for_an_answer_gives_way_and_nobody_else() {
        let places = Places::new(4);
        let seats: Vec<_> = (0..4).map(|_| Seat::new()).collect();
        seats.iter().for_each(|seat| seat.has_asked());
        let mut held = Vec::new();
        for seat in &seats {
            held.push(places.take(seat, Duration::ZERO).await.unwrap());
        }
        let [open, heard, old, new] = &seats[..] else {
            unreachable!()
        };
        let now = Instant::now();
        places.make_room(now + 2 * GRACE);
        assert!(
            !seats.iter().any(|seat| has_gone(seat)),
            "all may still send"
        );
        for seat in [heard, old, new] {
            seat.has_moved();
            seat.stream_begins();
            seat.is_half(|| None);
        }
        heard.has_moved();
        places.make_room(now + GRACE / 2);
        assert!(
            !seats.iter().any(|seat| has_gone(seat)),
            "an answer takes a moment"
        );
        let later = Instant::now() + GRACE;
        for (seat, is_next) in [(old, true), (new, true), (heard, true), (open, false)] {
            places.make_room(later);
            assert_eq!(has_gone(seat), is_next);
        }
        old.end().await;
        // What has gone makes room.
        let more = Seat::new();
        assert!(places.take(&more, Duration::ZERO).await.is_none());
        drop(held.pop());
        assert!(places.take(&more, Duration::ZERO).await.is_some());
        assert_eq!(lock(&places.taken).seats.len(), 3);
    }
}
