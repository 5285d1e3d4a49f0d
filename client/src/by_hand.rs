//! Circuits through relays that the caller names, instead of a path that the client chooses.
//!
//! Such circuits are for tools and measurements. Circuits by hand have no guard and keep no rule about paths. The pool
//! does not know them, so that no stream of an application gets on one.

use std::net::SocketAddr;
use std::sync::Arc;

use cepa_common::dir::Entry;
use cepa_common::ids::RelayId;
use cepa_common::world::steady;
use tokio::time::timeout;

use crate::circuit::Circuit;
use crate::circuit::build::BuildError;
use crate::client::{Client, ConnectError, HopReport, TRY_TIMEOUT};
use crate::path::MOST_HOPS;

/// Why a path that the caller named was not traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// No path can be made of the relays that were named.
    #[error(transparent)]
    Path(#[from] ByHandError),
    /// The circuit was not built or did not answer.
    #[error(transparent)]
    Build(#[from] ConnectError),
}

/// Why there is no circuit through the relays that were named.
#[derive(Debug, thiserror::Error)]
pub enum ByHandError {
    /// No consensus is held that may be used.
    #[error("the client has no usable consensus yet")]
    NoConsensus,
    /// The consensus does not list a relay.
    #[error("the consensus does not list {0}")]
    Unlisted(RelayId),
    /// No relay has this name.
    #[error("no relay has the nickname {0:?} or an identity that begins so")]
    Unknown(String),
    /// Several relays have this name.
    #[error(
        "{count} relays have the nickname {name:?} or an identity that begins so; write more of the identity"
    )]
    Ambiguous {
        /// What was written.
        name: String,
        /// How many relays it fits.
        count: usize,
    },
    /// A path cannot have so many relays.
    #[error("a path by hand has 1 to {MOST_HOPS} relays, not {0}")]
    Hops(usize),
    /// No relay takes a link to itself.
    #[error("{0} stands next to itself in the path")]
    Doubled(RelayId),
    /// The circuit was not built.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl Client {
    /// Builds a circuit through exactly these relays, first to last. [`Circuit::open`] opens streams on the circuit,
    /// [`Circuit::close`] ends it.
    ///
    /// ```no_run
    /// # async fn example(client: cepa_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use cepa_client::StreamTarget;
    ///
    /// let consensus = client.consensus().ok_or("no consensus")?;
    /// let path: Vec<_> = consensus.entries().iter().take(3).map(|relay| relay.identity).collect();
    /// let circuit = client.circuit(&path).await?;
    /// // The last relay's own directory is always there to be asked.
    /// let stream = circuit.open(StreamTarget::Directory).ok_or("the circuit is gone")?;
    /// stream.opened().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ByHandError`].
    pub async fn circuit(&self, path: &[RelayId]) -> Result<Arc<Circuit>, ByHandError> {
        let hops = self.listed(path)?;
        Ok(self.inner.pool.build_path(&hops).await?)
    }

    /// Looks up the relays of a path in the consensus.
    fn listed(&self, path: &[RelayId]) -> Result<Vec<Entry>, ByHandError> {
        if let Some([twice, _]) = path.array_windows().find(|[one, next]| one == next) {
            return Err(ByHandError::Doubled(*twice));
        }
        let consensus = self.consensus().ok_or(ByHandError::NoConsensus)?;
        let entry = |relay: &RelayId| {
            let entry = consensus.relay(relay).cloned();
            entry.ok_or(ByHandError::Unlisted(*relay))
        };
        path.iter().map(entry).collect()
    }

    /// The relays with these names. Each name is a nickname or the first digits of an identity in the consensus.
    ///
    /// # Errors
    /// [`ByHandError`] with the first name that no relay has, or that more than one relay has.
    pub fn relays(&self, names: &[String]) -> Result<Vec<RelayId>, ByHandError> {
        if !(1..=usize::from(MOST_HOPS)).contains(&names.len()) {
            return Err(ByHandError::Hops(names.len()));
        }
        let consensus = self.consensus().ok_or(ByHandError::NoConsensus)?;
        let entries = consensus.entries();
        names.iter().map(|name| called(entries, name)).collect()
    }

    /// Builds a circuit through exactly these relays and measures each hop as it is added.
    ///
    /// # Errors
    /// [`TraceError`], which names a relay that the consensus does not list.
    pub async fn trace_path(&self, path: &[RelayId]) -> Result<Vec<HopReport>, TraceError> {
        let hops = self.listed(path)?;
        Ok(self.measure(&hops, false).await?)
    }

    /// Builds a circuit along `hops` and measures each hop. `guarded` says whether the first hop is a guard.
    pub(crate) async fn measure(
        &self,
        hops: &[Entry],
        guarded: bool,
    ) -> Result<Vec<HopReport>, ConnectError> {
        let build = |error: BuildError| ConnectError::Circuit(error.into());
        let maker = self.inner.pool.maker();
        let mut reports = Vec::new();
        let mut circuit = None;
        for hop in hops {
            let started = steady::now();
            let builder = match &mut circuit {
                None if guarded => {
                    let begun = maker.begin_at_guard(hop).await;
                    circuit.insert(begun.map_err(build)?)
                }
                None => circuit.insert(maker.begin(hop).await.map_err(build)?),
                Some(builder) => {
                    maker.go_on(builder, hop).await.map_err(build)?;
                    builder
                }
            };
            let handshake = steady::since(started);
            let rtt = timeout(TRY_TIMEOUT, builder.round_trip())
                .await
                .map_err(|_| ConnectError::TimedOut)?
                .map_err(build)?;
            reports.push(HopReport {
                identity: hop.identity,
                is_guard: guarded && reports.is_empty(),
                nickname: hop.nickname.clone(),
                address: hop
                    .addresses
                    .first()
                    .copied()
                    .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0))),
                suite: hop.suite,
                handshake,
                rtt,
            });
        }
        Ok(reports)
    }
}

/// The one relay that the name fits.
fn called(entries: &[Entry], name: &str) -> Result<RelayId, ByHandError> {
    let digits = name.to_ascii_lowercase();
    let mut fits: Vec<RelayId> = entries
        .iter()
        .filter(|entry| entry.nickname == name || entry.identity.to_string().starts_with(&digits))
        .map(|entry| entry.identity)
        .collect();
    match (fits.pop(), fits.len()) {
        (Some(relay), 0) if !name.is_empty() => Ok(relay),
        (Some(_), more) if !name.is_empty() => Err(ByHandError::Ambiguous {
            name: name.to_owned(),
            count: more + 1,
        }),
        _ => Err(ByHandError::Unknown(name.to_owned())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use cepa_common::dir::Flags;
    use cepa_common::testkit::{identity, web_descriptor};

    use super::*;

    #[test]
    fn a_relay_is_called_by_nickname_or_first_digits() {
        let entries: Vec<Entry> = (1..=40)
            .map(|n| {
                let mut relay = web_descriptor(n);
                relay.nickname = if n < 3 {
                    "twin".to_owned()
                } else {
                    format!("n{n}")
                };
                Entry::new(&relay, Flags::RUNNING, 1)
            })
            .collect();
        let whole = identity(7).to_string();
        assert_eq!(called(&entries, &whole).unwrap(), identity(7));
        assert_eq!(
            called(
                &entries,
                &whole.chars().take(12).collect::<String>().to_uppercase()
            )
            .unwrap(),
            identity(7)
        );
        assert_eq!(called(&entries, "n9").unwrap(), identity(9));
        let said = |name: &str| called(&entries, name).unwrap_err().to_string();
        assert!(said("twin").starts_with("2 relays have the nickname \"twin\""));
        // Forty identities begin with sixteen different digits, so one digit fits several.
        assert!((0..16).any(|d| said(&format!("{d:x}")).contains("write more of the identity")));
        for nobody in ["", "N9", "zz"] {
            assert!(
                matches!(called(&entries, nobody), Err(ByHandError::Unknown(name)) if name == nobody)
            );
        }
    }
}
