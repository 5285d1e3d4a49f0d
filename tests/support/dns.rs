//! A DNS server that knows one name and the name of one address, so that a test sees who asks: no resolver of this machine knows that name.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{SocketAddr, UdpSocket};

/// The only name that has an address, which is 127.0.0.1.
pub(crate) const KNOWN: &str = "site.cepa-test";
/// A name that the server says does not exist.
pub(crate) const UNKNOWN: &str = "nobody.cepa-test";

/// An address whose name is [`KNOWN`].
pub(crate) const NAMED: [u8; 4] = [8, 8, 4, 4];

/// Starts the server, which lives as long as the test program.
pub(crate) fn dns_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..len]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    address
}

/// Answers a query (RFC 1035, section 4): with an address, with no data, or with "no such name".
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + len)?).to_lowercase());
        at += len;
    }
    let question = query.get(12..at + 4)?;
    let asked = labels.join(".");
    let [a, b, c, d] = NAMED;
    let is_named = asked == format!("{d}.{c}.{b}.{a}.in-addr.arpa");
    let known = asked == KNOWN || is_named;
    let kind = if is_named { 12 } else { 1 };
    let has_answer = known && query.get(at..at + 2)? == [0, kind];
    let mut answer = query.get(..2)?.to_vec();
    // The answer is a response to a recursive query. Code 3 is "no such name".
    answer.extend([0x81, if known { 0x80 } else { 0x83 }]);
    answer.extend([0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
    answer.extend(question);
    if has_answer {
        let mut data = vec![127, 0, 0, 1];
        if is_named {
            let labels = KNOWN.split('.');
            data = labels
                .flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat())
                .collect();
            data.push(0);
        }
        // The record has the question's name by pointer, class IN, and a minute to live.
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        answer.extend(data);
    }
    Some(answer)
}
