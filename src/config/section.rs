//! What a section is made of: its keys with all that people read of them, and a walk over its values.
//!
//! [`settings!`] makes of one table the struct that holds a section, its defaults and its keys. Reading, writing,
//! checking and flags are each one walk, which knows no key by name.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use super::bounds::Bounds;
use super::value::{Seed, Value};

/// One section of the file, as people read of it.
#[derive(Debug)]
pub(crate) struct Table {
    /// The name between the brackets.
    pub(super) name: &'static str,
    /// What the section is for.
    pub(super) doc: &'static str,
    /// The switch of the command line without which the section is not there; empty if there is none.
    pub(super) switch: &'static str,
    /// Keys of the section that stand in its own table.
    pub(super) keys: &'static [&'static Key],
    /// Keys of the section's lists of relays, which one type holds.
    pub(super) lists: &'static [Key],
    /// Gives the default of each key that has one.
    pub(super) defaults: fn() -> Values,
}

/// Values by the names of their keys.
pub(crate) type Values = BTreeMap<&'static str, toml::Value>;

impl Table {
    /// Every key of the section.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.keys.iter().copied().chain(self.lists)
    }
}

/// One key of a section.
#[derive(Debug)]
pub(crate) struct Key {
    /// The section and the name before the equals sign: `client.hops`.
    pub(super) path: &'static str,
    /// What the comment of a printed configuration, the help of the flag and the reference say of the key. Other keys
    /// are named with their sections.
    pub(super) says: &'static str,
    /// What only the reference says of the key.
    pub(super) docs: &'static str,
    /// A value in TOML to show if none is set.
    pub(super) example: &'static str,
    /// The type of the key's value in words, for the reference.
    pub(super) kind: &'static str,
    /// The flag with the name of its value, as in `--hops N`; empty if the key has no flag.
    pub(super) flag: &'static str,
    /// The heading of the help under which the flag stands; empty for the usual one.
    pub(super) heading: &'static str,
    /// What the default is, if it is no value; otherwise empty.
    pub(super) unset: &'static str,
    /// What the value's amount may be, if it has bounds.
    pub(super) bounds: Option<Bounds>,
    /// Is the amount a number that the owner writes, and not something counted?
    pub(super) is_number: bool,
    /// When another value takes effect.
    pub(super) changes: Changes,
}

/// When another value of a key, put into the file of a node that runs, takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    /// At once, when the file is read again.
    AtOnce,
    /// When the node is started again, for this reason.
    Restart(&'static str),
}

/// Another value takes effect when the node is started again, because of `why`.
pub(super) const fn restart(why: &'static str) -> Changes {
    Changes::Restart(why)
}

impl Changes {
    /// The word for the reference.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::AtOnce => "at once",
            Self::Restart(_) => "restart",
        }
    }
}

impl Key {
    /// The name before the equals sign.
    pub(super) fn name(&self) -> &'static str {
        self.path
            .split_once('.')
            .map_or(self.path, |(_, name)| name)
    }

    /// The flag, with its dashes, if there is one.
    pub(super) fn flag(&self) -> Option<&'static str> {
        self.flag.split(' ').next().filter(|flag| !flag.is_empty())
    }

    /// The name of the flag's value, if it takes one.
    pub(super) fn value_name(&self) -> Option<&'static str> {
        self.flag.split_once(' ').map(|(_, name)| name)
    }
}

/// Something that is done to every value of a section.
pub(crate) trait Walk {
    /// Does this to one value.
    fn value<T: Value>(&mut self, key: &'static Key, value: &mut T);
}

/// A section that can be walked over.
pub(crate) trait Section: Default + Clone + 'static {
    /// What people read of the section.
    const TABLE: Table;

    /// Shows `walk` every value with its key.
    fn walk(&mut self, walk: &mut impl Walk);
}

/// Reads a section from a file. Keys that the section does not know are left to `serde_ignored`.
pub(super) fn read<'de, S: Section, D: Deserializer<'de>>(from: D) -> Result<S, D::Error> {
    from.deserialize_map(Reader(PhantomData))
}

struct Reader<S>(PhantomData<S>);

impl<'de, S: Section> Visitor<'de> for Reader<S> {
    type Value = S;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the section [{}]", S::TABLE.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<S, A::Error> {
        let mut section = S::default();
        while let Some(name) = map.next_key::<String>()? {
            let mut take = Take {
                name: &name,
                map: Some(&mut map),
                done: Ok(()),
            };
            section.walk(&mut take);
            let (map, done) = (take.map.take(), take.done);
            done?;
            if let Some(map) = map {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(section)
    }
}

/// Reads the value of one key.
struct Take<'a, A, E> {
    name: &'a str,
    /// `None` when the value has been read.
    map: Option<&'a mut A>,
    done: Result<(), E>,
}

impl<'de, A: MapAccess<'de>> Walk for Take<'_, A, A::Error> {
    fn value<T: Value>(&mut self, key: &'static Key, value: &mut T) {
        if key.name() != self.name {
            return;
        }
        if let Some(map) = self.map.take() {
            self.done = map
                .next_value_seed(Seed(PhantomData))
                .map(|read| *value = read);
        }
    }
}

/// Writes the values that are set.
pub(super) fn write<S: Section, W: Serializer>(section: &S, to: W) -> Result<W::Ok, W::Error> {
    values(section).serialize(to)
}

/// The values that are set, by the names of their keys.
pub(super) fn values<S: Section>(section: &S) -> Values {
    struct Write(Values);
    impl Walk for Write {
        fn value<T: Value>(&mut self, key: &'static Key, value: &mut T) {
            self.0
                .extend(value.write().map(|value| (key.name(), value)));
        }
    }
    let mut write = Write(Values::new());
    section.clone().walk(&mut write);
    write.0
}

/// Takes relative paths from `base`.
pub(super) fn resolve<S: Section>(section: &mut S, base: &Path) {
    struct Resolve<'a>(&'a Path);
    impl Walk for Resolve<'_> {
        fn value<T: Value>(&mut self, _: &'static Key, value: &mut T) {
            value.resolve(self.0);
        }
    }
    section.walk(&mut Resolve(base));
}

/// What is wrong with the first amount that its bounds do not allow, and its key.
pub(super) fn out_of_bounds<S: Section>(section: &S) -> Option<(&'static Key, String)> {
    struct Check(Option<(&'static Key, String)>);
    impl Walk for Check {
        fn value<T: Value>(&mut self, key: &'static Key, value: &mut T) {
            let (Some(bounds), Some(amount)) = (&key.bounds, value.amount()) else {
                return;
            };
            if self.0.is_none() && !bounds.allow(amount) {
                let what = bounds.complaint();
                let what = if T::IS_NUMBER {
                    format!("{amount} is out of bounds: {what}")
                } else {
                    format!("its length of {amount} is out of bounds: {what}")
                };
                self.0 = Some((key, what));
            }
        }
    }
    let mut check = Check(None);
    section.clone().walk(&mut check);
    check.0
}

/// Defines a section: its struct, its defaults, its keys.
macro_rules! settings {
    (@bounds) => {
        None
    };
    (@bounds $least:expr, $most:expr, $unit:expr, $zero:expr) => {
        Some(Bounds {
            least: $least,
            most: $most,
            unit: $unit,
            zero: $zero,
        })
    };
    (@lists) => {
        &[]
    };
    (@lists $lists:ident) => {
        $lists::KEYS
    };
    (
        $(#[$attribute:meta])*
        $name:ident $section:literal $doc:literal $(switch $switch:literal)? {
            $(
                $field:ident : $type:ty = $default:expr;
                $(within $least:literal ..= $most:expr, $unit:literal $(, zero $zero:literal)?;)?
                example $example:literal;
                $(flag $flag:literal;)?
                kind $kind:literal;
                changes $changes:expr;
                says $says:literal $(, docs $docs:literal)? $(, unset $unset:literal)?;
            )*
        } $(with $lists:ident : $lists_type:ident)?
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $(
                #[doc = $says]
                pub $field: $type,
            )*
            $(
                /// The owner's lists of relays.
                pub $lists: $lists_type,
            )?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    $($lists: Default::default(),)?
                }
            }
        }

        /// Each key under the name of its field.
        #[allow(non_upper_case_globals)]
        impl $name {
            $(const $field: &'static Key = &Key {
                path: concat!($section, ".", stringify!($field)),
                says: $says,
                docs: concat!($($docs)?),
                example: $example,
                kind: $kind,
                flag: concat!($($flag)?),
                heading: "",
                unset: concat!($($unset)?),
                bounds: settings!(@bounds $($least, $most, $unit, concat!($($zero)?))?),
                is_number: <$type as Value>::IS_NUMBER,
                changes: $changes,
            };)*
        }

        impl Section for $name {
            const TABLE: Table = Table {
                name: $section,
                doc: $doc,
                switch: concat!($($switch)?),
                keys: &[$(Self::$field,)*],
                lists: settings!(@lists $($lists_type)?),
                defaults: || section::values(&Self::default()),
            };

            fn walk(&mut self, walk: &mut impl Walk) {
                $(walk.value(Self::$field, &mut self.$field);)*
                $(self.$lists.walk(walk);)?
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                section::write(self, to)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                section::read(from)
            }
        }
    };
}
pub(super) use settings;
