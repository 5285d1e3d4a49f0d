//! The targets for the parsers of the proxy port.

use std::net::{IpAddr, SocketAddr};

use cepa_client::front::{
    FrontError, FrontOptions, FrontParser, FrontStep, Host, Request, read_datagram, write_datagram,
};

/// The outcome of a conversation: the replies, and how it ends. A request at the end holds what was left over.
type Talk = (Vec<u8>, Result<FrontStep, FrontError>);

fn feed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Talk {
    let mut parser = FrontParser::new(FrontOptions::default());
    let mut replies = Vec::new();
    let mut last = Ok(FrontStep::NeedMore);
    for piece in pieces {
        if let Ok(FrontStep::Request(request)) = &mut last {
            request.leftover.extend_from_slice(piece);
            continue;
        }
        if last != Ok(FrontStep::NeedMore) {
            break;
        }
        last = parser.on_bytes(piece);
        while let Ok(FrontStep::Reply(bytes)) = last {
            replies.extend(bytes);
            last = parser.on_bytes(&[]);
        }
    }
    (replies, last)
}

/// Feeds the parser in pieces, whose length the first byte says. The result must be the same as in one piece.
pub(crate) fn front(data: &[u8]) -> bool {
    let Some((&size, data)) = data.split_first() else {
        return false;
    };
    let whole = feed(core::iter::once(data));
    let pieces = feed(data.chunks(usize::from(size).max(1)));
    assert_eq!(whole, pieces, "the pieces made a difference");
    let Ok(FrontStep::Request(request)) = whole.1 else {
        return false;
    };
    if let Request::Connect(target) = &request.request {
        assert_ne!(target.port, 0);
    }
    assert!(data.ends_with(&request.leftover), "early data is changed");
    true
}

/// Reads a datagram of an application. One to an address is written as if it had come from there, and must be read as
/// the same.
pub(crate) fn socks_udp(data: &[u8]) -> bool {
    let Some((target, bytes)) = read_datagram(data, false) else {
        return false;
    };
    assert!(target.port != 0 && data.ends_with(bytes));
    let ip: IpAddr = match target.host {
        Host::Ip4(ip) => ip.into(),
        Host::Ip6(ip) => ip.into(),
        Host::Name(_) => return true,
    };
    let again = write_datagram(SocketAddr::new(ip, target.port), bytes);
    assert_eq!(read_datagram(&again, false), Some((target, bytes)));
    true
}
