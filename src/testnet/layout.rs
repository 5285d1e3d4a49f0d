//! Writes a plan to disk: keys, `network.toml`, a configuration for each node, `testnet.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cepa_common::ids::RelayId;
use cepa_common::net::emulate::EmulatedLink;
use cepa_common::state::{Trust, make_private_dir, write_whole};
use cepa_common::world::Disk;
use serde::Serialize;
use tokio::net::TcpListener;

use super::plan::{Plan, PlannedNode, Role};
use crate::config;
use crate::node::found::{new_authority, sign_network};
use crate::node::{AppError, new_relay};
use crate::terminal::CliError;
use cepa_common::dir::local_network_params;

/// A plan whose files are written.
pub(crate) struct Layout {
    /// The plan itself.
    pub(crate) plan: Plan,
    /// The process ids of nodes that have a process of their own, by name.
    pub(crate) pids: BTreeMap<String, u32>,
    identities: BTreeMap<String, RelayId>,
    /// The emulated links, which end when the layout is dropped.
    links: Vec<EmulatedLink>,
}

/// The content of `testnet.json`.
#[derive(Serialize)]
struct Summary {
    /// Number of the format. The number is raised when a field changes its meaning.
    format: u32,
    network_file: PathBuf,
    socks: String,
    /// A page to fetch through the network, if there is one.
    page: Option<String>,
    processes: bool,
    pid: u32,
    nodes: Vec<NodeSummary>,
}

/// A node in `testnet.json`.
#[derive(Serialize)]
struct NodeSummary {
    name: String,
    roles: Vec<Role>,
    /// The identity of a relay. A client has none, because nobody knows a client by an identity.
    identity: Option<String>,
    address: String,
    pid: u32,
    config: PathBuf,
    log: PathBuf,
}

impl Layout {
    /// Makes the keys and files for `plan`.
    pub(crate) fn write(plan: Plan) -> Result<Self, CliError> {
        let mut identities = BTreeMap::new();
        let mut authorities = Vec::new();
        let mut signers = Vec::new();
        for node in &plan.nodes {
            let state = plan.state_dir(node);
            make_private_dir(&Disk::Real, &state, Trust::Everyone).map_err(AppError::from)?;
            if node.roles.contains(&Role::Authority) {
                let (entry, signer) =
                    new_authority(&node.name, node.reached_at, &state, None, Trust::Everyone)?;
                identities.insert(node.name.clone(), entry.identity);
                authorities.push(entry);
                signers.push(signer);
            } else if node.roles.contains(&Role::Relay) {
                identities.insert(node.name.clone(), new_relay(&state, Trust::Everyone)?);
            }
        }
        let mut params = local_network_params();
        let interval = u32::try_from(plan.vote_interval.as_secs()).unwrap_or(u32::MAX);
        params.insert("vote_interval_seconds".to_owned(), interval);
        params.extend(plan.params.clone());
        let network = sign_network("testnet", authorities, &signers, params)?;
        write_text(&plan.network_file(), &network)?;
        for node in &plan.nodes {
            write_text(&plan.config_file(node), &config::print(&plan.config(node)))?;
        }
        Ok(Self {
            plan,
            pids: BTreeMap::new(),
            identities,
            links: Vec::new(),
        })
    }

    /// Puts an emulated link before every node that accepts links, if the conditions or the shape ask for that.
    pub(crate) async fn emulate_links(&mut self) -> Result<(), CliError> {
        let nodes = &self.plan.nodes;
        for node in nodes.iter().filter(|n| n.reached_at != n.address) {
            let link = TcpListener::bind(node.reached_at)
                .await
                .and_then(|near| EmulatedLink::on(near, node.address, self.plan.conditions));
            self.links.push(link.map_err(|error| {
                CliError::failed(format!("cannot emulate a link: {error}"), "try again")
            })?);
        }
        Ok(())
    }

    /// Bytes that all links together have carried so far, both ways, if there are emulated ones.
    pub(crate) fn carried(&self) -> u64 {
        self.links.iter().map(EmulatedLink::carried).sum()
    }

    /// Path of `testnet.json`.
    pub(crate) fn summary(&self) -> PathBuf {
        self.plan.summary_file()
    }

    /// Writes `testnet.json`.
    pub(crate) fn write_summary(
        &self,
        processes: bool,
        page: Option<String>,
    ) -> Result<(), CliError> {
        let ours = std::process::id();
        let summary = Summary {
            format: 1,
            network_file: self.plan.network_file(),
            socks: self.plan.socks.to_string(),
            page,
            processes,
            pid: ours,
            nodes: self
                .plan
                .nodes
                .iter()
                .map(|node| self.node(node, processes, ours))
                .collect(),
        };
        let text = serde_json::to_string_pretty(&summary).map_err(|error| {
            CliError::failed(
                format!("cannot write JSON: {error}"),
                "report this: it is a bug",
            )
        })?;
        write_text(&self.summary(), &(text + "\n"))
    }

    fn node(&self, node: &PlannedNode, processes: bool, ours: u32) -> NodeSummary {
        NodeSummary {
            name: node.name.clone(),
            roles: node.roles.clone(),
            identity: self.identities.get(&node.name).map(ToString::to_string),
            address: node.reached_at.to_string(),
            pid: self.pids.get(&node.name).copied().unwrap_or(ours),
            config: self.plan.config_file(node),
            log: if processes {
                self.plan.log_file(node)
            } else {
                super::workdir::log_in(&self.plan.dir)
            },
        }
    }
}

fn write_text(path: &Path, text: &str) -> Result<(), CliError> {
    Ok(write_whole(&Disk::Real, path, text.as_bytes(), 0o644).map_err(AppError::from)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::plan::{Ports, Shape};
    use super::*;
    use crate::config::Config;
    use crate::node::read_network;

    #[test]
    fn everything_that_the_nodes_need_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let shape = Shape {
            authorities: 2,
            relays: 4,
            exits: 1,
            socks: ([127, 0, 0, 1], 9350).into(),
            resolver: None,
            log_level: "warn".to_owned(),
            measure: false,
            conditions: Default::default(),
            counts_links: false,
            multipath: Default::default(),
            memory_mib: None,
            params: Default::default(),
        };
        let ports = Ports {
            socks: shape.socks,
            links: (2000..2006).collect(),
        };
        let layout = Layout::write(Plan::new(&shape, dir.path(), &ports).unwrap()).unwrap();
        layout.write_summary(false, None).unwrap();

        let network = read_network(&layout.plan.network_file()).unwrap();
        assert_eq!(network.authorities().len(), 2);
        for node in &layout.plan.nodes {
            let config = Config::load(&layout.plan.config_file(node)).unwrap();
            assert_eq!(config, layout.plan.config(node));
        }
        let text = std::fs::read_to_string(layout.summary()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let nodes = json["nodes"].as_array().unwrap();
        assert_eq!(nodes.len(), 7);
        assert_eq!(json["socks"], "127.0.0.1:9350");
        for node in nodes {
            for field in [
                "name", "roles", "identity", "address", "pid", "config", "log",
            ] {
                assert!(node.get(field).is_some(), "{field}");
            }
            let is_client = node["roles"][0] == "client";
            assert_eq!(node["identity"].is_null(), is_client);
            assert_eq!(node["pid"], std::process::id());
        }
    }
}
