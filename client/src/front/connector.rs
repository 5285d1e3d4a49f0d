//! Who opens streams for the front end, and what tells streams apart.

use core::fmt;
use core::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use cepa_common::budget::Budget;
use cepa_common::dir::Site;
use cepa_common::dns::Query;
use tokio::io::{AsyncRead, AsyncWrite};

use super::reply::Failure;
use super::request::{Found, LookUp};
use super::target::{Credentials, FrontTarget, Marks, Protocol};
use super::udp::Datagrams;

/// Who is at the other end of an accepted connection, as far as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A machine, by its address.
    Ip(IpAddr),
    /// A user of this machine who came through a Unix socket, by the number that the system knows him by.
    Uid(u32),
}

/// Who is counted as one: an address, a subnet of IPv6, or a user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Party {
    Site(Site),
    Uid(u32),
}

impl Party {
    pub(super) fn of(origin: Origin) -> Self {
        match origin {
            Origin::Ip(ip) => Self::Site(Site::of(ip)),
            Origin::Uid(uid) => Self::Uid(uid),
        }
    }
}

/// What keeps streams apart: two streams may share a circuit only if their keys are equal. The destination is in the
/// request; the connector decides whether it counts too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IsolationKey {
    /// What the application sent to have its streams kept apart.
    pub marks: Marks,
    /// Who passes the application's connection on, in his own words, if somebody does.
    pub within: Option<Credentials>,
    /// Protocol that the application spoke.
    pub protocol: Protocol,
    /// Who the application is.
    pub client: Origin,
    /// Number of the listener that the connection came through; each listener of a client has its own.
    pub listener: u64,
}

impl IsolationKey {
    /// The key of a request that came with these marks, in this protocol.
    pub(super) fn of(self, marks: Marks, protocol: Protocol) -> Self {
        Self {
            marks,
            protocol,
            ..self
        }
    }
}

/// A stream to be opened. Debug output hides what belongs to the user.
pub struct ConnectRequest {
    /// Where the stream should go.
    pub target: FrontTarget,
    /// What decides which streams this one may share a circuit with.
    pub isolation: IsolationKey,
    /// The application's first bytes, which the connector must send before all others. Together with BEGIN in one cell
    /// they save a round trip.
    pub early: Vec<u8>,
}

impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("target", &self.target)
            .field("isolation", &self.isolation)
            .field("early", &format_args!("{} bytes", self.early.len()))
            .finish()
    }
}

/// Does for the front end what applications ask for.
pub trait Connector: Send + Sync + 'static {
    /// The type of streams. `shutdown` ends our direction. A read of zero bytes means that the other side ended its
    /// direction; every other end is an error. A stream that is dropped before both directions ended is reset.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// What the front end holds for applications is charged to this.
    fn budget(&self) -> &Arc<Budget>;

    /// The number of the identity that streams are opened under now. Another number means that nothing may be used any
    /// more that an earlier one has opened.
    fn identity(&self) -> u64;

    /// Opens a stream, up to the point where success or failure is known. Dropping the future gives the stream up.
    fn connect(
        &self,
        request: ConnectRequest,
    ) -> impl Future<Output = Result<Self::Stream, Failure>> + Send;

    /// Begins to carry datagrams; `None` if this connector carries none. Nothing happens before the first is sent.
    fn associate(&self, isolation: IsolationKey) -> Option<Box<dyn Datagrams>> {
        let _ = isolation;
        None
    }

    /// Answers a DNS query by a message of at most `most` bytes, or by one that says that it was too long, within a
    /// bounded time. Dropping the future gives the query up.
    fn answer(
        &self,
        query: Query,
        most: usize,
        isolation: IsolationKey,
    ) -> impl Future<Output = Vec<u8>> + Send;

    /// Looks a name or an address up, within a bounded time. Dropping the future gives the look-up up.
    fn look_up(
        &self,
        asked: LookUp,
        isolation: IsolationKey,
    ) -> impl Future<Output = Result<Found, Failure>> + Send;
}
