//! Tables in plain text: columns aligned, numbers to the right.

use std::io::{self, Write};

use super::style::{Tone, paint};

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// What stands in a row's column.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// In colour, where there are colours.
    pub(super) fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Some(tone) }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tone: None }
    }
}

/// Rows under a header. Widths only grow, so that pages printed one after the other line up.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    widths: Vec<usize>,
    rows: Vec<Vec<Cell>>,
    headed: bool,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        let widths = columns.iter().map(|(title, _)| title.chars().count()).collect();
        Self { columns: columns.to_vec(), widths, rows: Vec::new(), headed: false }
    }

    /// One without a header.
    pub(super) fn bare(columns: &[Align]) -> Self {
        let columns: Vec<_> = columns.iter().map(|align| ("", *align)).collect();
        Self { headed: true, ..Self::new(&columns) }
    }

    pub(super) fn row<C: Into<Cell>>(&mut self, cells: Vec<C>) {
        let cells: Vec<Cell> = cells.into_iter().map(Into::into).collect();
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.width());
        }
        self.rows.push(cells);
    }

    /// Writes the rows so far, below the header if it is the first time.
    pub(super) fn flush(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if !self.headed {
            let titles: Vec<Cell> =
                self.columns.iter().map(|(title, _)| Cell::toned(Tone::Head, *title)).collect();
            self.line(out, &titles)?;
            self.headed = true;
        }
        for row in std::mem::take(&mut self.rows) {
            self.line(out, &row)?;
        }
        Ok(())
    }

    fn line(&self, out: &mut dyn Write, cells: &[Cell]) -> io::Result<()> {
        let mut line = String::new();
        // Written before the next cell that is not empty: no line ends with blanks.
        let mut blanks = 0;
        for ((cell, width), (_, align)) in cells.iter().zip(&self.widths).zip(&self.columns) {
            let (before, after) = match (align, width.saturating_sub(cell.width())) {
                (Align::Left, blank) => (0, blank),
                (Align::Right, blank) => (blank, 0),
            };
            blanks += before;
            if !cell.text.is_empty() {
                line.extend(std::iter::repeat_n(' ', std::mem::take(&mut blanks)));
                line.push_str(&cell.tone.map_or_else(|| cell.text.clone(), |tone| paint(tone, &cell.text)));
            }
            blanks += after + 2;
        }
        writeln!(out, "{line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_pages_too() {
        let columns = [("NAME", Align::Left), ("N", Align::Right), ("", Align::Left)];
        let mut table = Table::new(&columns);
        let mut out = Vec::new();
        let mut row = |name: &str, number: &str| {
            let cells = vec![Cell::toned(Tone::Good, name), number.to_owned().into(), String::new().into()];
            table.row(cells);
            table.flush(&mut out).expect("memory");
        };
        row("a", "1000");
        row("äöü", "1");
        row("", "7");
        assert_eq!(String::from_utf8_lossy(&out), "NAME     N\na     1000\näöü      1\n         7\n");
    }
}
