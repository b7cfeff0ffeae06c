//! Writes what packages have beside the binary, made from the command line itself: man pages (`man1/weir.1`,
//! `man1/weir-run.1` and so on) and shell completions.
//!
//! ```console
//! $ cargo run --example command_line_files -- target/command-line
//! ```
//!
//! It is an example and no command of weir, so that what makes these files is not in the binary.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

fn main() -> io::Result<()> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: command_line_files FOLDER");
        std::process::exit(64);
    };
    write(&folder)
}

fn write(folder: &Path) -> io::Result<()> {
    let [man, completions] = ["man1", "completions"].map(|name| folder.join(name));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    // The commit, which `weir --version` has, would make other pages of the same command line.
    let command = weir::cli::Cli::command().version(env!("CARGO_PKG_VERSION"));
    clap_mangen::generate_to(command.clone(), &man)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut command.clone(), "weir", &completions)?;
    }
    Ok(())
}
