//! Promise: what a document names is there: files, folders and targets of `make`.
//!
//! Looked at is what stands between backticks or behind a link, and the lines of code blocks that call
//! `make`. A path may be written from the root, from the document's own folder, or by its end alone
//! (`loss.rs`); `*` stands for any part of a name, `{a,b}` for either, and so does a word in capitals
//! (`NAME.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use inspector_tests::plugins::workspace;

/// Endings of files that documents speak of. Components (`.wasm`) are built, and not in the tree.
const ENDINGS: [&str; 8] = [".rs", ".md", ".toml", ".wit", ".c", ".h", ".lock", ".bpf.c"];

#[test]
fn every_path_and_make_target_that_a_document_names_exists() -> Result<()> {
    let tree = Tree::of(workspace())?;
    let (mut named, mut missing) = (0, Vec::new());
    for document in documents(&tree)? {
        let text = fs::read_to_string(workspace().join(&document)).context(document.clone())?;
        let found = names(&text);
        named += found.len();
        let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
        let absent = found.into_iter().filter(|name| !tree.has(folder, name));
        missing.extend(absent.map(|name| format!("{document} names {name:?}")));
    }
    ensure!(named > 120, "only {named} names were found in the documents");
    ensure!(missing.is_empty(), "these do not exist:\n{}", missing.join("\n"));
    Ok(())
}

#[test]
fn a_wrong_path_or_target_is_found_and_a_right_one_is_not() {
    let tree = Tree {
        files: [
            "host/src/agent.rs",
            "host/src/source/mod.rs",
            "ebpf/src/x.bpf.c",
            "docs/a.md",
            "plugins/b/README.md",
        ]
        .map(str::to_owned)
        .into(),
        targets: BTreeSet::from(["demo".to_owned()]),
    };
    let text = "See `host/src/agent.rs`, `agent.rs`, `source/`, `host/src/*.rs`, `ebpf/src/NAME.bpf.c`,\n\
                `{host,ebpf}/src`, [a](a.md#part), [out](https://example.org/x.md), `/proc/net`, `make demo`.\n\
                Wrong: `host/src/gone.rs`, `gone.rs`, `sources/`, `ebpf/src/*.rs`, `{host,deploy}/src`,\n\
                [b](b.md), `make gone ARGS=x`.\n\
                ```sh\nmake demo   # fine\nsudo make absent\n```\n";
    let found = names(text);
    assert_eq!(found.len(), 17, "{found:#?}");
    let missing: Vec<_> = found.iter().filter(|name| !tree.has("docs", name)).map(Name::text).collect();
    let wrong = [
        "host/src/gone.rs",
        "gone.rs",
        "sources/",
        "ebpf/src/*.rs",
        "{host,deploy}/src",
        "gone",
        "b.md",
        "absent",
    ];
    assert_eq!(missing, wrong);
}

/// What a document names.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    /// A file or a folder.
    Path(String),
    /// The same, from the document's folder only.
    Link(String),
    /// A target of `make`.
    Target(String),
}

impl Name {
    fn text(&self) -> &str {
        match self {
            Self::Path(text) | Self::Link(text) | Self::Target(text) => text,
        }
    }
}

/// Everything that a text names, in its order but for links and code blocks, which come last.
fn names(text: &str) -> Vec<Name> {
    let (prose, blocks): (Vec<_>, Vec<_>) = text.split("```").enumerate().partition(|(at, _)| at % 2 == 0);
    let prose: String = prose.into_iter().map(|(_, part)| part).collect();
    let quoted = prose.split('`').skip(1).step_by(2).filter_map(quoted);
    let links =
        prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).filter_map(|(to, _)| link(to));
    let called = blocks.into_iter().flat_map(|(_, block)| block.lines()).filter_map(target);
    quoted.chain(links).chain(called).collect()
}

/// What stands between backticks: a target, or a path if it looks like one.
fn quoted(text: &str) -> Option<Name> {
    if text.starts_with("make ") {
        return target(text);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./*{},".contains(c);
    if !text.chars().all(plain) || text.starts_with(['/', '.', '*']) {
        return None;
    }
    let is_folder = text.ends_with('/') || text.contains('/') && in_the_tree(text);
    let is_file = ENDINGS.iter().any(|ending| text.ends_with(ending) && text != *ending);
    (is_folder || is_file).then(|| Name::Path(text.to_owned()))
}

/// It begins with a folder of the repository, which tells it from a setting (`net/ipv4/ip_forward`).
fn in_the_tree(text: &str) -> bool {
    let first = text.split('/').next().unwrap_or_default();
    let top = ["host", "ebpf", "plugins", "wit", "deploy", "tests", "docs"];
    top.contains(&first) || first.starts_with('{')
}

fn link(to: &str) -> Option<Name> {
    let path = to.split('#').next().unwrap_or_default();
    (!path.is_empty() && !path.contains("://")).then(|| Name::Link(path.to_owned()))
}

/// The target of a call of `make`.
fn target(line: &str) -> Option<Name> {
    let rest = line.trim().trim_start_matches("$ ").trim_start_matches("sudo ").strip_prefix("make ")?;
    let mut words = rest.split(' ').filter(|word| !word.is_empty());
    let target = words.find(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))?;
    Some(Name::Target(target.to_owned()))
}

/// What there is.
struct Tree {
    /// Every file, from the root.
    files: Vec<String>,
    targets: BTreeSet<String>,
}

impl Tree {
    fn of(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(root.join(&folder))?.flatten() {
                let (path, name) = (folder.join(entry.file_name()), entry.file_name());
                // What is built, and what git keeps.
                if name == "target" || name == ".git" {
                    continue;
                }
                if entry.file_type()?.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path.to_string_lossy().into_owned());
                }
            }
        }
        Ok(Self { files, targets: targets(&fs::read_to_string(root.join("Makefile"))?) })
    }

    /// Whether a name of a document in `folder` is of something.
    fn has(&self, folder: &str, name: &Name) -> bool {
        match name {
            Name::Target(target) => self.targets.contains(target),
            Name::Link(path) => self.is_there(&from(folder, path)),
            Name::Path(path) => {
                alternatives(path).iter().all(|path| self.is_there(path) || self.ends_with(path))
            }
        }
    }

    /// From the root.
    fn is_there(&self, path: &str) -> bool {
        let wanted: Vec<_> = path.trim_end_matches('/').split('/').collect();
        self.files.iter().any(|file| begins(&file.split('/').collect::<Vec<_>>(), &wanted))
    }

    /// From any folder.
    fn ends_with(&self, path: &str) -> bool {
        let wanted: Vec<_> = path.trim_end_matches('/').split('/').collect();
        self.files.iter().any(|file| {
            let parts: Vec<_> = file.split('/').collect();
            (0..parts.len()).any(|from| begins(&parts[from..], &wanted))
        })
    }
}

/// The targets that `make` lists.
pub fn targets(makefile: &str) -> BTreeSet<String> {
    let listed = makefile.lines().filter(|line| line.contains(" ## ") && !line.starts_with('\t'));
    listed.filter_map(|line| line.split_once(':')).map(|(target, _)| target.to_owned()).collect()
}

fn documents(tree: &Tree) -> Result<Vec<String>> {
    let is_document = |file: &&String| {
        file.starts_with("deploy/") || file.ends_with(".md") && !file.starts_with("tests/replay")
    };
    // What changed is told in the words of its time.
    let found = tree.files.iter().filter(is_document).filter(|file| *file != "CHANGELOG.md");
    let found: Vec<_> = found.cloned().collect();
    ensure!(found.len() > 15, "only {} documents", found.len());
    Ok(found)
}

/// A link's path from the root.
fn from(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Each path that `{a,b}` stands for.
fn alternatives(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let Some((inside, after)) = rest.split_once('}') else { return vec![path.to_owned()] };
    inside.split(',').flat_map(|choice| alternatives(&format!("{before}{choice}{after}"))).collect()
}

/// Whether a path begins with these parts, each of which may hold one wildcard.
fn begins(path: &[&str], wanted: &[&str]) -> bool {
    path.len() >= wanted.len() && path.iter().zip(wanted).all(|(part, wanted)| matches(part, wanted))
}

fn matches(part: &str, wanted: &str) -> bool {
    let wanted = wanted.replace("NAME", "*");
    match wanted.split_once('*') {
        Some((start, end)) => {
            part.len() >= start.len() + end.len() && part.starts_with(start) && part.ends_with(end)
        }
        None => part == wanted,
    }
}
