//! The text of a configuration: a file, or standard input.

use std::{io::Read, path::Path};

use crate::{
    config::{
        finding::{Findings, Problem, Severity},
        node::Source,
    },
    operator_file,
};

/// The longest configuration, in bytes: 400,000 tables of users have 15 MB. Reading takes up to a hundred times as much
/// memory, so a file that is no configuration at all must not get far.
pub const LONGEST: usize = 16 << 20;

/// How the command line names standard input.
const STANDARD_INPUT: &str = "-";

/// The name of a file in errors.
pub(super) fn name(path: &Path) -> String {
    if is_standard_input(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// Whether a path stands for standard input.
pub(super) fn is_standard_input(path: &Path) -> bool {
    path == Path::new(STANDARD_INPUT)
}

/// Reads the text. Where it cannot be read, `remedy` says what to do.
pub(super) fn read(path: &Path, remedy: &'static str) -> Result<String, Findings> {
    let bytes = if is_standard_input(path) {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(LONGEST as u64 + 1).read_to_end(&mut bytes);
        match read {
            Ok(n) if n > LONGEST => Err(std::io::Error::other(format!("it has more than {LONGEST} bytes"))),
            Ok(_) => Ok(bytes),
            Err(err) => Err(err),
        }
    } else {
        operator_file::read(path, LONGEST as u64)
    };
    let finding = |problem| Source::without_lines(&name(path)).finding(Severity::Error, String::new(), problem);
    let bytes = bytes
        .map_err(|err| Findings::new(vec![finding(Problem::new(format!("it cannot be read ({err})"), remedy))]))?;
    String::from_utf8(bytes).map_err(|err| {
        let (at, bytes) = (err.utf8_error().valid_up_to(), err.as_bytes());
        let is_utf16 = bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]);
        let what = match is_utf16 {
            true => "it is UTF-16".to_owned(),
            false => format!("this is not UTF-8: the byte 0x{:02X}", bytes[at]),
        };
        let before = &bytes[..at];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let mut finding = finding(Problem::new(what, "save the file as UTF-8"));
        finding.place.line = Some(1 + before.iter().filter(|&&byte| byte == b'\n').count());
        finding.place.column = Some(1 + String::from_utf8_lossy(&before[line_start..]).chars().count());
        Findings::new(vec![finding])
    })
}

/// Of a command that needs a file.
pub(super) const NAME_ONE: &str = "name a configuration with -c (`-c -` is standard input)";
/// Of one that does without, too.
pub(super) const NAME_ONE_OR_SERVERS: &str =
    "name a configuration with -c (`-c -` is standard input), or servers with --server";
