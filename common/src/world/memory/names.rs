//! The name servers of a host.

use std::io::{self, ErrorKind};
use std::net::IpAddr;

use super::super::names::GivenNames;
use super::super::sockets::Answer;
use super::MemoryNetwork;
use super::host::NamesFault;

/// The name servers as one life of a host sees them. They are as far from the host as the host is from itself.
pub(super) struct HostNames {
    pub(super) network: MemoryNetwork,
    pub(super) address: IpAddr,
    pub(super) life: u64,
}

impl HostNames {
    /// The answer now; `None` if there will never be one.
    fn answer(&self, name: &str) -> Option<io::Result<Vec<IpAddr>>> {
        let fault = self.network.0.with(|state, _| {
            let host = state.host(self.address);
            match host.is_alive(self.life) && host.has_power && !host.is_silent {
                true => host.names,
                false => NamesFault::Silent,
            }
        });
        match fault {
            NamesFault::Well => {
                let found = self.network.0.names.get(name);
                let found = found.map(|address| vec![*address]);
                Some(found.ok_or_else(|| ErrorKind::NotFound.into()))
            }
            NamesFault::Silent => None,
            NamesFault::Lying(address) => Some(Ok(vec![address])),
        }
    }
}

impl GivenNames for HostNames {
    fn lookup<'a>(&'a self, name: &'a str) -> Answer<'a, Vec<IpAddr>> {
        Box::pin(async move {
            let delay = self
                .network
                .0
                .with(|state, _| (state.delays)(self.address, self.address));
            tokio::time::sleep(2 * delay).await;
            match self.answer(name) {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }
}
