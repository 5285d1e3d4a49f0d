//! What the type of a setting can do: be read and written as TOML, be given by a flag, be held against bounds.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use cepa_client::path::PeerSet;
use clap::builder::{EnumValueParser, PathBufValueParser, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use super::bounds::Bounds;
use super::kinds::{IsolateKind, Listener, MultipathKind, SuiteChoice};

/// The type of a setting: one word, a list of words, or a word that need not be there.
pub(crate) trait Value: Sized + 'static {
    /// Is the amount a number that its owner wrote, and not something counted?
    const IS_NUMBER: bool = false;

    /// The value as TOML; `None` if it is not set.
    fn write(&self) -> Option<toml::Value>;

    /// The value from TOML.
    ///
    /// # Errors
    /// The value has another type or cannot be read.
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error>;

    /// What bounds are held against: a number itself, the bytes of a text, how many items a list has.
    fn amount(&self) -> Option<u64>;

    /// The flag `arg` with what it takes and how often.
    fn flag(arg: Arg, bounds: Option<&'static Bounds>) -> Arg;

    /// What the flag `id` was given; `None` if the flag was not given.
    fn given(matches: &ArgMatches, id: &str) -> Option<Self>;

    /// The value as people would write it behind the flag.
    fn shown(&self) -> String;

    /// May the flag be given more than once?
    fn is_repeated() -> bool {
        false
    }

    /// Takes a relative path from `base`.
    fn resolve(&mut self, _base: &Path) {}
}

/// One word of a command line, one scalar of a file.
pub(crate) trait Word: Clone + Send + Sync + 'static {
    /// What stands between words that one flag takes at once. Without it, the flag may be repeated.
    const DELIMITER: Option<char> = None;
    /// Has the flag no value, and means `true` by being there?
    const IS_SWITCH: bool = false;
    /// What a list of such words is, if something else stands there.
    const LIST: &'static str = "a list";
    /// Is the word a number?
    const IS_NUMBER: bool = false;

    fn write_word(&self) -> Option<toml::Value>;
    fn read_word<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error>;
    fn parser(bounds: Option<&'static Bounds>) -> ValueParser;
    fn word_amount(&self) -> Option<u64> {
        None
    }
    fn resolve_word(&mut self, _base: &Path) {}
}

impl<T: Word> Value for T {
    const IS_NUMBER: bool = <T as Word>::IS_NUMBER;

    fn write(&self) -> Option<toml::Value> {
        self.write_word()
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::read_word(from)
    }

    fn amount(&self) -> Option<u64> {
        self.word_amount()
    }

    fn flag(arg: Arg, bounds: Option<&'static Bounds>) -> Arg {
        if T::IS_SWITCH {
            return arg.action(ArgAction::SetTrue);
        }
        // A negative number is told its bounds, and not that it is no flag.
        arg.action(ArgAction::Set)
            .allow_negative_numbers(T::IS_NUMBER)
            .value_parser(T::parser(bounds))
    }

    fn given(matches: &ArgMatches, id: &str) -> Option<Self> {
        is_given(matches, id)
            .then(|| matches.get_one::<T>(id).cloned())
            .flatten()
    }

    fn shown(&self) -> String {
        self.write_word()
            .map(|word| plain(&word))
            .unwrap_or_default()
    }

    fn resolve(&mut self, base: &Path) {
        self.resolve_word(base);
    }
}

impl<T: Word> Value for Option<T> {
    const IS_NUMBER: bool = <T as Word>::IS_NUMBER;

    fn write(&self) -> Option<toml::Value> {
        self.as_ref().and_then(T::write_word)
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::read_word(from).map(Some)
    }

    fn amount(&self) -> Option<u64> {
        self.as_ref().and_then(T::word_amount)
    }

    fn flag(arg: Arg, bounds: Option<&'static Bounds>) -> Arg {
        T::flag(arg, bounds)
    }

    fn given(matches: &ArgMatches, id: &str) -> Option<Self> {
        T::given(matches, id).map(Some)
    }

    fn shown(&self) -> String {
        self.as_ref().map(T::shown).unwrap_or_default()
    }

    fn resolve(&mut self, base: &Path) {
        if let Some(word) = self {
            word.resolve_word(base);
        }
    }
}

impl<T: Word> Value for Vec<T> {
    fn write(&self) -> Option<toml::Value> {
        let words = self.iter().filter_map(T::write_word);
        Some(toml::Value::Array(words.collect()))
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Words(std::marker::PhantomData))
    }

    fn amount(&self) -> Option<u64> {
        u64::try_from(self.len()).ok()
    }

    fn flag(arg: Arg, bounds: Option<&'static Bounds>) -> Arg {
        let arg = arg.value_parser(T::parser(bounds));
        match T::DELIMITER {
            Some(delimiter) => arg
                .action(ArgAction::Set)
                .num_args(1)
                .value_delimiter(delimiter),
            None => arg.action(ArgAction::Append),
        }
    }

    fn given(matches: &ArgMatches, id: &str) -> Option<Self> {
        let words = is_given(matches, id).then(|| matches.get_many::<T>(id))?;
        Some(words?.cloned().collect())
    }

    fn shown(&self) -> String {
        let words = self.iter().map(T::shown);
        match T::DELIMITER {
            Some(delimiter) => words.collect::<Vec<_>>().join(&delimiter.to_string()),
            None => words
                .map(|word| quoted(&word))
                .collect::<Vec<_>>()
                .join(", "),
        }
    }

    fn is_repeated() -> bool {
        T::DELIMITER.is_none()
    }

    fn resolve(&mut self, base: &Path) {
        self.iter_mut().for_each(|word| word.resolve_word(base));
    }
}

fn is_given(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/[]".contains(&b);
    if word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{word}'")
    }
}

fn plain(value: &toml::Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Reads a list of words.
struct Words<T>(std::marker::PhantomData<T>);

impl<'de, T: Word> Visitor<'de> for Words<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(T::LIST)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = list.next_element_seed(Seed(std::marker::PhantomData))? {
            words.push(word);
        }
        Ok(words)
    }
}

/// Reads one value of the type.
pub(super) struct Seed<T>(pub(super) std::marker::PhantomData<T>);

impl<'de, T: Value> DeserializeSeed<'de> for Seed<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<T, D::Error> {
        T::read(from)
    }
}

/// A word that serde can read and write.
macro_rules! word {
    ($type:ty, $parser:expr $(, $extra:item)*) => {
        impl Word for $type {
            $($extra)*

            fn write_word(&self) -> Option<toml::Value> {
                toml::Value::try_from(self).ok()
            }

            fn read_word<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                <$type>::deserialize(from)
            }

            fn parser(bounds: Option<&'static Bounds>) -> ValueParser {
                let parser: fn(Option<&'static Bounds>) -> ValueParser = $parser;
                parser(bounds)
            }
        }
    };
}

macro_rules! number {
    ($($type:ty)*) => {
        $(word!(
            $type,
            |bounds| ValueParser::from(move |text: &str| number::<$type>(text, bounds)),
            const IS_NUMBER: bool = true;,
            fn word_amount(&self) -> Option<u64> {
                u64::try_from(*self).ok()
            }
        );)*
    };
}

/// The number in `text`, if the bounds allow it.
fn number<T: TryFrom<u64>>(text: &str, bounds: Option<&Bounds>) -> Result<T, String> {
    let number = text.parse::<u64>().ok();
    let fits = number.filter(|number| bounds.is_none_or(|bounds| bounds.allow(*number)));
    let complaint =
        || bounds.map_or_else(|| "it is no number".to_owned(), |bounds| bounds.complaint());
    fits.and_then(|number| T::try_from(number).ok())
        .ok_or_else(complaint)
}

number!(u8 u32 usize);
word!(bool, |_| ValueParser::bool(), const IS_SWITCH: bool = true;);
word!(
    String,
    |_| ValueParser::string(),
    fn word_amount(&self) -> Option<u64> {
        u64::try_from(self.len()).ok()
    }
);
word!(
    PathBuf,
    |_| PathBufValueParser::new().into(),
    fn resolve_word(&mut self, base: &Path) {
        *self = base.join(&*self);
    }
);
word!(SocketAddr, |_| ValueParser::from(parsed::<SocketAddr>));
word!(MultipathKind, |_| EnumValueParser::<MultipathKind>::new()
    .into());
word!(SuiteChoice, |_| EnumValueParser::<SuiteChoice>::new()
    .into());
word!(
    IsolateKind,
    |_| EnumValueParser::<IsolateKind>::new().into(),
    const DELIMITER: Option<char> = Some(',');
);
word!(
    Listener,
    |_| ValueParser::from(|text: &str| parsed(text).map(Listener::at)),
    const LIST: &'static str = "a list of tables, each begun by [[client.listeners]]";,
    fn resolve_word(&mut self, base: &Path) {
        self.resolve(base);
    }
);

impl Word for PeerSet {
    fn write_word(&self) -> Option<toml::Value> {
        Some(toml::Value::String(self.to_string()))
    }

    fn read_word<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        parsed(&String::deserialize(from)?).map_err(D::Error::custom)
    }

    fn parser(_: Option<&'static Bounds>) -> ValueParser {
        ValueParser::from(parsed::<Self>)
    }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}
