//! The `weir` binary; everything is in the library.

use std::process::ExitCode;

/// See `Cargo.toml` for the reason.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Without them, memory that is free is given back to the system only as a thread allocates: after a burst, when
    // nobody is there any more, that is never. Where they cannot run, weir works all the same.
    let _ = tikv_jemalloc_ctl::background_thread::write(true);
    weir::cli::main()
}
