//! Which streams may share a circuit: those with equal keys.

use cepa_common::stream::StreamHost;

use crate::front::{Credentials, IsolationKey, Marks, Origin, Protocol};

/// Which of the things that tell streams apart keep them on different circuits.
///
/// The first four are on by default: one exit must not be able to connect what comes from different users or programs.
///
/// ```
/// use cepa_client::circuit::isolation::{IsolateBy, Isolation};
/// use cepa_common::stream::StreamHost;
///
/// let (one, two) = (StreamHost::Name("one.example".into()), StreamHost::Name("two.example".into()));
/// let key = |by, host| Isolation::session(0).with_target(by, host, 443, 0);
/// let by = IsolateBy::default();
/// assert!(key(by, &one) == key(by, &two));
/// let by = IsolateBy { destination: true, ..by };
/// assert!(key(by, &one) != key(by, &two));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsolateBy {
    /// User name and password given to the proxy port, or an HTTP field for isolation: any text will do.
    pub credentials: bool,
    /// The proxy port that the application connected to.
    pub listener: bool,
    /// The address of the application's machine; at a Unix socket the user that runs the application.
    pub client: bool,
    /// SOCKS 4, 4a, 5, HTTP CONNECT or `http://`.
    pub protocol: bool,
    /// The host asked for.
    pub destination: bool,
    /// The port asked for.
    pub port: bool,
    /// Every stream gets a circuit of its own.
    pub every_stream: bool,
}

impl Default for IsolateBy {
    fn default() -> Self {
        Self {
            credentials: true,
            listener: true,
            client: true,
            protocol: true,
            destination: false,
            port: false,
            every_stream: false,
        }
    }
}

/// The isolation key of a stream. Streams with equal keys may share a circuit.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Isolation {
    /// A number for each client made by `Client::isolated`, zero for the first.
    session: u64,
    /// The number of the client's identity under which the stream was asked for, counted from zero.
    identity: u64,
    /// Is this a directory fetch? No user's stream shares its circuit.
    directory: bool,
    marks: Option<Marks>,
    within: Option<Credentials>,
    listener: Option<u64>,
    client: Option<Origin>,
    protocol: Option<Protocol>,
    destination: Option<StreamHost>,
    port: Option<u16>,
    /// The stream's own number, if every stream is alone.
    stream: Option<u64>,
}

/// Debug output hides who asked and for what.
impl core::fmt::Debug for Isolation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Isolation").finish_non_exhaustive()
    }
}

impl Isolation {
    /// The key of a session's streams that nothing else tells apart.
    pub fn session(session: u64) -> Self {
        Self {
            session,
            ..Self::default()
        }
    }

    /// The key of directory fetches.
    pub fn directory() -> Self {
        Self {
            directory: true,
            ..Self::default()
        }
    }

    /// Sets the client's identity under which the stream was asked for. Streams asked for before a new identity and
    /// those asked for after it share nothing, however long the former take to open.
    #[must_use]
    pub fn of_identity(mut self, identity: u64) -> Self {
        self.identity = identity;
        self
    }

    /// Adds what the proxy port knows about an application.
    #[must_use]
    pub fn with_front(mut self, by: IsolateBy, key: IsolationKey) -> Self {
        self.marks = by.credentials.then_some(key.marks);
        self.within = key.within.filter(|_| by.credentials);
        self.listener = by.listener.then_some(key.listener);
        self.client = by.client.then_some(key.client);
        self.protocol = by.protocol.then_some(key.protocol);
        self
    }

    /// Adds the destination of the stream. `number` is the stream's own number.
    #[must_use]
    pub fn with_target(mut self, by: IsolateBy, host: &StreamHost, port: u16, number: u64) -> Self {
        self.destination = by.destination.then(|| host.clone());
        self.port = by.port.then_some(port);
        self.stream = by.every_stream.then_some(number);
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    fn key(user: &str, client: Origin, listener: u64, protocol: Protocol) -> IsolationKey {
        IsolationKey {
            marks: Marks::from(Credentials {
                user: user.into(),
                password: b"x".to_vec(),
            }),
            within: None,
            protocol,
            client,
            listener,
        }
    }

    #[test]
    fn each_switch_keeps_apart_what_it_names_and_nothing_else() {
        let host = |name: &str| StreamHost::Name(name.to_owned());
        let make = |by: IsolateBy, n: usize| {
            let pick = |at: usize| usize::from(n == at);
            let key = key(
                ["anna", "bert"][pick(1)],
                [Origin::Uid(1), Origin::Uid(2)][pick(2)],
                [0, 1][pick(3)],
                [Protocol::Socks5, Protocol::HttpConnect][pick(4)],
            );
            let host = host(["a.example", "b.example"][pick(5)]);
            let port = [80, 443][pick(6)];
            Isolation::session(pick(8) as u64)
                .with_front(by, key)
                .with_target(by, &host, port, pick(7) as u64)
        };
        let none = IsolateBy {
            credentials: false,
            listener: false,
            client: false,
            protocol: false,
            ..IsolateBy::default()
        };
        let switches: [fn(&mut IsolateBy); 7] = [
            |by| by.credentials = true,
            |by| by.client = true,
            |by| by.listener = true,
            |by| by.protocol = true,
            |by| by.destination = true,
            |by| by.port = true,
            |by| by.every_stream = true,
        ];
        for (n, switch) in switches.iter().enumerate() {
            let mut by = none;
            switch(&mut by);
            for other in 1..=7 {
                let apart = make(by, 0) != make(by, other);
                assert_eq!(apart, other == n + 1, "switch {n}, difference {other}");
            }
            assert_ne!(make(by, 0), make(by, 8), "sessions are always apart");
        }
        assert_ne!(Isolation::directory(), Isolation::session(0));
    }

    #[test]
    fn who_passes_connections_on_is_kept_apart_as_credentials_are() {
        let make = |by: IsolateBy, within: Option<&str>| {
            let mut key = key("anna", Origin::Uid(1), 0, Protocol::Socks5);
            key.within = within.map(|user| Credentials {
                user: user.into(),
                password: Vec::new(),
            });
            Isolation::session(0).with_front(by, key)
        };
        let by = IsolateBy::default();
        assert_ne!(make(by, Some("one")), make(by, Some("two")));
        assert_ne!(make(by, Some("anna")), make(by, None));
        assert_eq!(make(by, Some("one")), make(by, Some("one")));
        let by = IsolateBy {
            credentials: false,
            ..by
        };
        assert_eq!(make(by, Some("one")), make(by, None));
    }
}
