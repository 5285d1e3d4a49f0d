//! Carries requests over the socket: who may come, how many at a time, and for how long (docs/control.md).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use cepa_common::log_pace::LogPace;
use cepa_common::sync::lock;
use cepa_common::world::steady;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::router::{Working, router};
use super::running::{self, Running};
use super::sight::Sight;
use super::socket::Control;
use crate::node::Roles;
use crate::terminal::Progress;

/// Connections that are open at once. Where there are more, the oldest makes room that has no request under way.
pub(super) const MAX_CONNECTIONS: usize = 32;
/// The head of a request must have come within this time, and the next request of a connection begun.
pub(super) const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// Most bytes of a head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Most fields of a head.
const MAX_FIELDS: usize = 32;
/// Pause after an accept that failed (S39).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Lets the owner of a node see its roles and act on them, over a socket in the node's state directory, which the node
/// has locked.
///
/// A node without the socket is of use as well: that there is none is said to `progress` and to the log, and no more.
/// The socket is gone when the tasks end.
pub fn attend(roles: Roles, progress: &watch::Sender<Progress>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    match Control::listen(&roles.dir) {
        Ok(control) => {
            let told = running::directory().map(|directory| Running::tell(&directory, &roles.dir));
            let running = told.and_then(|told| {
                told.inspect_err(|error| {
                    tracing::info!(%error, "`cepa status` finds this node only by its --state DIR");
                })
                .ok()
            });
            let sight = Arc::new(Sight::new(roles));
            let serving = serve(control, router(sight.clone()));
            tasks.spawn(async move { sight.follow().await });
            tasks.spawn(async move {
                serving.await;
                drop(running);
            });
        }
        Err(error) => {
            let lost = "`cepa status` will not find this node, and nothing can be asked of it";
            tracing::warn!(%error, "{lost}");
            progress.send_modify(|progress| {
                progress.warnings.push(format!("warning: {lost}: {error}"));
            });
        }
    }
    tasks
}

/// A connection that is open.
struct Place {
    working: Working,
    /// Wakes the connection when it is to make room.
    given_up: Notify,
}

/// The connections that are open, the oldest first.
#[derive(Clone, Default)]
struct Places {
    held: Arc<Mutex<VecDeque<Arc<Place>>>>,
    /// Wakes who waits for room.
    freed: Arc<Notify>,
}

impl Places {
    /// Takes a place. Where there is none, the oldest connection without a request under way makes room; if each has
    /// one, this waits until one ends.
    async fn take(&self) -> Arc<Place> {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_take() {
                return place;
            }
            freed.await;
        }
    }

    fn try_take(&self) -> Option<Arc<Place>> {
        let mut held = lock(&self.held);
        if held.len() >= MAX_CONNECTIONS {
            let idle = held.iter().position(|place| place.working.is_idle())?;
            let oldest = held.remove(idle)?;
            oldest.given_up.notify_one();
        }
        let place = Arc::new(Place {
            working: Working::default(),
            given_up: Notify::new(),
        });
        held.push_back(place.clone());
        Some(place)
    }

    fn leave(&self, place: &Arc<Place>) {
        lock(&self.held).retain(|held| !Arc::ptr_eq(held, place));
        self.freed.notify_one();
    }
}

/// Answers requests by `router` until the future is dropped.
async fn serve(control: Control, router: Router) {
    let places = Places::default();
    // The set is dropped with this future, which ends every connection.
    let mut connections = JoinSet::new();
    let mut failed = LogPace::default();
    loop {
        while connections.try_join_next().is_some() {}
        match control.listener.accept().await {
            Ok((stream, _)) if is_allowed(&stream) => {
                let place = places.take().await;
                let (places, router) = (places.clone(), router.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = connection(stream, router, &place.working) => {}
                        () = place.given_up.notified() => {}
                    }
                    places.leave(&place);
                });
                // Who has asked already is answered before the next who comes takes places away.
                tokio::task::yield_now().await;
            }
            Ok((_, _)) => tracing::debug!("a control connection of another user is not answered"),
            Err(error) => {
                if let Some(times) = failed.count(1, steady::now()) {
                    tracing::warn!(%error, times, "the control socket cannot accept for the moment");
                }
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Is the other side the same user as this one, or root? If the directory is open to others, as that of a throwaway
/// network may be, this keeps them out (S33).
fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::getuid().as_raw();
    let theirs = stream.peer_cred().map(|theirs| theirs.uid());
    theirs.is_ok_and(|theirs| is_owner(theirs, own))
}

fn is_owner(theirs: u32, own: u32) -> bool {
    theirs == 0 || theirs == own
}

/// Serves one connection to its end.
async fn connection(stream: UnixStream, router: Router, working: &Working) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(working.clone());
        let answer = router.call(request);
        async move { answer.await.map_err(|never: Infallible| never) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_FIELDS)
        // Who has ended its sending (`nc -N`) still reads.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a control connection broke");
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
