//! Promise: every Rust mirror reads the bytes that its C program wrote.

use std::mem::offset_of;

use anyhow::{Context, Result};
use inspector::probe::struct_layout;
use inspector_ebpf::sum::{Key, Sum};
use inspector_ebpf::{
    Dns, Field, Icmp, Neighbour, PROBES, Qdisc, Record, Route, RxLatency, SkbDrop, SocketError,
    SocketLatency, Softirq, TcpReset, TcpRetransmit, TcpState, TxLatency, VirtioCommand,
};

/// What differs between a mirror and the struct of its object; empty if nothing does.
fn differences(probe: &str, c_name: &str, fields: &[Field], size: usize) -> Result<Vec<String>> {
    let entry = PROBES.iter().find(|entry| entry.name == probe).context("not in the catalog")?;
    let layout = struct_layout(entry.object, c_name).with_context(|| format!("no struct {c_name}"))?;
    let (pads, layout): (Vec<_>, Vec<_>) = layout.into_iter().partition(|(name, ..)| name.starts_with("pad"));
    let mirror = fields.iter().map(|f| (f.name.to_owned(), u32::from(f.offset), u32::from(f.size)));
    let mirror: Vec<_> = mirror.collect();
    let in_c = layout.iter().filter(|field| !mirror.contains(field)).map(|field| format!("C: {field:?}"));
    let in_rust =
        mirror.iter().filter(|field| !layout.contains(field)).map(|field| format!("Rust: {field:?}"));
    let mut found: Vec<String> = in_c.chain(in_rust).collect();
    let end = layout.iter().chain(&pads).map(|(_, offset, size)| offset + size).max();
    if end != Some(u32::try_from(size)?) || usize::from(entry.stride) != size {
        found.push(format!("size: C {end:?}, Rust {size}, catalog {}", entry.stride));
    }
    Ok(found)
}

fn check<R: Record>() -> Result<()> {
    let found = differences(R::PROBE, R::C_NAME, R::FIELDS, size_of::<R>())?;
    assert!(found.is_empty(), "{}: {found:#?}", R::PROBE);
    let entry = PROBES.iter().find(|entry| entry.name == R::PROBE).context("not in the catalog")?;
    assert_eq!((entry.schema, entry.fields), (R::SCHEMA, R::FIELDS));
    Ok(())
}

#[test]
fn every_mirror_has_the_offsets_and_sizes_of_its_object() -> Result<()> {
    check::<SkbDrop>()?;
    check::<TcpReset>()?;
    check::<TcpRetransmit>()?;
    check::<TcpState>()?;
    check::<SocketError>()?;
    check::<Neighbour>()?;
    check::<Icmp>()?;
    check::<Dns>()?;
    check::<SocketLatency>()?;
    check::<Softirq>()?;
    check::<TxLatency>()?;
    check::<RxLatency>()?;
    check::<Qdisc>()?;
    check::<VirtioCommand>()?;
    check::<Route>()?;
    assert_eq!(PROBES.len(), 15, "a new probe needs its line above");
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
    let mut moved = SkbDrop::FIELDS.to_vec();
    let last = moved.last_mut().context("there are fields")?;
    last.offset += 1;
    let found = differences(SkbDrop::PROBE, SkbDrop::C_NAME, &moved, size_of::<SkbDrop>())?;
    assert_eq!(found.len(), 2, "the field as it is in C and as it is not: {found:?}");
    Ok(())
}

#[test]
fn a_field_that_is_missing_or_a_tail_that_is_short_is_found() -> Result<()> {
    let short = &SkbDrop::FIELDS[..SkbDrop::FIELDS.len() - 1];
    assert_eq!(differences(SkbDrop::PROBE, SkbDrop::C_NAME, short, size_of::<SkbDrop>())?.len(), 1);
    let all = SkbDrop::FIELDS;
    assert_eq!(differences(SkbDrop::PROBE, SkbDrop::C_NAME, all, size_of::<SkbDrop>() - 8)?.len(), 1);
    Ok(())
}
