//! The program `cepa`: parses its arguments and calls the command. All that it does stands in the library beside it.

use std::process::ExitCode;

use cepa::{cli, harden};

/// glibc's allocator keeps what a flood once took (Cargo.toml has the figures).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = cli::become_command() {
        return code;
    }
    harden::no_core_dumps();
    harden::no_debuggers();
    harden::raise_file_limit();
    cli::Cli::read().main()
}
