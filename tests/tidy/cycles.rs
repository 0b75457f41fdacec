//! Files of one module that import each other in a ring: none of them can be read first.
//!
//! A file may name the modules above it, and a module its own files: that is how one `impl` stands
//! in several. What counts are files beside each other; a name that a module passes on from one of
//! its files leads to that file.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, is_word, test_modules, words};

type Name = Vec<String>;

pub fn cycles(sources: &[Source]) -> Vec<String> {
    let rings = rings(sources);
    let told = |ring: &Vec<String>| format!("these import each other: {}", ring.join(", "));
    rings.iter().map(told).collect()
}

/// Each ring's files, by name.
pub fn rings(sources: &[Source]) -> Vec<Vec<String>> {
    let tests: BTreeSet<String> = sources.iter().flat_map(test_modules).collect();
    let files: BTreeMap<Name, &Source> = sources
        .iter()
        .filter(|source| !tests.contains(source.path.trim_end_matches(".rs")))
        .filter_map(|source| Some((name(&source.path)?, source)))
        .collect();
    let passed_on = files
        .iter()
        .map(|(name, source)| (name.clone(), passed_on(name, source, &files)))
        .collect();
    let edges: BTreeMap<&Name, BTreeSet<Name>> = files
        .iter()
        .map(|(name, source)| (name, imports(name, source, &files, &passed_on)))
        .collect();
    let reach = |from: &Name| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(at) = next.pop() {
            for to in edges.get(&at).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    next.push(to.clone());
                }
            }
        }
        seen
    };
    let reach: BTreeMap<&Name, BTreeSet<Name>> = files.keys().map(|n| (n, reach(n))).collect();
    let ring = |from: &Name| -> Vec<String> {
        let back = reach[from].iter().filter(|to| reach[*to].contains(from));
        back.map(|name| name.join("::")).collect()
    };
    let rings: BTreeSet<Vec<String>> = files.keys().map(ring).collect();
    rings.into_iter().filter(|ring| ring.len() > 1).collect()
}

/// `src/auth/jws.rs` is `auth::jws`, `src/auth/mod.rs` is `auth`.
fn name(path: &str) -> Option<Name> {
    let inside = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    let name: Name = inside.split('/').map(str::to_owned).collect();
    (!["lib", "main"].contains(&inside)).then_some(name)
}

/// What a module passes on from its files: name → file.
fn passed_on(
    module: &Name,
    source: &Source,
    files: &BTreeMap<Name, &Source>,
) -> BTreeMap<String, Name> {
    let mut found = BTreeMap::new();
    for (at, _) in words(&source.code).filter(|(at, word)| *word == "use" && !source.is_test(*at)) {
        for path in expand(&source.code[at + "use".len()..], &[]) {
            let file = [module.as_slice(), &path[..1]].concat();
            if let ([_, _, ..], true) = (path.as_slice(), files.contains_key(&file)) {
                found.extend(path.last().map(|last| (last.clone(), file)));
            }
        }
    }
    found
}

/// The files beside it, in its top-level module, that a file names.
fn imports(
    own: &Name,
    source: &Source,
    files: &BTreeMap<Name, &Source>,
    passed_on: &BTreeMap<Name, BTreeMap<String, Name>>,
) -> BTreeSet<Name> {
    let mut found = BTreeSet::new();
    let mut above = 0;
    for (at, word) in words(&source.code) {
        let base: &[String] = match word {
            "crate" => &[],
            // Of `super::super`, the last one says from where.
            "super" => {
                above = if source.code[..at].ends_with("super::") {
                    above + 1
                } else {
                    1
                };
                &own[..own.len().saturating_sub(above)]
            }
            _ => continue,
        };
        if source.is_test(at) {
            continue;
        }
        let Some(rest) = source.code[at + word.len()..].strip_prefix("::") else {
            continue;
        };
        for path in expand(rest, base) {
            found.extend(file(&path, files, passed_on));
        }
    }
    let beside = |to: &Name| to[0] == own[0] && !to.starts_with(own) && !own.starts_with(to);
    found.into_iter().filter(beside).collect()
}

/// The file that a path leads into.
fn file(
    path: &[String],
    files: &BTreeMap<Name, &Source>,
    passed_on: &BTreeMap<Name, BTreeMap<String, Name>>,
) -> Option<Name> {
    let longest = (1..=path.len())
        .rev()
        .find(|n| files.contains_key(&path[..*n]))?;
    let (file, rest) = path.split_at(longest);
    let passed = rest.first().and_then(|name| passed_on.get(file)?.get(name));
    Some(passed.cloned().unwrap_or_else(|| file.to_vec()))
}

/// The paths that begin here, groups taken apart: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(code: &str, base: &[String]) -> Vec<Name> {
    let mut path = base.to_vec();
    let mut rest = code.trim_start();
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            let members = members(group);
            return members
                .iter()
                .flat_map(|member| expand(member, &path))
                .collect();
        }
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if end > 0 && &rest[..end] != "self" {
            path.push(rest[..end].to_owned());
        }
        match rest[end..].strip_prefix("::") {
            Some(more) if end > 0 => rest = more,
            _ => return vec![path],
        }
    }
}

/// The members of a group, up to its closing brace.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut from, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.push(group[from..at].trim());
                from = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.retain(|member| !member.is_empty());
    found
}
