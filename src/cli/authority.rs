//! `cepa authority`: a network of one's own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cepa_common::state::{Trust, write_whole};
use clap::{Args, Subcommand};

use super::output::say;
use super::{CliError, USAGE};
use crate::app::{AppError, new_authority, sign_network};
use crate::config::{self, Config, keys};

/// Start a network of one's own, or look after an authority of one.
#[derive(Debug, Subcommand)]
pub(super) enum Authority {
    Init(Init),
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
    /// A parameter of the network; may be repeated. docs/protocol.md lists them.
    #[arg(long = "param", value_name = "NAME=NUMBER", value_parser = parse_param)]
    params: Vec<(String, u32)>,
}

/// `NAME=ADDR:PORT`.
fn parse_authority(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("write NAME=ADDR:PORT")?;
    let plain = (1..=19).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    if !plain {
        return Err("a name takes 1 to 19 letters and digits".to_owned());
    }
    let address: SocketAddr = address
        .parse()
        .map_err(|_| format!("`{address}` is no ADDRESS:PORT"))?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err("name the address and port at which others reach the authority".to_owned());
    }
    Ok((name.to_owned(), address))
}

/// `NAME=NUMBER`.
fn parse_param(text: &str) -> Result<(String, u32), String> {
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
        }
    }
}

impl Init {
    fn main(self) -> Result<ExitCode, CliError> {
        self.check()?;
        let mut entries = Vec::new();
        let mut signers = Vec::new();
        for (name, address) in &self.authorities {
            let state = self.dir.join(name).join("state");
            let (entry, signing_key) = new_authority(name, *address, &state, Trust::OwnerOnly)?;
            entries.push(entry);
            signers.push(signing_key);
        }
        let params = self.params.into_iter().collect();
        let text = sign_network(&self.name, entries, &signers, params)?;
        write(&self.dir.join("network.toml"), &text)?;
        for (name, address) in &self.authorities {
            let node = self.dir.join(name);
            write(&node.join("network.toml"), &text)?;
            write(
                &node.join("node.toml"),
                &keys::print(&node_config(name, *address)),
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

    /// Nothing is replaced: an authority's keys are the network's trust.
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
        let first = self.authorities.iter().map(|(name, _)| self.dir.join(name));
        for path in first.chain([self.dir.join("network.toml")]) {
            if path.exists() {
                return Err(CliError {
                    what: format!("{} is there already", path.display()),
                    hint: "choose another --dir: keys are never replaced".to_owned(),
                    code: USAGE,
                });
            }
        }
        Ok(())
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
    Ok(write_whole(path, text.as_bytes(), 0o644).map_err(AppError::from)?)
}
