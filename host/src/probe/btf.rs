//! Reads BTF, the kernel's own description of its types: how many arguments a tracepoint has,
//! what its enums call their values, where a struct keeps its fields.
//!
//! aya reads BTF too, in order to relocate programs, but keeps types and enums to itself. This
//! reader borrows the bytes, indexes them once and copies nothing but the names asked for.
//! Malformed BTF yields nothing; it never panics.

use std::collections::BTreeSet;
use std::fs;
use std::io;

/// Where the running kernel keeps its own.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// Where modules keep theirs, which extend it.
pub const MODULES: &str = "/sys/kernel/btf";

const MAGIC: u16 = 0xeb9f;
const VERSION: u32 = 1;
const HEADER: u32 = 24;
const TYPE_HEADER: usize = 12;

// `BTF_KIND_*` of include/uapi/linux/btf.h that are looked into, or are longer than a header.
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

/// Types of one BTF blob; of a module's blob only the enums make sense, as its ids continue the
/// kernel's.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset of each type in `types`; its id is one more, since id 0 is `void`.
    index: Vec<usize>,
    /// The kernel's strings, which come before a module's own.
    base: &'a [u8],
}

#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    /// Number of members, values or parameters.
    count: usize,
    /// Bytes, or the id of the type that this one refers to.
    size_or_id: u32,
    /// What follows the header; its length is checked.
    rest: &'a [u8],
}

impl<'a> Btf<'a> {
    /// The kernel's or an object's own BTF.
    pub fn parse(bytes: &'a [u8]) -> Option<Btf<'a>> {
        Self::parse_on(bytes, &[])
    }

    /// The BTF of a module that extends the kernel's.
    pub fn parse_module(bytes: &'a [u8], kernel: &Btf<'a>) -> Option<Btf<'a>> {
        Self::parse_on(bytes, kernel.strings)
    }

    fn parse_on(bytes: &'a [u8], base: &'a [u8]) -> Option<Btf<'a>> {
        let magic = u16::from_le_bytes([*bytes.first()?, *bytes.get(1)?]);
        let header = word(bytes, 4)? as usize;
        let section = |at: usize| {
            let start = header.checked_add(word(bytes, at)? as usize)?;
            bytes.get(start..start.checked_add(word(bytes, at + 4)? as usize)?)
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut index = Vec::new();
        let mut at = 0;
        while let Some(ty) = type_at(types, at) {
            index.push(at);
            at += TYPE_HEADER + ty.rest.len();
        }
        (magic == MAGIC && at == types.len()).then_some(Btf { types, strings, index, base })
    }

    /// Arguments of a tracepoint, without the context; `None` if the kernel lacks it.
    pub fn tracepoint_arguments(&self, tracepoint: &str) -> Option<usize> {
        let name = format!("btf_trace_{tracepoint}");
        let typedef = self.named(TYPEDEF, &name)?;
        let pointer = self.by_id(typedef.size_or_id).filter(|ty| ty.kind == PTR)?;
        let function = self.by_id(pointer.size_or_id).filter(|ty| ty.kind == FUNC_PROTO)?;
        function.count.checked_sub(1)
    }

    /// Whether a struct has a field of this name.
    pub fn has_field(&self, name: &str, field: &str) -> bool {
        let fields = self.struct_layout(name).unwrap_or_default();
        fields.iter().any(|(name, ..)| *name == field)
    }

    /// Names and values of one enum; empty if there is none of this name.
    pub fn enumeration(&self, name: &str) -> Vec<(&'a str, u32)> {
        self.named(ENUM, name).map(|ty| self.values(ty)).unwrap_or_default()
    }

    /// Names and values of the first enum that has a value of this name: some have no own name.
    pub fn enumeration_with(&self, value: &str) -> Vec<(&'a str, u32)> {
        let enums = self.iter().filter(|ty| ty.kind == ENUM).map(|ty| self.values(ty));
        let mut with = enums.filter(|values| values.iter().any(|(name, _)| *name == value));
        with.next().unwrap_or_default()
    }

    /// Every enum whose name ends so, flattened.
    pub fn enumerations_ending(&self, suffix: &str) -> Vec<(&'a str, u32)> {
        let ends =
            |ty: &Type<'_>| ty.kind == ENUM && self.string(ty.name).is_some_and(|n| n.ends_with(suffix));
        self.iter().filter(ends).flat_map(|ty| self.values(ty)).collect()
    }

    /// Name, byte offset and byte size of each field of a struct, in order; structs within it
    /// that have a name of their own stay one field.
    pub fn struct_layout(&self, name: &str) -> Option<Vec<(&'a str, u32, u32)>> {
        let fields = |ty| self.members(ty).map(|(name, at, id)| (name, at, self.size(id))).collect();
        self.named(STRUCT, name).map(fields)
    }

    /// Names of all structs and unions that have one.
    pub fn struct_names(&self) -> impl Iterator<Item = &'a str> {
        self.iter().filter(is_struct).filter_map(|ty| self.string(ty.name)).filter(|name| !name.is_empty())
    }

    /// The same blob under the same ids, without what relocating against these structs does not
    /// need: other structs, unions and functions become empty forward declarations. It is a
    /// fraction as costly to parse and to search.
    pub fn thinned(&self, structs: &BTreeSet<String>) -> Vec<u8> {
        let unneeded = |ty: &Type<'_>| match self.string(ty.name) {
            Some(name) if is_struct(ty) => !name.is_empty() && !structs.contains(name),
            _ => matches!(ty.kind, FUNC | FUNC_PROTO | VAR | DATASEC | DECL_TAG),
        };
        let mut types = Vec::with_capacity(self.types.len() / 2);
        for (at, ty) in self.index.iter().zip(self.iter()) {
            if unneeded(&ty) {
                types.extend([0, FWD << 24, 0].iter().flat_map(|word: &u32| word.to_le_bytes()));
            } else {
                types.extend(&self.types[*at..at + TYPE_HEADER + ty.rest.len()]);
            }
        }
        let length = |bytes: &[u8]| bytes.len() as u32;
        let header = [
            u32::from(MAGIC) | VERSION << 16,
            HEADER,
            0,
            length(&types),
            length(&types),
            length(self.strings),
        ];
        let header = header.iter().flat_map(|word| word.to_le_bytes());
        header.chain(types).chain(self.strings.iter().copied()).collect()
    }

    fn members(&self, ty: Type<'a>) -> impl Iterator<Item = (&'a str, u32, u32)> {
        ty.rest.as_chunks::<12>().0.iter().filter_map(|member| {
            // The upper byte is the width of a bitfield, in structs that have any.
            let bits = word(member, 8)? & 0x00ff_ffff;
            Some((self.string(word(member, 0)?)?, bits / 8, word(member, 4)?))
        })
    }

    fn values(&self, ty: Type<'a>) -> Vec<(&'a str, u32)> {
        let value = |item: &[u8; 8]| Some((self.string(word(item, 0)?)?, word(item, 4)?));
        ty.rest.as_chunks::<8>().0.iter().filter_map(value).collect()
    }

    fn size(&self, id: u32) -> u32 {
        match self.by_id(id) {
            Some(ty) if ty.kind == ARRAY => {
                let element = word(ty.rest, 0).map_or(0, |id| self.size(id));
                element.saturating_mul(word(ty.rest, 8).unwrap_or(0))
            }
            Some(ty) if matches!(ty.kind, TYPEDEF | CONST | VOLATILE) => self.size(ty.size_or_id),
            Some(ty) if ty.kind == PTR => 8,
            Some(ty) => ty.size_or_id,
            None => 0,
        }
    }

    fn iter(&self) -> impl Iterator<Item = Type<'a>> {
        self.index.iter().filter_map(|at| type_at(self.types, *at))
    }

    fn named(&self, kind: u32, name: &str) -> Option<Type<'a>> {
        self.iter().find(|ty| ty.kind == kind && self.string(ty.name) == Some(name))
    }

    fn by_id(&self, id: u32) -> Option<Type<'a>> {
        let at = self.index.get((id as usize).checked_sub(1)?)?;
        type_at(self.types, *at)
    }

    fn string(&self, at: u32) -> Option<&'a str> {
        let at = at as usize;
        let bytes = match at.checked_sub(self.base.len()) {
            Some(own) => self.strings.get(own..)?,
            None => self.base.get(at..)?,
        };
        let end = bytes.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&bytes[..end]).ok()
    }
}

fn is_struct(ty: &Type<'_>) -> bool {
    matches!(ty.kind, STRUCT | UNION)
}

fn type_at(types: &[u8], at: usize) -> Option<Type<'_>> {
    let info = word(types, at.checked_add(4)?)?;
    let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
    let length = match kind {
        INT | VAR | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION | DATASEC | ENUM64 => count * 12,
        ENUM | FUNC_PROTO => count * 8,
        _ => 0,
    };
    let rest = types.get(at + TYPE_HEADER..at + TYPE_HEADER + length)?;
    Some(Type { name: word(types, at)?, kind, count, size_or_id: word(types, at + 8)?, rest })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

/// The kernel's BTF as a file, if there is one.
pub fn read_vmlinux() -> io::Result<Vec<u8>> {
    fs::read(VMLINUX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `enum e { A = 7 }`, `int (*)(void *, int)` as `btf_trace_x`, and `struct e { enum e A; }`,
    /// by hand.
    fn sample() -> Vec<u8> {
        let strings = b"\0e\0A\0btf_trace_x\0";
        let types: Vec<u32> = [
            vec![1, ENUM << 24 | 1, 4, 3, 7],
            vec![0, FUNC_PROTO << 24 | 2, 0, 0, 0, 0, 0],
            vec![0, PTR << 24, 2],
            vec![5, TYPEDEF << 24, 3],
            vec![1, STRUCT << 24 | 1, 4, 3, 1, 0],
        ]
        .concat();
        let length = types.len() as u32 * 4;
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, length, length, strings.len() as u32];
        let words = header.iter().chain(&types).flat_map(|word| word.to_le_bytes());
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn an_enum_names_its_values() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).expect("well formed");
        assert_eq!(btf.enumeration("e"), [("A", 7)]);
        assert_eq!(btf.enumeration("f"), []);
        assert_eq!(btf.enumeration_with("A"), [("A", 7)]);
        assert_eq!(btf.enumeration_with("B"), []);
    }

    #[test]
    fn the_context_is_no_argument_of_a_tracepoint() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).expect("well formed");
        assert_eq!(btf.tracepoint_arguments("x"), Some(1));
        assert_eq!(btf.tracepoint_arguments("y"), None);
    }

    #[test]
    fn thinning_keeps_ids_and_the_structs_asked_for_and_empties_the_others() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).expect("well formed");
        let fields = Some(vec![("A", 0, 4)]);
        assert_eq!(btf.struct_layout("e"), fields);

        let kept = btf.thinned(&BTreeSet::from(["e".to_owned()]));
        let kept = Btf::parse(&kept).expect("well formed");
        assert_eq!(kept.struct_layout("e"), fields);
        assert_eq!(kept.index.len(), btf.index.len());

        let emptied = btf.thinned(&BTreeSet::new());
        let emptied = Btf::parse(&emptied).expect("well formed");
        assert_eq!(emptied.struct_layout("e"), None);
        assert_eq!(emptied.enumeration("e"), [("A", 7)]);
        assert_eq!(emptied.index.len(), btf.index.len());
    }

    #[test]
    fn a_cut_or_mangled_blob_yields_nothing_and_does_not_panic() {
        let bytes = sample();
        for end in 0..bytes.len() {
            let whole = Btf::parse(&bytes[..end]);
            assert!(whole.is_none(), "{end} bytes of {}", bytes.len());
        }
        for at in 0..bytes.len() {
            let mut mangled = bytes.clone();
            mangled[at] ^= 0xff;
            if let Some(btf) = Btf::parse(&mangled) {
                let _ = (btf.enumeration("e"), btf.tracepoint_arguments("x"), btf.struct_layout("e"));
                let _ = btf.thinned(&BTreeSet::new());
            }
        }
    }
}
