//! The sources of the packages, as far as imports go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The packages, each with the directory of its sources and the name that others import it by.
pub(crate) const PACKAGES: [(&str, &str); 6] = [
    ("common/src", "cepa_common"),
    ("relay/src", "cepa_relay"),
    ("client/src", "cepa_client"),
    ("sim/src", "cepa_sim"),
    ("exec/src", "cepa_exec"),
    ("src", "cepa"),
];

/// A source file without comments, texts and tests.
pub(crate) struct Source {
    /// Path of the file from the root of the repository.
    pub(crate) path: String,
    /// The package, then its modules down to this file.
    pub(crate) module: Vec<String>,
    pub(crate) tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// One path in a source file, with its line.
pub(crate) type Named = (usize, Vec<String>);

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The words and signs of a source; comments and texts are left out.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |n: usize| chars.get(n).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut n, mut line) = (Vec::new(), 0, 1);
    while n < chars.len() {
        let start = n;
        let raw = |n: usize| {
            let hashes = (n + 1..).take_while(|n| at(*n) == '#').count();
            (at(n) == 'r' && at(n + 1 + hashes) == '"').then_some(hashes)
        };
        match at(n) {
            '/' if at(n + 1) == '/' => {
                while n < chars.len() && at(n) != '\n' {
                    n += 1;
                }
            }
            '/' if at(n + 1) == '*' => {
                while n < chars.len() && !(at(n) == '*' && at(n + 1) == '/') {
                    n += 1;
                }
                n += 2;
            }
            _ if raw(n).is_some() && (n == 0 || !is_word(at(n - 1)) || at(n - 1) == 'b') => {
                let hashes = raw(n).unwrap();
                n += hashes + 2;
                let ends = |n: usize| at(n) == '"' && (1..=hashes).all(|h| at(n + h) == '#');
                while n < chars.len() && !ends(n) {
                    n += 1;
                }
                n += hashes + 1;
            }
            '"' => {
                n += 1;
                while n < chars.len() && at(n) != '"' {
                    n += if at(n) == '\\' { 2 } else { 1 };
                }
                n += 1;
            }
            // This is a character, not a lifetime.
            '\'' if at(n + 1) == '\\' => {
                n += 3;
                while n < chars.len() && at(n) != '\'' {
                    n += 1;
                }
                n += 1;
            }
            '\'' if at(n + 2) == '\'' => n += 3,
            ':' if at(n + 1) == ':' => {
                found.push(Token {
                    line,
                    text: "::".to_owned(),
                });
                n += 2;
            }
            c if is_word(c) => {
                while is_word(at(n)) {
                    n += 1;
                }
                let text = chars[start..n].iter().collect();
                found.push(Token { line, text });
            }
            c => {
                if !c.is_whitespace() {
                    found.push(Token {
                        line,
                        text: c.to_string(),
                    });
                }
                n += 1;
            }
        }
        line += chars[start..n.min(chars.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    found
}

pub(crate) fn is(tokens: &[Token], at: usize, wanted: &[&str]) -> bool {
    (0..wanted.len()).all(|n| {
        tokens
            .get(at + n)
            .is_some_and(|token| token.text == wanted[n])
    })
}

/// The place behind the bracket that closes the one at `at`.
pub(crate) fn behind_bracket(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0usize;
    for (n, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return n + 1;
        }
    }
    tokens.len()
}

/// Takes out what stands behind an attribute that names a test, and says which modules that are files of their own are
/// among what was taken out.
pub(crate) fn without_tests(tokens: Vec<Token>) -> (Vec<Token>, Vec<String>) {
    let (mut kept, mut modules, mut n) = (Vec::new(), Vec::new(), 0);
    while n < tokens.len() {
        if !is(&tokens, n, &["#", "["]) {
            kept.push(tokens[n].clone());
            n += 1;
            continue;
        }
        let mut end = behind_bracket(&tokens, n + 1);
        let attribute = &tokens[n..end];
        let is_cfg = is(&tokens, n + 2, &["cfg"]);
        let names = |word| attribute.iter().any(|token| token.text == word);
        if !(is_cfg && names("test") && !names("not")) {
            kept.extend_from_slice(attribute);
            n = end;
            continue;
        }
        while is(&tokens, end, &["#", "["]) {
            end = behind_bracket(&tokens, end + 1);
        }
        // An item ends with its block or its semicolon.
        let begun = end;
        while end < tokens.len() && !["{", ";"].contains(&tokens[end].text.as_str()) {
            end = match tokens[end].text.as_str() {
                "(" | "[" => behind_bracket(&tokens, end),
                _ => end + 1,
            };
        }
        let is_block = is(&tokens, end, &["{"]);
        let item = &tokens[begun..end];
        if !is_block && let Some(at) = item.iter().position(|token| token.text == "mod") {
            modules.push(item[at + 1].text.clone());
        }
        let is_use = item.iter().any(|token| token.text == "use");
        end = if is_block {
            behind_bracket(&tokens, end)
        } else {
            end + 1
        };
        // `use a::{b};` goes on behind its bracket.
        if is_use && is(&tokens, end, &[";"]) {
            end += 1;
        }
        n = end;
    }
    (kept, modules)
}

/// Every source of the packages that is compiled into them.
pub(crate) fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for (dir, package) in PACKAGES {
        let mut tests = Vec::new();
        let mut of_package = Vec::new();
        walk(Path::new(dir), &mut |path| {
            let text = fs::read_to_string(root().join(path)).unwrap();
            let (tokens, modules) = without_tests(tokens(&text));
            let module = module_of(path, dir, package);
            tests.extend(
                modules
                    .into_iter()
                    .map(|name| [&module[..], &[name]].concat()),
            );
            let path = path.to_str().unwrap().to_owned();
            of_package.push(Source {
                path,
                module,
                tokens,
            });
        });
        of_package.retain(|source| !tests.iter().any(|test| source.module.starts_with(test)));
        found.extend(of_package);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

pub(crate) fn walk(dir: &Path, each: &mut dyn FnMut(&Path)) {
    walk_all(dir, &mut |path| {
        if !is_test(path) {
            each(path);
        }
    });
}

/// Calls `each` with every source in `dir`, tests too.
pub(crate) fn walk_all(dir: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(root().join(dir)).unwrap() {
        let path: PathBuf = dir.join(entry.unwrap().file_name());
        if root().join(&path).is_dir() {
            walk_all(&path, each);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            each(&path);
        }
    }
}

/// Long tests stand in files of their own, which their module may name by `#[path]`.
pub(crate) fn is_test(path: &Path) -> bool {
    path.file_stem()
        .is_some_and(|stem| stem.to_str().unwrap().ends_with("tests"))
}

pub(crate) fn module_of(path: &Path, dir: &str, package: &str) -> Vec<String> {
    let inside = path.strip_prefix(dir).unwrap().with_extension("");
    let mut module = vec![package.to_owned()];
    let parts = inside.iter().map(|part| part.to_str().unwrap().to_owned());
    module.extend(parts.filter(|part| !["mod", "lib"].contains(&part.as_str())));
    module
}

// Paths.

/// Collects the paths of a tree such as `a::{b, c::d as e}`, each with the name that it is known by. Returns the place
/// behind the tree.
pub(crate) fn tree(
    tokens: &[Token],
    mut at: usize,
    mut path: Vec<String>,
    found: &mut Vec<(usize, Vec<String>, String)>,
) -> usize {
    loop {
        let Some(token) = tokens.get(at) else {
            return at;
        };
        let line = token.line;
        match token.text.as_str() {
            "{" => {
                at += 1;
                while at < tokens.len() && !is(tokens, at, &["}"]) {
                    at = tree(tokens, at, path.clone(), found);
                    if is(tokens, at, &[","]) {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "*" => {
                found.push((line, path, "*".to_owned()));
                return at + 1;
            }
            word if word.chars().all(|c| c.is_alphanumeric() || c == '_') => {
                if word != "self" || path.is_empty() {
                    path.push(word.to_owned());
                }
                at += 1;
                if is(tokens, at, &["::"]) {
                    at += 1;
                    // Generic arguments, as in `Vec::<u8>`, end a path.
                    if !is(tokens, at, &["<"]) {
                        continue;
                    }
                }
                let mut name = path.last().cloned().unwrap_or_default();
                if is(tokens, at, &["as"]) {
                    name.clone_from(&tokens[at + 1].text);
                    at += 2;
                }
                found.push((line, path, name));
                return at;
            }
            _ => return at,
        }
    }
}

/// What a module of the repository has: its file, its children, and what it exports from elsewhere.
#[derive(Default)]
pub(crate) struct Module {
    pub(crate) file: String,
    pub(crate) children: BTreeSet<String>,
    pub(crate) exports: Vec<(Vec<String>, String)>,
}

pub(crate) struct House {
    pub(crate) sources: Vec<Source>,
    pub(crate) modules: BTreeMap<Vec<String>, Module>,
}

impl House {
    pub(crate) fn read() -> Self {
        Self::of(sources())
    }

    pub(crate) fn of(sources: Vec<Source>) -> Self {
        let mut house = Self {
            modules: BTreeMap::new(),
            sources,
        };
        for source in &house.sources {
            let file = source.path.clone();
            house.modules.entry(source.module.clone()).or_default().file = file;
            if let Some((last, parent)) = source.module.split_last() {
                let parent = house.modules.entry(parent.to_owned()).or_default();
                parent.children.insert(last.clone());
            }
        }
        for source in &house.sources {
            let mut exports = Vec::new();
            for (n, token) in source.tokens.iter().enumerate() {
                if token.text == "use" && is_public(&source.tokens, n) {
                    tree(&source.tokens, n + 1, Vec::new(), &mut exports);
                }
            }
            let exports = exports
                .into_iter()
                .map(|(_, path, name)| (house.whole_path(&source.module, &path), name))
                .filter_map(|(path, name)| path.map(|path| (path, name)))
                .collect();
            house.modules.get_mut(&source.module).unwrap().exports = exports;
        }
        house
    }

    /// A path as it is written in `module`, from the package on; `None` if the path leads out of the repository.
    pub(crate) fn whole_path(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let begin = match first.as_str() {
            "crate" => module.get(..1)?.to_owned(),
            "self" => module.to_owned(),
            "super" => {
                let mut up = module.split_last()?.1.to_owned();
                let mut rest = rest;
                while let Some((next, behind)) =
                    rest.split_first().filter(|(next, _)| *next == "super")
                {
                    debug_assert_eq!(next, "super");
                    up.pop()?;
                    rest = behind;
                }
                return Some([&up[..], rest].concat());
            }
            package if PACKAGES.iter().any(|(_, name)| *name == package) => {
                vec![package.to_owned()]
            }
            child if self.modules.get(module)?.children.contains(child) => {
                [module, &[child.to_owned()]].concat()
            }
            _ => return None,
        };
        Some([&begin[..], rest].concat())
    }

    /// The file that has what `path` names. If a room exports the item from elsewhere, that is the file that it comes
    /// from.
    pub(crate) fn file_of(&self, path: &[String]) -> Option<&str> {
        let mut path = path.to_owned();
        // A chain of exports is short, and the compiler refuses a circle of them.
        for _ in 0..8 {
            let depth = (1..=path.len()).rev().find(|n| {
                path.get(..*n).is_some_and(|prefix| {
                    self.modules.get(prefix).is_some_and(|m| !m.file.is_empty())
                })
            })?;
            let (module, rest) = path.split_at(depth);
            let here = self.modules.get(module)?;
            let exported = rest.first().and_then(|item| {
                let named = here.exports.iter().find(|(_, name)| name == item);
                let target = named.map(|(target, _)| target.clone());
                target.map(|target| [&target[..], &rest[1..]].concat())
            });
            match exported {
                Some(further) if further != path => path = further,
                _ => return Some(&here.file),
            }
        }
        None
    }

    /// What a source imports from files of the repository.
    pub(crate) fn imports(&self, source: &Source) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for (line, path) in named(&source.tokens) {
            let target = self.whole_path(&source.module, &path);
            let file = target.as_ref().and_then(|target| self.file_of(target));
            if let Some(file) = file.filter(|file| *file != source.path) {
                found.entry(file.to_owned()).or_insert(line);
            }
        }
        found
    }
}

pub(crate) fn is_public(tokens: &[Token], at: usize) -> bool {
    let before = |n: usize| at.checked_sub(n).map_or("", |at| &tokens[at].text);
    before(1) == "pub" || before(1) == ")" && (2..8).any(|n| before(n) == "pub")
}

/// Every path of a source, except paths that the source only exports.
pub(crate) fn named(tokens: &[Token]) -> Vec<Named> {
    let (mut found, mut n) = (Vec::new(), 0);
    while n < tokens.len() {
        let mut paths = Vec::new();
        let follows = n > 0 && [".", "::"].contains(&tokens[n - 1].text.as_str());
        // `pub(in crate::room)` says who may see an item, and imports nothing.
        let is_sight = n > 1 && is(tokens, n - 2, &["(", "in"]);
        if tokens[n].text == "use" {
            let end = tree(tokens, n + 1, Vec::new(), &mut paths);
            if is_public(tokens, n) {
                // What is exported and named again is used here too.
                let times = |name: &str| tokens.iter().filter(|token| token.text == name).count();
                paths.retain(|(_, _, name)| times(name) > 1);
            }
            n = end.max(n + 1);
        } else if !follows && !is_sight && is(tokens, n + 1, &["::"]) {
            n = tree(tokens, n, Vec::new(), &mut paths).max(n + 1);
        } else {
            n += 1;
        }
        found.extend(paths.into_iter().map(|(line, path, _)| (line, path)));
    }
    found
}
