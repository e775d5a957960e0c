//! Promise: what is delivered for Kubernetes fits the agent: its privileges are those that
//! docs/privileges.md names, its probes, ports and flags are those that the agent has, and each value
//! of the chart is checked, used and explained.
//!
//! No helm and no YAML library: the manifests are in the tree, rendered, and a digest tells whether
//! that was from this chart. What is read of YAML is what these files have of it: keys, their indented
//! blocks, and lists in either form.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use inspector::config::{Config, HEALTH_PATH, READY_PATH};
use inspector_tests::agent::binary;
use inspector_tests::plugins::workspace;
use serde_json::Value;

/// What may stand in the schema and has no default: Helm's own, and what only one type of profile has.
const WITHOUT_DEFAULT: [&str; 3] =
    ["global", "seccompProfile.localhostProfile", "appArmorProfile.localhostProfile"];

#[test]
fn the_manifests_are_rendered_from_this_chart_and_both_are_of_this_version() -> Result<()> {
    let rendered = read("deploy/manifests/inspector.yaml")?;
    let stated = rendered.lines().find_map(|line| line.strip_prefix("# chart: sha256 "));
    let mut files = vec![chart().join("Chart.yaml"), chart().join("values.yaml")];
    files.extend(template_files()?);
    let sum = Command::new("sh").args(["-c", "cat -- \"$@\" | sha256sum", "sh"]).args(files).output()?;
    let digest = String::from_utf8(sum.stdout)?;
    assert_eq!(stated, digest.split(' ').next(), "the chart has changed: run deploy/render.sh");
    // The tag of the image, unless a value says another one.
    let version = format!("appVersion: \"{}\"\n", env!("CARGO_PKG_VERSION"));
    ensure!(read("deploy/chart/Chart.yaml")?.contains(&version), "Chart.yaml is not of this {version}");
    Ok(())
}

#[test]
fn the_manifests_are_the_objects_that_are_documented() -> Result<()> {
    let expected = [
        "ServiceAccount net-exporter",
        "ConfigMap net-exporter",
        "ClusterRole net-exporter",
        "ClusterRoleBinding net-exporter",
        "ClusterRole inspector-user",
        "Role inspector-user",
        "Service net-exporter",
        "DaemonSet net-exporter",
    ];
    let objects = objects()?;
    let found: BTreeSet<_> =
        objects.iter().map(|object| format!("{} {}", object.kind, object.name)).collect();
    assert_eq!(found, expected.map(str::to_owned).into());
    let document = read("docs/kubernetes.md")?;
    for object in &objects {
        let named = format!("| {} `{}` |", object.kind, object.name);
        ensure!(document.contains(&named), "docs/kubernetes.md does not say what this is for: {named}");
    }
    Ok(())
}

#[test]
fn the_agent_has_the_capabilities_that_are_documented_and_no_others() -> Result<()> {
    let daemon_set = object("DaemonSet", "net-exporter")?;
    let added = list(&under(&daemon_set, &["capabilities", "add"])?);
    let document = read("docs/privileges.md")?;
    let (_, section) = document.split_once("## Capabilities\n").context("the section")?;
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `CAP_")?.split('`').next());
    let documented: BTreeSet<_> = rows.map(str::to_owned).collect();
    assert_eq!(documented.len(), 7, "{documented:?}");
    assert_eq!(added.iter().cloned().collect::<BTreeSet<_>>(), documented);
    assert_eq!(added.len(), documented.len(), "one is added twice: {added:?}");
    for (path, expected) in [
        (&["capabilities", "drop"][..], "[ALL]"),
        (&["securityContext", "runAsUser"][..], "0"),
        (&["securityContext", "privileged"][..], "false"),
        (&["securityContext", "allowPrivilegeEscalation"][..], "false"),
        (&["securityContext", "readOnlyRootFilesystem"][..], "true"),
        (&["seccompProfile", "type"][..], "RuntimeDefault"),
        (&["hostNetwork"][..], "true"),
        (&["hostPID"][..], "true"),
        (&["dnsPolicy"][..], "ClusterFirstWithHostNet"),
    ] {
        assert_eq!(under(&daemon_set, path)?, expected, "{path:?}");
    }
    Ok(())
}

#[test]
fn kubelet_and_prometheus_ask_where_the_agent_answers() -> Result<()> {
    let daemon_set = object("DaemonSet", "net-exporter")?;
    let container = under(&daemon_set, &["containers"])?;
    assert_eq!(under(&container, &["name"])?, "inspector");
    let defaults = Config::default();
    let port = defaults.web.listen[0].port.to_string();
    for (text, path) in [
        (&daemon_set, &["ports", "containerPort"][..]),
        (&daemon_set, &["annotations", "prometheus.io/port"][..]),
        (&object("Service", "net-exporter")?, &["ports", "port"][..]),
    ] {
        assert_eq!(under(text, path)?.trim_matches('"'), port, "{path:?}");
    }
    assert_eq!(under(&daemon_set, &["annotations", "prometheus.io/path"])?, "\"/metrics\"");
    for (probe, path) in
        [("startupProbe", READY_PATH), ("readinessProbe", READY_PATH), ("livenessProbe", HEALTH_PATH)]
    {
        assert_eq!(under(&container, &[probe, "httpGet", "path"])?, path, "{probe}");
        assert_eq!(under(&container, &[probe, "httpGet", "port"])?, "metrics", "{probe}");
    }
    assert_eq!(under(&container, &["ports", "name"])?, "metrics");
    Ok(())
}

#[test]
fn the_agent_knows_the_flags_and_the_configuration_that_it_is_started_with() -> Result<()> {
    let help = Command::new(binary()?).args(["serve", "--help"]).output()?;
    let help = String::from_utf8(help.stdout)?;
    let daemon_set = object("DaemonSet", "net-exporter")?;
    let args = list(&under(&daemon_set, &["args"])?);
    assert_eq!(args.first().map(String::as_str), Some("serve"));
    let given = args.iter().skip(1).filter_map(|arg| arg.split('=').next().map(str::to_owned));
    let template = read("deploy/chart/templates/daemonset.yaml")?;
    // Those that other values of the chart lead to.
    let possible = template.lines().filter(|line| line.trim_start().starts_with("- ")).filter_map(flag);
    let flags: BTreeSet<_> = given.chain(possible).collect();
    ensure!(flags.contains("--plugin-dir") && flags.len() >= 5, "{flags:?}");
    for flag in flags {
        // As the help writes it: with a blank behind the name.
        ensure!(help.contains(&format!("  {flag} ")), "`inspector serve` has no flag {flag}:\n{help}");
    }
    let config = under(&object("ConfigMap", "net-exporter")?, &["data", "inspector.toml"])?;
    assert_eq!(Config::parse("inspector.toml", &config)?, Config::default());
    Ok(())
}

#[test]
fn the_agent_and_its_users_have_exactly_the_rights_that_they_use() -> Result<()> {
    for (kind, name, expected) in [
        ("ClusterRole", "net-exporter", &["\"\": pods, services, nodes: list, watch"][..]),
        ("ClusterRole", "inspector-user", &["\"\": pods: get", "discovery.k8s.io: endpointslices: list"][..]),
        ("Role", "inspector-user", &["\"\": pods: list", "\"\": pods/portforward: get, create"][..]),
    ] {
        assert_eq!(rules(&object(kind, name)?)?, expected, "{kind} {name}");
    }
    // Nobody is bound to those of users.
    let bindings: Vec<_> = objects()?.into_iter().filter(|object| object.kind.ends_with("Binding")).collect();
    assert_eq!(bindings.len(), 1);
    assert_eq!(under(&bindings[0].text, &["roleRef", "name"])?, "net-exporter");
    assert_eq!(under(&bindings[0].text, &["subjects", "kind"])?, "ServiceAccount");
    Ok(())
}

#[test]
fn every_value_is_in_the_schema_in_a_template_and_in_the_document() -> Result<()> {
    let values = paths(&read("deploy/chart/values.yaml")?);
    ensure!(values.len() > 50, "only {} values were found: {values:?}", values.len());
    let schema: Value = serde_json::from_str(&read("deploy/chart/values.schema.json")?)?;
    let templates = template_files()?.iter().map(fs::read_to_string).collect::<Result<String, _>>()?;
    let document = read("docs/kubernetes.md")?;
    let mut wrong = Vec::new();
    for value in &values {
        let Some(known) = known(&schema, value) else {
            wrong.push(format!("{value} is not in values.schema.json"));
            continue;
        };
        if !is_used(&templates, known) {
            wrong.push(format!("{known} is used in no template"));
        }
        let explained = ancestors(known).any(|path| document.contains(&format!("| `{path}` |")));
        if !explained {
            wrong.push(format!("{known} is not in the table of docs/kubernetes.md"));
        }
    }
    let defaults: BTreeSet<&str> = values.iter().flat_map(|value| ancestors(value)).collect();
    let without = schema_paths(&schema, "").into_iter().filter(|path| !defaults.contains(path.as_str()));
    let without = without.filter(|path| !WITHOUT_DEFAULT.contains(&path.as_str()));
    wrong.extend(without.map(|path| format!("{path} of values.schema.json is not in values.yaml")));
    // A part of a value that may be anything needs no default of its own.
    let is_part = |path: &str| ancestors(path).any(|part| values.iter().any(|value| value == part));
    let unknown = used(&templates).into_iter().filter(|path| {
        !defaults.contains(path.as_str()) && !is_part(path) && !WITHOUT_DEFAULT.contains(&path.as_str())
    });
    wrong.extend(unknown.map(|path| format!(".Values.{path} of a template is not in values.yaml")));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn yaml_is_read_as_these_files_write_it_and_what_is_missing_is_found() -> Result<()> {
    let text = "spec:\n  # ports: no\n  containers:\n    - name: a\n      args: [x, \"y z\"]\n      add:\n        \
                - B\n        # why\n        - C\n  after: 1\n";
    assert_eq!(under(text, &["containers", "name"])?, "a");
    assert_eq!(list(&under(text, &["containers", "args"])?), ["x", "y z"]);
    assert_eq!(list(&under(text, &["add"])?), ["B", "C"]);
    assert_eq!(under(text, &["after"])?, "1");
    assert!(under(text, &["ports"]).is_err() && under(text, &["containers", "after"]).is_err());
    let values = paths("# c\na: 1\nb:\n  # c\n  d: {}\n  e:\n    f: x\n    g:\n      - h: 1\ni: []\n");
    assert_eq!(values, ["a", "b.d", "b.e.f", "b.e.g", "i"]);
    let schema = serde_json::json!({"properties": {"b": {"properties": {"d": {}}}}});
    assert_eq!(known(&schema, "b.d.any"), Some("b.d"));
    assert_eq!(known(&schema, "b.e"), None);
    let templates = "{{ .Values.a.b }} {{ .Values.ab | x }} (dict \"monitor\" .Values.m) {{ .monitor.c }}";
    assert!(is_used(templates, "a.b") && is_used(templates, "ab") && is_used(templates, "m.c"));
    assert!(!is_used(templates, "a.bc") && !is_used(templates, "m.d") && !is_used(templates, "b"));
    assert_eq!(used(templates), ["a.b", "ab", "m"].map(str::to_owned).into());
    assert_eq!(flag("  - {{ printf \"--a.b-c=%s\" . }}").as_deref(), Some("--a.b-c"));
    Ok(())
}

/// A rendered object.
struct Object {
    kind: String,
    name: String,
    text: String,
}

fn objects() -> Result<Vec<Object>> {
    let rendered = read("deploy/manifests/inspector.yaml")?;
    let parts = rendered.split("\n---\n").skip(1);
    let object = |text: &str| -> Result<Object> {
        let (kind, name) = (under(text, &["kind"])?, under(text, &["metadata", "name"])?);
        Ok(Object { kind, name, text: text.to_owned() })
    };
    parts.map(object).collect()
}

/// The text of one of them.
fn object(kind: &str, name: &str) -> Result<String> {
    let found = objects()?.into_iter().find(|object| object.kind == kind && object.name == name);
    Ok(found.with_context(|| format!("no {kind} {name}"))?.text)
}

/// Each rule of a role as `group: resources: verbs`.
fn rules(role: &str) -> Result<Vec<String>> {
    let rules = under(role, &["rules"])?;
    let parts = rules.split("- apiGroups:").skip(1);
    let rule = |part: &str| -> Result<String> {
        let rule = format!("apiGroups:{part}");
        let of = |key: &str| -> Result<String> { Ok(list(&under(&rule, &[key])?).join(", ")) };
        let groups = under(&rule, &["apiGroups"])?;
        Ok(format!("{}: {}: {}", groups.trim_matches(['[', ']']), of("resources")?, of("verbs")?))
    };
    parts.map(rule).collect()
}

/// What stands under the first key of each name, one inside of the other: what follows it on its line, or
/// the lines that are indented deeper.
fn under(text: &str, path: &[&str]) -> Result<String> {
    let Some((key, rest)) = path.split_first() else { return Ok(text.to_owned()) };
    let lines: Vec<&str> = text.lines().filter(|line| !is_comment(line)).collect();
    let inline = |line: &str| {
        let after = line.trim_start().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(':')?;
        Some(after.trim().to_owned())
    };
    let found = lines.iter().enumerate().find_map(|(at, line)| Some((at, inline(line)?)));
    let (at, inline) = found.with_context(|| format!("no {key} in\n{text}"))?;
    // A bar begins a text of several lines.
    if !inline.is_empty() && inline != "|" {
        return under(&inline, rest);
    }
    let depth = column(lines[at]);
    let block =
        lines[at + 1..].iter().take_while(|line| line.trim().is_empty() || column_of_item(line) > depth);
    under(&block.copied().collect::<Vec<_>>().join("\n"), rest)
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// Where the key of a line begins, behind the dash of an item.
fn column(line: &str) -> usize {
    line.len() - line.trim_start().trim_start_matches("- ").len()
}

/// Where a line begins.
fn column_of_item(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The items of a list in either form.
fn list(text: &str) -> Vec<String> {
    let plain = |item: &str| item.trim().trim_matches('"').to_owned();
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(items) => items.split(',').map(plain).collect(),
        None => text.lines().filter_map(|line| line.trim_start().strip_prefix("- ")).map(plain).collect(),
    }
}

/// The flag that a line of the template passes.
fn flag(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("--")?;
    let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || ".-".contains(*c)).collect();
    Some(format!("--{name}"))
}

/// The values without values below them, in their order, with their sections: `image.tag`.
fn paths(values: &str) -> Vec<String> {
    let is_key =
        |line: &&str| !is_comment(line) && !line.trim_start().starts_with("- ") && line.contains(':');
    let lines: Vec<&str> = values.lines().filter(is_key).collect();
    let (mut open, mut found): (Vec<(usize, &str)>, Vec<String>) = (Vec::new(), Vec::new());
    for (at, line) in lines.iter().enumerate() {
        let depth = column(line);
        open.retain(|(column, _)| *column < depth);
        open.push((depth, key(line)));
        if lines.get(at + 1).is_none_or(|next| column(next) <= depth) {
            found.push(open.iter().map(|(_, key)| *key).collect::<Vec<_>>().join("."));
        }
    }
    found
}

/// The key of a line; one of a free map may have a colon inside (`kubernetes.io/os: linux` has none).
fn key(line: &str) -> &str {
    line.trim_start().split(':').next().unwrap_or_default()
}

/// The part of a value's path that the schema knows; below it everything is allowed. None if it is refused.
fn known<'a>(schema: &Value, path: &'a str) -> Option<&'a str> {
    let (mut node, mut end) = (schema, 0);
    while let Some(properties) = node.get("properties").filter(|_| end < path.len()) {
        let rest = &path[end..];
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        let name = rest.split('.').next().unwrap_or_default();
        node = properties.get(name)?;
        end = path.len() - rest.len() + name.len();
    }
    Some(&path[..end])
}

/// Every path that the schema names.
fn schema_paths(schema: &Value, before: &str) -> Vec<String> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let inner = properties.into_iter().flatten().flat_map(|(name, node)| {
        let path = if before.is_empty() { name.clone() } else { format!("{before}.{name}") };
        let below = schema_paths(node, &path);
        [path].into_iter().chain(below)
    });
    inner.collect()
}

/// A path and what it is in.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
    ends.map(move |end| &path[..end])
}

/// Every path behind `.Values` in the templates.
fn used(templates: &str) -> BTreeSet<String> {
    let paths = templates.split(".Values.").skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(rest.len());
        rest[..end].trim_end_matches('.').to_owned()
    });
    paths.collect()
}

/// Whether a template reads a value, a part of it, or all that it is in; a monitor is handed on whole.
fn is_used(templates: &str, path: &str) -> bool {
    let names = used(templates);
    let whole = names.contains(path);
    let part = names.iter().any(|name| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')));
    let handed_on = path.rsplit_once('.').is_some_and(|(section, name)| {
        let is_word_end = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
        templates.contains(&format!("\"monitor\" .Values.{section}"))
            && templates.split(&format!(".monitor.{name}")).skip(1).any(is_word_end)
    });
    let section = ancestors(path).any(|section| {
        let is_whole = [format!("toYaml .Values.{section} "), format!("with .Values.{section} }}}}")];
        section != path && is_whole.iter().any(|text| templates.contains(text.as_str()))
    });
    whole || part || handed_on || section
}

fn chart() -> PathBuf {
    workspace().join("deploy/chart")
}

/// In the order of their names, as the shell lists them.
fn template_files() -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(chart().join("templates"))?;
    Ok(entries.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(workspace().join(path)).with_context(|| path.to_owned())
}
