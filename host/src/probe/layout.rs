//! What a compiled object says of itself: where it keeps the fields of its records and what its
//! constants are, so that a test can compare the mirrors; which of the kernel's structs it reads; and
//! which functions of the kernel its programs call.

use std::collections::BTreeSet;

use aya_obj::Object;

use super::btf::Btf;

/// The struct that all records begin with, and its field's name in them.
const HEAD: &str = "head";

/// Name, byte offset and byte size of each field of a struct in a compiled object, in order; the
/// fields of the common head take the head's place.
///
/// `None` if it is no object, or has no BTF, or no such struct.
pub fn struct_layout(object: &[u8], c_name: &str) -> Option<Vec<(String, u32, u32)>> {
    let blob = types(object)?;
    let btf = Btf::parse(&blob)?;
    let mut fields = btf.struct_layout(c_name)?;
    if fields.first().is_some_and(|(name, ..)| *name == HEAD) {
        fields.splice(..1, btf.struct_layout(HEAD)?);
    }
    Some(fields.into_iter().map(|(name, offset, size)| (name.to_owned(), offset, size)).collect())
}

/// Names and values of an enum in a compiled object, in order; `None` if it is no object, or has no
/// BTF, or no such enum.
pub fn enumeration(object: &[u8], c_name: &str) -> Option<Vec<(String, u32)>> {
    let blob = types(object)?;
    let values = Btf::parse(&blob)?.enumeration(c_name);
    let values: Vec<_> = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    (!values.is_empty()).then_some(values)
}

/// Names of the structs that an object knows, the kernel's among them, without CO-RE flavours.
pub fn struct_names(object: &[u8]) -> BTreeSet<String> {
    let blob = types(object).unwrap_or_default();
    let Some(btf) = Btf::parse(&blob) else { return BTreeSet::new() };
    let plain = |name: &str| name.split_once("___").map_or(name, |(plain, _)| plain).to_owned();
    btf.struct_names().map(plain).collect()
}

/// Numbers of the kernel's functions (`enum bpf_func_id`) that a program of an object calls; empty if
/// it is no object or has no such program.
pub fn helpers(object: &[u8], program: &str) -> BTreeSet<i32> {
    const CALL: u8 = 0x85;
    /// The call of a helper; other sources are functions of the object or of the kernel by BTF.
    const HELPER: u8 = 0;
    let Ok(object) = Object::parse(object) else { return BTreeSet::new() };
    let programs = object.programs.iter().filter(|(name, _)| *name == program);
    let functions = programs.filter_map(|(_, program)| object.functions.get(&program.function_key()));
    let calls = functions.flat_map(|function| &function.instructions);
    let calls = calls.filter(|call| call.code == CALL && call.src_reg() == HELPER);
    calls.map(|call| call.imm).collect()
}

/// Its BTF section.
fn types(object: &[u8]) -> Option<Vec<u8>> {
    Some(Object::parse(object).ok()?.btf?.to_bytes())
}

#[cfg(test)]
mod tests {
    use inspector_ebpf::{PROBES, Record, SkbDrop};

    use super::*;

    #[test]
    fn the_head_and_the_tail_of_a_record_are_found_in_its_object() {
        let object = PROBES[0].object;
        let fields = struct_layout(object, SkbDrop::C_NAME).expect("the object has its struct");
        assert_eq!(fields[0], ("ts_ns".to_owned(), 0, 8));
        assert_eq!(fields[5], ("saddr".to_owned(), 24, 16));
        assert!(fields.contains(&("location".to_owned(), 64, 8)), "{fields:?}");
        assert_eq!(struct_layout(object, "no_such_struct"), None);
        assert_eq!(struct_layout(b"no object", SkbDrop::C_NAME), None);
    }
}
