//! Networks of a few authorities.

use std::collections::BTreeMap;

use super::keys::{address, identity, signing_key};
use crate::dir::{AuthorityEntry, NetworkDraft, NetworkFile, local_network_params};

/// The entry of authority `n` in a network.toml: its name is "authority n".
pub fn authority(n: u8) -> AuthorityEntry {
    AuthorityEntry {
        name: format!("authority {n}"),
        identity: identity(n),
        signing_key: signing_key(n).verifying_key().to_bytes(),
        addresses: vec![address(n)],
    }
}

/// The entries of the authorities 1 to `count`.
pub fn authorities(count: u8) -> Vec<AuthorityEntry> {
    (1..=count).map(authority).collect()
}

/// Parameters by their names, as networks and votes hold them.
pub fn params(params: &[(&str, u32)]) -> BTreeMap<String, u32> {
    let named = params.iter().map(|(name, value)| (*name, *value));
    named
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The network "test" of the authorities 1 to `count` with the parameters of a local network, signed by nobody.
pub fn draft(count: u8) -> NetworkDraft {
    NetworkDraft::new("test", authorities(count), local_network_params())
}

/// The network "test" of the authorities 1 to `count` with the parameters of a local network.
pub fn network(count: u8) -> NetworkFile {
    sign_by_all(draft(count), count)
}

/// The network "test" of the authorities 1 to `count` with these parameters.
pub fn network_with(count: u8, params: BTreeMap<String, u32>) -> NetworkFile {
    network_named("test", authorities(count), params)
}

/// The network of this name and these authorities, which sign with the keys of the numbers from 1 to their count.
pub fn network_named(
    name: &str,
    authorities: Vec<AuthorityEntry>,
    params: BTreeMap<String, u32>,
) -> NetworkFile {
    let count = u8::try_from(authorities.len()).unwrap();
    sign_by_all(NetworkDraft::new(name, authorities, params), count)
}

/// The network that a draft becomes when the authorities 1 to `count` have signed it.
pub fn sign_by_all(mut draft: NetworkDraft, count: u8) -> NetworkFile {
    for n in 1..=count {
        draft.sign(&signing_key(n)).unwrap();
    }
    draft.finish().unwrap()
}
