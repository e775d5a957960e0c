//! Reads the kernel's text symbols from /proc/kallsyms.
//!
//! The compiler's suffixes (`.constprop.0`, `.isra.0`, `.part.0`, `.cold`) are cut off, because
//! they differ from build to build; modules are left out of the name. Without CAP_SYSLOG, or with
//! `kernel.kptr_restrict`, all addresses read as 0 and the table stays empty.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// Text symbols by address, ascending; empty if the kernel hides them.
pub fn read() -> Vec<(u64, String)> {
    File::open("/proc/kallsyms").map(|file| parse(BufReader::new(file))).unwrap_or_default()
}

fn parse(mut lines: impl BufRead) -> Vec<(u64, String)> {
    let mut symbols = Vec::new();
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
        if let Some((address, name)) = text_symbol(&line) {
            symbols.push((address, name.to_owned()));
        }
        line.clear();
    }
    symbols.sort_by_key(|(address, _)| *address);
    // Aliases: the first listed is the function's own name.
    symbols.dedup_by_key(|(address, _)| *address);
    symbols.shrink_to_fit();
    symbols
}

fn text_symbol(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok().filter(|address| *address != 0)?;
    words.next().filter(|kind| matches!(*kind, "t" | "T" | "w" | "W"))?;
    let name = words.next()?;
    // The padding before a function, where no call ever is.
    let is_padding = name.starts_with("__pfx_") || name.starts_with("__cfi_");
    (!is_padding).then(|| (address, name.split_once('.').map_or(name, |(stem, _)| stem)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_is_listed_in_order_and_without_the_compilers_suffixes() {
        let listing = "ffffffff81000300 t nft_do_chain.constprop.0\t[nf_tables]\n\
                       ffffffff81000100 T tcp_v4_rcv\n\
                       ffffffff81000100 t tcp_alias\n\
                       ffffffff810000f0 t __pfx_tcp_v4_rcv\n\
                       ffffffff82000000 D jiffies\n";
        let expected = [(0xffff_ffff_8100_0100, "tcp_v4_rcv"), (0xffff_ffff_8100_0300, "nft_do_chain")];
        assert_eq!(parse(listing.as_bytes()), expected.map(|(at, name)| (at, name.to_owned())));
    }

    #[test]
    fn hidden_addresses_are_no_symbols() {
        assert!(parse("0000000000000000 T tcp_v4_rcv\n".as_bytes()).is_empty());
    }
}
