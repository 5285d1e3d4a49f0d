//! Founds networks: keys of authorities, certificates of their signing keys, and the signed file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cepa_common::dir::{AuthorityCert, AuthorityEntry, NetworkDraft, UnixSecs};
use cepa_common::ids::NetworkId;
use cepa_common::secret::Secret;
use cepa_common::state::{
    KeyKind, StateDir, Trust, load_or_create_key, make_private_dir, save_key, write_whole,
};
use cepa_common::world::{Disk, random};
use ed25519_dalek::SigningKey;
use rand::Rng;

use super::error::AppError;
use super::files::new_relay;
use crate::config;

/// Makes the keys of a new authority in the state directory `state`, and its entry in a network's file. The long-term
/// signing key goes to the directory `offline`, under the authority's name, if there is one.
pub fn new_authority(
    name: &str,
    address: SocketAddr,
    state: &Path,
    offline: Option<&Path>,
    trust: Trust,
) -> Result<(AuthorityEntry, SigningKey), AppError> {
    let identity = new_relay(state, trust)?;
    let mut rng = random::rng();
    let signing_key = match offline {
        Some(dir) => {
            make_private_dir(&Disk::Real, dir, trust)?;
            load_or_create_key(&Disk::Real, dir, name, KeyKind::Authority, trust, &mut rng)?
        }
        None => {
            let key = config::Authority::default().signing_key;
            StateDir::open(&Disk::Real, state, trust)?.load_or_create_key(
                &key,
                KeyKind::Authority,
                &mut rng,
            )?
        }
    };
    let signing_key = SigningKey::from_bytes(signing_key.expose());
    let entry = AuthorityEntry {
        name: name.to_owned(),
        identity,
        signing_key: signing_key.verifying_key().to_bytes(),
        addresses: vec![address],
    };
    Ok((entry, signing_key))
}

/// Makes a key in the directory of keys `dir` that signs for the authority `long_term` in `network` until `not_after`,
/// and the key's certificate. Returns the certificate's path.
pub fn certify(
    long_term: &SigningKey,
    network: NetworkId,
    not_after: UnixSecs,
    dir: &Path,
) -> Result<PathBuf, AppError> {
    make_private_dir(&Disk::Real, dir, Trust::Everyone)?;
    let name = config::Authority::default().signing_key;
    let mut rng = random::rng();
    let mut secret = Secret::zeroed();
    rng.fill_bytes(secret.expose_mut());
    let key = SigningKey::from_bytes(secret.expose())
        .verifying_key()
        .to_bytes();
    let cert = AuthorityCert::issue(long_term, &network, key, not_after);
    let cert = cert.map_err(|error| AppError::Mismatch {
        what: error.to_string(),
        hint: "report this: it is a bug",
    })?;
    // The certificate comes last: whoever sees the certificate finds the key.
    save_key(
        &Disk::Real,
        dir,
        &AuthorityCert::key_file_name(&name, &key),
        KeyKind::Authority,
        &secret,
    )?;
    let path = dir.join(AuthorityCert::file_name(&name));
    write_whole(&Disk::Real, &path, cert.to_text().as_bytes(), 0o600)?;
    Ok(path)
}

/// The text of a network's file that all of `signers` signed.
pub fn sign_network(
    name: &str,
    authorities: Vec<AuthorityEntry>,
    signers: &[SigningKey],
    params: BTreeMap<String, u32>,
) -> Result<String, AppError> {
    let bad = |reason: String| AppError::Mismatch {
        what: format!("the network cannot be made: {reason}"),
        hint: "docs/protocol.md has the rules for network.toml",
    };
    let mut draft = NetworkDraft::new(name, authorities, params);
    for signer in signers {
        draft.sign(signer).map_err(|error| bad(error.to_string()))?;
    }
    let network = draft.finish().map_err(|error| bad(error.to_string()))?;
    network.to_toml().map_err(|error| bad(error.to_string()))
}
