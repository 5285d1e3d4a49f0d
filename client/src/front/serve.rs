//! Accepts connections, as many at a time as the owner lets, and runs one task for each.

use core::future::Future;
use core::time::Duration;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use cepa_common::limits::ACCEPT_BACKOFF;
use cepa_common::log_pace::LogPace;
use cepa_common::world::steady;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::accepted::{FrontListener, Kind};
use super::connection::Connection;
use super::connector::{Connector, IsolationKey, Origin, Party};
use super::dns;
use super::fresh::FieldKeys;
use super::parse::FrontOptions;
use super::places::Places;
use super::target::{Marks, Protocol};
use super::threshold::Threshold;

/// Connections of one listener that carry datagrams at once. Each has a socket, and a port at an exit.
const MOST_ASSOCIATIONS: usize = 256;
/// Connections that wait for a place at once; further ones wait in the kernel's queue.
const MOST_WAITING: usize = 64;

/// Connections by which a listener for DNS is asked at once: programs ask by datagrams unless an answer is long.
const DNS_CONNECTIONS: usize = 64;

/// Whoever asks a listener for DNS, which is of loopback.
const THIS_MACHINE: Origin = Origin::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));

/// A front end must not listen where others can reach it (S29).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not a loopback address: anybody who reaches it could use this proxy. \
     Listen on 127.0.0.1, or allow it explicitly"
)]
pub struct BindRefused(pub SocketAddr);

/// Checks that the front end may listen on `addr`. `allow_others` is the owner's explicit word that other machines may
/// use the front end.
///
/// # Errors
/// [`BindRefused`] for an address that is not loopback, if the owner has not said that word (S29).
pub fn check_bind(addr: SocketAddr, allow_others: bool) -> Result<(), BindRefused> {
    if addr.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    if !allow_others {
        return Err(BindRefused(addr));
    }
    tracing::warn!(%addr, "the proxy listens beyond this machine: whoever reaches it can use it");
    Ok(())
}

/// Serves `listener`, whose number tells its streams from those of others, until `shutdown` completes. Connections that
/// are still open then are reset.
pub async fn serve<C: Connector>(
    listener: FrontListener,
    number: u64,
    connector: Arc<C>,
    options: FrontOptions,
    shutdown: impl Future<Output = ()>,
) {
    let protocol = listener.kind.protocol();
    let places = Places::new(match protocol {
        Protocol::Dns => options.max_connections.min(DNS_CONNECTIONS),
        _ => options.max_connections,
    });
    let threshold = Threshold::new(options.max_connections);
    let keys = Arc::new(FieldKeys::default());
    let waiting = Arc::new(Semaphore::new(MOST_WAITING));
    let associations = Arc::new(Semaphore::new(MOST_ASSOCIATIONS));
    // The set is dropped on return, which aborts every task in it.
    let mut tasks = JoinSet::new();
    let mut failed = LogPace::default();
    let accept = async {
        loop {
            while tasks.try_join_next().is_some() {}
            // A place to wait is taken first, so that what cannot even wait stays in the kernel's queue.
            let Ok(place) = Arc::clone(&waiting).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, client)) => {
                    let client = match protocol {
                        // By UDP nobody knows who asks, and both ways share what is known.
                        Protocol::Dns => THIS_MACHINE,
                        _ => client,
                    };
                    let isolation = IsolationKey {
                        marks: Marks::default(),
                        within: None,
                        protocol,
                        client,
                        listener: number,
                    };
                    let seat = stream.seat().clone();
                    let guard = listener.guard(client);
                    let guard = guard.map(|guard| {
                        guard.until_proven(threshold.enter(Party::of(client), seat.clone()))
                    });
                    let (connector, places) = (connector.clone(), places.clone());
                    let connection =
                        Connection::new(stream, guard, keys.clone(), associations.clone());
                    tasks.spawn(async move {
                        let served = async {
                            let taken = places.take(&seat, options.patience).await;
                            match taken {
                                Some(taken) => {
                                    drop(place);
                                    connection.run(&*connector, isolation, options).await;
                                    drop(taken);
                                }
                                // A silent port would look like a network that hangs.
                                None => connection.refuse(protocol, options).await,
                            }
                        };
                        tokio::select! {
                            () = served => {}
                            // A connection that is dropped is reset.
                            () = seat.end() => {}
                        }
                    });
                }
                Err(error) => pause(&error, &mut failed).await,
            }
        }
    };
    let datagrams = async {
        match &listener.kind {
            Kind::Dns(socket) => {
                let isolation = IsolationKey {
                    marks: Marks::default(),
                    within: None,
                    protocol,
                    client: THIS_MACHINE,
                    listener: number,
                };
                dns::serve_datagrams(socket, &connector, &isolation).await;
            }
            Kind::Proxy | Kind::Transparent => core::future::pending().await,
        }
    };
    tokio::select! {
        () = accept => {}
        () = datagrams => {}
        () = shutdown => {}
    }
}

async fn pause(error: &io::Error, failed: &mut LogPace) {
    if let Some(pause) = backoff(error) {
        if let Some(times) = failed.count(1, steady::now()) {
            tracing::warn!(%error, times, "the proxy cannot accept connections for the moment");
        }
        tokio::time::sleep(pause).await;
    }
}

/// The time to wait after a failed accept (S39): `None` if only that one connection is lost, otherwise long enough not
/// to spin.
fn backoff(error: &io::Error) -> Option<Duration> {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionAborted
        | Kind::ConnectionReset
        | Kind::Interrupted
        | Kind::InvalidInput
        | Kind::NotConnected => None,
        _ => Some(ACCEPT_BACKOFF),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_unless_allowed() {
        for (addr, loopback) in [
            ("127.0.0.1:9050", true),
            ("127.8.8.8:1", true),
            ("[::1]:9050", true),
            ("[::ffff:127.0.0.1]:9050", true),
            ("0.0.0.0:9050", false),
            ("[::]:9050", false),
            ("192.168.1.1:9050", false),
        ] {
            let addr = addr.parse().unwrap_or_else(|_| unreachable!());
            assert_eq!(check_bind(addr, false).is_ok(), loopback, "{addr}");
            assert!(check_bind(addr, true).is_ok());
        }
    }

    #[test]
    fn a_full_descriptor_table_does_not_spin() {
        for code in [23, 24, 12, 105] {
            let error = io::Error::from_raw_os_error(code);
            assert!(
                backoff(&error) >= Some(Duration::from_millis(50)),
                "{error}"
            );
        }
        assert_eq!(backoff(&io::ErrorKind::ConnectionAborted.into()), None);
    }
}
