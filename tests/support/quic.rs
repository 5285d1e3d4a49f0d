//! HTTP/3 by quinn, as a server and as a client, and what leads a program's datagrams by SOCKS 5 (RFC 1928, 7).
#![allow(dead_code, reason = "each user has its part")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// The name that the server's certificate is for.
const NAME: &str = "example.org";
/// Longest datagram that the shim passes on.
const LONGEST: usize = 65_535;

/// A server of HTTP/3, which answers each request with the same bytes.
pub(crate) struct Http3Server {
    pub(crate) address: SocketAddr,
    pub(crate) certificate: CertificateDer<'static>,
    /// The connections of clients, for what the server knows of them.
    connections: Arc<Mutex<Vec<quinn::Connection>>>,
}

impl Http3Server {
    /// One on loopback.
    pub(crate) fn start(body: Bytes) -> Self {
        Self::start_at(std::net::UdpSocket::bind(any_port()).unwrap(), body)
    }

    /// One that hears at this socket.
    pub(crate) fn start_at(socket: std::net::UdpSocket, body: Bytes) -> Self {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let tls = QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
        let runtime = Arc::new(quinn::TokioRuntime);
        let settings = quinn::EndpointConfig::default();
        let endpoint = quinn::Endpoint::new(settings, Some(config), socket, runtime).unwrap();
        let address = endpoint.local_addr().unwrap();
        let connections = Arc::<Mutex<Vec<quinn::Connection>>>::default();
        let known = connections.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(answer(incoming, body.clone(), known.clone()));
            }
        });
        Self {
            address,
            certificate,
            connections,
        }
    }

    /// Where the server sees the last client that has connected.
    pub(crate) fn client(&self) -> SocketAddr {
        let connections = self.connections.lock().unwrap();
        connections.last().unwrap().remote_address()
    }

    /// Fetches the body from `address`, at which the server, or what leads there, is.
    pub(crate) async fn fetch_at(&self, address: SocketAddr) -> Vec<u8> {
        self.fetch_watched(address, |_| {}).await
    }

    /// Fetches the body, and calls `each` with how much of it is there whenever some has come.
    pub(crate) async fn fetch_watched(
        &self,
        address: SocketAddr,
        each: impl FnMut(usize),
    ) -> Vec<u8> {
        fetch(self.certificate.clone(), address, each).await
    }
}

/// Fetches a body from `address`, at which the server with this certificate, or what leads there, is. Calls `each` with
/// how much of it is there whenever some has come.
pub(crate) async fn fetch(
    certificate: CertificateDer<'static>,
    address: SocketAddr,
    mut each: impl FnMut(usize),
) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let tls = QuicClientConfig::try_from(tls).unwrap();
    let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let mut endpoint = quinn::Endpoint::client(anywhere).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let connection = endpoint.connect(address, NAME).unwrap().await.unwrap();
    let (mut driver, mut requests) = h3::client::new(h3_quinn::Connection::new(connection))
        .await
        .unwrap();
    let driver = tokio::spawn(async move { driver.wait_idle().await });
    let request = http::Request::get(format!("https://{NAME}/"))
        .body(())
        .unwrap();
    let mut stream = requests.send_request(request).await.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(stream.recv_response().await.unwrap().status(), 200);
    let mut body = Vec::new();
    while let Some(mut part) = stream.recv_data().await.unwrap() {
        body.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        each(body.len());
    }
    drop(requests);
    driver.await.unwrap();
    endpoint.wait_idle().await;
    body
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

async fn answer(incoming: quinn::Incoming, body: Bytes, known: Arc<Mutex<Vec<quinn::Connection>>>) {
    let Ok(connection) = incoming.await else {
        return;
    };
    known.lock().unwrap().push(connection.clone());
    let connection = h3_quinn::Connection::new(connection);
    let mut requests = h3::server::Connection::<_, Bytes>::new(connection)
        .await
        .unwrap();
    // A client that leaves is the end, however it says so.
    while let Ok(Some(request)) = requests.accept().await {
        let (_, mut stream) = request.resolve_request().await.unwrap();
        let response = http::Response::builder().status(200).body(()).unwrap();
        stream.send_response(response).await.unwrap();
        stream.send_data(body.clone()).await.unwrap();
        stream.finish().await.unwrap();
    }
}

/// A port of this machine whose datagrams go by a SOCKS proxy to one destination, and back.
pub(crate) struct Shim {
    pub(crate) address: SocketAddr,
    /// The association lasts as long as this connection.
    control: TcpStream,
    task: tokio::task::JoinHandle<()>,
}

impl Shim {
    pub(crate) async fn start(proxy: SocketAddr, to: SocketAddr) -> Self {
        let SocketAddr::V4(to) = to else {
            panic!("the shim knows addresses of IPv4 alone");
        };
        let mut control = TcpStream::connect(proxy).await.unwrap();
        control
            .write_all(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0])
            .await
            .unwrap();
        let mut reply = [0; 12];
        control.read_exact(&mut reply).await.unwrap();
        let [5, 0, 5, 0, 0, 1, a, b, c, d, high, low] = reply else {
            panic!("no association: {reply:?}");
        };
        let relay = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
        let (inner, outer) = (UdpSocket::bind(any_port()), UdpSocket::bind(any_port()));
        let (inner, outer) = (inner.await.unwrap(), outer.await.unwrap());
        outer.connect(relay).await.unwrap();
        let address = inner.local_addr().unwrap();
        let head = [
            &[0, 0, 0, 1][..],
            &to.ip().octets(),
            &to.port().to_be_bytes(),
        ]
        .concat();
        let task = tokio::spawn(async move {
            let (mut out, mut back) = (vec![0; LONGEST], vec![0; LONGEST]);
            let mut program = None;
            loop {
                tokio::select! {
                    got = inner.recv_from(&mut out) => {
                        let (len, from) = got.unwrap();
                        program = Some(from);
                        let _ = outer.send(&[&head, &out[..len]].concat()).await;
                    }
                    got = outer.recv(&mut back) => {
                        if let (Ok(len), Some(program)) = (got, program)
                            && back[..len].starts_with(&head)
                        {
                            let _ = inner.send_to(&back[head.len()..len], program).await;
                        }
                    }
                }
            }
        });
        Self {
            address,
            control,
            task,
        }
    }

    pub(crate) async fn stop(mut self) {
        self.task.abort();
        self.control.shutdown().await.unwrap();
    }
}
