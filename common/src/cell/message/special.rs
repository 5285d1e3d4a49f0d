//! Names that the DNS does not have, and that nobody asks it for (docs/protocol.md, 5.3).

use core::fmt;

/// A kind of names that are set aside for something else than the DNS. No exit could look one up, and an exit that is
/// asked for one learns what its client meant for another network, or for the machines around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpecialName {
    /// `localhost`, and below: the machine that asks (RFC 6761).
    Localhost,
    /// Below `.local`: machines on the same local network (RFC 6762).
    Local,
    /// Below `.internal`: machines of a private network (ICANN, 29 July 2024).
    Internal,
    /// Below `home.arpa`: machines of a home network (RFC 8375).
    Home,
    /// Below `.onion`: services of the Tor network (RFC 7686).
    Onion,
    /// Below `.alt`: names of other systems than the DNS (RFC 9476).
    Alt,
    /// Below `.cepa`: what somebody wrote who meant `.cepa.alt`. The DNS has no such names, and its servers must not
    /// hear of what was meant.
    Cepa,
    /// Below `.test`: names that are for tests (RFC 6761).
    Test,
    /// Below `.invalid`: names that never exist (RFC 6761).
    Invalid,
}

impl SpecialName {
    /// The kind of a name that is special, in whatever case and with or without a dot at its end.
    pub fn of(name: &str) -> Option<Self> {
        let mut labels = name.strip_suffix('.').unwrap_or(name).rsplit('.');
        let last = labels.next().unwrap_or_default();
        let is = |text: &str| last.eq_ignore_ascii_case(text);
        let kinds = [
            ("localhost", Self::Localhost),
            ("local", Self::Local),
            ("internal", Self::Internal),
            ("onion", Self::Onion),
            ("alt", Self::Alt),
            ("cepa", Self::Cepa),
            ("test", Self::Test),
            ("invalid", Self::Invalid),
        ];
        if let Some((_, kind)) = kinds.into_iter().find(|(text, _)| is(text)) {
            return Some(kind);
        }
        let is_home = |label: &str| label.eq_ignore_ascii_case("home");
        (is("arpa") && labels.next().is_some_and(is_home)).then_some(Self::Home)
    }
}

/// Says what such names are for, and what follows.
impl fmt::Display for SpecialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Localhost => {
                "localhost is the computer that asks, and no exit leads back to it; exempt the name from the proxy"
            }
            Self::Local => {
                "names under .local are those of the local network, and no exit knows them; exempt them from the proxy"
            }
            Self::Internal => {
                "names under .internal are those of a private network, and no exit knows them; exempt them from the \
                 proxy"
            }
            Self::Home => {
                "names under home.arpa are those of a home network, and no exit knows them; exempt them from the proxy"
            }
            Self::Onion => {
                "names under .onion are services of the Tor network, and no exit knows them; use Tor for them"
            }
            Self::Alt => {
                "names under .alt belong to systems other than the DNS, and no exit knows them"
            }
            Self::Cepa => "names under .cepa do not exist in the DNS, and no exit knows them",
            Self::Test => {
                "names under .test are those of somebody's tests, and no exit knows them; exempt them from the proxy"
            }
            Self::Invalid => "names under .invalid never exist",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_names_in_every_spelling_and_none_that_only_looks_like_one() {
        for (name, kind) in [
            ("localhost", SpecialName::Localhost),
            ("LocalHost.", SpecialName::Localhost),
            ("a.localhost", SpecialName::Localhost),
            ("printer.LOCAL", SpecialName::Local),
            ("a.b.local.", SpecialName::Local),
            ("wiki.internal", SpecialName::Internal),
            ("home.arpa", SpecialName::Home),
            ("nas.Home.Arpa.", SpecialName::Home),
            ("abc.onion", SpecialName::Onion),
            ("onion", SpecialName::Onion),
            ("x.cepa.alt", SpecialName::Alt),
            ("x.CEPA", SpecialName::Cepa),
            ("a.test.", SpecialName::Test),
            ("no-such-host.Invalid", SpecialName::Invalid),
        ] {
            assert_eq!(SpecialName::of(name), Some(kind), "{name}");
        }
        for name in [
            "",
            ".",
            "example.org",
            "onion.example",
            "myonion",
            "local.example",
            "alt.example",
            "test.example",
            "cepa.example",
            "site.cepa-test",
            "1.0.0.10.in-addr.arpa",
            "home.example",
            "home.arpa.example",
            "internal-wiki.example",
        ] {
            assert_eq!(SpecialName::of(name), None, "{name}");
        }
    }
}
