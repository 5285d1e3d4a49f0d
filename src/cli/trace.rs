//! `cepa trace`: a circuit, hop by hop.

use std::process::ExitCode;

use clap::Args;

use super::context::{Context, NetworkArg, block_on};
use crate::node::{Hop, Visitor};
use crate::terminal::CliError;
use crate::terminal::output::{self, say};

/// Build a circuit and show each hop: whether it is the guard, identity, address, suite, handshake time and round trip.
///
/// With HOST:PORT the circuit ends at a relay whose policy lets it connect there; nothing is connected.
/// The circuit is fresh and belongs to a client of its own, which is forgotten afterwards.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa trace --network network.toml
  cepa trace --network network.toml example.com:443
  cepa trace --network network.toml --path willow,4f21,birch")]
pub(super) struct Trace {
    #[command(flatten)]
    network: NetworkArg,
    /// Where the circuit should be able to connect.
    #[arg(value_name = "HOST:PORT", value_parser = parse_target)]
    target: Option<String>,
    /// Exactly these relays, first to last, 1 to 5: nicknames, or so many digits of an identity that no other begins
    /// with them. For testing: no rule of choosing paths is kept, and none of them is a guard.
    #[arg(
        long,
        value_name = "RELAY,...",
        value_delimiter = ',',
        conflicts_with = "target"
    )]
    path: Option<Vec<String>>,
}

/// Reads `HOST:PORT` and resolves nothing: names are the exit's business.
fn parse_target(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("write HOST:PORT")?;
    match port.parse::<u16>() {
        Ok(1..) if !host.is_empty() => Ok(text.to_owned()),
        _ => Err("write HOST:PORT, with a port from 1 to 65535".to_owned()),
    }
}

impl Trace {
    pub(super) fn main(self, context: &Context) -> Result<ExitCode, CliError> {
        context.log_to_stderr("warn")?;
        let hops = block_on(0, async {
            let visitor = output::with_meter(async |progress| {
                Visitor::join(self.network.file(), progress).await
            });
            let visitor = Box::pin(visitor).await?;
            let hops = match &self.path {
                Some(path) => Box::pin(visitor.trace_path(path)).await,
                None => Box::pin(visitor.trace(self.target.as_deref())).await,
            };
            visitor.leave().await;
            Ok(hops?)
        })?;
        for line in table(&hops) {
            say(&line);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The hops as lines of a table.
fn table(hops: &[Hop]) -> Vec<String> {
    let width =
        |of: fn(&Hop) -> usize, least: usize| hops.iter().map(of).max().unwrap_or(0).max(least);
    let name = width(|hop| hop.nickname.len(), 8);
    let address = width(|hop| hop.address.to_string().len(), 7);
    let mut lines = vec![format!(
        "hop         {:name$}  {:64}  {:address$}  {:17}  {:>12}  {:>12}",
        "nickname", "identity", "address", "suite", "handshake", "round trip"
    )];
    lines.extend(hops.iter().enumerate().map(|(index, hop)| {
        format!(
            "{:>3} {:6}  {:name$}  {:64}  {:address$}  {:17}  {:>9.3} ms  {:>9.3} ms",
            index + 1,
            if hop.is_guard { "guard" } else { "" },
            hop.nickname,
            hop.identity.to_string(),
            hop.address.to_string(),
            hop.suite.name(),
            hop.handshake.as_secs_f64() * 1e3,
            hop.round_trip.as_secs_f64() * 1e3,
        )
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use cepa_common::ids::RelayId;
    use cepa_common::onion::Suite;
    use std::time::Duration;

    #[test]
    fn columns_line_up() {
        let hop = |nickname: &str, port| Hop {
            identity: RelayId([7; 32]),
            is_guard: port == 9,
            nickname: nickname.to_owned(),
            address: ([127, 0, 0, 1], port).into(),
            suite: Suite::Aes256Gcm,
            handshake: Duration::from_micros(1500),
            round_trip: Duration::from_micros(250),
        };
        let lines = table(&[hop("r1", 9), hop("a-long-nickname", 65000)]);
        assert!(
            lines.iter().all(|line| line.len() == lines[0].len()),
            "{lines:#?}"
        );
        assert!(
            lines[1].contains("1 guard") && !lines[2].contains("guard"),
            "{lines:#?}"
        );
        assert!(
            lines[1].contains("1.500 ms") && lines[1].contains("0.250 ms"),
            "{lines:#?}"
        );
    }

    #[test]
    fn targets_are_hosts_with_ports() {
        for good in ["example.com:80", "[2001:db8::1]:443", "192.0.2.1:1"] {
            assert!(parse_target(good).is_ok(), "{good}");
        }
        for bad in ["example.com", ":80", "x:0", "x:65536", "x:http"] {
            assert!(parse_target(bad).is_err(), "{bad}");
        }
    }
}
