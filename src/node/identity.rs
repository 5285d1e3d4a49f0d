//! Who a relay is, by what its state directory holds: an identity, or a link key that an identity elsewhere certified.

use std::path::{Path, PathBuf};

use cepa_common::dir::NetworkFile;
use cepa_common::state::{KeyKind, StateDir};
use cepa_common::world::Clock;
use cepa_relay::keys::{RelayIdentity, RelayIdentityError};
use ed25519_dalek::SigningKey;

use super::error::AppError;
use super::files::IDENTITY_KEY;
use crate::config;

/// The name of a link key among the keys of a state directory.
pub const LINK_KEY: &str = "link";
/// The name of the link key's certificate in a state directory.
pub const CERTIFICATE: &str = "certificate.toml";
/// The name of the family membership in a state directory.
pub const FAMILY: &str = "family.toml";

/// The file of the key `name` in the state directory `state`.
pub fn key_file(state: &Path, name: &str) -> PathBuf {
    state.join("keys").join(name)
}

/// The identity of the relay that runs with `settings` in `state`. If there is none yet, one is made.
pub fn of_relay(
    settings: &config::Relay,
    network: &NetworkFile,
    state: &StateDir,
    rng: &mut impl rand::CryptoRng,
) -> Result<RelayIdentity, AppError> {
    let has = |name| state.disk().exists(&key_file(state.path(), name));
    let default = state.path().join(CERTIFICATE);
    let wants_certificate = settings.certificate.is_some() || state.disk().exists(&default);
    let certificate = settings.certificate.clone().unwrap_or(default);
    let mismatch = |what: String, hint| AppError::Mismatch { what, hint };
    let shown = state.path().display();
    let relay = match (has(LINK_KEY), has(IDENTITY_KEY)) {
        (true, true) => {
            return Err(mismatch(
                format!("{shown} has both an identity and a link key"),
                "if the identity is to be kept off line, take keys/identity out of the state directory; \
                 if not, take keys/link out",
            ));
        }
        (true, false) => {
            let key = state.load_key(LINK_KEY, KeyKind::Link)?;
            let key = SigningKey::from_bytes(key.expose());
            RelayIdentity::off_line(
                state.disk(),
                key,
                certificate,
                &network.network_id(),
                Clock::system().now_secs(),
            )
            .map_err(|error| mismatch(error.to_string(), hint(&error)))?
        }
        // Without this check the relay would quietly become somebody new.
        (false, _) if wants_certificate => {
            return Err(mismatch(
                format!(
                    "there is a certificate, {}, and no link key in {shown} that it could be for",
                    certificate.display()
                ),
                "put the link key back as keys/link, or make another with `cepa keys link` and certify it; \
                 for a relay with its identity on line take the certificate away",
            ));
        }
        (false, _) => {
            let key = state.load_or_create_key(IDENTITY_KEY, KeyKind::Identity, rng)?;
            RelayIdentity::on_line(SigningKey::from_bytes(key.expose()))
        }
    };
    let family = settings.family.clone();
    let family = family.unwrap_or_else(|| state.path().join(FAMILY));
    Ok(relay.with_family_file(state.disk(), family))
}

/// What the owner could try.
pub fn hint(error: &RelayIdentityError) -> &'static str {
    match error {
        RelayIdentityError::Unreadable { .. } => {
            "make a certificate with `cepa keys certify` where the identity is, and put it in with `cepa keys install`"
        }
        RelayIdentityError::Expired { .. } => {
            "make a new one with `cepa keys certify` where the identity is, and put it in with `cepa keys install`"
        }
        RelayIdentityError::Invalid { .. } => {
            "make it anew with `cepa keys certify` or `cepa keys join`, for the network of this relay"
        }
        RelayIdentityError::NotOurs { .. } => {
            "`cepa keys show` says what this state directory has; make the file for that"
        }
    }
}
