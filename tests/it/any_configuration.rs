//! Configurations that nobody has thought of.

use std::fs;

use weir::internals::config::Config;
use weir_testkit::project;

/// Pieces of the reference are cut out, doubled, swapped and replaced: weir does not panic, every finding has a cure,
/// and what is in force reads as the same.
#[test]
fn whatever_is_written_is_right_or_told() {
    let reference = fs::read_to_string(project().join("config/reference.toml")).unwrap();
    let lines: Vec<&str> = reference.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let odd = [
        "[[a]]",
        "[a.b]",
        "= 1",
        "x = [[[",
        "rate = -1",
        "rate = 1e400",
        "listen = 07:32:00",
        "a = \"\\u0000\"",
        "\u{FEFF}",
    ];
    let mut rng = fastrand::Rng::with_seed(56);
    let (mut right, mut wrong) = (0, 0);
    for _ in 0..2_000 {
        let mut text: Vec<&str> = lines.clone();
        for _ in 0..rng.usize(0..4) {
            let (i, j) = (rng.usize(0..text.len()), rng.usize(0..text.len()));
            match rng.u8(0..4) {
                0 => drop(text.remove(i)),
                1 => text.insert(i, text[j]),
                2 => text.swap(i, j),
                _ => text[i] = odd[rng.usize(0..odd.len())],
            }
        }
        match Config::parse("f", &text.join("\n")) {
            Err(findings) => {
                assert!(findings.have_errors());
                assert!(findings.iter().all(|one| one.to_string().contains("; ")), "{findings}");
                wrong += 1;
            }
            Ok(config) => {
                let shown = config.effective().to_string();
                let again = Config::parse("f", &shown).unwrap_or_else(|findings| panic!("{findings}\n{shown}"));
                let plain = |text: &str| -> Vec<String> {
                    let lines = text.lines().filter(|line| !line.starts_with("# users"));
                    lines.map(|line| line.replace("  # default", "")).collect()
                };
                assert_eq!(plain(&shown), plain(&again.effective().to_string()));
                right += 1;
            }
        }
    }
    assert!(right > 300 && wrong > 300, "{right} right, {wrong} wrong");
}
