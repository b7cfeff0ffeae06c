//! Kinds of single values: how each is read, the error if it cannot be, and how it is printed.

use std::{fmt::Display, ops::RangeInclusive, path::PathBuf, time::Duration};

use strum::VariantArray;

use crate::config::{
    effective::toml_string,
    error::{Problem, quote},
    node::Node,
};

/// The value of one key.
pub(super) trait Leaf: Sized + PartialEq {
    /// Reads the value.
    fn read(node: &Node) -> Result<Self, Problem>;

    /// The value as a TOML literal.
    fn show(&self) -> String;
}

/// A check that accepts every value.
pub(super) fn any<T>(_: &T) -> Result<(), Problem> {
    Ok(())
}

/// A check that accepts a range, both ends included.
pub(super) fn within<T: Leaf + PartialOrd>(range: RangeInclusive<T>) -> impl Fn(&T) -> Result<(), Problem> {
    move |value| {
        if range.contains(value) {
            return Ok(());
        }
        let (low, high) = (range.start(), range.end());
        let size = if value < low { "small" } else { "large" };
        Err(Problem::new(format!("{} is too {size}", value.show()), format!("write {} to {}", low.show(), high.show())))
    }
}

/// The problem of a value that has the wrong type, such as `"x" is a string`. It shows the value, unless that is a
/// list, a table or a date.
pub(super) fn wrong_type(node: &Node, remedy: impl Into<String>) -> Problem {
    let what = match node {
        Node::String(text) => format!("{} is a string", quote(text)),
        Node::Integer(n) => format!("{n} is a whole number"),
        Node::Float(f) => format!("{f} is a fraction"),
        Node::Bool(b) => format!("{b} is not text or a number"),
        Node::Date | Node::List(_) | Node::Table(_) => format!("it is {}", node.kind()),
    };
    Problem::new(what, remedy)
}

fn whole<T: TryFrom<i128> + Display>(node: &Node, max: T) -> Result<T, Problem> {
    let remedy = format!("write a whole number from 0 to {max}, without quotes");
    let Node::Integer(n) = node else {
        return Err(wrong_type(node, remedy));
    };
    T::try_from(*n).map_err(|_| Problem::new(format!("{n} is out of range"), remedy))
}

impl Leaf for u32 {
    fn read(node: &Node) -> Result<Self, Problem> {
        whole(node, Self::MAX)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Leaf for usize {
    fn read(node: &Node) -> Result<Self, Problem> {
        whole(node, Self::MAX)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Leaf for bool {
    fn read(node: &Node) -> Result<Self, Problem> {
        match node {
            Node::Bool(value) => Ok(*value),
            other => Err(wrong_type(other, "write true or false, without quotes")),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Leaf for Duration {
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write a number with its unit, such as \"1500ms\" or \"2s\"";
        match node {
            Node::String(text) => humantime::parse_duration(text)
                .map_err(|_| Problem::new(format!("{} is not a duration", quote(text)), REMEDY)),
            Node::Integer(n) => Err(Problem::new(format!("{n} has no unit"), format!("write \"{n}s\" or \"{n}ms\""))),
            other => Err(wrong_type(other, REMEDY)),
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
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write the path of a file, such as \"weir.ports\"";
        match node {
            Node::String(text) if text.is_empty() => Err(Problem::new("it is empty", REMEDY)),
            Node::String(text) => Ok(Self::from(text)),
            other => Err(wrong_type(other, REMEDY)),
        }
    }
    fn show(&self) -> String {
        toml_string(&self.to_string_lossy())
    }
}

/// A share from 0.0 to 1.0, written `"80%"`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(super) struct Percent(pub(super) f64);

impl Percent {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
        (0.0..=100.0).contains(&number).then_some(Self(number / 100.0))
    }
}

impl Leaf for Percent {
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write a percentage from \"0%\" to \"100%\"";
        match node {
            Node::String(text) => {
                Self::parse(text).ok_or_else(|| Problem::new(format!("{} is no percentage", quote(text)), REMEDY))
            }
            other => Err(wrong_type(other, REMEDY)),
        }
    }
    fn show(&self) -> String {
        // Rounded, since 0.07 * 100.0 prints as 7.000000000000001.
        format!("\"{}%\"", (self.0 * 100.0 * 1e6).round() / 1e6)
    }
}

/// The name of a server. It is printable and has no blanks, since it becomes a label of metrics and a word in log
/// lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

impl Leaf for Name {
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write 1 to 64 printable characters without blanks or quotes";
        let Node::String(text) = node else {
            return Err(wrong_type(node, REMEDY));
        };
        let fits = |c: char| !c.is_whitespace() && !c.is_control() && c != '"';
        if (1..=64).contains(&text.chars().count()) && text.chars().all(fits) {
            Ok(Self(text.clone()))
        } else {
            Err(Problem::new(format!("{} is no usable name", quote(text)), REMEDY))
        }
    }
    fn show(&self) -> String {
        toml_string(&self.0)
    }
}

/// Reads one of the names of an enum.
pub(super) fn variant<T: VariantArray + Copy + Into<&'static str>>(node: &Node) -> Result<T, Problem> {
    let words: Vec<(&str, T)> = T::VARIANTS.iter().map(|&variant| (variant.into(), variant)).collect();
    word(node, &words)
}

/// The literal of a variant of an enum.
pub(super) fn show_variant(variant: impl Into<&'static str>) -> String {
    toml_string(variant.into())
}

/// Reads one of a few words.
pub(super) fn word<T: Copy>(node: &Node, words: &[(&str, T)]) -> Result<T, Problem> {
    let choices: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    let remedy = format!("write {}", choices.join(" or "));
    let Node::String(text) = node else {
        return Err(wrong_type(node, remedy));
    };
    words
        .iter()
        .find(|(word, _)| word == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| Problem::new(format!("{} is not one of the choices", quote(text)), remedy))
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
        let problem = Duration::read(&Node::Integer(5)).unwrap_err();
        assert_eq!(problem.what, "5 has no unit");
        assert_eq!(problem.remedy, "write \"5s\" or \"5ms\"");
    }

    #[test]
    fn ranges_say_both_ends() {
        let check = within(1u32..=9);
        assert!(check(&9).is_ok());
        assert_eq!(check(&0).unwrap_err().what, "0 is too small");
        assert_eq!(check(&10).unwrap_err().remedy, "write 1 to 9");
    }
}
