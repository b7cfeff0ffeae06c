//! Single values: how each kind is read, what is said when it cannot be, and how it is printed back.

use std::{fmt::Display, ops::RangeInclusive, path::PathBuf, time::Duration};

use crate::config::{
    effective::toml_string,
    error::{Wrong, quote},
    node::Node,
};

/// A value that one key can hold.
pub(super) trait Leaf: Sized + PartialEq {
    /// Reads it, or says what is wrong and what would be right.
    fn read(node: &Node) -> Result<Self, Wrong>;

    /// The TOML literal.
    fn show(&self) -> String;
}

/// A check that passes everything.
pub(super) fn any<T>(_: &T) -> Result<(), Wrong> {
    Ok(())
}

/// A check for a range, both ends included.
pub(super) fn within<T: Leaf + PartialOrd>(range: RangeInclusive<T>) -> impl Fn(&T) -> Result<(), Wrong> {
    move |value| {
        if range.contains(value) {
            return Ok(());
        }
        let (low, high) = (range.start(), range.end());
        let size = if value < low { "small" } else { "large" };
        Err(Wrong::new(format!("{} is too {size}", value.show()), format!("write {} to {}", low.show(), high.show())))
    }
}

/// `"x" is a string`, with the value where it is short and tells something.
pub(super) fn misfit(node: &Node, right: impl Into<String>) -> Wrong {
    let what = match node {
        Node::String(text) => format!("{} is a string", quote(text)),
        Node::Integer(n) => format!("{n} is a whole number"),
        Node::Float(f) => format!("{f} is a fraction"),
        Node::Bool(b) => format!("{b} is not text or a number"),
        Node::Date | Node::List(_) | Node::Table(_) => format!("it is {}", node.kind()),
    };
    Wrong::new(what, right)
}

fn whole<T: TryFrom<i128> + Display>(node: &Node, max: T) -> Result<T, Wrong> {
    let right = format!("write a whole number from 0 to {max}, without quotes");
    let Node::Integer(n) = node else {
        return Err(misfit(node, right));
    };
    T::try_from(*n).map_err(|_| Wrong::new(format!("{n} is out of range"), right))
}

impl Leaf for u32 {
    fn read(node: &Node) -> Result<Self, Wrong> {
        whole(node, Self::MAX)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Leaf for usize {
    fn read(node: &Node) -> Result<Self, Wrong> {
        whole(node, Self::MAX)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Leaf for bool {
    fn read(node: &Node) -> Result<Self, Wrong> {
        match node {
            Node::Bool(value) => Ok(*value),
            other => Err(misfit(other, "write true or false, without quotes")),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Leaf for Duration {
    fn read(node: &Node) -> Result<Self, Wrong> {
        const RIGHT: &str = "write a number with its unit, such as \"1500ms\" or \"2s\"";
        match node {
            Node::String(text) => humantime::parse_duration(text)
                .map_err(|_| Wrong::new(format!("{} is not a duration", quote(text)), RIGHT)),
            Node::Integer(n) => Err(Wrong::new(format!("{n} has no unit"), format!("write \"{n}s\" or \"{n}ms\""))),
            other => Err(misfit(other, RIGHT)),
        }
    }
    fn show(&self) -> String {
        if self.subsec_nanos() == 0 {
            format!("\"{}s\"", self.as_secs())
        } else if self.subsec_nanos().is_multiple_of(1_000_000) {
            format!("\"{}ms\"", self.as_millis())
        } else {
            format!("\"{}\"", humantime::format_duration(*self))
        }
    }
}

impl Leaf for PathBuf {
    fn read(node: &Node) -> Result<Self, Wrong> {
        const RIGHT: &str = "write the path of a file, such as \"weir.ports\"";
        match node {
            Node::String(text) if text.is_empty() => Err(Wrong::new("it is empty", RIGHT)),
            Node::String(text) => Ok(Self::from(text)),
            other => Err(misfit(other, RIGHT)),
        }
    }
    fn show(&self) -> String {
        toml_string(&self.to_string_lossy())
    }
}

/// A part of a whole, 0.0 to 1.0, written `"80%"`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(super) struct Percent(pub(super) f64);

impl Percent {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
        (0.0..=100.0).contains(&number).then_some(Self(number / 100.0))
    }
}

impl Leaf for Percent {
    fn read(node: &Node) -> Result<Self, Wrong> {
        const RIGHT: &str = "write a percentage from \"0%\" to \"100%\"";
        match node {
            Node::String(text) => {
                Self::parse(text).ok_or_else(|| Wrong::new(format!("{} is no percentage", quote(text)), RIGHT))
            }
            other => Err(misfit(other, RIGHT)),
        }
    }
    fn show(&self) -> String {
        // Rounded, since 0.07 * 100.0 prints as 7.000000000000001.
        format!("\"{}%\"", (self.0 * 100.0 * 1e6).round() / 1e6)
    }
}

/// A name of a server: printable, without blanks, since it becomes a metric's label and a word in log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

impl Leaf for Name {
    fn read(node: &Node) -> Result<Self, Wrong> {
        const RIGHT: &str = "write 1 to 64 printable characters without blanks or quotes";
        let Node::String(text) = node else {
            return Err(misfit(node, RIGHT));
        };
        let fits = |c: char| !c.is_whitespace() && !c.is_control() && c != '"';
        if (1..=64).contains(&text.chars().count()) && text.chars().all(fits) {
            Ok(Self(text.clone()))
        } else {
            Err(Wrong::new(format!("{} is no usable name", quote(text)), RIGHT))
        }
    }
    fn show(&self) -> String {
        toml_string(&self.0)
    }
}

/// Reads one of a few words.
pub(super) fn word<T: Copy>(node: &Node, words: &[(&str, T)]) -> Result<T, Wrong> {
    let choices: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    let right = format!("write {}", choices.join(" or "));
    let Node::String(text) = node else {
        return Err(misfit(node, right));
    };
    words
        .iter()
        .find(|(word, _)| word == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| Wrong::new(format!("{} is not one of the choices", quote(text)), right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_they_are_read() {
        for text in ["1500ms", "2s", "0s", "1ms"] {
            let node = Node::String(text.into());
            let shown = Duration::read(&node).unwrap().show();
            assert_eq!(shown, format!("\"{text}\""));
        }
        for text in ["2%", "7%", "0%", "12.5%", "100%"] {
            let shown = Percent::read(&Node::String(text.into())).unwrap().show();
            assert_eq!(shown, format!("\"{text}\""));
        }
    }

    #[test]
    fn a_duration_needs_a_unit() {
        let wrong = Duration::read(&Node::Integer(5)).unwrap_err();
        assert_eq!(wrong.what, "5 has no unit");
        assert_eq!(wrong.right, "write \"5s\" or \"5ms\"");
    }

    #[test]
    fn ranges_say_both_ends() {
        let check = within(1u32..=9);
        assert!(check(&9).is_ok());
        assert_eq!(check(&0).unwrap_err().what, "0 is too small");
        assert_eq!(check(&10).unwrap_err().right, "write 1 to 9");
    }
}
