//! The arguments of a request, read as Go reads them, with nats-server's words for those that are wrong.

use std::borrow::Cow;

/// Why an argument is wrong, in nats-server's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadArgument(pub String);

/// The arguments of a request. Of those with one name the first counts.
#[derive(Debug)]
pub struct Arguments<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Arguments<'a> {
    /// Of the part of a URL behind its `?`.
    pub fn new(query: Option<&'a str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect())
    }

    /// The text of an argument; empty where it is missing.
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// # Errors
    /// It is no truth value as Go reads them.
    pub fn flag(&self, name: &str) -> Result<bool, BadArgument> {
        match self.text(name) {
            "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            other => Err(wrong("boolean", name, "ParseBool", other, false)),
        }
    }

    /// 0 where it is missing.
    ///
    /// # Errors
    /// It is no number, or too large.
    pub fn unsigned(&self, name: &str) -> Result<u64, BadArgument> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(0);
        }
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_number).ok_or_else(|| wrong("uint64", name, "ParseUint", text, is_number))
    }

    /// 0 where it is missing.
    ///
    /// # Errors
    /// It is no number, or too large.
    pub fn signed(&self, name: &str) -> Result<i64, BadArgument> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(0);
        }
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_number).ok_or_else(|| wrong("int", name, "Atoi", text, is_number))
    }
}

fn wrong(kind: &str, name: &str, parser: &str, text: &str, is_number: bool) -> BadArgument {
    let why = if is_number { "value out of range" } else { "invalid syntax" };
    BadArgument(format!("Error decoding {kind} for '{name}': strconv.{parser}: parsing {text:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_one_name_counts_and_escapes_are_read() {
        let arguments = Arguments::new(Some("user=a%20b+c&user=x&empty&sort=cid"));
        assert_eq!((arguments.text("user"), arguments.text("sort"), arguments.text("none")), ("a b c", "cid", ""));
        assert_eq!(Arguments::new(None).text("user"), "");
    }

    /// What nats-server 2.15.1 answers to the same.
    #[test]
    fn what_is_wrong_is_told_in_nats_servers_words() {
        let arguments = Arguments::new(Some("auth=x&limit=1a&offset=99999999999999999999&cid=-1&ok=T&n=-3&u=7"));
        assert_eq!(
            arguments.flag("auth").unwrap_err().0,
            r#"Error decoding boolean for 'auth': strconv.ParseBool: parsing "x": invalid syntax"#
        );
        assert_eq!(
            arguments.signed("limit").unwrap_err().0,
            r#"Error decoding int for 'limit': strconv.Atoi: parsing "1a": invalid syntax"#
        );
        assert_eq!(
            arguments.signed("offset").unwrap_err().0,
            r#"Error decoding int for 'offset': strconv.Atoi: parsing "99999999999999999999": value out of range"#
        );
        assert_eq!(
            arguments.unsigned("cid").unwrap_err().0,
            r#"Error decoding uint64 for 'cid': strconv.ParseUint: parsing "-1": invalid syntax"#
        );
        assert_eq!((arguments.flag("ok"), arguments.signed("n"), arguments.unsigned("u")), (Ok(true), Ok(-3), Ok(7)));
        assert_eq!((arguments.flag("-"), arguments.signed("-"), arguments.unsigned("-")), (Ok(false), Ok(0), Ok(0)));
    }
}
