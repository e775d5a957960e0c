//! The import rules of the host crate, as a checker of source text.
//!
//! In `host/src` the core is plain memory: it does no I/O and imports no adapter. An adapter is a folder
//! that talks to one outside party and owns one outside library; it imports no other adapter. Only
//! `agent.rs` and `cli/` bring adapters together. The exceptions are `netns/`, without which `discover/`,
//! `source/` and `check/` cannot look, and `privilege/`, which every adapter that is refused may ask. No
//! two files import each other, directly or by way of others.
//!
//! The checker reads paths (`use` items and inline ones) and knows nothing of types or macros.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;

/// Folders of the core.
const CORE: &[&str] = &["answers", "config", "entities", "events", "kernel", "series", "text", "view"];

/// Folders that are adapters.
const ADAPTERS: &[&str] = &[
    "probe",
    "source",
    "discover",
    "check",
    "netns",
    "privilege",
    "plugin",
    "watch",
    "tracefile",
    "http",
    "kubernetes",
    "sink",
    "cli",
];

/// The adapters that may enter another namespace.
const IN_NETNS: &[&str] = &["discover", "source", "check"];

/// Each outside library with the only places that may name it.
const OWNERS: &[(&str, &[&str])] = &[
    ("aya", &["probe"]),
    ("aya_obj", &["probe"]),
    ("wasmtime", &["plugin"]),
    ("wasmtime_wasi", &["plugin"]),
    ("notify", &["watch"]),
    ("hyper", &["http"]),
    ("hyper_util", &["http"]),
    ("http_body_util", &["http"]),
    ("netlink_packet_core", &["netns"]),
    ("kube", &["kubernetes"]),
    ("k8s_openapi", &["kubernetes"]),
    ("tower", &["kubernetes"]),
    ("clap", &["cli"]),
    ("prometheus_client", &["view"]),
    ("toml", &["config", "kernel"]),
    ("postcard", &["trace.rs"]),
    ("flate2", &["trace.rs", "sink"]),
    ("reqwest", &["sink"]),
    ("rustls", &["sink"]),
    ("prost", &["sink"]),
    ("snap", &["sink"]),
    ("opentelemetry_proto", &["sink"]),
    ("crc32fast", &["trace.rs"]),
];

/// Paths that reach outside of the process; no file of the core may name one.
const OUTSIDE: &[&str] = &[
    "std::fs",
    "std::process",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "tokio::fs",
    "tokio::net",
    "tokio::process",
    "nix",
];

/// Everything in a source tree that breaks the rules, one line each.
///
/// # Errors
/// If the tree cannot be read.
pub fn violations_in(src: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in rust_files(src)? {
        let relative = file.strip_prefix(src)?.to_string_lossy().into_owned();
        found.extend(violations(&relative, &std::fs::read_to_string(&file)?));
    }
    Ok(found)
}

/// What one file breaks; `file` is its path relative to `host/src`.
pub fn violations(file: &str, text: &str) -> Vec<String> {
    let place = Place::of(file);
    let mut found: Vec<String> = paths(&code_of(text), &place.module)
        .into_iter()
        .filter_map(|path| place.objection(&path).map(|why| format!("{file}: `{path}`: {why}")))
        .collect();
    if !place.known {
        found.push(format!("{file}: a folder that is neither of the core nor an adapter"));
    }
    found.dedup();
    found
}

/// Each circle of files in a source tree that import each other, one line each.
///
/// # Errors
/// If the tree cannot be read.
pub fn circles_in(src: &Path) -> Result<Vec<String>> {
    let mut files = BTreeMap::new();
    for file in rust_files(src)? {
        let relative = file.strip_prefix(src)?.to_string_lossy().into_owned();
        files.insert(relative, std::fs::read_to_string(&file)?);
    }
    Ok(circles(&files))
}

/// Circles among files that are given as path and text. What a file needs for its tests does not count.
pub fn circles(files: &BTreeMap<String, String>) -> Vec<String> {
    let by_module: BTreeMap<Vec<&str>, &str> =
        files.keys().map(|file| (Place::of(file).module, file.as_str())).collect();
    let arrows: BTreeMap<&str, BTreeSet<&str>> =
        files.iter().map(|(file, text)| (file.as_str(), imported(file, text, &by_module))).collect();
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        arrows.keys().map(|file| (*file, reachable(file, &arrows))).collect();
    let mut circles = BTreeSet::new();
    for file in arrows.keys().filter(|file| reached[**file].contains(**file)) {
        let of_circle = |other: &&&str| reached[**other].contains(file);
        circles.insert(reached[file].iter().filter(of_circle).copied().collect::<Vec<_>>());
    }
    circles.into_iter().map(|files| format!("{} import each other", files.join(", "))).collect()
}

/// The files that one file imports from.
fn imported<'a>(file: &str, text: &str, files: &BTreeMap<Vec<&str>, &'a str>) -> BTreeSet<&'a str> {
    let code = code_of(text);
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let module = Place::of(file).module;
    let paths = paths(code, &module).into_iter().filter_map(|path| {
        let inside = path.strip_prefix("crate::").map(str::to_owned);
        // A path may begin with a module that is declared in the same file.
        let child = || {
            let first = path.split("::").next().unwrap_or_default();
            let is_child = files.contains_key([&module[..], &[first]].concat().as_slice());
            is_child.then(|| [&module[..], &[path.as_str()]].concat().join("::"))
        };
        let whole = inside.or_else(child)?;
        let parts: Vec<&str> = whole.split("::").collect();
        (1..=parts.len()).rev().find_map(|length| files.get(&parts[..length]).copied())
    });
    paths.filter(|other| *other != file).collect()
}

fn reachable<'a>(from: &str, arrows: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut ahead: Vec<&str> = arrows[from].iter().copied().collect();
    while let Some(file) = ahead.pop() {
        if reached.insert(file) {
            ahead.extend(arrows[file].iter().copied());
        }
    }
    reached
}

/// Where a file stands in the design.
struct Place<'a> {
    /// First part of its path: a folder or a file at the root.
    name: &'a str,
    /// Its module path below the crate.
    module: Vec<&'a str>,
    known: bool,
}

impl<'a> Place<'a> {
    fn of(file: &'a str) -> Self {
        let name = file.split('/').next().unwrap_or(file);
        let module =
            file.trim_end_matches(".rs").split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
        let folders = [CORE, ADAPTERS, &["agent"]];
        let known = !file.contains('/') || folders.iter().any(|folders| folders.contains(&name));
        Self { name, module: module.collect(), known }
    }

    fn objection(&self, path: &str) -> Option<String> {
        let first = path.split("::").next().unwrap_or(path);
        if let Some((library, owners)) = OWNERS.iter().find(|(library, _)| *library == first) {
            return (!owners.contains(&self.name))
                .then(|| format!("only {} may use {library}", owners.join(" and ")));
        }
        if let Some(adapter) = path.strip_prefix("crate::").and_then(|rest| rest.split("::").next()) {
            let shared = adapter == "privilege" || adapter == "netns" && IN_NETNS.contains(&self.name);
            let shared = shared && !self.is_core();
            let joins = ADAPTERS.contains(&adapter) && adapter != self.name && !shared && !self.may_join();
            return joins.then(|| format!("only agent.rs and cli/ import adapters, not {}", self.name));
        }
        let outside = |prefix: &&&str| path == **prefix || path.starts_with(&format!("{prefix}::"));
        let outside = OUTSIDE.iter().find(outside).filter(|_| self.is_core());
        outside.map(|prefix| format!("{} is of the core and must not use {prefix}", self.name))
    }

    fn may_join(&self) -> bool {
        matches!(self.name, "agent.rs" | "agent" | "cli" | "main.rs")
    }

    fn is_core(&self) -> bool {
        !ADAPTERS.contains(&self.name) && !self.may_join()
    }
}

/// All paths in `code` from their root: `crate::…`, or the name of an outside crate. `super` and `self`
/// are resolved against the module of the file; modules inside of the file are not told apart.
fn paths(code: &str, module: &[&str]) -> Vec<String> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts = is_name(tokens[at]) && tokens.get(at + 1) == Some(&"::");
        let single = is_name(tokens[at]) && at > 0 && tokens[at - 1] == "use";
        if starts || single {
            at = tree(&tokens, at, "", &mut found);
        } else {
            at += 1;
        }
    }
    found.into_iter().map(|path| resolved(&path, module)).collect()
}

/// Reads one path or use tree from `at` on, and returns the index behind it.
fn tree(tokens: &[&str], mut at: usize, prefix: &str, found: &mut Vec<String>) -> usize {
    let mut path = prefix.to_owned();
    while let Some(&token) = tokens.get(at) {
        if token == "{" && path.ends_with("::") {
            at += 1;
            while tokens.get(at).is_some_and(|token| *token != "}") {
                at = if tokens[at] == "," { at + 1 } else { tree(tokens, at, &path, found) };
            }
            return at + 1;
        }
        if !is_name(token) && token != "*" {
            // Not part of a path; always step over it, so that the caller gets on.
            found.push(path.trim_end_matches("::").to_owned());
            return at + usize::from(path == prefix);
        }
        path.push_str(token);
        at += 1;
        if tokens.get(at) == Some(&"as") {
            at += 2;
        }
        if tokens.get(at) != Some(&"::") {
            break;
        }
        path.push_str("::");
        at += 1;
    }
    found.push(path);
    at
}

fn resolved(path: &str, module: &[&str]) -> String {
    let mut parts: Vec<&str> = path.split("::").collect();
    let supers = parts.iter().take_while(|part| **part == "super").count();
    let own = usize::from(parts.first() == Some(&"self") && parts.len() > 1);
    if supers + own == 0 {
        return path.to_owned();
    }
    let kept = &module[..module.len().saturating_sub(supers)];
    parts.splice(..supers + own, ["crate"].into_iter().chain(kept.iter().copied()));
    parts.join("::")
}

fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let name = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            _ if name(first) => rest.find(|c| !name(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_') && token != "use"
}

/// The text without comments and without what stands in string literals.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest),
            '\'' if rest.starts_with("'\"'") => 3,
            'r' if rest.starts_with("r#\"") && !code.ends_with(|c: char| c.is_alphanumeric()) => {
                rest.find("\"#").map_or(rest.len(), |end| end + 2)
            }
            _ => 0,
        };
        if skipped == 0 {
            code.push(first);
        }
        rest = &rest[skipped.max(first.len_utf8())..];
    }
    code
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn rust_files(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
