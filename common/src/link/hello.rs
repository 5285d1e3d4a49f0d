//! The HELLO cell: versions, network, observed address, time.

use std::net::{IpAddr, SocketAddr};

use crate::cell::codec::{self, Cell, CellError, Head, LinkCommand};
use crate::cell::wire::{Reader, UnexpectedEnd, all_zero};
use crate::cell::{CELL_LEN, CLEAR_LEN};
use crate::ids::NetworkId;

/// Versions of the link protocol that this program speaks, ascending.
pub const LINK_VERSIONS: &[u16] = &[1];
/// The most versions that a HELLO may list.
const MAX_VERSIONS: usize = 8;

/// What each side of a link says first (protocol.md 2.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Versions of the link protocol that the sender speaks, ascending, 1 to 8 of them.
    pub versions: Vec<u16>,
    /// The network that the sender is in.
    pub network: NetworkId,
    /// The address at which the sender sees the other side, if it says one.
    pub seen: Option<SocketAddr>,
    /// The sender's clock in seconds since 1970. A client sends zero, so that its clock tells nothing about the client.
    pub time_unix_sec: u64,
}

/// Why a HELLO was refused. Each of these errors closes the link (protocol.md 2.9).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first bytes are not a cell at all.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// The first cell is not HELLO.
    #[error("the first cell of a link is not HELLO")]
    NotHello,
    /// The body breaks the rules of protocol.md 2.6.
    #[error("malformed HELLO")]
    Malformed,
    /// The other side is in another network.
    #[error("the peer is in another network")]
    OtherNetwork,
    /// No version is common to both.
    #[error("the peer speaks no link version that we speak")]
    NoCommonVersion,
}

impl From<UnexpectedEnd> for HelloError {
    fn from(_: UnexpectedEnd) -> Self {
        Self::Malformed
    }
}

impl Hello {
    /// A HELLO with the versions that this program speaks.
    pub fn ours(network: NetworkId, seen: Option<SocketAddr>, time_unix_sec: u64) -> Self {
        Self {
            versions: LINK_VERSIONS.to_vec(),
            network,
            seen,
            time_unix_sec,
        }
    }

    /// Writes the cell. Of more than eight versions only the newest eight are written.
    pub fn encode(&self) -> Cell {
        let newest = self.versions.len().saturating_sub(MAX_VERSIONS);
        let versions = &self.versions[newest..];
        let mut body = vec![versions.len() as u8];
        for version in versions {
            body.extend(version.to_be_bytes());
        }
        body.extend(self.network.0);
        match self.seen.map(|seen| (seen.ip(), seen.port())) {
            None => body.push(0),
            Some((IpAddr::V4(ip), port)) => {
                body.push(4);
                body.extend(ip.octets());
                body.extend(port.to_be_bytes());
            }
            Some((IpAddr::V6(ip), port)) => {
                body.push(6);
                body.extend(ip.octets());
                body.extend(port.to_be_bytes());
            }
        }
        body.extend(self.time_unix_sec.to_be_bytes());
        let mut cell = [0; CELL_LEN];
        codec::write_link_head(&mut cell, LinkCommand::Hello);
        cell[CLEAR_LEN..CLEAR_LEN + body.len()].copy_from_slice(&body);
        cell
    }

    /// Reads the first cell of a link.
    ///
    /// # Errors
    /// [`HelloError`] says what is wrong with the cell; the network and the versions are not compared.
    pub fn decode(cell: &Cell) -> Result<Self, HelloError> {
        if codec::head(cell)? != Head::Link(LinkCommand::Hello) {
            return Err(HelloError::NotHello);
        }
        let mut reader = Reader::new(codec::body(cell));
        let count = usize::from(reader.u8()?);
        if !(1..=MAX_VERSIONS).contains(&count) {
            return Err(HelloError::Malformed);
        }
        let versions = (0..count)
            .map(|_| reader.u16())
            .collect::<Result<Vec<_>, _>>()?;
        if !versions.is_sorted_by(|a, b| a < b) {
            return Err(HelloError::Malformed);
        }
        let network = NetworkId(*reader.array()?);
        let ip = match reader.u8()? {
            0 => None,
            4 => Some(IpAddr::from(*reader.array::<4>()?)),
            6 => Some(IpAddr::from(*reader.array::<16>()?)),
            _ => return Err(HelloError::Malformed),
        };
        let seen = match ip {
            Some(ip) => Some(SocketAddr::new(ip, reader.u16()?)),
            None => None,
        };
        let time_unix_sec = reader.u64()?;
        if !all_zero(reader.rest()) {
            return Err(HelloError::Malformed);
        }
        Ok(Self {
            versions,
            network,
            seen,
            time_unix_sec,
        })
    }
}

/// The highest version that both sides speak, if both are in the same network (S6).
pub fn negotiate(ours: &Hello, theirs: &Hello) -> Result<u16, HelloError> {
    if ours.network != theirs.network {
        return Err(HelloError::OtherNetwork);
    }
    let common = ours.versions.iter().filter(|v| theirs.versions.contains(v));
    common.max().copied().ok_or(HelloError::NoCommonVersion)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::CircId;

    fn hello() -> impl Strategy<Value = Hello> {
        let versions = proptest::collection::btree_set(any::<u16>(), 1..=MAX_VERSIONS);
        let seen = proptest::option::of(any::<(IpAddr, u16)>().prop_map(SocketAddr::from));
        (versions, any::<[u8; 32]>(), seen, any::<u64>()).prop_map(|(versions, id, seen, time)| {
            Hello {
                versions: versions.into_iter().collect(),
                network: NetworkId(id),
                seen,
                time_unix_sec: time,
            }
        })
    }

    #[test]
    fn other_cells_are_not_hello() {
        let cell = codec::destroy(CircId::new(1).unwrap(), codec::DestroyReason::Finished);
        assert_eq!(Hello::decode(&cell), Err(HelloError::NotHello));
        let mut cell = [0; CELL_LEN];
        codec::write_link_head(&mut cell, LinkCommand::Padding);
        assert_eq!(Hello::decode(&cell), Err(HelloError::NotHello));
    }

    #[test]
    fn version_lists_are_short_and_ascending() {
        for versions in [vec![], vec![2, 1], vec![1, 1]] {
            let mut hello = Hello::ours(NetworkId([1; 32]), None, 0);
            hello.versions = versions;
            assert_eq!(Hello::decode(&hello.encode()), Err(HelloError::Malformed));
        }
        let mut cell = Hello::ours(NetworkId([1; 32]), None, 0).encode();
        cell[CLEAR_LEN] = 9;
        assert_eq!(Hello::decode(&cell), Err(HelloError::Malformed));
    }

    #[test]
    fn networks_and_versions_must_meet() {
        let ours = Hello::ours(NetworkId([1; 32]), None, 0);
        let other = Hello::ours(NetworkId([2; 32]), None, 0);
        assert_eq!(negotiate(&ours, &other), Err(HelloError::OtherNetwork));
        let mut newer = ours.clone();
        newer.versions = vec![2, 3];
        assert_eq!(negotiate(&ours, &newer), Err(HelloError::NoCommonVersion));
        newer.versions = vec![1, 2];
        assert_eq!(negotiate(&ours, &newer), Ok(1));
    }

    proptest! {
        #[test]
        fn hello_round_trips(hello in hello()) {
            let hello = Hello {
                // An IPv6 address on the wire has neither flow label nor scope.
                seen: hello.seen.map(|s| SocketAddr::new(s.ip(), s.port())),
                ..hello
            };
            prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        }

        #[test]
        fn any_body_is_read_without_panic(bytes: [u8; 96]) {
            let mut cell = [0; CELL_LEN];
            codec::write_link_head(&mut cell, LinkCommand::Hello);
            cell[CLEAR_LEN..CLEAR_LEN + 96].copy_from_slice(&bytes);
            if let Ok(hello) = Hello::decode(&cell) {
                prop_assert_eq!(hello.encode(), cell);
            }
        }
    }
}
