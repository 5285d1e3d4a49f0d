//! Stand-in until names are resolved by the exit's own resolver.

use std::net::SocketAddr;
use std::sync::Arc;

use cepa_common::cell::message::EndReason;
use cepa_common::dir::ExitPolicy;
use cepa_common::stream::TargetHost;
use tokio::net::TcpStream;

use crate::start::Core;

pub(crate) struct ExitConnector {
    policy: ExitPolicy,
}

impl ExitConnector {
    pub(crate) fn new(policy: ExitPolicy, _: Option<SocketAddr>) -> std::io::Result<Self> {
        Ok(Self { policy })
    }

    pub(crate) async fn connect(
        &self,
        _core: &Arc<Core>,
        host: &TargetHost,
        port: u16,
    ) -> Result<TcpStream, EndReason> {
        let address = match host {
            TargetHost::Ip(ip) => SocketAddr::new(*ip, port),
            TargetHost::Name(name) => tokio::net::lookup_host((name.as_str(), port))
                .await
                .ok()
                .and_then(|mut all| all.next())
                .ok_or(EndReason::Unresolvable)?,
        };
        if !self.policy.allows(address) {
            return Err(EndReason::Policy);
        }
        TcpStream::connect(address)
            .await
            .map_err(|_| EndReason::Refused)
    }
}
