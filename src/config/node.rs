//! The configuration of a node: all sections together.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::section::{Key, out_of_bounds, resolve};
use super::settings::{Authority, Client, Exit, Limits, Log, Network, Relay, State};

/// Settings of a node, all roles together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Which network.
    pub network: Network,
    /// Where the node keeps what must survive a restart.
    pub state: State,
    /// The client, if the node is one.
    pub client: Option<Client>,
    /// The relay, if the node is one.
    pub relay: Option<Relay>,
    /// The exit, if the relay is one.
    pub exit: Option<Exit>,
    /// The directory authority, if the relay is one.
    pub authority: Option<Authority>,
    /// What is logged, and where to.
    pub log: Log,
    /// What the node may use of the machine.
    pub limits: Limits,
}

impl Config {
    /// Takes relative paths from `base`.
    pub(super) fn resolve_paths(&mut self, base: &Path) {
        resolve(&mut self.network, base);
        resolve(&mut self.state, base);
        self.client.iter_mut().for_each(|it| resolve(it, base));
        self.relay.iter_mut().for_each(|it| resolve(it, base));
        self.exit.iter_mut().for_each(|it| resolve(it, base));
        self.authority.iter_mut().for_each(|it| resolve(it, base));
        resolve(&mut self.log, base);
        resolve(&mut self.limits, base);
    }

    /// What is wrong with the first amount that its bounds do not allow, and its key.
    pub(super) fn out_of_bounds(&self) -> Option<(&'static Key, String)> {
        out_of_bounds(&self.network)
            .or_else(|| out_of_bounds(&self.state))
            .or_else(|| self.client.as_ref().and_then(out_of_bounds))
            .or_else(|| self.relay.as_ref().and_then(out_of_bounds))
            .or_else(|| self.exit.as_ref().and_then(out_of_bounds))
            .or_else(|| self.authority.as_ref().and_then(out_of_bounds))
            .or_else(|| out_of_bounds(&self.log))
            .or_else(|| out_of_bounds(&self.limits))
    }
}
