//! The values that a setting can have where the language has no type for them.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a listener of the client listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket, by its path.
    Unix(PathBuf),
}

/// How the address of a Unix socket begins.
const UNIX: &str = "unix:";

/// A text is neither of the two.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "it takes an address and a port, as in 127.0.0.1:9351, or unix: and a path, as in unix:/run/cepa/port"
)]
pub struct NoListenAddress;

impl FromStr for ListenAddress {
    type Err = NoListenAddress;

    fn from_str(text: &str) -> Result<Self, NoListenAddress> {
        match text.strip_prefix(UNIX) {
            Some("") => Err(NoListenAddress),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| NoListenAddress),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Who may use a Unix socket: the permission bits of its file, as `chmod` takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

/// A text is no mode.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it takes three or four octal digits in quotes, as in \"0660\"")]
pub struct NoMode;

impl FromStr for SocketMode {
    type Err = NoMode;

    fn from_str(text: &str) -> Result<Self, NoMode> {
        let digits = text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = u32::from_str_radix(text, 8).map_err(|_| NoMode)?;
        let fits = digits && (3..=4).contains(&text.len()) && mode <= 0o777;
        fits.then_some(Self(mode)).ok_or(NoMode)
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// What applications say at a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenerKind {
    /// SOCKS or HTTP.
    #[default]
    Proxy,
    /// DNS, by UDP and TCP.
    Dns,
    /// What they would say to the destination that a packet filter has led them away from.
    Transparent,
}

impl ListenerKind {
    /// The word for it, in files and in what a client says of itself.
    pub fn word(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Dns => "dns",
            Self::Transparent => "transparent",
        }
    }

    /// Is it what ports are if nobody says otherwise?
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

fn yes() -> bool {
    true
}

fn is_yes(it: &bool) -> bool {
    *it
}

/// One of `client.listeners`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "a table with `address`, which [[client.listeners]] begins")]
pub struct Listener {
    /// Where applications connect.
    pub address: ListenAddress,
    /// What applications say there.
    #[serde(default, skip_serializing_if = "ListenerKind::is_usual")]
    pub kind: ListenerKind,
    /// What keeps the streams of this port on different circuits; `None` for the client's isolation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolate: Option<Vec<IsolateKind>>,
    /// Who may use a Unix socket; `None` for its owner alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<SocketMode>,
    /// The group of a Unix socket, by name or number; `None` for that which the system gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Does this port take datagrams?
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub udp: bool,
    /// File of those who may use this port; `None` for everybody who reaches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
}

impl Listener {
    /// The keys of its table.
    pub(super) const KEYS: [&str; 7] = [
        "address",
        "kind",
        "isolate",
        "mode",
        "group",
        "udp",
        "credentials",
    ];

    /// A port at this address, with the client's isolation.
    pub fn at(address: ListenAddress) -> Self {
        Self {
            address,
            kind: ListenerKind::Proxy,
            isolate: None,
            mode: None,
            group: None,
            udp: true,
            credentials: None,
        }
    }

    /// Takes relative paths from `base`.
    pub(super) fn resolve(&mut self, base: &Path) {
        if let ListenAddress::Unix(path) = &mut self.address {
            *path = base.join(&*path);
        }
        if let Some(path) = &mut self.credentials {
            *path = base.join(&*path);
        }
    }
}

/// Has serde write and read a type as the text of its `Display` and `FromStr`.
macro_rules! as_text {
    ($($type:ty)*) => {
        $(
            impl Serialize for $type {
                fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                    to.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                    let text = String::deserialize(from)?;
                    text.parse().map_err(D::Error::custom)
                }
            }
        )*
    };
}

as_text!(ListenAddress SocketMode);

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
