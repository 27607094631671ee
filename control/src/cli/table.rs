//! Tables in plain text: columns aligned, numbers to the right.

use std::io::{self, Write};

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under a header. Widths only grow, so that pages printed one after the other line up.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    widths: Vec<usize>,
    rows: Vec<Vec<String>>,
    headed: bool,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        let widths = columns.iter().map(|(title, _)| title.chars().count()).collect();
        Self { columns: columns.to_vec(), widths, rows: Vec::new(), headed: false }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(cells);
    }

    /// Writes the rows so far, below the header if it is the first time.
    pub(super) fn flush(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if !self.headed {
            let titles: Vec<String> = self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
            self.line(out, &titles)?;
            self.headed = true;
        }
        for row in std::mem::take(&mut self.rows) {
            self.line(out, &row)?;
        }
        Ok(())
    }

    fn line(&self, out: &mut dyn Write, cells: &[String]) -> io::Result<()> {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.iter().zip(&self.widths).zip(&self.columns) {
            let (before, after) = match (align, width.saturating_sub(cell.chars().count())) {
                (Align::Left, blank) => (0, blank),
                (Align::Right, blank) => (blank, 0),
            };
            line.extend(std::iter::repeat_n(' ', before));
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', after + 2));
        }
        writeln!(out, "{}", line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_pages_too() {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right)]);
        let mut out = Vec::new();
        table.row(vec!["a".into(), "1000".into()]);
        table.flush(&mut out).expect("memory");
        table.row(vec!["äöü".into(), "1".into()]);
        table.flush(&mut out).expect("memory");
        assert_eq!(String::from_utf8_lossy(&out), "NAME     N\na     1000\näöü      1\n");
    }
}
