//! The flags of `cepa proxy` and `cepa relay`: a section of settings as part of a command line.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::keys;
use super::section::{Key, Section, Walk};
use super::value::Value;

/// The flags of a section, and the section as they leave it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags<S> {
    /// The section, with what flags say and defaults for the rest.
    pub(crate) settings: S,
    /// Keys whose flags were given.
    given: Vec<&'static str>,
}

impl<S> Flags<S> {
    /// Was the flag of the key with this path given?
    pub(crate) fn has(&self, path: &str) -> bool {
        self.given.contains(&path)
    }
}

impl<S: Section> Args for Flags<S> {
    fn augment_args(command: Command) -> Command {
        struct Add {
            command: Command,
            switch: &'static str,
        }
        impl Walk for Add {
            fn value<T: Value>(&mut self, key: &'static Key, value: &mut T) {
                if let Some(arg) = arg(key, value) {
                    let arg = match self.switch {
                        "" => arg,
                        switch => arg.requires(switch),
                    };
                    self.command = std::mem::take(&mut self.command).arg(arg);
                }
            }
        }
        let mut add = Add {
            command,
            switch: S::TABLE.switch,
        };
        S::default().walk(&mut add);
        add.command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Section> FromArgMatches for Flags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self {
            settings: S::default(),
            given: Vec::new(),
        };
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        struct Take<'a> {
            matches: &'a ArgMatches,
            given: &'a mut Vec<&'static str>,
        }
        impl Walk for Take<'_> {
            fn value<T: Value>(&mut self, key: &'static Key, value: &mut T) {
                if key.flag().is_none() {
                    return;
                }
                if let Some(given) = T::given(self.matches, key.path) {
                    *value = given;
                    self.given.push(key.path);
                }
            }
        }
        let given = &mut self.given;
        self.settings.walk(&mut Take { matches, given });
        Ok(())
    }
}

/// The flag of a key, with its help; `None` if the key has no flag.
fn arg<T: Value>(key: &'static Key, default: &T) -> Option<Arg> {
    let long = key.flag()?.strip_prefix("--")?;
    let mut arg =
        T::flag(Arg::new(key.path).long(long), key.bounds.as_ref()).help(help(key, default));
    if let Some(name) = key.value_name() {
        arg = arg.value_name(name);
    }
    if !key.heading.is_empty() {
        arg = arg.help_heading(key.heading);
    }
    Some(arg)
}

fn help<T: Value>(key: &Key, default: &T) -> String {
    let mut help = key.says.to_owned();
    if T::is_repeated() {
        help += " May be repeated.";
    }
    if let Some(bounds) = &key.bounds {
        help += &format!(" [bounds: {bounds}]");
    }
    let shown = default.shown();
    let default = if key.unset.is_empty() {
        &shown
    } else {
        key.unset
    };
    if !default.is_empty() && key.value_name().is_some() {
        help += &format!(" [default: {}]", default.replace('`', ""));
    }
    keys::in_flags(&help)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;
    use toml::Value as Toml;

    use super::*;
    use crate::config::section::values;
    use crate::config::settings::{Client, Exit, Limits, Network, Relay, State};

    #[derive(Debug, Parser)]
    struct Line<S: Section + std::fmt::Debug + Send + Sync> {
        #[command(flatten)]
        flags: Flags<S>,
        #[arg(long)]
        exit: bool,
    }

    fn words(value: &Toml) -> Vec<String> {
        match value {
            Toml::Array(items) => items.iter().flat_map(words).collect(),
            Toml::Table(table) => words(&table["address"]),
            Toml::String(text) => vec![text.clone()],
            other => vec![other.to_string()],
        }
    }

    /// What the flags of a section make of the example of each key.
    fn check<S: Section + std::fmt::Debug + Send + Sync>() {
        for key in S::TABLE.keys() {
            let Some(flag) = key.flag() else {
                continue;
            };
            let example: toml::Table = format!("v = {}", key.example).parse().unwrap();
            let mut line = vec!["cepa".to_owned(), "--exit".to_owned()];
            let words = words(&example["v"]);
            match key.value_name() {
                Some("KINDS") => line.extend([flag.to_owned(), words.join(",")]),
                Some(_) => words
                    .into_iter()
                    .for_each(|word| line.extend([flag.to_owned(), word])),
                None => line.push(flag.to_owned()),
            }
            let given = Line::<S>::try_parse_from(&line).unwrap().flags;
            assert!(given.has(key.path), "{line:?}");
            let mut expected = values(&S::default());
            expected.insert(key.name(), example["v"].clone());
            // The example of a switch is its default. A port given by a flag has no isolation of its own.
            let expected = match key.value_name() {
                Some(_) if key.path != "client.listeners" => expected,
                _ => continue,
            };
            assert_eq!(values(&given.settings), expected, "{line:?}");
        }
    }

    #[test]
    fn every_flag_sets_its_key_and_no_other() {
        check::<Network>();
        check::<State>();
        check::<Client>();
        check::<Relay>();
        check::<Exit>();
        check::<Limits>();
    }

    #[test]
    fn switches_and_lists_are_taken() {
        let line = [
            "cepa",
            "--allow-remote",
            "--isolate",
            "stream,port",
            "--listener",
            "127.0.0.1:1",
        ];
        let client = Line::<Client>::try_parse_from(line).unwrap().flags.settings;
        assert!(client.allow_remote && !client.allow_private);
        assert_eq!(client.isolate.len(), 2);
        assert_eq!(client.listeners.len(), 1);
    }

    fn complaints<S: Section + std::fmt::Debug + Send + Sync>() -> usize {
        let mut told = 0;
        for key in S::TABLE.keys().filter(|key| key.is_number) {
            let Some(flag) = key.flag() else {
                continue;
            };
            let bounds = key.bounds.as_ref().unwrap();
            for value in [
                "0",
                "-1",
                "99999999999",
                "18446744073709551615",
                "1.5",
                "many",
            ] {
                let line = Line::<S>::try_parse_from(["cepa", "--exit", flag, value]);
                if value == "0" && bounds.allow(0) {
                    line.unwrap();
                    continue;
                }
                let text = line.unwrap_err().to_string();
                for part in [value, flag, &bounds.to_string()] {
                    assert!(text.contains(part), "{flag} {value}: {text}");
                }
                told += 1;
            }
        }
        told
    }

    #[test]
    fn a_number_out_of_bounds_is_told_its_bounds() {
        let told = complaints::<Client>() + complaints::<Relay>() + complaints::<Limits>();
        assert!(told >= 6 * 5, "{told}");
    }

    #[test]
    fn what_belongs_to_an_exit_needs_the_switch() {
        let line = Line::<Exit>::try_parse_from(["cepa", "--policy", "accept *:80"]);
        assert!(line.unwrap_err().to_string().contains("--exit"));
    }
}
