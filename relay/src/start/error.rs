//! Why a relay does not start.

use std::net::SocketAddr;

use cepa_common::net::tls::TlsSetupError;
use cepa_common::state::StateError;

use crate::exit::ResolverError;

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The relay cannot listen on its port.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The port.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// Names could not be resolved.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// An onion key cannot be used or made.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system did not give a thread or a file.
    #[error("{what}: {source}")]
    Io {
        /// What could not be done.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}
