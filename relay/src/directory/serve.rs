//! Directory requests of one connection (docs/protocol.md, 6.12).

use core::time::Duration;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use cepa_common::dir::{
    ConsensusSignature, DocError, KnownNetwork, MAX_DESCRIPTOR_BYTES, NetworkFile, SignedDescriptor,
};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::reply::{read_body, submit, text};
use super::server::DirectoryServer;
use super::watched::Watched;
use super::worded::Worded;
use super::{consensus, padding, voting};
use crate::admission::Asker;
use crate::authority::Submission;

/// The head of a request must be complete after this time.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A whole connection may take this time: nobody reads a consensus more slowly than 8 MiB in it.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);
/// The most bytes of a request's head that are buffered.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// The time after which a busy server asks a client to come again (seconds).
const RETRY_AFTER_SECONDS: &str = "60";
/// Size of the largest signature document, in bytes.
const MAX_SIGNATURE_BYTES: usize = 1_024;

/// Serves directory requests on a connection until it ends. An error ends this connection only (S39).
pub async fn serve_connection<S>(io: S, server: Arc<DirectoryServer>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    serve_connection_from(io, server, Asker::Stream).await;
}

/// Serves a connection like [`serve_connection`], for an asker that is known: places and requests are counted by asker
/// (S23).
pub(crate) async fn serve_connection_from<S>(io: S, server: Arc<DirectoryServer>, asker: Asker)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let counted = Arc::clone(&server);
    let bound = counted.params().directory_connections;
    let Some((place, has_room)) = counted.places.take(asker, bound) else {
        return;
    };
    let caller = Caller { asker, has_room };
    let io = Worded::new(Watched::new(io, place.watch()));
    let service = service_fn(move |request: Request<Incoming>| {
        let server = Arc::clone(&server);
        async move {
            if padding::is_asked(&request) {
                let permit = padding::permit(request).await;
                return Ok(permit.map_or_else(|refusal| refusal, |permit| server.pad(&permit)));
            }
            padding::other(answer(request, &server, caller).await)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES)
        // A Date header would reveal the clock and the moment at which it ticks; nobody needs the header.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(io), service);
    tokio::select! {
        served = tokio::time::timeout(CONNECTION_DEADLINE, connection) => match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "directory connection failed"),
            Err(_) => tracing::debug!("directory connection took too long"),
        },
        () = place.evicted() => tracing::debug!("an idle directory connection made room"),
    }
}

/// The peer whose requests a connection carries.
#[derive(Clone, Copy)]
struct Caller {
    asker: Asker,
    has_room: bool,
}

impl Caller {
    fn may_upload(self, server: &DirectoryServer, now_ms: u64) -> bool {
        let address = match self.asker {
            Asker::Stranger(address) => Some(address),
            Asker::Stream => None,
            Asker::Authority(_) | Asker::Relay(_) => return true,
        };
        server.admission.may_upload(address, now_ms)
    }

    /// The address whose requests are counted; `None` for authorities and relays, which are few and have their own
    /// places, and for streams, which have no address.
    fn address(self) -> Option<IpAddr> {
        match self.asker {
            Asker::Stranger(address) => Some(address),
            Asker::Authority(_) | Asker::Relay(_) | Asker::Stream => None,
        }
    }

    /// Why this request is not answered now. Uploads have queues of their own, so that being busy does not delay a
    /// vote.
    fn refusal(
        self,
        request: &Request<Incoming>,
        server: &DirectoryServer,
    ) -> Option<(StatusCode, &'static str)> {
        let now_ms = server.clock().now_ms();
        let is_descriptor =
            request.method() == Method::POST && request.uri().path() == DESCRIPTOR_PATH;
        if is_descriptor && !self.may_upload(server, now_ms) {
            let why = "your address uploads too often; come again later";
            return Some((StatusCode::TOO_MANY_REQUESTS, why));
        }
        if request.method() != Method::GET {
            return None;
        }
        if !self.has_room {
            return Some((StatusCode::SERVICE_UNAVAILABLE, "busy; come again later"));
        }
        let may_ask = |peer| server.admission.may_ask(peer, &server.params(), now_ms);
        let too_often = (
            StatusCode::TOO_MANY_REQUESTS,
            "your address asks too often; come again later",
        );
        (!self.address().is_none_or(may_ask)).then_some(too_often)
    }
}

async fn answer(
    request: Request<Incoming>,
    server: &DirectoryServer,
    caller: Caller,
) -> Response<Full<Bytes>> {
    if let Some((status, why)) = caller.refusal(&request, server) {
        let mut busy = text(status, why);
        let later = HeaderValue::from_static(RETRY_AFTER_SECONDS);
        busy.headers_mut().insert(RETRY_AFTER, later);
        return busy;
    }
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/cepa/1/consensus") => {
            let answer = consensus::answer(&request, server).await;
            let bytes = answer.body().size_hint().exact();
            server.count_served(caller.asker, bytes.unwrap_or_default());
            answer
        }
        (&Method::GET, path) if path.starts_with(NETWORK_PATH) => network(path, server),
        (&Method::POST, DESCRIPTOR_PATH) => {
            accept(request, server, MAX_DESCRIPTOR_BYTES, |bytes, network| {
                let signed = SignedDescriptor::parse_and_verify(bytes, &network.network_id())?;
                Ok(Submission::Descriptor(Box::new(signed)))
            })
            .await
        }
        (&Method::POST, "/cepa/1/endorsement") => voting::endorsement(request, server).await,
        (&Method::POST, "/cepa/1/signature") => {
            accept(request, server, MAX_SIGNATURE_BYTES, |bytes, network| {
                let signed = ConsensusSignature::parse_and_verify(bytes, network)?;
                Ok(Submission::Signature(Box::new(signed)))
            })
            .await
        }
        (&Method::POST, path) if path.starts_with("/cepa/1/vote/") => {
            voting::vote(request, server, path.trim_start_matches("/cepa/1/vote/")).await
        }
        (&Method::GET, path) if path.starts_with("/cepa/1/proof/") => {
            voting::proofs(server, path.trim_start_matches("/cepa/1/proof/"))
        }
        _ => text(StatusCode::NOT_FOUND, "no such document"),
    }
}

/// Path of uploaded descriptors.
const DESCRIPTOR_PATH: &str = "/cepa/1/descriptor";
/// Path of the revisions of `network.toml`.
const NETWORK_PATH: &str = "/cepa/1/network";

/// Answers with the newest revision, or with the one that the path names (6.12.1).
fn network(path: &str, server: &DirectoryServer) -> Response<Full<Bytes>> {
    let revisions = server.networks().revisions();
    let named = match path.strip_prefix(NETWORK_PATH) {
        Some("") => Some(revisions.newest()),
        Some(rest) => rest
            .strip_prefix('/')
            .and_then(|number| number.parse().ok())
            .and_then(|number| revisions.get(number)),
        None => None,
    };
    match named.map(|file| file.to_toml()) {
        Some(Ok(file)) => text(StatusCode::OK, &file),
        _ => text(StatusCode::NOT_FOUND, "no such revision"),
    }
}

/// Takes a document of at most `cap` bytes to the authority after verifying it.
async fn accept(
    request: Request<Incoming>,
    server: &DirectoryServer,
    cap: usize,
    verify: fn(&[u8], &NetworkFile) -> Result<Submission, DocError>,
) -> Response<Full<Bytes>> {
    let Some(authority) = server.authority() else {
        return text(StatusCode::FORBIDDEN, "not a directory authority");
    };
    let body = match read_body(request, cap).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let network = server.networks().for_document(&body);
    let submission = match verify(&body, &network) {
        Ok(submission) => submission,
        Err(error) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    submit(authority, submission).await
}
