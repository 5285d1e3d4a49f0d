//! `cepa authority`: a network of one's own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cepa_common::dir::{AddressClass, classify, local_network_params};
use cepa_common::state::{KeyKind, Trust, load_key, write_whole};
use cepa_common::words::At;
use cepa_common::world::Disk;
use clap::{Args, Subcommand};
use ed25519_dalek::SigningKey;

use super::context::now;
use crate::config::{self, Config};
use crate::node::found::{certify, new_authority, sign_network};
use crate::node::{AppError, read_network};
use crate::terminal::output::{note, say};
use crate::terminal::{CliError, USAGE};

/// Start a network of one's own, or look after an authority of one.
#[derive(Debug, Subcommand)]
pub(super) enum Authority {
    Init(Init),
    Key(Key),
    Certify(Certify),
}

/// Parameters that a network on loopback needs; a network of private addresses needs the first [`FOR_PRIVATE`].
const FOR_LOOPBACK: [&str; 5] = [
    "allow_private_addresses",
    "subnet_rule",
    "max_relays_per_address",
    "max_links_per_address",
    "directory_requests_per_minute",
];
const FOR_PRIVATE: usize = 2;
/// Days that a certified signing key is good for, if nobody says otherwise.
const DAYS: u32 = 90;

/// Make the keys of one authority, on its own machine.
///
/// DIR/NAME will hold its keys and configuration, and DIR/NAME/entry.toml what others may see: send
/// that file to whoever drafts the network's file (`cepa network draft`). What comes back is signed
/// with DIR/NAME/state/keys/authority, or with the key off line, by `cepa network sign`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa authority key --dir . --name oak --address 203.0.113.5:9001
  cepa authority key --dir . --name oak --address 203.0.113.5:9001 --offline-keys /media/stick")]
pub(super) struct Key {
    /// Directory to write to; made if it is missing, nothing in it is ever replaced.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The authority's name, 1 to 19 letters and digits.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The address at which others reach it.
    #[arg(long, value_name = "ADDR:PORT")]
    address: SocketAddr,
    /// Put the long-term signing key there, as NAME, instead of into the authority's state: it can
    /// then stay off line, and `cepa authority certify` makes the keys that sign.
    #[arg(long, value_name = "DIR")]
    offline_keys: Option<PathBuf>,
}

/// Make a key that signs for an authority for a time, with the long-term key that stays off line.
///
/// Two files are written to DIR: the new key, and `authority-cert`. Copy both into the directory
/// `keys` of the authority's state, the certificate last. An authority that runs takes the new key
/// within seconds, without a restart, and warns for two weeks before a key ends.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa authority certify --key /media/stick/oak --network network.toml --out oak/state/keys
  cepa authority certify --key /media/stick/oak --network network.toml --days 30 --out new")]
pub(super) struct Certify {
    /// The file of the long-term signing key.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The network's file.
    #[arg(long, value_name = "FILE", default_value = "network.toml")]
    network: PathBuf,
    /// How many days from now the new key is good for.
    #[arg(long, value_name = "N", default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Directory to write to; made if it is missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Make the keys of a new network's authorities, and its network.toml.
///
/// For every authority there will be a directory DIR/NAME with keys, configuration and a copy of
/// network.toml; take each to its machine, keep no copy, and run `cepa run --config NAME/node.toml`
/// there. Give DIR/network.toml to everybody who shall use the network or run a relay in it: it holds
/// no secret, and more than half of the authorities have signed it. Three authorities are the least
/// that can lose one and go on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa authority init --dir mynet --name mynet --authority oak=203.0.113.5:9001
  cepa authority init --dir mynet --name mynet --authority oak=203.0.113.5:9001 \\
      --authority elm=198.51.100.7:9001 --authority ash=[2001:db8::9]:9001
  cepa run --config mynet/oak/node.toml")]
pub(super) struct Init {
    /// Directory to write to; made if it is missing, nothing in it is ever replaced.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The network's name.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// An authority's name and the address at which others reach it; may be repeated.
    #[arg(long = "authority", value_name = "NAME=ADDR:PORT", required = true, value_parser = parse_authority)]
    authorities: Vec<(String, SocketAddr)>,
    /// A parameter of the network; may be repeated. docs/protocol.md lists them. Where an authority's
    /// address is private or loopback, those that let relays have and share such addresses are set
    /// and told, unless you set them.
    #[arg(long = "param", value_name = "NAME=NUMBER", value_parser = parse_param)]
    params: Vec<(String, u32)>,
    /// Put the long-term signing keys there, one to a file, instead of into the authorities' state,
    /// where each gets a certified key: the long-term keys can then stay off line.
    #[arg(long, value_name = "DIR")]
    offline_keys: Option<PathBuf>,
    /// With --offline-keys: how many days the certified keys are good for.
    #[arg(
        long,
        value_name = "N",
        default_value_t = DAYS,
        requires = "offline_keys",
        value_parser = clap::value_parser!(u32).range(1..=3650)
    )]
    days: u32,
}

/// Reads `NAME=ADDR:PORT`.
fn parse_authority(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("write NAME=ADDR:PORT")?;
    check_name(name)?;
    let address: SocketAddr = address
        .parse()
        .map_err(|_| format!("`{address}` is no ADDRESS:PORT"))?;
    check_address(address)?;
    Ok((name.to_owned(), address))
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = (1..=19).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    if plain {
        Ok(())
    } else {
        Err("a name takes 1 to 19 letters and digits".to_owned())
    }
}

fn check_address(address: SocketAddr) -> Result<(), String> {
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err("name the address and port at which others reach the authority".to_owned());
    }
    Ok(())
}

/// Reads `NAME=NUMBER`.
pub(super) fn parse_param(text: &str) -> Result<(String, u32), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=NUMBER")?;
    let value = value
        .parse()
        .map_err(|_| format!("`{value}` is no number"))?;
    Ok((name.to_owned(), value))
}

impl Authority {
    pub(super) fn main(self) -> Result<ExitCode, CliError> {
        match self {
            Self::Init(init) => init.main(),
            Self::Key(key) => key.main(),
            Self::Certify(certify) => certify.main(),
        }
    }
}

/// The time that is this many days from now.
fn in_days(days: u32) -> u64 {
    now().saturating_add(u64::from(days) * 86_400)
}

/// An authority's long-term signing key.
pub(super) fn load_signing_key(path: &Path) -> Result<SigningKey, CliError> {
    let secret = load_key(&Disk::Real, path, KeyKind::Authority, Trust::OwnerOnly)
        .map_err(AppError::from)?;
    Ok(SigningKey::from_bytes(secret.expose()))
}

/// Refuses to write where something is already.
fn refuse_to_replace(path: &Path) -> Result<(), CliError> {
    if path.exists() {
        return Err(CliError {
            what: format!("{} is there already", path.display()),
            hint: "choose another --dir: keys are never replaced".to_owned(),
            code: USAGE,
        });
    }
    Ok(())
}

impl Key {
    fn main(self) -> Result<ExitCode, CliError> {
        let usage =
            |what: String| CliError::usage(what, "`cepa authority key --help` has examples");
        check_name(&self.name).map_err(usage)?;
        check_address(self.address).map_err(usage)?;
        let node = self.dir.join(&self.name);
        refuse_to_replace(&node)?;
        let offline = self.offline_keys.as_deref();
        if let Some(offline) = offline {
            refuse_to_replace(&offline.join(&self.name))?;
        }
        let state = node.join("state");
        let (entry, _) =
            new_authority(&self.name, self.address, &state, offline, Trust::OwnerOnly)?;
        write(&node.join("entry.toml"), &entry.to_toml())?;
        let config = config::print(&node_config(&self.name, self.address));
        write(&node.join("node.toml"), &config)?;
        let key = match offline {
            Some(dir) => dir.join(&self.name),
            None => state.join("keys").join("authority"),
        };
        say(&format!(
            "send {} to whoever drafts the network's file",
            node.join("entry.toml").display()
        ));
        say(&format!(
            "then sign the draft: cepa network sign draft.toml --key {}",
            key.display()
        ));
        if offline.is_some() {
            say(&format!(
                "and certify a key: cepa authority certify --key {} --network network.toml --out {}",
                key.display(),
                state.join("keys").display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Certify {
    fn main(self) -> Result<ExitCode, CliError> {
        let network = read_network(&self.network)?;
        let key = load_signing_key(&self.key)?;
        if network
            .authority_by_signing_key(&key.verifying_key().to_bytes())
            .is_none()
        {
            return Err(CliError::failed(
                format!(
                    "{} is the key of no authority that {} names",
                    self.key.display(),
                    self.network.display()
                ),
                "`cepa network show` lists the keys that it names",
            ));
        }
        let until = in_days(self.days);
        let cert = certify(&key, network.network_id(), until, &self.out)?;
        say(&format!("{} is good until {}", cert.display(), At(until)));
        Ok(ExitCode::SUCCESS)
    }
}

impl Init {
    fn main(self) -> Result<ExitCode, CliError> {
        self.check()?;
        let mut entries = Vec::new();
        let mut signers = Vec::new();
        for (name, address) in &self.authorities {
            let state = self.dir.join(name).join("state");
            let offline = self.offline_keys.as_deref();
            let (entry, signing_key) =
                new_authority(name, *address, &state, offline, Trust::OwnerOnly)?;
            entries.push(entry);
            signers.push(signing_key);
        }
        let mut params: BTreeMap<String, u32> = self.params.into_iter().collect();
        suit_private_addresses(&self.authorities, &mut params);
        let text = sign_network(&self.name, entries, &signers, params)?;
        write(&self.dir.join("network.toml"), &text)?;
        if self.offline_keys.is_some() {
            let id = read_network(&self.dir.join("network.toml"))?.network_id();
            for ((name, _), key) in self.authorities.iter().zip(&signers) {
                let keys = self.dir.join(name).join("state").join("keys");
                certify(key, id, in_days(self.days), &keys)?;
            }
        }
        for (name, address) in &self.authorities {
            let node = self.dir.join(name);
            write(&node.join("network.toml"), &text)?;
            write(
                &node.join("node.toml"),
                &config::print(&node_config(name, *address)),
            )?;
        }
        say(&format!(
            "network {} is in {}",
            self.name,
            self.dir.join("network.toml").display()
        ));
        for (name, _) in &self.authorities {
            let node = self.dir.join(name).join("node.toml");
            say(&format!(
                "start authority {name} with: cepa run --config {}",
                node.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Checks that nothing would be replaced, because an authority's keys are the network's trust.
    fn check(&self) -> Result<(), CliError> {
        for (name, _) in &self.authorities {
            if self
                .authorities
                .iter()
                .filter(|(other, _)| other == name)
                .count()
                > 1
            {
                return Err(CliError::usage(
                    format!("two authorities are called {name}"),
                    "give each a name of its own",
                ));
            }
        }
        let names = || self.authorities.iter().map(|(name, _)| name);
        let offline = self.offline_keys.iter();
        let offline = offline.flat_map(|dir| names().map(|name| dir.join(name)));
        names()
            .map(|name| self.dir.join(name))
            .chain([self.dir.join("network.toml")])
            .chain(offline)
            .try_for_each(|path| refuse_to_replace(&path))
    }
}

/// Sets the parameters that a network needs if an authority's address is private: then relays have such addresses too,
/// and share ranges. If the address is loopback, relays share the address as well. Parameters that the operator sets
/// himself stay.
fn suit_private_addresses(
    authorities: &[(String, SocketAddr)],
    params: &mut BTreeMap<String, u32>,
) {
    let is_private = |ip: IpAddr| classify(ip) == AddressClass::Private;
    let ips = || authorities.iter().map(|(_, address)| address.ip());
    let names: &[&str] = if ips().any(|ip| ip.is_loopback()) {
        &FOR_LOOPBACK
    } else if ips().any(is_private) {
        &FOR_LOOPBACK[..FOR_PRIVATE]
    } else {
        return;
    };
    let local = local_network_params();
    let mut set = String::new();
    for name in names {
        if let Some(value) = local.get(*name).filter(|_| !params.contains_key(*name)) {
            params.insert((*name).to_owned(), *value);
            set += &format!(" {name}={value}");
        }
    }
    if !set.is_empty() {
        note(&format!(
            "as authorities have private addresses, these parameters are set:{set}"
        ));
    }
}

/// An authority's configuration, as it lies beside its state directory.
fn node_config(name: &str, address: SocketAddr) -> Config {
    let any = if address.is_ipv4() { "0.0.0.0" } else { "::" };
    let listen = SocketAddr::new(any.parse().unwrap_or(address.ip()), address.port());
    Config {
        relay: Some(config::Relay {
            listen,
            advertise: vec![address],
            nickname: name.to_owned(),
            ..Default::default()
        }),
        authority: Some(config::Authority::default()),
        ..Config::default()
    }
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    Ok(write_whole(&Disk::Real, path, text.as_bytes(), 0o644).map_err(AppError::from)?)
}
