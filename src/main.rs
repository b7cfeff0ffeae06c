//! The `weir` binary; everything is in the library.

use std::process::ExitCode;

/// See `Cargo.toml` for the reason.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    weir::cli::main()
}
