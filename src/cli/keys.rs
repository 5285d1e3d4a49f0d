//! `cepa keys`: the keys that a relay's owner keeps off line, and what those keys sign.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cepa_common::dir::{
    FamilyFile, FamilyMembership, KeyCert, KeyFileError, LinkCertificate, NetworkFile,
};
use cepa_common::ids::RelayId;
use cepa_common::state::{
    KeyKind, Trust, create_key, erase_key, load_key, load_or_create_key, make_private_dir,
    write_whole,
};
use cepa_common::world::{Clock, Disk, random};
use clap::{Args, Subcommand};
use ed25519_dalek::SigningKey;

use super::context::{NetworkArg, state_dir};
use crate::node::identity::{CERTIFICATE, FAMILY, LINK_KEY, key_file};
use crate::node::{IDENTITY_KEY, read_network};
use crate::terminal::CliError;
use crate::terminal::output::say;

mod files;
mod show;

use cepa_common::words::At;
use files::{bad_file, certificate, public, read, state_error};

/// Keep a relay's identity off line, renew its certificate, and put relays into a family.
///
/// docs/operator.md tells the whole story: what to keep where, and what to do when.
#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    Identity(Identity),
    Link(Link),
    Certify(Certify),
    Family(Family),
    Join(Join),
    Install(Install),
    Show(show::Show),
}

impl Keys {
    pub(super) fn main(self) -> Result<ExitCode, CliError> {
        match self {
            Self::Identity(command) => new_key(&command.out, KeyKind::Identity),
            Self::Link(command) => command.main(),
            Self::Certify(command) => command.main(),
            Self::Family(command) => new_key(&command.out, KeyKind::Family),
            Self::Join(command) => command.main(),
            Self::Install(command) => command.main(),
            Self::Show(command) => command.main(),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Make an identity to be kept off line: a relay's name in the network, for as long as the relay lives.
///
/// Keep the file where no network reaches it, and a copy. Who has it is the relay; who loses it starts anew.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa keys identity --out willow.identity       on a machine without network, or a memory stick")]
pub(super) struct Identity {
    /// File to write; nothing is ever replaced.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Make the link key of a relay whose identity is kept off line, or say which one it has.
///
/// The secret stays in the state directory; what is printed goes to `cepa keys certify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa keys link --state /var/lib/cepa             make it, or show the one that is there
  cepa keys link --state /var/lib/cepa --replace   another one, after a break-in; stop the relay first")]
pub(super) struct Link {
    /// The relay's state directory [default: ~/.local/state/cepa/relay].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Make another key. Whoever holds a consensus with the old one cannot reach the relay until it has a
    /// newer one, so do this only when the old key may be in other hands.
    #[arg(long)]
    replace: bool,
}

/// Certify a relay's link key for some time, with its identity. The same command renews a certificate.
///
/// Run it where the identity is. The result holds no secret: carry it to the relay and put it in with
/// `cepa keys install`. A relay that runs takes it within seconds.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa keys certify --identity willow.identity --network network.toml \\
      --link 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29 --days 90 --out willow.certificate
  cepa keys certify --identity willow.identity --network network.toml \\
      --renew willow.certificate --days 90 --out willow.new")]
pub(super) struct Certify {
    /// The identity's file.
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    #[command(flatten)]
    network: NetworkArg,
    /// The link key, as `cepa keys link` printed it: 64 hexadecimal digits.
    #[arg(long, value_name = "KEY", value_parser = parse_id, required_unless_present = "renew")]
    link: Option<RelayId>,
    /// A certificate whose link key shall have a new one.
    #[arg(long, value_name = "FILE", conflicts_with = "link")]
    renew: Option<PathBuf>,
    /// Days that it is valid; 2 to 365.
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u64).range(2..=365))]
    days: u64,
    /// File to write; nothing is ever replaced.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Make the key of a family of relays, to be kept off line.
///
/// Relays of one owner belong in one family: no circuit goes through two of them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa keys family --out my.family")]
pub(super) struct Family {
    /// File to write; nothing is ever replaced.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Sign a relay into a family, in one network.
///
/// Run it where the family's key is. The result holds no secret: carry it to the relay and put it in with
/// `cepa keys install`. To leave the family, remove family.toml from the state directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa keys join --family my.family --network network.toml \\
      --relay 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29 --out willow.family

`cepa keys show` on the relay's machine prints its identity.")]
pub(super) struct Join {
    /// The family's key.
    #[arg(long, value_name = "FILE")]
    family: PathBuf,
    #[command(flatten)]
    network: NetworkArg,
    /// The relay's identity: 64 hexadecimal digits.
    #[arg(long, value_name = "IDENTITY", value_parser = parse_id)]
    relay: RelayId,
    /// File to write; nothing is ever replaced.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Put a certificate or a family membership into a relay's state directory, once it is checked.
///
/// The relay may run: it takes the file within seconds.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa keys install --state /var/lib/cepa --network network.toml willow.certificate willow.family")]
pub(super) struct Install {
    /// The relay's state directory [default: ~/.local/state/cepa/relay].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArg,
    /// What `cepa keys certify` or `cepa keys join` wrote.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

fn parse_id(text: &str) -> Result<RelayId, String> {
    RelayId::from_hex(text).ok_or_else(|| "it takes 64 hexadecimal digits".to_owned())
}

/// Makes the key of a file that is kept off line.
fn new_key(path: &Path, kind: KeyKind) -> Result<(), CliError> {
    free(path)?;
    let secret = create_key(&Disk::Real, path, kind, &mut random::rng()).map_err(state_error)?;
    say(&format!("{}", public(&secret)));
    crate::terminal::output::note(&format!(
        "the {} is in {}: keep it off line, and a copy",
        kind.name(),
        path.display()
    ));
    Ok(())
}

/// Loads a key that is kept off line. Memory sticks know no permissions, so a file is refused only if it has open ones.
fn off_line_key(path: &Path, kind: KeyKind) -> Result<SigningKey, CliError> {
    let secret = load_key(&Disk::Real, path, kind, Trust::OwnerOnly).map_err(state_error)?;
    Ok(SigningKey::from_bytes(secret.expose()))
}

fn free(path: &Path) -> Result<(), CliError> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    Err(CliError::usage(
        format!("{} is there already", path.display()),
        "choose another --out: nothing is ever replaced",
    ))
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    write_whole(&Disk::Real, path, text.as_bytes(), 0o644).map_err(state_error)
}

impl Link {
    fn main(self) -> Result<(), CliError> {
        let state = state_dir(self.state, "relay")?;
        if key_file(&state, IDENTITY_KEY).exists() {
            return Err(CliError::usage(
                format!("{} has an identity of its own", state.display()),
                "move keys/identity off line first: it can certify the link key of this very relay. \
                 For a new relay choose another --state",
            ));
        }
        let keys = state.join("keys");
        make_private_dir(&Disk::Real, &state, Trust::OwnerOnly).map_err(state_error)?;
        make_private_dir(&Disk::Real, &keys, Trust::OwnerOnly).map_err(state_error)?;
        if self.replace {
            // A relay that runs would prove the old key and publish the new one's certificate.
            let _lock =
                cepa_common::state::StateLock::acquire(&Disk::Real, &state).map_err(state_error)?;
            erase_key(&Disk::Real, &keys.join(LINK_KEY)).map_err(state_error)?;
        }
        let (trust, mut rng) = (Trust::OwnerOnly, random::rng());
        let secret =
            load_or_create_key(&Disk::Real, &keys, LINK_KEY, KeyKind::Link, trust, &mut rng);
        say(&format!("{}", public(&secret.map_err(state_error)?)));
        Ok(())
    }
}

impl Certify {
    fn main(self) -> Result<(), CliError> {
        free(&self.out)?;
        let network = read_network(self.network.file())?;
        let identity = off_line_key(&self.identity, KeyKind::Identity)?;
        let own = RelayId(identity.verifying_key().to_bytes());
        let key = match (&self.renew, self.link) {
            (Some(path), _) => {
                let old = certificate(path, &network)?;
                if old.identity != own {
                    return Err(CliError::usage(
                        format!(
                            "{} is of the identity {}, and this one is {own}",
                            path.display(),
                            old.identity
                        ),
                        "name the identity that made it with --identity",
                    ));
                }
                old.cert.key
            }
            (None, Some(link)) => link.0,
            (None, None) => {
                return Err(CliError::usage(
                    "no link key is named",
                    "name it with --link or --renew",
                ));
            }
        };
        if key == own.0 {
            return Err(CliError::usage(
                "that is the identity itself",
                "`cepa keys link` makes a link key on the relay's machine",
            ));
        }
        let made = Clock::system().now_secs();
        let not_after = made.saturating_add(self.days * 86_400);
        let certificate = LinkCertificate {
            identity: own,
            made,
            cert: KeyCert::new(&identity, &network.network_id(), key, not_after),
        };
        write(&self.out, &certificate.to_toml(&network.network_id()))?;
        say(&format!(
            "{} certifies the link key {} of relay {own} until {}",
            self.out.display(),
            RelayId(key),
            At(not_after)
        ));
        Ok(())
    }
}

impl Join {
    fn main(self) -> Result<(), CliError> {
        free(&self.out)?;
        let network = read_network(self.network.file())?.network_id();
        let family = off_line_key(&self.family, KeyKind::Family)?;
        let membership = FamilyMembership::new(&family, &network, &self.relay);
        let family = RelayId(membership.key);
        let file = FamilyFile {
            identity: self.relay,
            membership,
        };
        write(&self.out, &file.to_toml(&network))?;
        say(&format!(
            "{} makes relay {} a member of the family {family}",
            self.out.display(),
            self.relay
        ));
        Ok(())
    }
}

impl Install {
    fn main(self) -> Result<(), CliError> {
        let state = state_dir(self.state.clone(), "relay")?;
        let network = read_network(self.network.file())?;
        for path in &self.files {
            let text = read(path)?;
            let id = network.network_id();
            let name = match LinkCertificate::parse(&text, &id) {
                Ok(found) => {
                    fits(path, &state, &found)?;
                    CERTIFICATE
                }
                Err(KeyFileError::Kind { .. }) => {
                    let found =
                        FamilyFile::parse(&text, &id).map_err(|error| bad_file(path, &error))?;
                    same_relay(path, &state, &network, found.identity)?;
                    FAMILY
                }
                Err(error) => return Err(bad_file(path, &error)),
            };
            write(&state.join(name), &text)?;
            say(&format!("{} is in place", state.join(name).display()));
        }
        Ok(())
    }
}

/// Is the certificate for the link key in this state directory, and still of use?
fn fits(path: &Path, state: &Path, found: &LinkCertificate) -> Result<(), CliError> {
    let secret = load_key(
        &Disk::Real,
        &key_file(state, LINK_KEY),
        KeyKind::Link,
        Trust::OwnerOnly,
    );
    let own = public(&secret.map_err(state_error)?);
    if own.0 != found.cert.key {
        return Err(CliError::usage(
            format!(
                "{} is for the link key {}, and this relay's is {own}",
                path.display(),
                RelayId(found.cert.key)
            ),
            "certify this relay's: cepa keys certify --link KEY",
        ));
    }
    if found.cert.not_after <= Clock::system().now_secs() {
        return Err(CliError::usage(
            format!("{} expired at {}", path.display(), At(found.cert.not_after)),
            "make a new one with `cepa keys certify`",
        ));
    }
    Ok(())
}

/// Is the file for this relay, as far as the state directory says who this relay is?
fn same_relay(
    path: &Path,
    state: &Path,
    network: &NetworkFile,
    identity: RelayId,
) -> Result<(), CliError> {
    let key = load_key(
        &Disk::Real,
        &key_file(state, IDENTITY_KEY),
        KeyKind::Identity,
        Trust::OwnerOnly,
    );
    let own = match key {
        Ok(secret) => public(&secret),
        Err(_) => certificate(&state.join(CERTIFICATE), network)?.identity,
    };
    if own == identity {
        return Ok(());
    }
    Err(CliError::usage(
        format!(
            "{} is for relay {identity}, and this one is {own}",
            path.display()
        ),
        "make one for this relay: cepa keys join --relay IDENTITY",
    ))
}
