//! Endorsements, votes and proofs over HTTP (docs/protocol.md, 6.12 and 6.22). Anybody may send them. What costs most
//! is done last, so that a stranger's bytes cost least.

use core::time::Duration;

use bytes::{Bytes, BytesMut};
use cepa_common::dir::{
    Digest, KnownNetwork, MAX_ENDORSEMENT_BYTES, MAX_VOTE_BYTES, SignedVote, UnverifiedEndorsement,
};
use cepa_common::world::blocking;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};

use super::reply::{submit, text};
use super::server::DirectoryServer;
use crate::authority::Submission;

/// A body must be complete after this time.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

type Answer = Response<Full<Bytes>>;

/// Takes an endorsement. The answer is 200 if nothing more is wanted, and 202 if the vote is wanted.
pub(super) async fn endorsement(request: Request<Incoming>, server: &DirectoryServer) -> Answer {
    let Some(authority) = server.authority() else {
        return text(StatusCode::FORBIDDEN, "not a directory authority");
    };
    let body = match read(request, MAX_ENDORSEMENT_BYTES, |_| ()).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let network = server.networks().for_document(&body);
    let parsed = match UnverifiedEndorsement::parse(&body, &network) {
        Ok(parsed) => parsed,
        Err(error) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let claimed = parsed.unverified();
    let (digest, view) = (claimed.digest(), authority.view());
    if !view.is_voted_on(claimed.valid_after()) {
        let why = "not for the consensus that is being made";
        return text(StatusCode::CONFLICT, why);
    }
    if !view.is_known(claimed) {
        let verified = match parsed.verify(&network) {
            Ok(verified) => verified,
            Err(error) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let answer = submit(authority, Submission::Endorsement(Box::new(verified))).await;
        if answer.status() != StatusCode::OK {
            return answer;
        }
    }
    match authority.view().wanted(&digest) {
        Some(_) => text(StatusCode::ACCEPTED, "send the vote"),
        None => text(StatusCode::OK, "held"),
    }
}

/// Takes the vote with this digest (64 hexadecimal digits), if the vote was endorsed and is wanted.
pub(super) async fn vote(
    request: Request<Incoming>,
    server: &DirectoryServer,
    digest: &str,
) -> Answer {
    let Some(authority) = server.authority() else {
        return text(StatusCode::FORBIDDEN, "not a directory authority");
    };
    let Some(digest) = Digest::from_hex(digest) else {
        return text(StatusCode::NOT_FOUND, "no such document");
    };
    let Some(author) = authority.view().wanted(&digest) else {
        return text(StatusCode::CONFLICT, "this vote is not wanted");
    };
    let slot = authority.vote_slot(author);
    let body = tokio::select! {
        body = read(request, MAX_VOTE_BYTES, |bytes| slot.received(bytes)) => body,
        () = slot.evicted() => {
            return text(StatusCode::SERVICE_UNAVAILABLE, "others bring this vote faster");
        }
    };
    let body = match body {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let network = server.networks().for_document(&body);
    match SignedVote::digest_of(&body, &network) {
        Ok(found) if found == digest => {}
        Ok(_) => return text(StatusCode::BAD_REQUEST, "another vote than the one wanted"),
        Err(error) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
    }
    if authority.view().wanted(&digest).is_none() {
        // Somebody else has brought the vote meanwhile.
        return text(StatusCode::OK, "held");
    }
    let cache = authority.descriptor_cache();
    // A vote may have twenty thousand signatures, so it is not verified on a thread that others wait for.
    let verify = move || SignedVote::parse_and_verify_cached(&body, &network, &cache);
    match blocking::run(verify).await {
        Ok(Ok(signed)) => submit(authority, Submission::Vote(Box::new(signed))).await,
        Ok(Err(error)) => text(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "authority has stopped"),
    }
}

/// Answers with the proofs that authorities voted twice for this valid-after.
pub(super) fn proofs(server: &DirectoryServer, valid_after: &str) -> Answer {
    let view = server.authority().map(|authority| authority.view());
    let found = view.zip(valid_after.parse().ok());
    match found.and_then(|(view, valid_after)| view.proofs(valid_after)) {
        Some(bytes) => Response::new(Full::new(bytes)),
        None => text(StatusCode::NOT_FOUND, "no such document"),
    }
}

/// Reads a body of at most `cap` bytes, and reports how many have come.
async fn read(
    request: Request<Incoming>,
    cap: usize,
    progress: impl Fn(usize),
) -> Result<Bytes, Answer> {
    let mut body = Limited::new(request.into_body(), cap);
    let whole = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                progress(data.len());
                bytes.extend_from_slice(&data);
            }
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(bytes.freeze())
    };
    match tokio::time::timeout(BODY_DEADLINE, whole).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(text(StatusCode::PAYLOAD_TOO_LARGE, "document is too large"))
        }
        Ok(Err(_)) => Err(text(StatusCode::BAD_REQUEST, "body is not complete")),
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "body took too long")),
    }
}
