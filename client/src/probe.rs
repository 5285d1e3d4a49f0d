//! A stream of its own, opened to see whether the network carries one, and at which exit it comes out.

use std::net::SocketAddr;
use std::time::Duration;

use cepa_common::ids::RelayId;
use cepa_common::stream::StreamTarget;
use cepa_common::world::steady;

use crate::circuit::isolation::Isolation;
use crate::client::{Client, ConnectError, parse_target, refuse_special};
use crate::path::Country;

/// Where a stream came out, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// Identity of the exit.
    pub exit: RelayId,
    /// Nickname of the exit, which proves nothing; empty if the consensus lists the exit no longer.
    pub nickname: String,
    /// Addresses of the exit by the consensus, the preferred one first. Those that destinations see may be others.
    pub addresses: Vec<SocketAddr>,
    /// The country of the first address that the owner's GeoIP file knows.
    pub country: Option<Country>,
    /// Number of relays that the stream passed.
    pub hops: u8,
    /// How long it took until the exit had answered, with the circuit if one had to be built.
    pub took: Duration,
}

impl Client {
    /// Opens a stream on a circuit that no other stream shares, and ends it at once. Without a target the stream leads
    /// to the exit's resolver, which is asked nothing: nothing leaves the network.
    ///
    /// ```no_run
    /// # async fn example(client: cepa_client::Client) -> Result<(), cepa_client::ConnectError> {
    /// let report = client.probe(None).await?;
    /// println!("{} relays, out at {}", report.hops, report.exit);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ConnectError`]: within 60 s, after other circuits and exits were tried where that could help.
    pub async fn probe(&self, target: Option<&str>) -> Result<ProbeReport, ConnectError> {
        let target = match target {
            Some(text) => {
                parse_target(text).ok_or_else(|| ConnectError::BadTarget(text.to_owned()))?
            }
            None => StreamTarget::Resolver,
        };
        refuse_special(&target)?;
        let alone = Isolation::session(self.isolated().session);
        let alone = alone.of_identity(self.inner.pool.identity());
        let began = steady::now();
        let (stream, exit) = self.open(&target, &alone, &[], None).await?;
        let took = steady::now().saturating_duration_since(began);
        drop(stream);
        let rules = self.inner.pool.rules();
        let consensus = self.consensus();
        let entry = consensus.as_ref().and_then(|held| held.relay(&exit));
        let addresses = entry.map_or_else(Vec::new, |entry| entry.addresses.clone());
        let geoip = rules.geoip.as_ref();
        let country = geoip.and_then(|geoip| {
            let mut countries = addresses.iter().map(|at| geoip.country(at.ip()));
            countries.find_map(|country| country)
        });
        Ok(ProbeReport {
            exit,
            nickname: entry.map_or_else(String::new, |entry| entry.nickname.clone()),
            addresses,
            country,
            hops: rules.hops,
            took,
        })
    }
}
