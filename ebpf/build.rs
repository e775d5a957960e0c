//! Compiles every `.bpf.c` to a CO-RE object with clang, if the feature `objects` asks for them.
//!
//! Nothing here depends on the build machine's kernel: the objects are the same on all machines,
//! little-endian as the records are.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs, io};

fn main() -> ExitCode {
    // An error that is returned would be printed with its line breaks escaped.
    compile_all().map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn compile_all() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CLANG");
    if env::var_os("CARGO_FEATURE_OBJECTS").is_none() {
        return Ok(());
    }
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let out = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    for entry in fs::read_dir("src").map_err(|error| format!("src: {error}"))? {
        let path = entry.map_err(|error| format!("src: {error}"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".h") || name.ends_with(".c") {
            println!("cargo::rerun-if-changed={}", path.display());
        }
        if let Some(stem) = name.strip_suffix(".bpf.c") {
            compile(&clang, &path, &Path::new(&out).join(format!("{stem}.bpf.o")))?;
        }
    }
    Ok(())
}

/// `-g` is for BTF, without which there is no CO-RE; `v3` (32-bit arithmetic) is known to every
/// kernel that has ring buffers, as long as no atomic operation returns a value.
fn compile(clang: &str, source: &Path, object: &Path) -> Result<(), String> {
    let result = Command::new(clang)
        .args(["-target", "bpfel", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter"])
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object)
        .output();
    match result {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(format!("{clang} {}:\n{}", source.display(), String::from_utf8_lossy(&output.stderr)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!(
            "{clang} is needed to compile the eBPF programs and was not found: run `make setup`, \
             or name another with the environment variable CLANG"
        )),
        Err(error) => Err(format!("{clang}: {error}")),
    }
}
