//! Directory documents on their way: over a connection, in the hands of a process, and on disk (docs/protocol.md,
//! 6.12).
//!
//! The documents themselves, and all that is decided about them, are in [`crate::dir`]. Whoever wants a document has a
//! [`Dial`] open a connection (a link before its HELLO, or a BEGIN_DIR stream; this module does not know how) and asks
//! over that connection: [`fetch`] carries one request under a deadline and a cap; [`fetch_newer`] asks for the
//! consensus and verifies what comes; [`offer_vote`] tells another authority of a vote; [`fetch_padding`] measures.
//! [`NetworkHandle`] is the network as all rooms of a process know it at the moment, [`RevisionStore`] its copy on
//! disk, and [`revise`] looks for later revisions. [`Backoff`] says how long to wait after a failure.
//!
//! Callers are the directory tasks of relays, authorities and clients. Nothing here chooses whom a client or a relay
//! asks for the consensus, and nothing here keeps or serves a consensus: `client/src/dir` and `relay/src/directory` do
//! that.

mod backoff;
mod dial;
mod fetch;
mod handle;
mod offer;
mod padding;
mod revise;

pub use backoff::{Backoff, random_below};
pub use dial::{AsyncReadWrite, Dial, DialFuture, DirStream};
pub use fetch::{
    A_IM, DELTA_BASE, DIFFERENCE_CODING, DirRequest, DirResponse, FetchError, IM, Received, fetch,
    fetch_consensus, fetch_newer, fetch_newer_watched, upload,
};
pub use handle::{NetworkHandle, RevisionStore};
pub use offer::offer_vote;
pub use padding::fetch_padding;
pub use revise::{
    Asker, NewestConsensus, OverCircuit, Reviser, RevisionNews, RevisionSource, TellRevision,
    revise,
};
