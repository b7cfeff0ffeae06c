//! Tables for people, no wider than asked for.

use crate::tally::shown;

/// What stands between two columns.
const GAP: usize = 2;
/// No column of text is cut to less.
const LEAST: usize = 8;

/// A column: its heading, and on which side its cells stand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Column<'a> {
    /// May be cut where the table is too wide.
    Text(&'a str),
    Number(&'a str),
}

/// A table of at most `width` characters a line where its numbers allow that, each line indented by two blanks.
pub(super) fn table(columns: &[Column<'_>], rows: &[Vec<String>], width: usize) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
    let headings = columns.iter().map(|column| match column {
        Column::Text(text) | Column::Number(text) => (*text).to_owned(),
    });
    let lines: Vec<Vec<String>> = std::iter::once(headings.collect()).chain(rows).collect();
    let longest = |n: usize| lines.iter().filter_map(|line| line.get(n)).map(|cell| cell.chars().count()).max();
    let mut widths: Vec<usize> = (0..columns.len()).map(|n| longest(n).unwrap_or(0)).collect();
    let all = |widths: &[usize]| widths.iter().map(|width| width + GAP).sum::<usize>();
    while all(&widths) > width {
        let texts = columns.iter().zip(&mut widths).filter(|(column, _)| matches!(column, Column::Text(_)));
        let Some(widest) = texts.map(|(_, width)| width).filter(|width| **width > LEAST).max() else { break };
        *widest -= 1;
    }
    let mut text = String::new();
    for line in &lines {
        let mut shown = String::new();
        for ((cell, column), &width) in line.iter().zip(columns).zip(&widths) {
            let cell = cut(cell, width);
            let pad = " ".repeat(width - cell.chars().count());
            shown.push_str(&" ".repeat(GAP));
            match column {
                Column::Text(_) => shown.extend([&*cell, &*pad]),
                Column::Number(_) => shown.extend([&*pad, &*cell]),
            }
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    text
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A sentence in lines of at most `width` characters, indented as tables are, and further ones a little more.
pub(super) fn wrapped(text: &str, width: usize) -> String {
    let (mut lines, mut line) = (String::new(), " ".repeat(GAP));
    for word in shown_whole(text).split(' ') {
        let is_first = line.trim().is_empty();
        if !is_first && line.chars().count() + 1 + word.chars().count() > width {
            lines.extend([&*line, "\n"]);
            line = " ".repeat(2 * GAP);
        } else if !is_first {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines + &line + "\n"
}

/// A text of weir's own, on one line.
fn shown_whole(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// A time as people say it, in its one or two largest units.
pub(super) fn time(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 120 => format!("{seconds} s"),
        () if minutes < 120 => format!("{minutes} min"),
        () if hours < 48 => format!("{hours} h {:02} min", minutes % 60),
        () => format!("{days} d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_it_may_be() {
        let columns = [Column::Text("name"), Column::Number("count"), Column::Text("reason")];
        let row = |name: &str, count: &str, reason: &str| vec![name.to_owned(), count.to_owned(), reason.to_owned()];
        let rows = [row("orders", "7", "x"), row("a name that is too long for it", "12345", "account_quota")];
        assert_eq!(
            table(&columns, &rows, 40),
            "  name              count  reason\n\
             \x20 orders                7  x\n\
             \x20 a name that is …  12345  account_quota\n"
        );
        assert_eq!(
            table(&columns, &rows, 80).lines().nth(2),
            Some("  a name that is too long for it  12345  account_quota")
        );
        assert!(table(&columns, &rows, 1).lines().all(|line| line.chars().count() <= 27));
        let forged = [row("\u{1b}[31mred\nforged", "1", "")];
        assert_eq!(table(&columns, &forged, 80).lines().count(), 2);
    }

    #[test]
    fn a_sentence_is_wrapped_between_words() {
        assert_eq!(wrapped("one two three four", 11), "  one two\n    three\n    four\n");
        assert_eq!(wrapped("one", 80), "  one\n");
        assert_eq!(wrapped("unbreakable it is", 4), "  unbreakable\n    it\n    is\n");
    }

    #[test]
    fn times_are_said_in_their_largest_units() {
        let said = [5, 119, 120, 7199, 7200, 172_799, 172_800].map(time);
        assert_eq!(said, ["5 s", "119 s", "2 min", "119 min", "2 h 00 min", "47 h 59 min", "2 d"]);
    }
}
