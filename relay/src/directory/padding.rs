//! Answers `POST /cepa/1/padding` with bytes by which a relay is measured (docs/protocol.md, 6.18).
//!
//! Padding is for authorities: the body of the request is a permit that one of them has signed for this relay, and each
//! permit is good once. So nobody else can take the places, and no authority those of another. The answer is made while
//! it is sent, so that it costs no memory. It is bounded in size, in number at once and in time (S23).

use core::convert::Infallible;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use cepa_common::dir::{CLOCK_SKEW_SECS, MAX_PERMIT_BYTES, NetworkFile, Permit, UnixSecs};
use cepa_common::ids::RelayId;
use cepa_common::sync::lock;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::reply::{read_body, text};

/// Answers to one authority that are being sent at once: twice as many as one downloads at once.
const MAX_AT_ONCE: usize = 8;
/// Used permits of one authority that are remembered. A fast relay is the partner of others, and may answer an
/// authority several times a second.
const MAX_USED: usize = 4_096;
/// An answer that takes longer loses its place and is broken off: slow readers must not keep all places.
const MAX_TIME: Duration = Duration::from_secs(60);
/// The path of the request.
const PATH: &str = "/cepa/1/padding";

static CHUNK: [u8; 16 * 1024] = [0; 16 * 1024];

/// What one authority has of this server.
#[derive(Debug, Default)]
struct OfAuthority {
    /// The answers being sent, by number, and the time until which each may take.
    until: BTreeMap<u64, Instant>,
    /// When the permits were made that were used and would still be good, by their random bytes.
    used: HashMap<[u8; 16], UnixSecs>,
}

#[derive(Debug, Default)]
struct Taken {
    last: u64,
    /// By the identity of the authority.
    authorities: HashMap<RelayId, OfAuthority>,
}

/// The places of a server.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

/// Why a good permit brings no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Used,
    Busy,
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        lock(&self.0)
    }

    /// Takes a place for the answer to a permit of `authority`, which is used from then on. `time` is the clock's.
    fn take(
        &self,
        authority: RelayId,
        permit: &Permit,
        time: UnixSecs,
        now: Instant,
    ) -> Result<Place, Refusal> {
        let mut taken = self.taken();
        let number = taken.last + 1;
        let of = taken.authorities.entry(authority).or_default();
        of.until.retain(|_, until| *until > now);
        if of.used.len() >= MAX_USED {
            let since = time.saturating_sub(CLOCK_SKEW_SECS);
            of.used.retain(|_, made| *made >= since);
        }
        if of.used.contains_key(&permit.nonce) {
            return Err(Refusal::Used);
        }
        if of.until.len() >= MAX_AT_ONCE || of.used.len() >= MAX_USED {
            return Err(Refusal::Busy);
        }
        let until = now + MAX_TIME;
        of.used.insert(permit.nonce, permit.made);
        of.until.insert(number, until);
        taken.last = number;
        Ok(Place {
            places: self.clone(),
            authority,
            number,
            until,
        })
    }
}

/// The place of one answer, which is given back when it is dropped.
struct Place {
    places: Places,
    authority: RelayId,
    number: u64,
    until: Instant,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(of) = self.places.taken().authorities.get_mut(&self.authority) {
            of.until.remove(&self.number);
        }
    }
}

/// The body of an answer.
pub(super) struct Padding {
    left: u64,
    place: Place,
}

/// The peer took too long to read; the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("padding was read too slowly")]
pub(super) struct TooSlow;

impl Body for Padding {
    type Data = Bytes;
    type Error = TooSlow;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TooSlow>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if Instant::now() >= self.place.until {
            return Poll::Ready(Some(Err(TooSlow)));
        }
        let len = CHUNK
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= len as u64;
        let chunk = Bytes::from_static(&CHUNK).slice(..len);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// An answer of this server.
pub(super) type Answer = Response<Either<Full<Bytes>, Padding>>;

/// Is this a request for padding?
pub(super) fn is_asked(request: &Request<Incoming>) -> bool {
    request.method() == Method::POST && request.uri().path() == PATH
}

/// Reads the permit of a request. What is wrong with its bytes is an answer.
pub(super) async fn permit(request: Request<Incoming>) -> Result<Bytes, Answer> {
    let body = read_body(request, MAX_PERMIT_BYTES).await;
    body.map_err(|refusal| refusal.map(Either::Left))
}

impl Places {
    /// Answers a permit, at the relay `own` of `network`, when the clock reads `time`.
    pub(super) fn answer(
        &self,
        document: &[u8],
        own: Option<RelayId>,
        network: &NetworkFile,
        time: UnixSecs,
    ) -> Answer {
        let refuse = |status, why: &str| text(status, why).map(Either::Left);
        let (permit, authority) = match Permit::parse_and_verify(document, network) {
            Ok(verified) => verified,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        // A relay that is measured must not get another relay to answer with the permit that it was shown.
        if own != Some(permit.relay) {
            return refuse(StatusCode::FORBIDDEN, "the permit is for another relay");
        }
        if !permit.is_of(time) {
            return refuse(StatusCode::FORBIDDEN, "the permit is not of this time");
        }
        match self.take(authority, &permit, time, Instant::now()) {
            Ok(place) => Response::new(Either::Right(Padding {
                left: permit.bytes.into(),
                place,
            })),
            Err(Refusal::Used) => refuse(StatusCode::CONFLICT, "the permit was used"),
            Err(Refusal::Busy) => refuse(StatusCode::SERVICE_UNAVAILABLE, "too many at once"),
        }
    }
}

/// Makes an answer of any other kind.
pub(super) fn other(response: Response<Full<Bytes>>) -> Result<Answer, Infallible> {
    Ok(response.map(Either::Left))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use cepa_common::dir::MAX_PADDING_BYTES;
    use cepa_common::testkit::{identity, network, signing_key};
    use http_body_util::BodyExt;

    use super::*;

    const TIME: UnixSecs = 1_900_000_000;

    /// The places of one relay, and the time there.
    struct Here(u8, Places, UnixSecs);

    fn relay(n: u8) -> Here {
        Here(n, Places::default(), TIME)
    }

    fn permit(nonce: u32, bytes: u32) -> Permit {
        let mut random = [0; 16];
        random[..4].copy_from_slice(&nonce.to_be_bytes());
        Permit {
            relay: identity(7),
            made: TIME,
            bytes,
            nonce: random,
        }
    }

    fn ask(here: &Here, authority: u8, permit: &Permit) -> Answer {
        let document = permit.sign(&network(3).network_id(), &signing_key(authority));
        let own = Some(identity(here.0));
        here.1.answer(&document.unwrap(), own, &network(3), here.2)
    }

    async fn length(answer: Answer) -> usize {
        let body = answer.into_body().collect().await;
        body.unwrap().to_bytes().len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_is_good_once_at_its_relay_in_its_time() {
        let (here, there) = (relay(7), relay(8));
        let whole = permit(1, MAX_PADDING_BYTES);
        assert_eq!(ask(&there, 1, &whole).status(), StatusCode::FORBIDDEN);
        let answer = ask(&here, 1, &whole);
        assert_eq!(length(answer).await, MAX_PADDING_BYTES as usize);
        assert_eq!(ask(&here, 1, &whole).status(), StatusCode::CONFLICT);
        assert_eq!(ask(&there, 1, &whole).status(), StatusCode::FORBIDDEN);
        let stranger = ask(&here, 9, &permit(2, 1));
        assert_eq!(stranger.status(), StatusCode::BAD_REQUEST);
        let mut old = permit(3, 1);
        old.made -= CLOCK_SKEW_SECS + 1;
        assert_eq!(ask(&here, 1, &old).status(), StatusCode::FORBIDDEN);
        assert_eq!(length(ask(&here, 1, &permit(4, 0))).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_all_places_takes_none_of_another_authority() {
        let here = relay(7);
        let asked = |nonce| ask(&here, 1, &permit(nonce, 1 << 20));
        let held: Vec<_> = (0..100).map(asked).collect();
        let served = held.iter().filter(|one| one.status() == StatusCode::OK);
        assert_eq!(served.count(), MAX_AT_ONCE);
        assert_eq!(held[99].status(), StatusCode::SERVICE_UNAVAILABLE);
        // Nobody reads those answers. Without a permit of its own nobody adds to them.
        for nonce in 0..100 {
            let again = ask(&here, 9, &permit(nonce, 1 << 20));
            assert_eq!(again.status(), StatusCode::BAD_REQUEST);
        }
        let honest = ask(&here, 2, &permit(1, 1 << 20));
        assert_eq!(length(honest).await, 1 << 20);
        // What was refused because of the places was not used.
        drop(held);
        assert_eq!(asked(99).status(), StatusCode::OK);
        assert_eq!(asked(0).status(), StatusCode::CONFLICT);
    }

    #[tokio::test(start_paused = true)]
    async fn used_permits_are_remembered_while_they_would_be_good_and_bounded() {
        let mut here = relay(7);
        for nonce in 0..MAX_USED as u32 {
            assert_eq!(ask(&here, 1, &permit(nonce, 1)).status(), StatusCode::OK);
        }
        let more = |here: &Here, made: UnixSecs, nonce| {
            let permit = Permit {
                made,
                ..permit(nonce, 1)
            };
            ask(here, 1, &permit).status()
        };
        let (used, busy) = (StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(more(&here, TIME, 1 << 20), busy);
        here.2 += CLOCK_SKEW_SECS;
        assert_eq!(more(&here, TIME, 5), used);
        here.2 += 1;
        assert_eq!(more(&here, here.2, 1 << 20), StatusCode::OK);
        let taken = here.1.taken();
        assert_eq!(taken.authorities[&identity(1)].used.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_loses_the_place() {
        let here = relay(7);
        let asked = |nonce| ask(&here, 1, &permit(nonce, 1 << 20));
        let mut slow: Vec<_> = (0..MAX_AT_ONCE as u32).map(asked).collect();
        assert!(slow[0].body_mut().frame().await.unwrap().is_ok());
        assert_eq!(asked(100).status(), StatusCode::SERVICE_UNAVAILABLE);
        tokio::time::advance(MAX_TIME).await;
        // The place is free even if nobody polls the body any more, as with a connection that is full.
        let next = asked(100);
        assert_eq!(next.status(), StatusCode::OK);
        assert!(slow[0].body_mut().frame().await.unwrap().is_err());
        drop(slow);
        let taken = here.1.taken();
        assert_eq!(taken.authorities[&identity(1)].until.len(), 1);
    }
}
