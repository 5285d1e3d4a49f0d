//! Answers `GET /cepa/1/consensus`: with the newest consensus, with "nothing new", or with a difference
//! (docs/protocol.md, 6.12 and 6.19).

use bytes::Bytes;
use cepa_common::dir::Digest;
use cepa_common::net::directory::{A_IM, DELTA_BASE, DIFFERENCE_CODING, IM};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH};
use hyper::{HeaderMap, Request, Response, StatusCode};

use super::reply::text;
use super::server::DirectoryServer;

/// The most digests that are looked at in one request.
const MAX_TAGS: usize = 8;

pub(super) async fn answer(
    request: &Request<Incoming>,
    server: &DirectoryServer,
) -> Response<Full<Bytes>> {
    let store = server.snapshot();
    let Some(newest) = store.usable(server.clock().now_secs()) else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "no consensus yet");
    };
    let held = tags(request.headers());
    let mut response = Response::new(Full::default());
    set(&mut response, ETAG, &tag(newest.digest()));
    if held.contains(&newest.digest()) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    set(&mut response, CONTENT_TYPE, "application/octet-stream");
    if takes_differences(request.headers())
        && let Some(base) = held.iter().find_map(|digest| store.get(digest))
        && let Some(difference) = server.differences.get(base, newest).await
    {
        *response.status_mut() = StatusCode::IM_USED;
        set(
            &mut response,
            HeaderName::from_static(IM),
            DIFFERENCE_CODING,
        );
        set(
            &mut response,
            HeaderName::from_static(DELTA_BASE),
            &tag(base.digest()),
        );
        *response.body_mut() = Full::new(difference);
        return response;
    }
    *response.body_mut() = Full::new(newest.shared_bytes());
    response
}

fn tag(digest: Digest) -> String {
    format!("\"{digest}\"")
}

fn set(response: &mut Response<Full<Bytes>>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// The digests that the client says it holds. Values that are no digest are passed over.
fn tags(headers: &HeaderMap) -> Vec<Digest> {
    let values = headers.get_all(IF_NONE_MATCH).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .take(MAX_TAGS)
        .filter_map(|tag| tag.trim().strip_prefix('"')?.strip_suffix('"'))
        .filter_map(Digest::from_hex)
        .collect()
}

fn takes_differences(headers: &HeaderMap) -> bool {
    let values = headers.get_all(A_IM).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim() == DIFFERENCE_CODING)
}
