//! Finds which files of a crate use each other. Reads `use` items and `crate::` paths, and follows re-exports.

use std::collections::{BTreeMap, BTreeSet};

/// The name of a file below `src/`, and its text.
type Source = (String, String);

/// A path like `crate::queue::rules::position`, in segments without `crate`.
type Segments = Vec<String>;

/// The sources of a crate by the paths of their modules.
pub struct Imports {
    modules: BTreeMap<Segments, Source>,
}

impl Imports {
    pub fn new(sources: &[Source]) -> Self {
        let modules = sources.iter().map(|(name, text)| (module(name), (name.clone(), text.clone()))).collect();
        Self { modules }
    }

    /// Returns the other files that each file uses.
    pub fn arrows(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut arrows = BTreeMap::new();
        for (module, (name, text)) in &self.modules {
            let used = used_paths(module, text).into_iter().filter_map(|path| self.file_of(&path, 8));
            arrows.insert(name.clone(), used.filter(|file| file != name).collect());
        }
        arrows
    }

    /// Returns the file that defines the item of a path. Follows at most `hops` re-exports. Returns `None` if no file
    /// matches.
    fn file_of(&self, path: &[String], hops: usize) -> Option<String> {
        let length = (1..=path.len()).rev().find(|length| self.modules.contains_key(&path[..*length]))?;
        let (module, item) = path.split_at(length);
        let (name, text) = &self.modules[module];
        let Some(item) = item.first().filter(|_| hops > 0) else {
            return Some(name.clone());
        };
        let exported = uses(text, true).into_iter().find(|path| path.last() == Some(item));
        let exported = exported.map(|path| absolute(module, path));
        exported.and_then(|path| self.file_of(&path, hops - 1)).or_else(|| Some(name.clone()))
    }
}

/// Returns a chain of files that ends in a cycle of uses. Returns `None` if no files use each other in a cycle.
pub fn circle(arrows: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut left: BTreeMap<&String, BTreeSet<&String>> =
        arrows.iter().map(|(file, used)| (file, used.iter().collect())).collect();
    // Files that use no remaining file are not part of a cycle.
    while let Some(done) = left.iter().find(|(_, used)| used.is_empty()).map(|(file, _)| *file) {
        left.remove(done);
        for used in left.values_mut() {
            used.remove(done);
        }
    }
    let mut file = *left.keys().next()?;
    let mut path = Vec::new();
    while !path.contains(file) {
        path.push(file.clone());
        file = left.get(file)?.first()?;
    }
    Some(path)
}

/// Returns the rooms that a text uses: the first segments of its `crate::` paths.
pub fn rooms_used(text: &str) -> BTreeSet<String> {
    let crate_paths = used_paths(&[], text);
    crate_paths.into_iter().filter_map(|path| path.into_iter().next()).collect()
}

fn module(name: &str) -> Segments {
    let path = name.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').map(str::to_owned).collect()
}

fn used_paths(module: &[String], text: &str) -> Vec<Segments> {
    let mut paths: Vec<Segments> = uses(text, false).into_iter().map(|path| absolute(module, path)).collect();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for (at, _) in line.match_indices("crate::") {
            let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let path: String = line[at..].chars().take_while(|c| is_path(*c)).collect();
            paths.push(path.split("::").skip(1).filter(|part| !part.is_empty()).map(str::to_owned).collect());
        }
    }
    paths.retain(|path| !path.is_empty());
    paths
}

/// Returns the paths of the `use` items. With `exported`, returns only re-exports; otherwise returns only the other
/// items.
fn uses(text: &str, exported: bool) -> Vec<Segments> {
    let (mut paths, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find("use ") {
        let line = rest[..at].rsplit('\n').next().unwrap_or_default().trim();
        let is_export = line.starts_with("pub");
        let tail = &rest[at + 4..];
        let tree = tail.split(';').next().unwrap_or_default();
        rest = &tail[tree.len()..];
        let is_item = line.is_empty() || is_export;
        if is_item && is_export == exported {
            expand(&[], tree, &mut paths);
        }
    }
    paths
}

/// Adds the leaves of a tree like `a::{b, c::{self, d as e}}` to `paths`.
fn expand(prefix: &[String], tree: &str, paths: &mut Vec<Segments>) {
    let Some((base, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        let own = path.split("::").map(str::trim).filter(|part| !part.is_empty() && *part != "self" && *part != "*");
        paths.push(prefix.iter().cloned().chain(own.map(str::to_owned)).collect());
        return;
    };
    let own = base.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned);
    let prefix: Segments = prefix.iter().cloned().chain(own).collect();
    let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    expand(&prefix, &inner[start..at], paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Returns the path from the root of the crate. A path into another crate gets the path of `module` as its prefix, so
/// it matches only the file of `module`.
fn absolute(module: &[String], path: Segments) -> Segments {
    let supers = path.iter().take_while(|part| *part == "super").count();
    match path.first().map(String::as_str) {
        Some("crate") => path[1..].to_vec(),
        Some("super") => {
            let base = &module[..module.len().saturating_sub(supers)];
            base.iter().chain(&path[supers..]).cloned().collect()
        }
        // The path begins with a child module of this file, as in `pub use child::Name`, or with another crate.
        _ => module.iter().cloned().chain(path).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows(sources: &[(&str, &str)]) -> BTreeMap<String, BTreeSet<String>> {
        let sources: Vec<Source> = sources.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        Imports::new(&sources).arrows()
    }

    #[test]
    fn imports_are_followed_through_trees_and_re_exports() {
        let arrows = arrows(&[
            ("a/mod.rs", "mod one;\npub use one::{One, Other};\n"),
            ("a/one.rs", "pub struct One;\n"),
            ("b.rs", "use crate::{\n    a::{self, Other},\n    c,\n};\n"),
            ("c.rs", "fn f() { crate::a::One; }\n"),
        ]);
        let used = |file: &str| arrows[file].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(used("b.rs"), ["a/mod.rs", "a/one.rs", "c.rs"]);
        assert_eq!(used("c.rs"), ["a/one.rs"]);
    }

    #[test]
    fn a_circle_is_found_and_a_line_is_none() {
        let line = arrows(&[("a.rs", "use crate::b::B;\n"), ("b.rs", "use crate::c::C;\n"), ("c.rs", "")]);
        assert_eq!(circle(&line), None);
        let round =
            arrows(&[("a.rs", "use crate::b::B;\n"), ("b.rs", "use super::c::C;\n"), ("c.rs", "use crate::a;\n")]);
        assert_eq!(circle(&round).unwrap().len(), 3);
    }
}
