//! The keys of all sections: where each is, what resembles it, and which flag stands for it.

use super::kinds::Listener;
use super::section::Key;
use super::settings::SECTIONS;

/// Every key.
pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|section| section.keys())
}

/// Every key with its section, as in `relay.listen`.
pub fn paths() -> impl Iterator<Item = &'static str> {
    all().map(|key| key.path)
}

/// The key with this path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    all().find(|key| key.path == path)
}

/// The known key or section that `unknown` most resembles, by its full name or by its last part.
pub fn nearest(unknown: &str) -> String {
    let leaf = unknown.rsplit('.').next().unwrap_or(unknown);
    let score = |known: &str| {
        let known_leaf = known.rsplit('.').next().unwrap_or(known);
        let whole = strsim::normalized_damerau_levenshtein(unknown, known);
        // The right key in the wrong section is nearer than a stranger in the right one.
        whole.max(0.9 * strsim::normalized_damerau_levenshtein(leaf, known_leaf))
    };
    // These are keys of a table within a list, and resemble nothing elsewhere.
    if let Some(("client.listeners", leaf)) = unknown.rsplit_once('.') {
        let score = |known: &&str| strsim::normalized_damerau_levenshtein(leaf, known);
        let nearest = (Listener::KEYS.into_iter()).max_by(|a, b| score(a).total_cmp(&score(b)));
        return format!("client.listeners.{}", nearest.unwrap_or_default());
    }
    let sections = SECTIONS.iter().map(|section| section.name);
    let nearest = paths()
        .chain(sections.filter(|_| !unknown.contains('.')))
        .max_by(|a, b| score(a).total_cmp(&score(b)))
        .unwrap_or_default();
    if nearest.contains('.') {
        nearest.to_owned()
    } else {
        format!("[{nearest}]")
    }
}

/// `text` with flags in place of keys: `--socks` for `client.socks`.
pub fn in_flags(text: &str) -> String {
    let mut keys: Vec<_> = all()
        .filter_map(|key| Some((key.path, key.flag()?)))
        .collect();
    // No key may be taken for the beginning of a longer one.
    keys.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    keys.iter().fold(text.to_owned(), |text, (path, flag)| {
        text.replace(&format!("{path} = true"), flag)
            .replace(&format!("`{path}`"), flag)
            .replace(path, flag)
    })
}
