//! What the messages of an association carry: datagrams, each behind the address that it goes to or comes from
//! (docs/protocol.md, 5.32).

use super::read::MessageError;
use super::words::{BeginHost, MAX_NAME_LEN, is_name};
use crate::cell::wire::Reader;
use crate::limits::DATAGRAM_BYTES;

/// The most bytes that a datagram has on a circuit, with its address: a name and the most bytes that UDP carries.
pub const CUT_DATAGRAM_LEN: usize = 2 + 1 + 1 + MAX_NAME_LEN + DATAGRAM_BYTES;

/// A datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Away from the client the host that the datagram goes to, and towards the client the one that it comes from.
    pub host: BeginHost<'a>,
    /// The UDP port there, not zero.
    pub port: u16,
    /// 0 to 65,507 bytes.
    pub bytes: &'a [u8],
}

/// Reads a datagram, `u16 port, u8 kind, address, bytes`: kind 4 has 4 bytes of address, kind 6 has 16, kind 1 a byte
/// of length and a name.
///
/// # Errors
/// [`MessageError`] of what breaks 5.32.
pub fn read_datagram(data: &[u8]) -> Result<Datagram<'_>, MessageError> {
    const BAD: MessageError = MessageError::Malformed("DATAGRAM");
    let mut reader = Reader::new(data);
    let port = reader.u16()?;
    let host = match reader.u8()? {
        4 => BeginHost::V4(*reader.array()?),
        6 => BeginHost::V6(*reader.array()?),
        1 => {
            let length = reader.u8()?;
            let name = core::str::from_utf8(reader.take(usize::from(length))?);
            BeginHost::Name(name.ok().filter(|name| is_name(name)).ok_or(BAD)?)
        }
        _ => return Err(BAD),
    };
    let bytes = reader.rest();
    if port == 0 || bytes.len() > DATAGRAM_BYTES {
        return Err(BAD);
    }
    Ok(Datagram { host, port, bytes })
}

/// Writes what stands in front of a datagram's bytes.
///
/// A name that [`is_name`] refuses gives what [`read_datagram`] refuses.
pub fn write_datagram_head(out: &mut Vec<u8>, host: BeginHost<'_>, port: u16) {
    out.extend(port.to_be_bytes());
    match host {
        BeginHost::V4(address) => {
            out.push(4);
            out.extend(address);
        }
        BeginHost::V6(address) => {
            out.push(6);
            out.extend(address);
        }
        BeginHost::Name(name) => {
            out.push(1);
            out.push(u8::try_from(name.len()).unwrap_or(0));
            out.extend(name.bytes());
        }
    }
}
