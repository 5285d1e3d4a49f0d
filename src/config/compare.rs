//! What is different between two configurations, key by key, and what of it a running node can take. Pure.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::error::ConfigError;
use super::keys;
use super::node::Config;
use super::section::Changes;
use super::settings::SECTIONS;

/// A key that has another value, or a section that has come or gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The key with its section, as in `limits.connections`; the section alone if the whole section has come or gone.
    pub key: String,
    /// The value before, as TOML; `None` if there was none.
    pub old: Option<String>,
    /// The value now, as TOML; `None` if there is none.
    pub new: Option<String>,
    /// Why a running node does not take the value; `None` if the node takes it at once.
    pub restart: Option<String>,
}

impl Difference {
    /// May the values stand in a log? What an application's owner asks of a client says where the owner goes.
    pub fn is_private(&self) -> bool {
        self.key.starts_with("client.")
    }
}

/// Why a running node takes on no role and gives none up.
const ROLES: &str = "a node takes on its roles when it starts";

impl Config {
    /// What is different in `new`, in the order of the reference.
    pub fn compare(&self, new: &Self) -> Vec<Difference> {
        let (old, new) = (table(self), table(new));
        let mut found = Vec::new();
        for section in &SECTIONS {
            let (before, after) = (of(&old, section.name), of(&new, section.name));
            let (Some(before), Some(after)) = (before, after) else {
                if before.is_some() != after.is_some() {
                    let there =
                        |table: Option<&Table>| table.map(|_| format!("[{}]", section.name));
                    found.push(Difference {
                        key: section.name.to_owned(),
                        old: there(before),
                        new: there(after),
                        restart: Some(ROLES.to_owned()),
                    });
                }
                continue;
            };
            for key in section.keys() {
                let (before, after) = (before.get(key.name()), after.get(key.name()));
                if before != after {
                    found.push(Difference {
                        key: key.path.to_owned(),
                        old: before.map(Value::to_string),
                        new: after.map(Value::to_string),
                        restart: match key.changes {
                            Changes::AtOnce => None,
                            Changes::Restart(why) => Some(why.to_owned()),
                        },
                    });
                }
            }
        }
        found
    }

    /// This configuration with those values of `new` that a running node takes at once. The other values stay, so that
    /// they are told of as different until the node is started again.
    ///
    /// # Errors
    /// The values that stay and those that are taken make no sense together.
    pub fn taking(&self, new: &Self) -> Result<Self, ConfigError> {
        let (mut merged, new) = (table(self), table(new));
        for section in &SECTIONS {
            let Some(after) = of(&new, section.name) else {
                continue;
            };
            let Some(Value::Table(into)) = merged.get_mut(section.name) else {
                continue;
            };
            for key in section.keys().filter(|key| key.changes == Changes::AtOnce) {
                match after.get(key.name()) {
                    Some(value) => into.insert(key.name().to_owned(), value.clone()),
                    None => into.remove(key.name()),
                };
            }
        }
        let merged = Self::deserialize(Value::Table(merged))
            .map_err(|error| ConfigError::rule("", error.message().trim()))?;
        merged.check()?;
        Ok(merged)
    }
}

/// Does a running node take another value of the key with this path at once?
pub fn is_at_once(path: &str) -> bool {
    keys::find(path).is_some_and(|key| key.changes == Changes::AtOnce)
}

/// All values of `config` that are set.
fn table(config: &Config) -> Table {
    // A configuration that was read can be written: the texts and numbers in it are TOML's own.
    Table::try_from(config).unwrap_or_default()
}

fn of<'a>(table: &'a Table, section: &str) -> Option<&'a Table> {
    table.get(section).and_then(Value::as_table)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::read::checked;
    use super::super::section::Key;
    use super::*;

    const ALL: &str = "[client]\n[relay]\nlisten = \"192.0.2.1:9001\"\n[exit]\n[authority]\n";

    fn said(old: &str, new: &str) -> Vec<String> {
        let (old, new) = (checked(old).unwrap(), checked(new).unwrap());
        let found = old.compare(&new).into_iter().map(|difference| {
            let [old, new] =
                [difference.old, difference.new].map(|value| value.unwrap_or("-".to_owned()));
            let way = difference.restart.map_or("at once", |_| "restart");
            format!("{} {old} {new} {way}", difference.key)
        });
        found.collect()
    }

    #[test]
    fn only_what_is_different_is_named_with_its_values() {
        assert!(said(ALL, ALL).is_empty());
        let other = format!("{ALL}[log]\nfile = \"x\"\n[limits]\nthreads = 3\n");
        assert_eq!(
            said(ALL, &other),
            ["log.file - \"x\" restart", "limits.threads 0 3 restart"]
        );
        // A default that is written out is no other value.
        assert!(said(ALL, &format!("{ALL}[limits]\nthreads = 0\n")).is_empty());
        assert_eq!(
            said("[client]\n", "[relay]\nlisten = \"192.0.2.1:9001\"\n"),
            ["client [client] - restart", "relay - [relay] restart"]
        );
    }

    /// A configuration in which `key` has the value of its example, and another in which it has its default.
    fn with_example(key: &Key) -> Option<(Config, Config)> {
        let old = checked(ALL).unwrap();
        let mut table = table(&old);
        let example: Table = format!("v = {}", key.example).parse().unwrap();
        let section = key.path.split('.').next().unwrap();
        let into = table.get_mut(section)?.as_table_mut()?;
        into.insert(key.name().to_owned(), example["v"].clone());
        let new = Config::deserialize(Value::Table(table)).unwrap();
        (new != old).then_some((old, new))
    }

    #[test]
    fn every_key_says_when_it_changes_and_a_node_takes_those_alone() {
        let mut seen = 0;
        for key in keys::all() {
            if let Changes::Restart(why) = key.changes {
                assert!(why.len() > 10, "{} needs a reason", key.path);
            }
            let Some((old, new)) = with_example(key) else {
                continue;
            };
            seen += 1;
            let found = old.compare(&new);
            let names: Vec<_> = found.iter().map(|it| it.key.as_str()).collect();
            assert_eq!(names, [key.path]);
            assert_eq!(found[0].restart.is_none(), is_at_once(key.path));
            let Ok(taken) = old.taking(&new) else {
                continue;
            };
            match key.changes {
                Changes::AtOnce => assert_eq!(taken, new, "{}", key.path),
                Changes::Restart(_) => assert_eq!(taken, old, "{}", key.path),
            }
        }
        assert!(seen >= 15, "{seen}");
    }
}
