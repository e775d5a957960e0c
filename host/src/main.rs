//! The binary `inspector`: the command line of the library beside it.

fn main() -> std::process::ExitCode {
    inspector::cli::run()
}
