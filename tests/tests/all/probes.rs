//! Promise: what documents say of the probes is what the catalogue says, and that is true of the
//! programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use inspector::probe::helpers;
use inspector_ebpf::{Attach, Hook, Kernel, PROBES, Point, Probe};
use inspector_tests::golden;
use inspector_tests::plugins::workspace;

const HEAD: &str = "| probe | hooks | Linux | delivers | class | ns per call |\n|---|---|---|---|---|---|\n";

/// The kernel's functions that programs may call, by their number in `enum bpf_func_id`, and the kernel
/// that lets programs of our types call them; of those before [`Kernel::FLOOR`] it does not matter when.
/// (`bpf_sk_storage_get` is of 5.2; tracing programs may call it since 5.11.)
const HELPERS: &[(i32, &str, Kernel)] = &[
    (1, "map_lookup_elem", Kernel::FLOOR),
    (2, "map_update_elem", Kernel::FLOOR),
    (3, "map_delete_elem", Kernel::FLOOR),
    (5, "ktime_get_ns", Kernel::FLOOR),
    (8, "get_smp_processor_id", Kernel::FLOOR),
    (14, "get_current_pid_tgid", Kernel::FLOOR),
    (16, "get_current_comm", Kernel::FLOOR),
    (26, "skb_load_bytes", Kernel::FLOOR),
    (35, "get_current_task", Kernel::FLOOR),
    (46, "get_socket_cookie", Kernel::FLOOR),
    (107, "sk_storage_get", Kernel(5, 11)),
    (113, "probe_read_kernel", Kernel::FLOOR),
    (125, "ktime_get_boot_ns", Kernel(5, 8)),
    (131, "ringbuf_reserve", Kernel(5, 8)),
    (132, "ringbuf_submit", Kernel(5, 8)),
    (134, "ringbuf_query", Kernel(5, 8)),
    (137, "skc_to_tcp_sock", Kernel(5, 9)),
];

fn programs(hook: &Hook) -> Vec<&'static str> {
    match &hook.attach {
        Attach::TpBtf { variants, .. } => variants.iter().map(|variant| variant.program).collect(),
        Attach::CgroupSkb { program, .. } | Attach::KProbe { program, .. } => vec![program],
    }
}

/// The oldest kernel on which one of the programs for a hook may make all its calls.
fn needed(probe: &Probe, hook: &Hook) -> Result<Kernel> {
    let mut best = None;
    for program in programs(hook) {
        let called = helpers(probe.object, program);
        ensure!(!called.is_empty(), "{}: no program {program}, or one that calls nothing", probe.name);
        let mut since = Kernel::FLOOR;
        for id in called {
            let known = HELPERS.iter().find(|(known, ..)| *known == id);
            let (.., kernel) = known.with_context(|| format!("{program} calls {id}: since which kernel?"))?;
            since = since.max(*kernel);
        }
        best = Some(best.map_or(since, |best: Kernel| best.min(since)));
    }
    best.context("a hook has a program")
}

#[test]
fn no_program_calls_what_came_later_than_the_kernel_that_its_hook_names() -> Result<()> {
    for probe in PROBES {
        for hook in probe.hooks {
            let needed = needed(probe, hook)?;
            assert!(hook.since >= needed, "{}: {} needs {needed}", probe.name, hook.name());
        }
    }
    Ok(())
}

#[test]
fn every_c_program_has_its_mirror_and_its_line_in_the_catalogue_and_the_other_way_round() -> Result<()> {
    let sources = workspace().join("ebpf/src");
    let mut stems = BTreeSet::new();
    for entry in fs::read_dir(&sources)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        stems.extend(name.strip_suffix(".bpf.c").map(str::to_owned));
    }
    let listed: BTreeSet<String> = PROBES.iter().map(|probe| probe.name.replace('-', "_")).collect();
    assert_eq!(stems, listed);
    Ok(())
}

#[test]
fn every_probe_says_what_it_is_and_has_a_test_with_real_packets() -> Result<()> {
    let mut tests = String::new();
    texts_below(&workspace().join("tests"), &mut tests)?;
    for probe in PROBES {
        for hook in probe.hooks {
            assert!(!hook.gives.is_empty() && !hook.delivers.is_empty(), "{}: {}", probe.name, hook.name());
        }
        let is_tested = tests.contains(&format!("Observer::of(&[\"{}\"", probe.name))
            // In the guests of `make test-kernels`: kprobes are missing on many a machine.
            || tests.contains(&format!("(\"{}\", &||", probe.name));
        assert!(is_tested, "{}: no kernel test observes it", probe.name);
    }
    Ok(())
}

fn texts_below(folder: &Path, all: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            texts_below(&path, all)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// Run with `INSPECTOR_BLESS=1` after a change of the catalogue: it writes the table anew.
#[test]
fn the_table_of_probes_is_the_catalogues() -> Result<()> {
    let readme = workspace().join("ebpf/README.md");
    let text = fs::read_to_string(&readme)?;
    let (before, rest) = text.split_once(HEAD).context("the table of ebpf/README.md")?;
    let after = rest.find("\n\n").map_or("", |end| &rest[end + 1..]);
    golden::check(&readme, format!("{before}{HEAD}{}{after}", rows()).as_bytes())
}

fn rows() -> String {
    let mut rows = String::new();
    for probe in PROBES {
        let mut name = probe.name.to_owned();
        let mut class = probe.class.to_string();
        for hook in probe.hooks {
            let cost =
                hook.cost.map_or("–".to_owned(), |cost| format!("{} ({})", cost.ns, rounded(cost.runs)));
            let cells = [&name, &place(hook), &since(hook), hook.delivers, &class, &cost];
            rows += &format!("| {} |\n", cells.join(" | "));
            // The lines of its further hooks are its too.
            name.clear();
            class.clear();
        }
    }
    rows
}

fn place(hook: &Hook) -> String {
    match &hook.attach {
        Attach::TpBtf { tracepoint, .. } => format!("tp_btf `{tracepoint}`"),
        Attach::CgroupSkb { .. } => hook.name(),
        Attach::KProbe { symbols, point, .. } => {
            let names: Vec<_> = symbols.iter().map(|symbol| format!("`{symbol}`")).collect();
            let point = if *point == Point::Entry { "kprobe" } else { "kretprobe" };
            format!("{point} {}", names.join(" or "))
        }
    }
}

fn since(hook: &Hook) -> String {
    let needs = match hook.attach {
        Attach::TpBtf { .. } => "",
        Attach::CgroupSkb { .. } => ", with cgroup v2",
        Attach::KProbe { .. } => ", with kprobes",
    };
    let later = if hook.versions.is_empty() { "" } else { "; " };
    format!("{}{needs}{later}{}", hook.since, hook.versions)
}

fn rounded(runs: u32) -> String {
    if runs < 1000 { runs.to_string() } else { format!("{} k", runs / 1000) }
}

#[test]
fn documents_name_the_oldest_kernel_that_the_catalogue_names() -> Result<()> {
    let readme = fs::read_to_string(workspace().join("README.md"))?;
    let wanted = format!("Linux {} or later", Kernel::MINIMUM);
    assert!(readme.contains(&wanted), "README.md: {wanted}");
    Ok(())
}
