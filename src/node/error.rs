//! Why a node could not be started or asked, and what its owner could try.

use std::io::ErrorKind;
use std::path::PathBuf;

use cepa_common::state::StateError;
use cepa_relay::RelayError;

use crate::terminal::{CliError, FAILED, NETWORK};

/// A node could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The network's file cannot be read.
    #[error("cannot read the network file {}: {source}", path.display())]
    NetworkUnreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The network's file says nothing that can be believed.
    #[error("{} is no valid network file: {reason}", path.display())]
    NetworkInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key or a document on disk cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A port cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The port, or the path of a socket.
        address: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The configuration makes no sense for this network.
    #[error("{what}")]
    Mismatch {
        /// What does not fit.
        what: String,
        /// What to try.
        hint: &'static str,
    },
    /// The relay did not start.
    #[error("the relay did not start: {0}")]
    Relay(String),
    /// The client did not reach the network.
    #[error("the client did not reach the network: {0}")]
    Client(String),
    /// The circuit was not built.
    #[error("the circuit was not built: {0}")]
    Circuit(String),
}

impl AppError {
    /// What the reader of the error could try.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NetworkUnreadable { source, .. } if source.kind() == ErrorKind::NotFound => {
                "name the network's file with --network FILE, or by `file` under [network] in a configuration file; \
                 `cepa testnet` and `cepa authority init` make one"
            }
            Self::NetworkUnreadable { .. } => {
                "check that this is the network's file, which is text, and that this account may read it"
            }
            Self::NetworkInvalid { .. } => {
                "get the file anew from somebody who runs an authority of the network"
            }
            Self::State(error) => error.hint(),
            Self::Listen { source, .. } if source.kind() == ErrorKind::AddrInUse => {
                "another program listens there, perhaps a client of another user: `cepa check` says which; stop it or \
                 choose another port"
            }
            Self::Listen { address, .. } if address.starts_with("unix:") => {
                "choose a path of at most 107 bytes that no program uses, in a directory that is there"
            }
            Self::Listen { .. } => "choose an address of this machine and a port above 1023",
            Self::Mismatch { hint, .. } => hint,
            Self::Relay(_) => "look at the log; `--log debug` says more",
            Self::Client(_) => {
                "check that the network's authorities run and can be reached; `--log debug` says more"
            }
            Self::Circuit(_) => "`cepa consensus` shows which relays the network has",
        }
    }

    /// Is the network the cause, rather than this machine or its settings?
    pub fn is_network(&self) -> bool {
        matches!(self, Self::Client(_) | Self::Circuit(_))
    }
}

impl From<RelayError> for AppError {
    fn from(error: RelayError) -> Self {
        match error {
            RelayError::Listen { address, source } => {
                let address = address.to_string();
                Self::Listen { address, source }
            }
            RelayError::State(error) => Self::State(error),
            other => Self::Relay(other.to_string()),
        }
    }
}

impl From<AppError> for CliError {
    fn from(error: AppError) -> Self {
        let code = if error.is_network() { NETWORK } else { FAILED };
        Self {
            what: error.to_string(),
            hint: error.hint().to_owned(),
            code,
        }
    }
}

/// Where the lists of peers are explained.
pub(super) const PEERS_HINT: &str = "docs/peers.md explains the lists of [client] and client.geoip";

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn hints_fit_what_the_system_said() {
        let address = SocketAddr::from(([127, 0, 0, 1], 9001));
        // A relay's port is as busy as a client's.
        let busy = AppError::from(RelayError::Listen {
            address,
            source: ErrorKind::AddrInUse.into(),
        });
        assert!(busy.hint().contains("another program"), "{}", busy.hint());
        let unreadable = |kind: ErrorKind| AppError::NetworkUnreadable {
            path: PathBuf::from("network.toml"),
            source: kind.into(),
        };
        assert!(unreadable(ErrorKind::NotFound).hint().contains("--network"));
        let denied = unreadable(ErrorKind::PermissionDenied);
        assert!(denied.hint().contains("may read"), "{}", denied.hint());
    }
}
