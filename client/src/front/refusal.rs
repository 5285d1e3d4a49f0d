//! Why the front end refuses a request, and the limits that a request must keep.

use core::fmt;

use cepa_common::cell::message::SpecialName;

/// Length of the longest SOCKS message, in bytes (S28): a user and a password of 255 bytes each (RFC 1929).
pub const SOCKS_LIMIT: usize = 513;
/// Length of the longest HTTP head with its final empty line, in bytes (S28).
pub const HTTP_HEAD_LIMIT: usize = 8192;

/// Why a request of an application is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrontRefusal {
    /// The first byte belongs to no protocol that the front end speaks.
    #[error("neither SOCKS nor HTTP")]
    UnknownProtocol,
    /// The request is longer than [`SOCKS_LIMIT`] or [`HTTP_HEAD_LIMIT`].
    #[error("the request is too long")]
    TooLong,
    /// The request is not well-formed.
    #[error("the request is malformed")]
    Malformed,
    /// SOCKS5: the application offers no method of authentication that the front end knows.
    #[error("no authentication method in common")]
    Method,
    /// SOCKS5: the user name is of a format of Tor's extended authentication that asks for more than isolation.
    #[error("the user name has a format that is not supported")]
    Format,
    /// The port asks for a user and a password, and was given none or others.
    #[error("user and password are not those of a user of this port")]
    Credentials,
    /// SOCKS: the command is BIND or unknown, or one for datagrams where the port takes none (S30).
    #[error("the command is not supported here")]
    Command,
    /// SOCKS5: the address is neither IPv4, nor IPv6, nor a name.
    #[error("unknown address type")]
    AddressType,
    /// The host is neither an address nor a host name.
    #[error("not an address or a host name")]
    Host,
    /// The port is zero or missing.
    #[error("not a port")]
    Port,
    /// The destination is private or loopback (S30).
    #[error("private destinations are refused")]
    Private,
    /// The name is none of the DNS, so that no exit could look it up (docs/protocol.md, 5.3).
    #[error("{0}")]
    Special(SpecialName),
    /// HTTP: a page in a browser may have made the request, and learns nothing: not even that it was heard.
    #[error("a web page may have made the request")]
    WebPage,
    /// HTTP: there are as many isolation keys as fields of requests may make.
    #[error("too many isolation keys")]
    Keys,
    /// The parser has given its answer already. This is an error of the caller.
    #[error("the request was complete already")]
    Finished,
}

/// A refusal, with the bytes that tell the application about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontError {
    /// Why the request is refused.
    pub refusal: FrontRefusal,
    /// Bytes to send before closing; there may be none.
    pub reply: Vec<u8>,
}

impl FrontError {
    pub(super) fn new(refusal: FrontRefusal, reply: impl Into<Vec<u8>>) -> Self {
        Self {
            refusal,
            reply: reply.into(),
        }
    }
}

impl fmt::Display for FrontError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.refusal.fmt(f)
    }
}

impl core::error::Error for FrontError {}
