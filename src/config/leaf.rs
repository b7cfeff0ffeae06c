//! Kinds of single values: how each is read, the error if it cannot be, and how it is printed.

use std::{fmt::Display, ops::RangeInclusive, path::PathBuf, time::Duration};

use strum::VariantArray;

use crate::config::{
    effective::toml_string,
    finding::{Problem, quote},
    node::Node,
    suggest::closest,
};

/// The value of one key.
pub(super) trait Leaf: Sized + PartialEq {
    /// The kind of value in the words of the reference, such as `duration`.
    fn kind() -> String;

    /// Reads the value.
    fn read(node: &Node) -> Result<Self, Problem>;

    /// The value as a TOML literal.
    fn show(&self) -> String;
}

/// What a key accepts. The reading, the errors and the reference all ask the same rule.
pub(super) trait Rule<T> {
    /// Reads and checks a value. An error names what this key accepts.
    fn read(&self, node: &Node) -> Result<T, Problem>;

    /// The range of the values, such as `1 to 1024`.
    fn range(&self) -> Option<String> {
        None
    }
}

/// Accepts every value of its kind.
pub(super) struct Any;

impl<T: Leaf> Rule<T> for Any {
    fn read(&self, node: &Node) -> Result<T, Problem> {
        T::read(node)
    }
}

/// Accepts the values that a function accepts.
pub(super) struct Checked<F>(pub(super) F);

impl<T: Leaf, F: Fn(&T) -> Result<(), Problem>> Rule<T> for Checked<F> {
    fn read(&self, node: &Node) -> Result<T, Problem> {
        T::read(node).and_then(|value| (self.0)(&value).map(|()| value))
    }
}

/// Kinds of values that have an order.
pub(super) trait Ranged: Leaf + PartialOrd {
    /// What to write instead of a `node` that is no value of this kind, where the range is `range`.
    fn instead_of(node: &Node, range: &RangeInclusive<Self>) -> String;

    /// Whether a range that ends here has no end of its own.
    fn is_most(&self) -> bool {
        false
    }
}

/// A range in words: `1 to 1024`, or `1 or more`.
fn span<T: Ranged>(range: &RangeInclusive<T>) -> String {
    let low = range.start().show();
    if range.end().is_most() { format!("{low} or more") } else { format!("{low} to {}", range.end().show()) }
}

/// Accepts a range, both ends included.
pub(super) struct Within<T> {
    range: RangeInclusive<T>,
    /// What holds without the key, where the key is a limit.
    without: Option<&'static str>,
}

/// A rule that accepts a range, both ends included.
pub(super) fn within<T: Ranged>(range: RangeInclusive<T>) -> Within<T> {
    Within { range, without: None }
}

impl<T> Within<T> {
    /// For a limit: errors say that the key can be left out, and that 0 lets nobody in.
    pub(super) fn or_leave_out(self, without: &'static str) -> Self {
        Self { without: Some(without), ..self }
    }
}

impl<T: Ranged> Rule<T> for Within<T> {
    fn read(&self, node: &Node) -> Result<T, Problem> {
        let or = self.without.map_or_else(String::new, |without| format!(", or leave the key out for {without}"));
        let too = |size: &str| {
            let what = match (node, self.without) {
                (Node::Integer(0), Some(_)) => "0 admits nobody".to_owned(),
                (Node::Integer(n), _) => format!("{n} is too {size}"),
                (Node::String(text), _) => format!("{} is too {size}", quote(text)),
                _ => format!("it is too {size}"),
            };
            Err(Problem::new(what, format!("write {}{or}", span(&self.range))))
        };
        match T::read(node) {
            Ok(value) if self.range.contains(&value) => Ok(value),
            Ok(value) if value < *self.range.start() => too("small"),
            Ok(_) => too("large"),
            // It is a number, and does not fit the type.
            Err(_) if matches!(node, Node::Integer(n) if *n < 0) => too("small"),
            Err(Problem { what, .. }) if what.ends_with(TOO_LARGE) => too("large"),
            Err(Problem { what, .. }) => {
                Err(Problem::new(what, format!("write {}{or}", T::instead_of(node, &self.range))))
            }
        }
    }

    fn range(&self) -> Option<String> {
        Some(span(&self.range))
    }
}

/// The end of what is wrong with a number that does not fit its type.
const TOO_LARGE: &str = "is too large";

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
    let what = if *n < 0 { format!("{n} is too small") } else { format!("{n} {TOO_LARGE}") };
    T::try_from(*n).map_err(|_| Problem::new(what, remedy))
}

const WHOLE: &str = "whole number";

impl Leaf for u32 {
    fn kind() -> String {
        WHOLE.into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        whole(node, Self::MAX)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Ranged for u32 {
    fn instead_of(_: &Node, range: &RangeInclusive<Self>) -> String {
        format!("a whole number without quotes, {}", span(range))
    }
    fn is_most(&self) -> bool {
        *self == Self::MAX
    }
}

impl Leaf for usize {
    fn kind() -> String {
        WHOLE.into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        whole(node, Self::MAX)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Ranged for usize {
    fn instead_of(_: &Node, range: &RangeInclusive<Self>) -> String {
        format!("a whole number without quotes, {}", span(range))
    }
}

impl Leaf for bool {
    fn kind() -> String {
        "true or false".into()
    }
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
    fn kind() -> String {
        "duration".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write a number with its unit, such as \"1500ms\" or \"2s\"";
        match node {
            Node::String(text) if without_unit(node).is_some() => {
                Err(Problem::new(format!("{} has no unit", quote(text)), REMEDY))
            }
            Node::String(text) => humantime::parse_duration(text)
                .map_err(|_| Problem::new(format!("{} is not a duration", quote(text)), REMEDY)),
            Node::Integer(n) => Err(Problem::new(format!("{n} has no unit"), REMEDY)),
            other => Err(wrong_type(other, REMEDY)),
        }
    }
    fn show(&self) -> String {
        let seconds = self.as_secs();
        if self.subsec_nanos() == 0 {
            match seconds % 3600 {
                0 if seconds > 0 => format!("\"{}h\"", seconds / 3600),
                _ => format!("\"{seconds}s\""),
            }
        } else if self.subsec_nanos().is_multiple_of(1_000_000) {
            format!("\"{}ms\"", self.as_millis())
        } else {
            format!("\"{}\"", humantime::format_duration(*self))
        }
    }
}

/// The number of a duration that was written without a unit.
fn without_unit(node: &Node) -> Option<u64> {
    match node {
        Node::Integer(n) => u64::try_from(*n).ok(),
        Node::String(text) => text.trim().parse().ok().filter(|&n: &u64| n > 0),
        _ => None,
    }
}

impl Ranged for Duration {
    fn instead_of(node: &Node, range: &RangeInclusive<Self>) -> String {
        let meant: Vec<String> = without_unit(node)
            .into_iter()
            .flat_map(|n| ["s", "ms"].map(|unit| format!("{n}{unit}")))
            .filter(|text| humantime::parse_duration(text).is_ok_and(|duration| range.contains(&duration)))
            .map(|text| format!("{text:?}"))
            .collect();
        match meant.is_empty() {
            true => format!("{}, a number with its unit", span(range)),
            false => meant.join(" or "),
        }
    }
}

impl Leaf for PathBuf {
    fn kind() -> String {
        "path".into()
    }
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
    fn kind() -> String {
        "percentage".into()
    }
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

impl Ranged for Percent {
    fn instead_of(node: &Node, range: &RangeInclusive<Self>) -> String {
        let bare = match node {
            Node::Integer(n) => Self::parse(&format!("{n}%")),
            Node::String(text) => Self::parse(&format!("{text}%")),
            _ => None,
        };
        match bare.filter(|share| range.contains(share)) {
            Some(share) => share.show(),
            None => format!("a percentage, {}", span(range)),
        }
    }
}

/// The name of a server. It is printable and has no blanks, since it becomes a label of metrics and a word in log
/// lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

impl Leaf for Name {
    fn kind() -> String {
        "name".into()
    }
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

/// An enum whose values are written as the names of its variants.
pub(super) trait Words: Copy + PartialEq + VariantArray + Into<&'static str> {}

impl<T: Words> Leaf for T {
    fn kind() -> String {
        choices(T::VARIANTS.iter().map(|&variant| variant.into()))
    }

    fn read(node: &Node) -> Result<Self, Problem> {
        let words: Vec<(&str, T)> = T::VARIANTS.iter().map(|&variant| (variant.into(), variant)).collect();
        word(node, &words)
    }

    fn show(&self) -> String {
        toml_string((*self).into())
    }
}

fn choices<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or ")
}

/// Reads one of a few words.
pub(super) fn word<T: Copy>(node: &Node, words: &[(&str, T)]) -> Result<T, Problem> {
    let choices = choices(words.iter().map(|(word, _)| *word));
    let Node::String(text) = node else {
        return Err(wrong_type(node, format!("write {choices}")));
    };
    words.iter().find(|(word, _)| word == text).map(|(_, value)| *value).ok_or_else(|| {
        let remedy = match closest(text, words.iter().map(|(word, _)| *word)) {
            Some(meant) => format!("did you mean {meant:?}? The choices are {choices}"),
            None => format!("write {choices}"),
        };
        Problem::new(format!("{} is not one of the choices", quote(text)), remedy)
    })
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
    fn what_is_suggested_is_in_the_range_of_the_key() {
        let seconds = Duration::from_secs;
        let said = |node: Node, most: u64| {
            let problem = within(seconds(1)..=seconds(most)).read(&node).unwrap_err();
            format!("{}; {}", problem.what, problem.remedy)
        };
        let text = |text: &str| Node::String(text.into());
        assert_eq!(said(Node::Integer(5), 9), "5 has no unit; write \"5s\"");
        assert_eq!(said(Node::Integer(1500), 3600), "1500 has no unit; write \"1500s\" or \"1500ms\"");
        assert_eq!(said(text("1500"), 9), "\"1500\" has no unit; write \"1500ms\"");
        assert_eq!(said(Node::Integer(0), 9), "0 has no unit; write \"1s\" to \"9s\", a number with its unit");
        assert_eq!(said(text("2h"), 3600), "\"2h\" is too large; write \"1s\" to \"1h\"");

        let said = |node: Node| {
            let problem = within(Percent(0.01)..=Percent(1.0)).read(&node).unwrap_err();
            format!("{}; {}", problem.what, problem.remedy)
        };
        assert_eq!(said(Node::Integer(80)), "80 is a whole number; write \"80%\"");
        assert_eq!(said(text("80")), "\"80\" is no percentage; write \"80%\"");
        assert_eq!(said(text("0%")), "\"0%\" is too small; write \"1%\" to \"100%\"");
        assert_eq!(said(Node::Bool(true)), "true is not text or a number; write a percentage, \"1%\" to \"100%\"");
    }

    #[test]
    fn ranges_say_both_ends() {
        let rule = within(1usize..=9);
        assert_eq!(Rule::range(&rule).as_deref(), Some("1 to 9"));
        assert_eq!(rule.read(&Node::Integer(9)).unwrap(), 9);
        for (n, what) in [(0, "0 is too small"), (-1, "-1 is too small"), (10, "10 is too large")] {
            let problem = rule.read(&Node::Integer(n)).unwrap_err();
            assert_eq!((&*problem.what, &*problem.remedy), (what, "write 1 to 9"));
        }
        let problem = rule.read(&Node::Integer(i128::MAX)).unwrap_err();
        assert!(problem.what.ends_with("is too large"), "{problem:?}");
        let problem = within(1usize..=9).or_leave_out("no limit").read(&Node::Integer(0)).unwrap_err();
        assert_eq!(problem, Problem::new("0 admits nobody", "write 1 to 9, or leave the key out for no limit"));
    }
}
