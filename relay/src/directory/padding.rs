//! Answers `GET /cepa/1/padding/<bytes>` with bytes by which a relay is measured (docs/protocol.md, 6.18).
//!
//! The answer is made while it is sent, so that it costs no memory. The answer is bounded in size, in number at once
//! and in time, and a connection gets only so much of it in all (S23). A client that wants more bytes from a relay has
//! to connect again.

use core::convert::Infallible;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cepa_common::sync::lock;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, SizeHint};
use hyper::{Response, StatusCode};
use tokio::time::Instant;

/// The most bytes that one request, and one connection in all, gets.
const MAX_PADDING_BYTES: u64 = 16 << 20;
/// The most answers being sent at once.
const MAX_AT_ONCE: usize = 8;
/// An answer that takes longer loses its place and is broken off: slow readers must not keep all places.
const MAX_TIME: Duration = Duration::from_secs(60);
/// The path in front of the number.
const PATH: &str = "/cepa/1/padding/";

static CHUNK: [u8; 16 * 1024] = [0; 16 * 1024];

/// The answers being sent, by number, and the time until which each may be sent.
#[derive(Debug, Default)]
struct Taken {
    last: u64,
    until: BTreeMap<u64, Instant>,
}

/// The places of a server.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

impl Places {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        lock(&self.0)
    }

    fn take(&self, now: Instant) -> Option<Place> {
        let mut taken = self.taken();
        taken.until.retain(|_, until| *until > now);
        if taken.until.len() >= MAX_AT_ONCE {
            return None;
        }
        taken.last += 1;
        let (number, until) = (taken.last, now + MAX_TIME);
        taken.until.insert(number, until);
        Some(Place {
            places: self.clone(),
            number,
            until,
        })
    }
}

/// The place of one answer, which is given back when it is dropped.
struct Place {
    places: Places,
    number: u64,
    until: Instant,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().until.remove(&self.number);
    }
}

/// The number of bytes that a connection may still get.
pub(super) struct Allowance(AtomicU64);

impl Default for Allowance {
    fn default() -> Self {
        Self(AtomicU64::new(MAX_PADDING_BYTES))
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

/// The number of bytes that a request for padding asks for; `None` if it is no such request.
pub(super) fn asked(path: &str) -> Option<u64> {
    let digits = path.strip_prefix(PATH)?;
    let is_plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| is_plain)
}

/// Answers a request for `bytes` bytes.
pub(super) fn answer(bytes: u64, places: &Places, allowance: &Allowance) -> Answer {
    let refuse = |status, text: &'static str| {
        let mut response = Response::new(Either::Left(Full::from(text)));
        *response.status_mut() = status;
        response
    };
    if bytes > MAX_PADDING_BYTES {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "at most 16 MiB");
    }
    let spend = |left: u64| left.checked_sub(bytes);
    let spent = allowance
        .0
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
    if spent.is_err() {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "enough for one connection");
    }
    let Some(place) = places.take(Instant::now()) else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many at once");
    };
    Response::new(Either::Right(Padding { left: bytes, place }))
}

/// Makes an answer of any other kind.
pub(super) fn other(response: Response<Full<Bytes>>) -> Result<Answer, Infallible> {
    Ok(response.map(Either::Left))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn length(answer: Answer) -> usize {
        let body = answer.into_body().collect().await;
        body.unwrap().to_bytes().len()
    }

    #[test]
    fn paths() {
        assert_eq!(asked("/cepa/1/padding/0"), Some(0));
        assert_eq!(asked("/cepa/1/padding/16777216"), Some(16 << 20));
        for bad in [
            "/cepa/1/padding/",
            "/cepa/1/padding/-1",
            "/cepa/1/padding/+1",
            "/cepa/1/padding/1/",
            "/cepa/1/padding/123456789",
            "/cepa/1/padding",
        ] {
            assert_eq!(asked(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn size_number_and_sum_are_bounded() {
        let places = Places::default();
        let whole = answer(MAX_PADDING_BYTES, &places, &Allowance::default());
        assert_eq!(length(whole).await as u64, MAX_PADDING_BYTES);
        let over = answer(MAX_PADDING_BYTES + 1, &places, &Allowance::default());
        assert_eq!(over.status(), StatusCode::PAYLOAD_TOO_LARGE);
        // One connection gets only so much in all.
        let one = Allowance::default();
        assert_eq!(length(answer(10 << 20, &places, &one)).await, 10 << 20);
        let more = answer(10 << 20, &places, &one);
        assert_eq!(more.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(length(answer(6 << 20, &places, &one)).await, 6 << 20);
        // Many connections get only so many answers at once.
        let ask = || answer(1, &places, &Allowance::default());
        let held: Vec<_> = (0..MAX_AT_ONCE).map(|_| ask()).collect();
        assert!(held.iter().all(|answer| answer.status() == StatusCode::OK));
        assert_eq!(ask().status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(held);
        assert_eq!(ask().status(), StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_loses_the_place() {
        let places = Places::default();
        let ask = || answer(1 << 20, &places, &Allowance::default());
        let mut slow: Vec<_> = (0..MAX_AT_ONCE).map(|_| ask()).collect();
        assert!(slow[0].body_mut().frame().await.unwrap().is_ok());
        assert_eq!(ask().status(), StatusCode::SERVICE_UNAVAILABLE);
        tokio::time::advance(MAX_TIME).await;
        // The place is free even if nobody polls the body any more, as when a connection takes no more bytes.
        let next = ask();
        assert_eq!(next.status(), StatusCode::OK);
        assert!(slow[0].body_mut().frame().await.unwrap().is_err());
        drop(slow);
        assert_eq!(places.taken().until.len(), 1);
    }
}
