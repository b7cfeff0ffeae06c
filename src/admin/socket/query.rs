//! The arguments of a verb: the query of its URL, as `?level=debug`.

use crate::admin::socket::answer::NotDone;

/// Arguments that nobody has asked for yet.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The value of an argument that may be left out.
    ///
    /// # Errors
    /// It is there twice.
    pub fn optional(&mut self, name: &str) -> Result<Option<String>, NotDone> {
        let mut found = self.0.extract_if(.., |(key, _)| key == name).map(|(_, value)| value);
        let first = found.next();
        match found.next() {
            None => Ok(first),
            Some(_) => Err(NotDone::Usage(format!("{name} is there twice"))),
        }
    }

    /// The value of an argument that must be there.
    ///
    /// # Errors
    /// It is not there, or twice, or empty.
    pub fn required(&mut self, name: &str) -> Result<String, NotDone> {
        let value = self.optional(name)?.filter(|value| !value.is_empty());
        value.ok_or_else(|| NotDone::Usage(format!("{name} is missing: write ?{name}=…")))
    }

    /// All arguments have been asked for that there are.
    ///
    /// # Errors
    /// One is left, which the verb does not have.
    pub fn end(self) -> Result<(), NotDone> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(NotDone::Usage(format!("there is no argument {name:?} here"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_is_one_that_the_verb_has() {
        let mut query = Query::parse("server=n1%20b&rate=5");
        assert_eq!(query.required("server").unwrap(), "n1 b");
        assert_eq!(query.optional("older_than").unwrap(), None);
        assert_eq!(query.end(), Err(NotDone::Usage("there is no argument \"rate\" here".into())));
        assert!(Query::parse("a=1&a=2").optional("a").is_err());
        assert!(Query::parse("server=").required("server").is_err());
        assert_eq!(Query::parse("").end(), Ok(()));
    }
}
