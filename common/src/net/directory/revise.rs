//! Keeps the network's file up to date: from the file that its owner edits, and from directories (docs/protocol.md,
//! 6.3.11).

use core::fmt;
use core::time::Duration;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rand::seq::SliceRandom;
use tracing::Level;

use super::backoff::{Backoff, random_below};
use super::dial::{Dial, DialFuture};
use super::fetch::{DirRequest, DirResponse, FetchError, fetch};
use super::handle::{NetworkHandle, RevisionStore};
use crate::dir::{
    Consensus, ConsensusStatus, DocError, MAX_NETWORK_FILE_BYTES, MAX_REVISIONS, NetworkFile,
    NetworkFileError, UnixSecs,
};
use crate::words::At;
use crate::world::{Clock, Disk, blocking, random};

/// The longest time that the dial and fetch of one revision may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(20);
/// Number of directories asked in one round.
const SOURCES: usize = 3;
/// The longest wait between two looks at the consensus and at the file.
const LOOK_CAP: Duration = Duration::from_secs(30);
/// The first wait between questions. Whoever is cut off from consensuses for this time asks.
const ASK_FIRST: Duration = Duration::from_secs(4);
/// The longest wait between questions.
const ASK_CAP: Duration = Duration::from_secs(600);

/// A function that returns the newest consensus held.
pub type NewestConsensus = Box<dyn Fn() -> Option<Arc<Consensus>> + Send + Sync>;

/// A function that is told what becomes of later revisions.
pub type TellRevision = Box<dyn Fn(RevisionNews) + Send + Sync>;

/// A function that opens a stream to some relay's directory over a circuit of its own.
pub type OverCircuit = Box<dyn Fn() -> DialFuture + Send + Sync>;

/// Whom a [`Reviser`] asks, and when it asks though no later revision is named.
pub enum Asker {
    /// A relay asks authorities and fallbacks, and asks unbidden once it has no fresh consensus.
    Relay,
    /// A client asks over circuits while it has a usable consensus, and authorities and fallbacks without one: a relay
    /// that it connected to would see its address. It asks unbidden only once its consensus is not valid any more.
    Client(OverCircuit),
}

impl Asker {
    /// May all signers be new, so that only a later revision could bring a newer consensus?
    fn is_cut_off(&self, consensus: Option<&Consensus>, now: UnixSecs) -> bool {
        let status = consensus.map(|consensus| consensus.status(now));
        match self {
            Self::Relay => status != Some(ConsensusStatus::Fresh),
            Self::Client(_) => !matches!(
                status,
                Some(ConsensusStatus::Fresh | ConsensusStatus::Valid)
            ),
        }
    }
}

/// Everything that [`revise`] needs.
pub struct Reviser {
    /// The handle that takes later revisions.
    pub network: NetworkHandle,
    /// Opens connections to directories.
    pub dial: Arc<dyn Dial>,
    /// The time.
    pub clock: Clock,
    /// The newest consensus, which names the revision that the authorities hold.
    pub consensus: NewestConsensus,
    /// Who asks.
    pub asker: Asker,
    /// The store of revisions on disk; nothing is stored without it.
    pub store: Option<RevisionStore>,
    /// The file that the network was read from. The file's owner may put a later revision there.
    pub file: Option<PathBuf>,
    /// The disk that the file is on.
    pub disk: Disk,
    /// Hears what becomes of later revisions.
    pub tell: TellRevision,
}

/// Where a later revision came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevisionSource {
    /// The owner has put it into the network's file.
    Owner,
    /// A directory has it.
    Directory,
}

/// What has become of a later revision of the network's file. `to_string` gives a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RevisionNews {
    /// The revision is in use.
    Taken {
        /// Number of the revision.
        revision: u32,
        /// Documents with a later valid-after are decided about by this revision.
        effective_after: UnixSecs,
        /// Where the revision came from.
        source: RevisionSource,
    },
    /// The owner's file has changed, and does not follow from the revision held.
    FileRefused {
        /// The file.
        file: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// The revision is in use and cannot be written to disk.
    NotKept {
        /// What the system said.
        reason: String,
    },
}

impl RevisionNews {
    /// The level of the log line.
    pub fn level(&self) -> Level {
        match self {
            Self::Taken { .. } => Level::INFO,
            Self::FileRefused { .. } => Level::ERROR,
            Self::NotKept { .. } => Level::WARN,
        }
    }
}

impl fmt::Display for RevisionNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken {
                revision,
                effective_after,
                source,
            } => {
                let from = match source {
                    RevisionSource::Owner => "its file",
                    RevisionSource::Directory => "a directory",
                };
                write!(
                    f,
                    "revision {revision} of the network is in use, from {from}; it decides about documents after \
                     {}",
                    At(*effective_after)
                )
            }
            Self::FileRefused { file, reason } => write!(
                f,
                "the network's file {} has changed and is not taken; a restart would trust it as it is: {reason}",
                file.display()
            ),
            Self::NotKept { reason } => write!(
                f,
                "the later revision of the network cannot be written to disk: {reason}"
            ),
        }
    }
}

/// Why a revision is not taken.
#[derive(Debug, thiserror::Error)]
enum ReviseError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    File(#[from] NetworkFileError),
    #[error("it is no text")]
    NotText,
    #[error("it has no later revision")]
    NoNews,
}

/// A directory to ask.
enum Source {
    /// An authority or a fallback.
    Named {
        addresses: Vec<SocketAddr>,
        link_key: [u8; 32],
    },
    /// The relay at the end of a circuit.
    Circuit,
}

impl fmt::Debug for Reviser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviser")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Looks for later revisions for as long as it runs.
pub async fn revise(mut reviser: Reviser) {
    let mut again = Backoff::new(ASK_FIRST, ASK_CAP);
    let first_ms = u64::try_from(ASK_FIRST.as_millis()).unwrap_or(u64::MAX);
    let mut ask_at_ms = reviser.clock.now_ms().saturating_add(first_ms);
    let (mut seen, mut asked_for) = (String::new(), 0);
    // A founding file is on disk already, where its owner put it.
    let mut saved = 0;
    loop {
        reviser.reread(&mut seen).await;
        reviser.keep(&mut saved).await;
        let now_ms = reviser.clock.now_ms();
        let consensus = (reviser.consensus)();
        let is_cut_off = reviser
            .asker
            .is_cut_off(consensus.as_deref(), now_ms / 1_000);
        let held = reviser.network.newest().revision();
        let named = consensus.as_ref().map_or(0, |c| c.network_revision());
        if named > held && named != asked_for {
            // The question comes at once, but not at this rate for ever: the named revision may be one that does not
            // follow from the one held.
            asked_for = named;
            again.reset();
            ask_at_ms = now_ms;
        } else if named <= held && !is_cut_off {
            again.reset();
            ask_at_ms = now_ms.saturating_add(first_ms);
        }
        if (named > held || is_cut_off) && now_ms >= ask_at_ms {
            reviser.round(consensus.as_deref()).await;
            let wait =
                u64::try_from(again.next(&mut random::rng()).as_millis()).unwrap_or(u64::MAX);
            ask_at_ms = reviser.clock.now_ms().saturating_add(wait);
        }
        tokio::time::sleep(reviser.wait()).await;
    }
}

impl Reviser {
    /// The wait between two looks: a tenth of an interval, and up to as much again at random, so that not all ask at
    /// once.
    fn wait(&self) -> Duration {
        let interval = u64::from(self.network.newest().params().vote_interval_seconds);
        let look = LOOK_CAP.min(Duration::from_secs(interval) / 10);
        look + random_below(&mut random::rng(), look)
    }

    /// Takes the revision that the owner put into the network's file, if it follows from the one held.
    async fn reread(&mut self, seen: &mut String) {
        let Some(path) = self.file.clone() else {
            return;
        };
        let (disk, file) = (self.disk.clone(), path.clone());
        let limit = MAX_NETWORK_FILE_BYTES as u64 + 1;
        let read = blocking::run(move || disk.read_text(&file, limit)).await;
        let Ok(Ok(text)) = read else { return };
        if text == *seen {
            return;
        }
        match NetworkFile::parse(&text).and_then(|file| self.network.offer(file)) {
            Ok(true) => self.taken(RevisionSource::Owner),
            Ok(false) => {}
            Err(error) => {
                let reason = error.to_string();
                (self.tell)(RevisionNews::FileRefused { file: path, reason });
            }
        }
        *seen = text;
    }

    /// Asks a few directories until one has a later revision that is valid.
    async fn round(&self, consensus: Option<&Consensus>) {
        for source in self.sources(consensus) {
            match self.ask(&source).await {
                Ok(()) => return self.taken(RevisionSource::Directory),
                Err(ReviseError::NoNews) => {}
                Err(error) => tracing::debug!(%error, "no later revision of the network"),
            }
        }
    }

    /// Takes a directory's newest revision. If it does not follow from the one held, the revisions between are fetched
    /// too.
    async fn ask(&self, source: &Source) -> Result<(), ReviseError> {
        let held = self.network.newest().revision();
        let newest = self.fetch(source, None).await?;
        let last = newest.revision();
        if last <= held {
            return Err(ReviseError::NoNews);
        }
        let few = match self.network.offer(newest) {
            Ok(_) => return Ok(()),
            Err(few @ NetworkFileError::Signature(DocError::TooFewSignatures { .. })) => few,
            Err(error) => return Err(error.into()),
        };
        let steps = u32::try_from(MAX_REVISIONS).unwrap_or(u32::MAX);
        for revision in held.saturating_add(1)..=last.min(held.saturating_add(steps)) {
            let step = self.fetch(source, Some(revision)).await?;
            // Some of the revisions may be skipped: what matters is that one leads to the next.
            let _ = self.network.offer(step);
        }
        if self.network.newest().revision() > held {
            return Ok(());
        }
        Err(few.into())
    }

    async fn fetch(
        &self,
        source: &Source,
        revision: Option<u32>,
    ) -> Result<NetworkFile, ReviseError> {
        let stream = self.open(source);
        let exchange = async {
            let io = stream.await?;
            let request = DirRequest::network(revision);
            fetch(io, request, MAX_NETWORK_FILE_BYTES, FETCH_DEADLINE).await
        };
        let answer = tokio::time::timeout(FETCH_DEADLINE, Box::pin(exchange))
            .await
            .unwrap_or(Err(FetchError::Deadline))?;
        let DirResponse::Ok(bytes) = answer else {
            return Err(ReviseError::NoNews);
        };
        let text = core::str::from_utf8(&bytes).map_err(|_| ReviseError::NotText)?;
        Ok(NetworkFile::parse(text)?)
    }

    /// Opens a stream to a directory, without a deadline.
    fn open(&self, source: &Source) -> DialFuture {
        match (source, &self.asker) {
            (
                Source::Named {
                    addresses,
                    link_key,
                },
                _,
            ) => self.dial.dial(addresses, *link_key),
            (Source::Circuit, Asker::Client(over_circuit)) => over_circuit(),
            (Source::Circuit, Asker::Relay) => {
                Box::pin(async { Err(io::ErrorKind::NotConnected.into()) })
            }
        }
    }

    fn sources(&self, consensus: Option<&Consensus>) -> Vec<Source> {
        if matches!(self.asker, Asker::Client(_)) && consensus.is_some() {
            return (0..SOURCES).map(|_| Source::Circuit).collect();
        }
        let network = self.network.newest();
        let authorities = network
            .authorities()
            .iter()
            .map(|a| (&a.addresses, a.identity));
        let fallbacks = network
            .fallbacks()
            .iter()
            .map(|f| (&f.addresses, f.identity));
        let mut sources: Vec<_> = authorities
            .chain(fallbacks)
            .map(|(addresses, id)| Source::Named {
                addresses: addresses.clone(),
                link_key: id.0,
            })
            .collect();
        sources.shuffle(&mut random::rng());
        sources.truncate(SOURCES);
        sources
    }

    fn taken(&self, source: RevisionSource) {
        let newest = self.network.newest();
        (self.tell)(RevisionNews::Taken {
            revision: newest.revision(),
            effective_after: newest.effective_after(),
            source,
        });
    }

    /// Writes the revisions held to disk, whoever took them.
    async fn keep(&self, saved: &mut u32) {
        let revisions = self.network.revisions();
        let newest = revisions.newest().revision();
        if newest == *saved {
            return;
        }
        *saved = newest;
        let Some(store) = self.store.clone() else {
            return;
        };
        let reason = match blocking::run(move || store.save(&revisions)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        (self.tell)(RevisionNews::NotKept { reason });
    }
}
