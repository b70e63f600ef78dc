//! Tables as kubectl prints them: columns side by side, and no lines between.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use setupkey_operator::plain::plain;
use unicode_width::UnicodeWidthStr;

/// Blanks between two columns.
const GAP: usize = 2;

/// What stands where there is nothing to say.
pub const NOTHING: &str = "–";

/// How a text stands out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Tone {
    #[default]
    Plain,
    /// All is well.
    Good,
    /// A person should look.
    Warn,
    /// A person must act.
    Bad,
    /// Of no matter.
    Faint,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Tone::Plain => Style::new(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warn => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default(),
            Tone::Faint => Style::new().dimmed(),
        }
    }

    /// The text in this tone. The printer takes the codes out where there are no colours.
    pub fn paint(self, text: &str) -> String {
        let style = self.style();
        if self == Tone::Plain { text.to_owned() } else { format!("{style}{text}{style:#}") }
    }
}

/// A text and its tone.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A text that stands out. Texts of others are made plain.
    pub fn new(text: &str, tone: Tone) -> Self {
        Self { text: plain(text).into_owned(), tone }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text.as_ref(), Tone::Plain)
    }
}

/// Rows of cells below a header.
pub struct Table {
    header: Option<Vec<Cell>>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(columns: &[&str], no_headers: bool) -> Self {
        let header = columns.iter().map(Cell::from).collect();
        Self { header: (!no_headers).then_some(header), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// The lines of the table. A table without rows has no header either.
    pub fn render(&self) -> String {
        self.render_below(&mut Vec::new())
    }

    /// The lines of a table that stands below others: its columns are at least as wide as theirs. `widths` is theirs, and is
    /// then that of all of them.
    pub fn render_below(&self, widths: &mut Vec<usize>) -> String {
        let lines = || self.header.iter().filter(|_| !self.rows.is_empty()).chain(&self.rows);
        let columns = lines().map(Vec::len).max().unwrap_or(0);
        let width = |at: usize| lines().filter_map(|line| line.get(at)).map(|cell| cell.text.width()).max();
        widths.resize(widths.len().max(columns), 0);
        widths.iter_mut().enumerate().for_each(|(at, widest)| *widest = width(at).unwrap_or(0).max(*widest));
        let mut text = String::new();
        for line in lines() {
            let mut blanks = 0;
            for (cell, width) in line.iter().zip(widths.iter()) {
                // Blanks are written before the next text, so that no line ends with any.
                if !cell.text.is_empty() {
                    let _ = write!(text, "{:blanks$}{}", "", cell.tone.paint(&cell.text));
                    blanks = 0;
                }
                blanks += width - cell.text.width() + GAP;
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(&["NAME", "STATE", "NOTE"], false);
        table.push(vec!["büro".into(), Cell::new("valid", Tone::Good), "".into()]);
        table.push(vec!["東京".into(), "".into(), "a\nb".into()]);
        let shown = "NAME  STATE  NOTE\nbüro  \u{1b}[32mvalid\u{1b}[0m\n東京         a\\nb\n";
        assert_eq!(table.render(), shown);
    }

    #[test]
    fn a_table_below_another_one_has_its_columns() {
        let mut widths = Vec::new();
        let mut table = Table::new(&["NAME", "STATE"], false);
        table.push(vec!["office".into(), "valid".into()]);
        assert_eq!(table.render_below(&mut widths), "NAME    STATE\noffice  valid\n");
        let mut table = Table::new(&["NAME", "STATE"], true);
        table.push(vec!["a".into(), "b".into()]);
        assert_eq!(table.render_below(&mut widths), "a       b\n");
    }

    #[test]
    fn without_rows_there_is_nothing() {
        assert_eq!(Table::new(&["NAME"], false).render(), "");
    }
}
