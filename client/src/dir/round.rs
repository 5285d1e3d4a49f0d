//! One round: several sources are asked at once, and their answers are judged together.

use core::time::Duration;
use std::sync::Arc;

use cepa_common::dir::{Consensus, ConsensusConflict, ConsensusStatus, UnixSecs};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::{
    Dial, FetchError, NetworkHandle, Received, fetch_newer_watched, random_below,
};
use cepa_common::world::random;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::cache::Mark;
use super::skew::WrongClock;
use super::sources::{DirStreamFuture, DirStreams, Source};
use crate::events::{ClientEvent, DirectorySource, Reporter, Warning};

/// The longest time that the dial and fetch from one source may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(30);
/// Time to wait for the other sources after one has answered well, while there is no consensus at all: a short time.
const OTHERS_AT_START: Duration = Duration::from_millis(500);
/// Time to wait for the other sources while a consensus is held and nobody waits: long enough to find out which source
/// stalls.
const OTHERS_LATER: Duration = Duration::from_secs(12);

/// Why one source's consensus is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum RoundError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the consensus is older than the one held")]
    Older,
    #[error("two valid consensuses for one time; the one held stays")]
    Conflict,
    #[error("the consensus is of the future; is this computer's clock right?")]
    Early,
    #[error("the consensus has expired; is this computer's clock right?")]
    Expired,
    #[error("no newer consensus")]
    NoNews,
}

impl RoundError {
    /// Has the source answered that it has nothing to give for now? A busy source says the same as one of a network that
    /// has no consensus yet.
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Fetch(FetchError::Refused { status: 503, .. }))
    }
}

/// Everything that a round needs to know.
pub(super) struct Round {
    pub(super) network: NetworkHandle,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) circuits: Option<Arc<dyn DirStreams>>,
    /// The newest consensus held, usable or not.
    pub(super) held: Option<Arc<Consensus>>,
    /// The mark on disk of the newest consensus ever taken, if that consensus is not held.
    pub(super) mark: Option<Mark>,
    /// May differences be asked for?
    pub(super) takes_differences: bool,
    /// Is there no consensus that may be used?
    pub(super) is_urgent: bool,
    /// The longest pause between two sources. All are asked at once where it is zero.
    pub(super) pause: Duration,
    /// Relays that must not be asked.
    pub(super) avoid: Vec<RelayId>,
    pub(super) now: UnixSecs,
    pub(super) reporter: Reporter,
}

/// The result of a round.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The newest consensus that may be taken.
    pub(super) newest: Option<Arc<Consensus>>,
    /// If there is no newest consensus, the error that says most.
    pub(super) error: Option<RoundError>,
    /// Relays that misbehaved.
    pub(super) blamed: Vec<RelayId>,
    /// Relays that are busy, and how long each wants to be left alone.
    pub(super) busy: Vec<(RelayId, Duration)>,
    /// Was a difference wrong? Then the whole consensus is asked for, from another source.
    pub(super) wrong_difference: bool,
    /// Two consensuses for one time.
    pub(super) conflict: Option<ConsensusConflict>,
    /// What several sources agree on about the clock.
    pub(super) skew: Option<WrongClock>,
    /// Valid-until of the newest expired consensus that was seen.
    pub(super) expired_at: Option<UnixSecs>,
}

impl RoundError {
    /// How much the error says. An error of a source that could not be asked says less than one of a source that
    /// answered.
    fn weight(&self) -> u8 {
        match self {
            Self::Fetch(FetchError::Dial(_)) => 0,
            Self::Fetch(FetchError::Refused { status: 429, .. }) => 1,
            Self::Fetch(_) => 2,
            _ => 3,
        }
    }
}

impl Outcome {
    fn blame_on(&mut self, error: RoundError) {
        if self
            .error
            .as_ref()
            .is_none_or(|held| error.weight() >= held.weight())
        {
            self.error = Some(error);
        }
    }
}

/// Opens a stream when it is called: nothing of a circuit is built before.
type Opening = Box<dyn FnOnce() -> DirStreamFuture + Send>;

struct Answer {
    who: Option<RelayId>,
    found: Result<Option<Arc<Consensus>>, FetchError>,
}

impl Round {
    /// Asks all sources, with pauses at random between them, until all have answered or the time for the others is
    /// over.
    pub(super) async fn ask(&self, sources: Vec<Source>) -> Outcome {
        let mut asked = JoinSet::new();
        let count = sources.len();
        let mut begins = Instant::now();
        for (place, source) in sources.into_iter().enumerate() {
            if place > 0 {
                begins += random_below(&mut random::rng(), self.pause);
            }
            asked.spawn(self.ask_one(source, begins));
        }
        let mut answers: Vec<Answer> = Vec::with_capacity(count);
        let mut deadline = begins + FETCH_DEADLINE + OTHERS_LATER;
        while let Ok(Some(answer)) = timeout_at(deadline, asked.join_next()).await {
            let Ok(answer) = answer else { continue };
            let is_good = matches!(&answer.found, Ok(Some(found)) if self.check(found).is_ok());
            if is_good {
                let others = if self.is_urgent {
                    OTHERS_AT_START
                } else {
                    OTHERS_LATER
                };
                deadline = deadline.min(Instant::now().max(begins) + others);
            }
            answers.push(answer);
        }
        self.judge(answers)
    }

    /// Asks one source at the time `begins`.
    fn ask_one(
        &self,
        source: Source,
        begins: Instant,
    ) -> impl Future<Output = Answer> + Send + 'static {
        let network = self.network.clone();
        let held = self.held.clone().filter(|_| self.takes_differences);
        let (known, name, open) = self.open(source);
        let reporter = self.is_urgent.then(|| self.reporter.clone());
        if let Some(reporter) = &reporter {
            reporter.stage(ClientEvent::Connecting(name.clone()));
        }
        async move {
            tokio::time::sleep_until(begins).await;
            let (who, io) = match timeout(FETCH_DEADLINE, open()).await {
                Ok(Ok((who, io))) => (Some(who), io),
                // A source that was not reached has not lied; with circuits the fault may not even be its own.
                Ok(Err(error)) => {
                    if let Some(reporter) = &reporter {
                        let (source, reason) = (name, error.to_string());
                        reporter.warn(Warning::Unreachable { source, reason });
                    }
                    let found = Err(FetchError::Dial(error));
                    return Answer { who: known, found };
                }
                Err(_) => {
                    let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
                    let found = Err(FetchError::Dial(late));
                    return Answer { who: known, found };
                }
            };
            let (received, coming) = watch::channel(Received::default());
            let fetch =
                fetch_newer_watched(io, &network, held.as_deref(), FETCH_DEADLINE, received);
            let found = match reporter {
                Some(reporter) => tokio::select! {
                    found = fetch => found,
                    never = tell(coming, name, reporter) => match never {},
                },
                None => fetch.await,
            };
            Answer { who, found }
        }
    }

    /// Who is asked, as far as that is known, and what opens a stream there.
    fn open(&self, source: Source) -> (Option<RelayId>, DirectorySource, Opening) {
        match source {
            Source::Circuit => {
                let (circuits, avoid) = (self.circuits.clone(), self.avoid.clone());
                let open = move || match circuits {
                    Some(circuits) => circuits.open(&avoid),
                    None => Box::pin(async { Err(std::io::ErrorKind::NotConnected.into()) }),
                };
                (None, DirectorySource::Circuit, Box::new(open))
            }
            Source::Direct {
                identity,
                name,
                addresses,
                link_key,
            } => {
                let dial = Arc::clone(&self.dial);
                let open = move || -> DirStreamFuture {
                    let stream = dial.dial(&addresses, link_key);
                    Box::pin(async move { Ok((identity, stream.await?)) })
                };
                (Some(identity), name, Box::new(open))
            }
        }
    }

    /// Checks that this consensus may be taken (S25). The signatures of the consensus have been verified.
    fn check(&self, found: &Consensus) -> Result<(), RoundError> {
        let held = self.held.as_deref().map(Mark::of).or(self.mark);
        if let Some(held) = held {
            let theirs = found.lifetime().valid_after;
            let is_same = found.digest() == held.digest;
            if theirs < held.valid_after {
                return Err(RoundError::Older);
            }
            // A consensus of which only the mark is known counts as news.
            if is_same && self.held.is_some() {
                return Err(RoundError::NoNews);
            }
            if theirs == held.valid_after && !is_same {
                return Err(RoundError::Conflict);
            }
        }
        match found.status(self.now) {
            ConsensusStatus::Early => Err(RoundError::Early),
            ConsensusStatus::Expired => Err(RoundError::Expired),
            _ => Ok(()),
        }
    }

    /// Is this consensus by more than an interval older than the newest that was taken?
    fn is_far_behind(&self, found: &Consensus) -> bool {
        let held = self.held.as_deref().map(Mark::of).or(self.mark);
        held.is_some_and(|held| found.lifetime().fresh_until < held.valid_after)
    }

    fn judge(&self, answers: Vec<Answer>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut wrong_time: Vec<Arc<Consensus>> = Vec::new();
        let mut good: Vec<(Option<RelayId>, Arc<Consensus>)> = Vec::new();
        for Answer { who, found } in answers {
            let found = match found {
                Ok(Some(found)) => found,
                Ok(None) => {
                    outcome.blame_on(RoundError::NoNews);
                    // The source has nothing newer than the consensus held, so its consensus is of the same time as the
                    // one held.
                    wrong_time.extend(self.held.clone().filter(|held| !held.is_usable(self.now)));
                    continue;
                }
                Err(error) => {
                    if error.is_misbehaviour() {
                        outcome.blamed.extend(who);
                    }
                    outcome.busy.extend(who.zip(error.retry_after()));
                    outcome.wrong_difference |= matches!(error, FetchError::Difference(_));
                    outcome.blame_on(error.into());
                    continue;
                }
            };
            match self.check(&found) {
                Ok(()) => good.push((who, found)),
                Err(error) => {
                    match error {
                        RoundError::Conflict => {
                            let between = |held| {
                                ConsensusConflict::between(held, &found, &self.network.newest())
                            };
                            outcome.conflict = self.held.as_deref().and_then(between);
                        }
                        RoundError::Early | RoundError::Expired => wrong_time.push(found),
                        RoundError::NoNews if !found.is_usable(self.now) => {
                            wrong_time.push(found);
                        }
                        // The cache is behind, or was rolled back. By one interval an honest one may be.
                        RoundError::Older if self.is_far_behind(&found) => {
                            outcome.blamed.extend(who);
                        }
                        _ => {}
                    }
                    outcome.blame_on(error);
                }
            }
        }
        self.take_newest(good, &mut outcome);
        self.judge_times(&wrong_time, &mut outcome);
        outcome
    }

    fn take_newest(&self, good: Vec<(Option<RelayId>, Arc<Consensus>)>, outcome: &mut Outcome) {
        let valid_after = |found: &Consensus| found.lifetime().valid_after;
        let Some((_, newest)) = good.iter().max_by_key(|(_, found)| valid_after(found)) else {
            return;
        };
        let newest = Arc::clone(newest);
        for (who, found) in &good {
            // A cache may be one interval behind, and no more.
            if found.lifetime().fresh_until < valid_after(&newest) {
                outcome.blamed.extend(*who);
            }
            if let Some(conflict) =
                ConsensusConflict::between(&newest, found, &self.network.newest())
            {
                outcome.conflict = Some(conflict);
            }
        }
        outcome.newest = Some(newest);
    }

    /// Judges the clock: if several sources have one consensus of another time, this computer's clock is wrong. A
    /// single source may itself be behind.
    fn judge_times(&self, wrong_time: &[Arc<Consensus>], outcome: &mut Outcome) {
        let expired = wrong_time.iter().map(|found| found.lifetime().valid_until);
        outcome.expired_at = expired.filter(|until| *until <= self.now).max();
        if outcome.newest.is_some() {
            return;
        }
        let newest = wrong_time.iter().max_by_key(|c| c.lifetime().valid_after);
        let Some(newest) = newest else { return };
        let same = |found: &&Arc<Consensus>| found.digest() == newest.digest();
        if wrong_time.iter().filter(same).count() >= 2 {
            outcome.skew = WrongClock::of(newest.lifetime(), self.now);
        }
    }
}

/// Reports how much of a consensus has come, for as long as anything comes.
async fn tell(
    mut coming: watch::Receiver<Received>,
    from: DirectorySource,
    reporter: Reporter,
) -> core::convert::Infallible {
    while coming.changed().await.is_ok() {
        let received = *coming.borrow_and_update();
        reporter.receiving(&from, received.bytes, received.announced);
    }
    core::future::pending().await
}
