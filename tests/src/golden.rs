//! Golden files: what a command printed when a person last looked at it and agreed.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Whether golden files are to be written anew instead of compared.
pub fn is_blessing() -> bool {
    std::env::var_os("INSPECTOR_BLESS").is_some_and(|value| value == "1")
}

/// Compares with a golden file, or writes it with `INSPECTOR_BLESS=1`.
///
/// # Errors
/// They differ, with the first line that does.
pub fn check(file: &Path, found: &[u8]) -> Result<()> {
    if is_blessing() {
        return std::fs::write(file, found).with_context(|| file.display().to_string());
    }
    let name = file.display();
    let golden = std::fs::read(file).with_context(|| format!("{name}: make it with INSPECTOR_BLESS=1"))?;
    if golden == found {
        return Ok(());
    }
    let (golden, found) = (String::from_utf8_lossy(&golden), String::from_utf8_lossy(found));
    let differs = golden.lines().zip(found.lines()).position(|(golden, found)| golden != found);
    let at = differs.unwrap_or_else(|| golden.lines().count().min(found.lines().count()));
    let line = |text: &str| text.lines().nth(at).unwrap_or("(nothing)").to_owned();
    bail!(
        "{name} differs from line {} on; if that is meant, INSPECTOR_BLESS=1 writes it anew\n  golden: {}\n  found:  {}",
        at + 1,
        line(&golden),
        line(&found)
    )
}
