//! How an exit finds the addresses of names: DNS, or names that were given in its place.

use std::net::IpAddr;
use std::sync::Arc;

use super::sockets::Answer;

/// Names in place of DNS.
pub trait GivenNames: Send + Sync {
    /// The addresses of `name`, which is in lower case and has no final dot. An error of any kind says that `name` has
    /// none.
    fn lookup<'a>(&'a self, name: &'a str) -> Answer<'a, Vec<IpAddr>>;
}

/// What an exit asks for the addresses of names.
#[derive(Clone, Default)]
pub enum Names {
    /// DNS servers.
    #[default]
    Dns,
    /// Another source.
    Given(Arc<dyn GivenNames>),
}

impl Names {
    /// The source that was given; `None` if DNS servers are to be asked, which makes the process a real one.
    ///
    /// # Panics
    /// In a simulated process without a given source.
    pub fn given(&self) -> Option<&Arc<dyn GivenNames>> {
        match self {
            Self::Dns => {
                super::kind::be_real("name servers");
                None
            }
            Self::Given(names) => Some(names),
        }
    }
}

impl core::fmt::Debug for Names {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Dns => "Dns",
            Self::Given(_) => "Given",
        })
    }
}
