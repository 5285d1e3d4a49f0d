//! The lists of `[client]` as the rules that paths are chosen by.

use std::str::FromStr;

use super::{Client, ConfigError};
use cepa_client::path::{
    DestinationRule, GeoIp, PeerLists, PeerRules, PeerSet, PeerSyntax, RuleError,
};

impl Client {
    /// What the owner decides of paths, with the opened file of [`Client::geoip`].
    ///
    /// # Errors
    /// The key and the word in it that cannot be meant.
    pub fn peer_rules(&self, geoip: Option<GeoIp>) -> Result<PeerRules, ConfigError> {
        let position = |name, [only, prefer, avoid]: [&[String]; 3]| {
            let list = |kind, words| parsed::<PeerSet>(&format!("client.{name}_{kind}"), words);
            Ok::<_, ConfigError>(PeerLists {
                only: list("only", only)?,
                prefer: list("prefer", prefer)?,
                avoid: list("avoid", avoid)?,
            })
        };
        let rules = PeerRules {
            entry: position(
                "entry",
                [&self.entry_only, &self.entry_prefer, &self.entry_avoid],
            )?,
            middle: position(
                "middle",
                [&self.middle_only, &self.middle_prefer, &self.middle_avoid],
            )?,
            exit: position(
                "exit",
                [&self.exit_only, &self.exit_prefer, &self.exit_avoid],
            )?,
            destinations: parsed::<DestinationRule>("client.destinations", &self.destinations)?,
            hops: self.hops,
            guards: (self.guards > 0).then_some(self.guards),
            geoip,
        };
        match rules.check() {
            // The file is there, and is opened when the node starts.
            Err(RuleError::NoGeoIp { .. }) if self.geoip.is_some() => Ok(rules),
            Err(error) => Err(ConfigError::rule(key_of(&error), error.to_string())),
            Ok(()) => Ok(rules),
        }
    }
}

fn parsed<T: FromStr<Err = PeerSyntax>>(
    key: &str,
    words: &[String],
) -> Result<Vec<T>, ConfigError> {
    let parsed: Result<Vec<T>, PeerSyntax> = words.iter().map(|word| word.parse()).collect();
    parsed.map_err(|error| ConfigError::rule(key, error.to_string()))
}

fn key_of(error: &RuleError) -> &'static str {
    match error {
        RuleError::Hops(_) => "client.hops",
        RuleError::Guards(_) => "client.guards",
        RuleError::Destinations(_) => "client.destinations",
        RuleError::NoGeoIp { .. } | RuleError::Empty { .. } => "client.geoip",
    }
}
