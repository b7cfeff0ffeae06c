//! Texts of clients and servers as the log shows them: on one line, without characters that change what a terminal
//! shows, and no longer than needed to recognise them.

/// The most characters of such a text that are shown.
pub const MOST_SHOWN: usize = 64;

/// Appends `text` as the log shows it: control characters, and others that cannot be seen or that change the direction
/// of writing, as Rust escapes them, and `…` for what is cut off. What is shown once is shown in the same way again.
pub fn show(text: &str, out: &mut String) {
    for (n, c) in text.chars().enumerate() {
        if n == MOST_SHOWN {
            out.push('…');
            return;
        }
        // These three can be seen. Whoever writes the log escapes them where its format needs it.
        if matches!(c, ' '..='~') {
            out.push(c);
        } else {
            out.extend(c.escape_debug());
        }
    }
}

/// The same as a text of its own.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MOST_SHOWN));
    show(text, &mut out);
    out
}

/// As one of a list in which commas stand between the entries.
pub(super) fn shown_in_list(text: &str) -> String {
    shown(text).replace(',', "\\u{2c}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_cannot_make_a_line_of_its_own_nor_colour_it() {
        assert_eq!(shown("orders\n2026 ERROR forged"), "orders\\n2026 ERROR forged");
        assert_eq!(shown("\u{1b}[31mred\0"), "\\u{1b}[31mred\\0");
        assert_eq!(shown("\u{202e}drawkcab \u{2028}"), "\\u{202e}drawkcab \\u{2028}");
        assert_eq!(shown("Müller \"a\\b\" 日本"), "Müller \"a\\b\" 日本");
        assert_eq!(shown(&"x".repeat(65)), format!("{}…", "x".repeat(64)));
        assert_eq!(shown_in_list("a 5, b"), "a 5\\u{2c} b");
    }

    proptest! {
        #[test]
        fn nothing_that_is_shown_is_a_control_character_or_long(text in any::<String>()) {
            let shown = shown(&text);
            prop_assert!(!shown.chars().any(char::is_control));
            prop_assert!(shown.len() <= 10 * MOST_SHOWN + '…'.len_utf8());
            prop_assert!(!shown_in_list(&text).contains(','));
        }
    }
}
