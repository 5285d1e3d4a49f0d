//! Stands in for the two halves until they are joined: no relays, a direct front.
#![allow(missing_docs, dead_code, unreachable_pub)]

pub(crate) mod dir {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use cepa_common::ids::{NetworkId, RelayId};
    use serde::{Deserialize, Serialize};

    pub use ed25519_dalek::SigningKey;

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Authority {
        pub name: String,
        pub identity: RelayId,
        pub signing_key: [u8; 32],
        pub addresses: Vec<SocketAddr>,
    }

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct NetworkFile {
        name: String,
        authorities: Vec<Authority>,
        params: BTreeMap<String, u32>,
    }
    pub struct NetworkDraft(NetworkFile);

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    pub struct NetworkFileError(String);

    impl NetworkDraft {
        pub fn new(name: &str, authorities: Vec<Authority>, params: BTreeMap<String, u32>) -> Self {
            Self(NetworkFile {
                name: name.to_owned(),
                authorities,
                params,
            })
        }
        pub fn sign(&mut self, _key: &SigningKey) -> Result<(), NetworkFileError> {
            Ok(())
        }
        pub fn finish(self) -> Result<NetworkFile, NetworkFileError> {
            Ok(self.0)
        }
    }
    impl NetworkFile {
        pub fn parse(text: &str) -> Result<Self, NetworkFileError> {
            toml::from_str(text).map_err(|e| NetworkFileError(e.to_string()))
        }
        pub fn to_toml(&self) -> Result<String, NetworkFileError> {
            toml::to_string(self).map_err(|e| NetworkFileError(e.to_string()))
        }
        pub fn name(&self) -> &str {
            &self.name
        }
        pub fn network_id(&self) -> NetworkId {
            NetworkId([0; 32])
        }
        pub fn authorities(&self) -> &[Authority] {
            &self.authorities
        }
        pub fn authority_by_signing_key(&self, key: &[u8; 32]) -> Option<&Authority> {
            self.authorities.iter().find(|a| a.signing_key == *key)
        }
    }

    pub fn local_network_params() -> BTreeMap<String, u32> {
        [("subnet_rule".to_owned(), 0)].into()
    }

    pub struct ExitPolicy;
    #[derive(Debug, thiserror::Error)]
    #[error("rule must begin with \"accept \" or \"reject \": {0}")]
    pub struct PolicyError(String);
    impl ExitPolicy {
        pub fn from_rules<S: AsRef<str>>(
            rules: impl IntoIterator<Item = S>,
        ) -> Result<Self, PolicyError> {
            for rule in rules {
                let rule = rule.as_ref();
                if !rule.starts_with("accept ") && !rule.starts_with("reject ") {
                    return Err(PolicyError(rule.to_owned()));
                }
            }
            Ok(Self)
        }
        #[must_use]
        pub fn allow_private(self) -> Self {
            self
        }
    }
}

pub(crate) mod relay {
    use std::io;
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use cepa_common::ids::RelayId;
    use cepa_common::onion::Suite;
    use cepa_common::secret::Secret;
    use tokio::net::TcpListener;

    use super::dir::{ExitPolicy, NetworkFile, SigningKey};

    pub struct RelayOptions {
        pub network: NetworkFile,
        pub identity: SigningKey,
        pub onion_key: Secret<32>,
        pub suite: Suite,
        pub listen: SocketAddr,
        pub advertised: Vec<SocketAddr>,
        pub nickname: String,
        pub publish: bool,
        pub exit: Option<ExitOptions>,
        pub authority: Option<AuthorityOptions>,
        pub threads: usize,
        pub cache_dir: PathBuf,
        pub limits: Limits,
    }
    pub struct ExitOptions {
        pub policy: ExitPolicy,
        pub resolver: Option<SocketAddr>,
    }
    pub struct AuthorityOptions {
        pub signing_key: SigningKey,
        pub state_dir: PathBuf,
    }
    pub struct Limits {
        pub memory_bytes: u64,
        pub connections: u32,
    }

    pub struct Relay;
    pub struct RelayHandle {
        identity: RelayId,
        _listener: TcpListener,
    }
    impl Relay {
        pub async fn start(options: RelayOptions) -> io::Result<RelayHandle> {
            let listener = TcpListener::bind(options.listen).await?;
            let identity = RelayId(options.identity.verifying_key().to_bytes());
            Ok(RelayHandle {
                identity,
                _listener: listener,
            })
        }
    }
    impl RelayHandle {
        pub fn identity(&self) -> RelayId {
            self.identity
        }
        pub async fn shutdown(self) {}
    }
}

pub(crate) mod client {
    use std::io;
    use std::net::SocketAddr;
    use std::path::PathBuf;
    use std::time::Duration;

    use cepa_common::ids::RelayId;
    use cepa_common::onion::Suite;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::watch;
    use tokio::task::JoinHandle;

    use super::dir::NetworkFile;
    use crate::app::{ConsensusView, Progress};

    pub struct ClientOptions {
        pub network: NetworkFile,
        pub state_dir: PathBuf,
    }
    pub struct FrontOptions {
        pub allow_private: bool,
    }
    pub struct Client {
        network: NetworkFile,
    }
    pub struct Front(JoinHandle<()>);
    pub struct HopReport {
        pub identity: RelayId,
        pub nickname: String,
        pub address: SocketAddr,
        pub suite: Suite,
        pub handshake: Duration,
        pub rtt: Duration,
    }

    impl Client {
        pub async fn bootstrap(
            options: ClientOptions,
            progress: watch::Sender<Progress>,
        ) -> io::Result<Self> {
            progress.send_replace(Progress {
                percent: 50,
                what: "asking for a consensus".into(),
            });
            Ok(Self {
                network: options.network,
            })
        }
        pub fn serve_front(&self, listener: TcpListener, _: FrontOptions) -> Front {
            Front(tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(direct(stream));
                }
            }))
        }
        pub async fn trace(&self, _: Option<&str>) -> io::Result<Vec<HopReport>> {
            Ok(self
                .network
                .authorities()
                .iter()
                .map(|a| HopReport {
                    identity: a.identity,
                    nickname: a.name.clone(),
                    address: a.addresses[0],
                    suite: Suite::Aes256Gcm,
                    handshake: Duration::from_micros(1234),
                    rtt: Duration::from_micros(456),
                })
                .collect())
        }
        pub fn consensus(&self) -> ConsensusView {
            ConsensusView {
                network: self.network.name().to_owned(),
                network_id: self.network.network_id().to_string(),
                valid_after: String::new(),
                fresh_until: String::new(),
                valid_until: String::new(),
                signatures: 0,
                authorities: self.network.authorities().len(),
                relays: Vec::new(),
            }
        }
        pub async fn shutdown(self) {}
    }
    impl Front {
        pub async fn shutdown(self) {
            self.0.abort();
        }
    }

    async fn direct(mut stream: TcpStream) -> io::Result<()> {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await?;
        let mut methods = vec![0; usize::from(head[1])];
        stream.read_exact(&mut methods).await?;
        if methods.contains(&2) {
            stream.write_all(&[5, 2]).await?;
            let mut len = [0; 2];
            stream.read_exact(&mut len).await?;
            let mut user = vec![0; usize::from(len[1]) + 1];
            stream.read_exact(&mut user).await?;
            let mut password = vec![0; usize::from(user.last().copied().unwrap_or(0))];
            stream.read_exact(&mut password).await?;
            stream.write_all(&[1, 0]).await?;
        } else {
            stream.write_all(&[5, 0]).await?;
        }
        let mut request = [0; 4];
        stream.read_exact(&mut request).await?;
        let target = if request[3] == 1 {
            let mut a = [0; 6];
            stream.read_exact(&mut a).await?;
            format!(
                "{}.{}.{}.{}:{}",
                a[0],
                a[1],
                a[2],
                a[3],
                u16::from_be_bytes([a[4], a[5]])
            )
        } else {
            let mut len = [0; 1];
            stream.read_exact(&mut len).await?;
            let mut name = vec![0; usize::from(len[0])];
            stream.read_exact(&mut name).await?;
            let mut port = [0; 2];
            stream.read_exact(&mut port).await?;
            format!(
                "{}:{}",
                String::from_utf8_lossy(&name),
                u16::from_be_bytes(port)
            )
        };
        let mut out = TcpStream::connect(target).await?;
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        tokio::io::copy_bidirectional(&mut stream, &mut out).await?;
        Ok(())
    }
}
