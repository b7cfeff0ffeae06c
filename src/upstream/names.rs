//! The names that a server has had, of which the last one counts.

use std::sync::OnceLock;

/// One name after another. Whoever has read one may keep it for as long as the server lives: a log line or a label is
/// made without a copy. A server is renamed only by its operator, and a name takes some bytes.
#[derive(Debug, Default)]
pub struct Names(OnceLock<Box<Name>>);

#[derive(Debug)]
struct Name {
    name: String,
    later: Names,
}

impl Names {
    pub fn new(name: Option<String>) -> Self {
        let names = Self::default();
        if let Some(name) = name {
            names.push(name);
        }
        names
    }

    /// The last one.
    pub fn last(&self) -> Option<&str> {
        let mut last = self.0.get()?;
        while let Some(later) = last.later.0.get() {
            last = later;
        }
        Some(&last.name)
    }

    /// Its name, if it has none yet.
    pub fn first(&self, name: &str) {
        if self.0.get().is_none() {
            let _ = self.0.set(Box::new(Name { name: name.to_owned(), later: Self::default() }));
        }
    }

    /// Another name from now on.
    pub fn push(&self, name: String) {
        if self.last() == Some(&name) {
            return;
        }
        let mut new = Box::new(Name { name, later: Self::default() });
        let mut at = self;
        while let Err(again) = at.0.set(new) {
            new = again;
            let Some(taken) = at.0.get() else { return };
            at = &taken.later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_counts_and_the_first_one_is_taken_once() {
        let names = Names::default();
        assert_eq!(names.last(), None);
        names.first("a");
        let kept = names.last();
        names.first("b");
        assert_eq!(names.last(), Some("a"));
        names.push("c".into());
        names.push("c".into());
        names.push("d".into());
        names.first("e");
        assert_eq!((names.last(), kept), (Some("d"), Some("a")));
    }
}
