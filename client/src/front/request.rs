//! What an application asks of the port, whichever protocol it asks in.

use core::fmt;
use std::net::IpAddr;

use super::target::{FrontTarget, Host, Marks, Protocol};
use super::udp_ask::Associate;

/// What an application asks for. Debug output hides destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A stream to this target.
    Connect(FrontTarget),
    /// The address of this host (RESOLVE, Tor's extension of SOCKS).
    Resolve(Host),
    /// The name of this address (RESOLVE_PTR, Tor's extension of SOCKS 5).
    ResolvePtr(Address),
    /// Datagrams.
    Associate(Associate),
    /// The port itself: what follows on the connection is another program's, as on a connection of its own.
    Port,
    /// A request for an `http://` address, whose head is at the front of [`FrontRequest::leftover`], still to be judged:
    /// further ones may follow on the same connection, each for its own destination.
    Forward,
}

/// An address that an application asks about. Debug output hides it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address(pub IpAddr);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(…)")
    }
}

/// What an application wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookUp {
    /// The address of a host that has a name.
    Address(Host),
    /// The name of an address.
    Name(Address),
}

/// What is known. Debug output hides it.
#[derive(Clone, PartialEq, Eq)]
pub enum Found {
    /// The address of the name: one of IPv4 if there is one.
    Address(IpAddr),
    /// The name of the address.
    Name(String),
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address(_) => "Address(…)",
            Self::Name(_) => "Name(…)",
        })
    }
}

/// A request with all that came with it. Debug output hides what belongs to the user.
#[derive(Clone, PartialEq, Eq)]
pub struct FrontRequest {
    /// What the application asks for.
    pub request: Request,
    /// What the application sent to have this request's stream kept apart from others.
    pub marks: Marks,
    /// The protocol in which the application expects the answer.
    pub protocol: Protocol,
    /// Bytes that came behind the request: the first of the stream (S28).
    pub leftover: Vec<u8>,
}

impl fmt::Debug for FrontRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontRequest")
            .field("request", &self.request)
            .field("marks", &self.marks)
            .field("protocol", &self.protocol)
            .field("leftover", &format_args!("{} bytes", self.leftover.len()))
            .finish()
    }
}
