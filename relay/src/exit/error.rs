//! Why an exit could not connect a stream.

use std::io;

use cepa_common::cell::message::EndReason;

/// Why an exit could not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// The policy allows none of the addresses.
    #[error("the policy does not allow it")]
    Policy,
    /// The destination refused the connection.
    #[error("the destination refused")]
    Refused,
    /// There is no route to the destination.
    #[error("no route to the destination")]
    Unreachable,
    /// The name has no address.
    #[error("the name has no address")]
    ResolveFailed,
    /// The name server or the destination did not answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// This machine has no sockets, ports or memory left.
    #[error("out of resources")]
    Resource,
    /// Any other failure.
    #[error("the connection failed")]
    Internal,
}

impl DestinationError {
    /// The reason that the client is told.
    pub fn end_reason(self) -> EndReason {
        match self {
            Self::Policy => EndReason::Policy,
            Self::Refused => EndReason::Refused,
            Self::Unreachable => EndReason::Unreachable,
            Self::ResolveFailed => EndReason::Unresolvable,
            Self::TimedOut => EndReason::Timeout,
            // The client must not learn what is wrong with this machine.
            Self::Resource | Self::Internal => EndReason::Resource,
        }
    }
}

impl From<io::Error> for DestinationError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused | Kind::ConnectionReset | Kind::ConnectionAborted => {
                Self::Refused
            }
            // `PermissionDenied` means that a packet filter of this machine is in the way.
            Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::PermissionDenied => Self::Unreachable,
            Kind::TimedOut => Self::TimedOut,
            Kind::AddrNotAvailable | Kind::OutOfMemory => Self::Resource,
            // EMFILE, ENFILE and ENOBUFS have no `ErrorKind`, so they are recognised by their numbers.
            _ if matches!(error.raw_os_error(), Some(23 | 24 | 105)) => Self::Resource,
            _ => Self::Internal,
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_full_descriptor_table_is_told_as_such() {
        for (code, error) in [
            (24, DestinationError::Resource),
            (105, DestinationError::Resource),
            (99, DestinationError::Resource),
            (111, DestinationError::Refused),
            (113, DestinationError::Unreachable),
            (101, DestinationError::Unreachable),
            (110, DestinationError::TimedOut),
            (1, DestinationError::Unreachable),
            (22, DestinationError::Internal),
        ] {
            assert_eq!(
                DestinationError::from(io::Error::from_raw_os_error(code)),
                error
            );
        }
    }
}
