//! The values that a setting can have where the language has no type for them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One of `client.listeners`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Where applications connect.
    pub address: SocketAddr,
    /// What keeps the streams of this port on different circuits; `None` for the client's isolation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolate: Option<Vec<IsolateKind>>,
}

impl Listener {
    /// A port at this address, with the client's isolation.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            isolate: None,
        }
    }
}

/// When a circuit gets a second one to the same exit that carries its streams with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MultipathKind {
    /// Never.
    Never,
    /// When it carries bulk that links hold back.
    #[default]
    Bulk,
    /// With its first stream.
    Always,
}

/// Something by which streams differ, and are then kept on different circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IsolateKind {
    /// User name and password given to the port.
    Credentials,
    /// The port that the application came to.
    Listener,
    /// The address of the application's machine.
    Client,
    /// SOCKS 4, 4a, 5, HTTP CONNECT or an `http://` request.
    Protocol,
    /// The host asked for.
    Destination,
    /// The port asked for.
    Port,
    /// Each stream alone.
    Stream,
}

impl IsolateKind {
    /// What tells different users and programs apart, and no more: isolation by where streams go to would cost many
    /// circuits, and tell apart what one program does anyway.
    pub const DEFAULT: [Self; 4] = [
        Self::Credentials,
        Self::Listener,
        Self::Client,
        Self::Protocol,
    ];
}

/// A suite by name, or the one that suits the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum SuiteChoice {
    /// AES-256-GCM where the processor has AES instructions, ChaCha20-Poly1305 elsewhere.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// ChaCha20-Poly1305.
    #[serde(rename = "chacha20-poly1305")]
    #[value(name = "chacha20-poly1305")]
    ChaCha20Poly1305,
    /// AES-256-GCM.
    #[serde(rename = "aes-256-gcm")]
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
}

/// Where the front end listens if nobody says otherwise.
pub const DEFAULT_SOCKS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9350);
