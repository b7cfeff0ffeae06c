//! What a client says of itself, as the log and the endpoints show it.

use memchr::memchr_iter;

use crate::tally::show;

/// User, name, language and version of a client. In one allocation, since a session keeps them for as long as it lives.
#[derive(Debug, Default, Clone)]
pub struct Said(Box<str>);

/// Stands between them: no text that is shown has it.
const BETWEEN: char = '\0';

impl Said {
    /// `version` is that of the client library.
    pub fn new(user: Option<&str>, name: Option<&str>, lang: Option<&str>, version: Option<&str>) -> Self {
        let texts = [user, name, lang, version].map(Option::unwrap_or_default);
        let mut all =
            String::with_capacity(texts.iter().map(|text| text.len()).sum::<usize>().min(260).saturating_add(3));
        for (n, text) in texts.into_iter().enumerate() {
            if n > 0 {
                all.push(BETWEEN);
            }
            show(text, &mut all);
        }
        Self(all.into())
    }

    /// A user name, the public key of an NKey or of a JWT's user, or the name in a certificate.
    pub fn user(&self) -> Option<&str> {
        self.nth(0)
    }

    pub fn name(&self) -> Option<&str> {
        self.nth(1)
    }

    pub fn lang(&self) -> Option<&str> {
        self.nth(2)
    }

    pub fn version(&self) -> Option<&str> {
        self.nth(3)
    }

    fn nth(&self, n: usize) -> Option<&str> {
        let mut between = memchr_iter(BETWEEN as u8, self.0.as_bytes());
        let begin = match n.checked_sub(1) {
            None => 0,
            Some(before) => between.nth(before)?.saturating_add(1),
        };
        let end = between.next().unwrap_or(self.0.len());
        self.0.get(begin..end).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_what_was_said_and_nothing_where_nothing_was() {
        let said = Said::new(Some("app"), None, Some("go"), Some("1.39.0"));
        assert_eq!((said.user(), said.name(), said.lang()), (Some("app"), None, Some("go")));
        assert_eq!(said.version(), Some("1.39.0"));
        let said = Said::new(Some("a\0b"), Some("orders"), Some(""), None);
        assert_eq!((said.user(), said.name(), said.lang()), (Some("a\\0b"), Some("orders"), None));
        assert_eq!((Said::default().user(), Said::default().version()), (None, None));
    }
}
