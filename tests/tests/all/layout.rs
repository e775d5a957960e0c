//! Promise: every Rust mirror reads the bytes that its C program wrote.
//!
//! All probes are compared, by the catalogue: a new one needs no line here.

use std::mem::offset_of;

use anyhow::{Context, Result};
use inspector::probe::{enumeration, struct_layout};
use inspector_ebpf::sum::{Key, Sum};
use inspector_ebpf::{Constants, Field, PROBES, Probe, Record, SkbDrop, kernel, record};

/// What differs between a mirror and the struct of its object; empty if nothing does.
fn differences(probe: &Probe, fields: &[Field], size: u32) -> Result<Vec<String>> {
    let layout = struct_layout(probe.object, probe.c_name)
        .with_context(|| format!("{}: no struct {}", probe.name, probe.c_name))?;
    let (pads, layout): (Vec<_>, Vec<_>) = layout.into_iter().partition(|(name, ..)| name.starts_with("pad"));
    let mirror = fields.iter().map(|f| (f.name.to_owned(), u32::from(f.offset), u32::from(f.size)));
    let mirror: Vec<_> = mirror.collect();
    let in_c = layout.iter().filter(|field| !mirror.contains(field)).map(|field| format!("C: {field:?}"));
    let in_rust =
        mirror.iter().filter(|field| !layout.contains(field)).map(|field| format!("Rust: {field:?}"));
    let mut found: Vec<String> = in_c.chain(in_rust).collect();
    let end = layout.iter().chain(&pads).map(|(_, offset, size)| offset + size).max();
    if end != Some(size) {
        found.push(format!("size: C {end:?}, Rust {size}"));
    }
    Ok(found)
}

/// What differs between the constants of a mirror and the enum of its object, in both directions.
fn wrong_constants(object: &[u8], constants: &Constants) -> Result<Vec<String>> {
    let name = constants.c_name;
    let in_c = enumeration(object, name).with_context(|| format!("no enum {name}"))?;
    let in_rust: Vec<_> = constants.values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let only_c = in_c.iter().filter(|value| !in_rust.contains(value)).map(|value| format!("C: {value:?}"));
    let only_rust =
        in_rust.iter().filter(|value| !in_c.contains(value)).map(|value| format!("Rust: {value:?}"));
    Ok(only_c.chain(only_rust).collect())
}

fn skb_drop() -> Result<&'static Probe> {
    PROBES.iter().find(|probe| probe.name == SkbDrop::PROBE).context("skb-drop is in the catalogue")
}

#[test]
fn every_mirror_has_the_offsets_and_sizes_of_its_object() -> Result<()> {
    for probe in PROBES {
        let found = differences(probe, probe.fields, probe.stride.into())?;
        assert!(found.is_empty(), "{}: {found:#?}", probe.name);
    }
    Ok(())
}

#[test]
fn every_constant_has_the_value_of_its_object() -> Result<()> {
    for probe in PROBES {
        let shared = kernel::CONSTANTS.iter().chain(record::CONSTANTS);
        for constants in shared.chain(probe.constants) {
            let found = wrong_constants(probe.object, constants)?;
            assert!(found.is_empty(), "{}: enum {}: {found:#?}", probe.name, constants.c_name);
        }
        let kinds =
            |constants: &&Constants| constants.values.iter().any(|(name, _)| name.starts_with("KIND_"));
        assert_eq!(probe.constants.iter().filter(kinds).count(), 1, "{}: its kinds", probe.name);
    }
    Ok(())
}

#[test]
fn the_key_and_value_of_a_sum_are_those_of_every_object_that_adds_up() -> Result<()> {
    let mut seen = 0;
    for probe in PROBES.iter().filter(|probe| probe.append_sum.is_some()) {
        let of = |name| struct_layout(probe.object, name).context(name);
        let field = |name: &str, offset: usize, size| (name.to_owned(), offset as u32, size);
        let key = [
            field("netns", offset_of!(Key, netns), 8),
            field("what", offset_of!(Key, what), 8),
            field("which", offset_of!(Key, which), 4),
            field("detail", offset_of!(Key, detail), 2),
            field("epoch", offset_of!(Key, epoch), 2),
        ];
        let sum = [field("count", offset_of!(Sum, count), 8), field("total", offset_of!(Sum, total), 8)];
        assert_eq!((of("sum_key")?, of("sum")?), (key.to_vec(), sum.to_vec()), "{}", probe.name);
        seen += 1;
    }
    assert!(seen > 0, "no probe adds up");
    Ok(())
}

#[test]
fn a_probe_is_found_under_its_own_id() {
    for (index, probe) in PROBES.iter().enumerate() {
        assert_eq!(usize::from(probe.id), index, "{}", probe.name);
    }
}

#[test]
fn a_field_that_moved_is_found() -> Result<()> {
    let probe = skb_drop()?;
    let mut moved = probe.fields.to_vec();
    let last = moved.last_mut().context("there are fields")?;
    last.offset += 1;
    let found = differences(probe, &moved, probe.stride.into())?;
    assert_eq!(found.len(), 2, "the field as it is in C and as it is not: {found:?}");
    Ok(())
}

#[test]
fn a_field_that_is_missing_or_a_tail_that_is_short_is_found() -> Result<()> {
    let probe = skb_drop()?;
    let (all, size) = (probe.fields, u32::from(probe.stride));
    assert_eq!(differences(probe, &all[..all.len() - 1], size)?.len(), 1);
    assert_eq!(differences(probe, all, size - 8)?.len(), 1);
    Ok(())
}

#[test]
fn a_constant_that_differs_or_that_one_side_lacks_is_found() -> Result<()> {
    let probe = skb_drop()?;
    let of = |values| wrong_constants(probe.object, &Constants { c_name: "drop_kind", values });
    assert_eq!(of(&[("KIND_DROP", 1), ("KIND_SUMMARY", 2)])?, Vec::<String>::new());
    assert_eq!(of(&[("KIND_DROP", 1), ("KIND_SUMMARY", 3)])?.len(), 2, "as it is in C and as it is not");
    assert_eq!(of(&[("KIND_DROP", 1)])?.len(), 1);
    assert_eq!(of(&[("KIND_DROP", 1), ("KIND_SUMMARY", 2), ("KIND_OTHER", 3)])?.len(), 1);
    assert!(wrong_constants(probe.object, &Constants { c_name: "no_such_enum", values: &[] }).is_err());
    Ok(())
}
