//! `cepa keys show`: what a state directory has, and when it ends.

use std::path::{Path, PathBuf};

use cepa_common::dir::{FamilyFile, NetworkFile, Params};
use cepa_common::ids::RelayId;
use cepa_common::state::{KeyKind, StateError, Trust, load_key};
use cepa_common::world::{Clock, Disk};
use cepa_relay::keys::ring::{OnionKeyOptions, OnionRing};
use cepa_relay::keys::schedule::Timing;
use clap::Args;

use super::files::{bad_file, certificate, public, read, state_error};
use crate::cli::context::{NetworkArg, state_dir};
use crate::node::identity::{CERTIFICATE, FAMILY, LINK_KEY, key_file};
use crate::node::{IDENTITY_KEY, read_network};
use crate::terminal::CliError;
use crate::terminal::output::say;
use cepa_common::words::{At, Count};

/// Show which keys a relay's state directory has and when they expire. No secret is printed.
///
/// The relay may run meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa keys show --state /var/lib/cepa --network network.toml")]
pub(in crate::cli) struct Show {
    /// The relay's state directory [default: ~/.local/state/cepa/relay].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArg,
}

impl Show {
    pub(super) fn main(self) -> Result<(), CliError> {
        let state = state_dir(self.state, "relay")?;
        let network = read_network(self.network.file())?;
        if !state.join("keys").is_dir() {
            return Err(CliError::usage(
                format!("{} is no state directory with keys", state.display()),
                "name the relay's with --state; a relay that has run once, or `cepa keys link`, makes one",
            ));
        }
        links(&state, &network)?;
        family(&state, &network)?;
        onion_keys(&state, &network)
    }
}

fn key(state: &Path, name: &str, kind: KeyKind) -> Result<Option<RelayId>, CliError> {
    match load_key(&Disk::Real, &key_file(state, name), kind, Trust::OwnerOnly) {
        Ok(secret) => Ok(Some(public(&secret))),
        Err(StateError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(state_error(error)),
    }
}

fn links(state: &Path, network: &NetworkFile) -> Result<(), CliError> {
    if let Some(identity) = key(state, IDENTITY_KEY, KeyKind::Identity)? {
        say(&format!(
            "identity     {identity}  on line: the secret is here"
        ));
    }
    let Some(link) = key(state, LINK_KEY, KeyKind::Link)? else {
        return Ok(());
    };
    let path = state.join(CERTIFICATE);
    if !path.exists() {
        say(&format!(
            "link key     {link}  not certified: cepa keys certify --link {link}"
        ));
        return Ok(());
    }
    let found = certificate(&path, network)?;
    say(&format!("identity     {}  off line", found.identity));
    let left = found
        .cert
        .not_after
        .saturating_sub(Clock::system().now_secs());
    let what = if found.cert.key != link.0 {
        "the certificate is for another link key".to_owned()
    } else if left == 0 {
        format!("the certificate EXPIRED at {}", At(found.cert.not_after))
    } else {
        format!(
            "certified until {} ({} left)",
            At(found.cert.not_after),
            Count(left / 86_400, "day")
        )
    };
    say(&format!("link key     {link}  {what}"));
    Ok(())
}

fn family(state: &Path, network: &NetworkFile) -> Result<(), CliError> {
    let path = state.join(FAMILY);
    if path.exists() {
        let found = FamilyFile::parse(&read(&path)?, &network.network_id());
        let found = found.map_err(|error| bad_file(&path, &error))?;
        say(&format!(
            "family       {}  relay {} is a member",
            RelayId(found.membership.key),
            found.identity
        ));
    }
    Ok(())
}

fn onion_keys(state: &Path, network: &NetworkFile) -> Result<(), CliError> {
    let options = OnionKeyOptions {
        dir: state.join("keys"),
        trust: Trust::OwnerOnly,
        suite: cepa_common::onion::Suite::ChaCha20Poly1305,
    };
    let ring =
        OnionRing::load(&Disk::Real, options, Clock::system().now_secs()).map_err(state_error)?;
    let params: Params = network.params();
    let timing = Timing::new(&params);
    for key in ring.schedule().keys() {
        let what = match key.end(&timing) {
            None => {
                let next = key.born.saturating_add(timing.rotation_secs());
                format!("current, replaced after {}", At(next))
            }
            Some(end) => format!("still accepted, erased after {}", At(end)),
        };
        let suite = key.suite.name();
        say(&format!(
            "onion key    {}  {suite}, made {}, {what}",
            RelayId(key.public),
            At(key.born)
        ));
    }
    Ok(())
}
