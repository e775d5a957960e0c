//! Which name a kernel function has, for hooks on functions.
//!
//! Names are read anew each time, because a module may have been loaded since.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

const KALLSYMS: &str = "/proc/kallsyms";
/// There since 4.17, if the kernel has kprobes at all.
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";

/// The first of these functions that the running kernel has.
///
/// # Errors
///
/// Says in users' words why none can be hooked.
pub fn symbol(names: &'static [&'static str]) -> Result<&'static str, String> {
    if !Path::new(KPROBES).exists() {
        return Err("this kernel has no kprobes".to_owned());
    }
    let symbols = File::open(KALLSYMS).map_err(|error| format!("reading {KALLSYMS}: {error}"))?;
    first_of(names, BufReader::new(symbols))
        .ok_or_else(|| format!("this kernel has no function {} (nor a module with it)", names.join(" or ")))
}

/// Names are shown also where addresses are hidden.
fn first_of(names: &'static [&'static str], mut lines: impl BufRead) -> Option<&'static str> {
    let mut best = None;
    let mut line = String::new();
    while best != Some(0) && lines.read_line(&mut line).is_ok_and(|length| length > 0) {
        let mut words = line.split_ascii_whitespace().skip(1);
        if words.next().is_some_and(|kind| matches!(kind, "t" | "T"))
            && let Some(name) = words.next()
        {
            let found = names.iter().position(|wanted| *wanted == name);
            best = [best, found].into_iter().flatten().min();
        }
        line.clear();
    }
    names.get(best?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_that_there_is_as_a_function_is_taken() {
        let listing = "0 d send\n0 t send.cold\n0 T other\n0 t older\t[virtio_net]\n0 t send_reply\n";
        let of = |names| first_of(names, listing.as_bytes());
        assert_eq!(of(&["send_reply", "older"]), Some("send_reply"));
        assert_eq!(of(&["newest", "older"]), Some("older"));
        assert_eq!(of(&["send"]), None, "data and parts of functions are no functions");
    }
}
