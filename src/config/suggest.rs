//! "Did you mean": the word that was probably meant by one that is not known.

use strsim::damerau_levenshtein;

/// Longer words are not compared: the time for it grows with the square of the length.
const LONGEST: usize = 64;

/// The closest of `words`, if it is close: one letter in three may be wrong, left out, doubled or swapped; case, and
/// `-` for `_`, do not count.
pub(super) fn closest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |word: &str| word.trim().to_lowercase().replace('-', "_");
    let word = plain(word);
    // Of numbers, such as versions, every one is close to every other.
    if word.len() > LONGEST || !word.contains(char::is_alphabetic) {
        return None;
    }
    let with_distance = words.into_iter().map(|other| (damerau_levenshtein(&word, &plain(other)), other));
    let close = with_distance.filter(|&(distance, other)| distance * 3 <= word.len().min(other.len()).max(3));
    close.min_by_key(|&(distance, _)| distance).map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        let keys = ["1.2", "max_connections", "rate", "burst", "warn_only", "admission", "text", "json"];
        for (word, meant) in [
            ("max_connection", Some("max_connections")),
            ("max-connections", Some("max_connections")),
            ("maxconnections", Some("max_connections")),
            ("Rate", Some("rate")),
            ("raet", Some("rate")),
            ("admision", Some("admission")),
            ("jsno", Some("json")),
            ("xml", None),
            ("x", None),
            ("", None),
            ("1.1", None),
            ("nonsense", None),
        ] {
            assert_eq!(closest(word, keys), meant, "{word}");
        }
        assert_eq!(closest(&"a".repeat(1 << 20), keys), None);
    }
}
