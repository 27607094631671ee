//! A terminal's screen as SVG: runs of equal cells are texts, blocks of graphs are rectangles, so that no font matters.

use std::fmt::Write;

use vt100::{Cell, Color, Screen};

/// A cell, in pixels, and where its text stands.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
const BASELINE: f64 = 13.5;
const MARGIN: f64 = 12.0;
const FONT: &str = "font-family=\"'DejaVu Sans Mono',Menlo,Consolas,monospace\" font-size=\"14\"";
const PAPER: &str = "#16181d";
const INK: &str = "#d8dae0";
/// The first eight of a terminal's colours, and grey.
const COLOURS: [&str; 9] =
    ["#16181d", "#f2777a", "#8fd18f", "#e9c46a", "#7aa6da", "#c9a0e8", "#6cc5c1", "#d8dae0", "#8a8f98"];

/// How a cell is drawn.
#[derive(Clone, Copy, PartialEq)]
struct Look {
    ink: &'static str,
    paper: Option<&'static str>,
    bold: bool,
    dim: bool,
}

fn look(cell: &Cell) -> Look {
    let colour = |colour: Color| match colour {
        Color::Idx(number) => COLOURS.get(usize::from(number)).copied(),
        Color::Default | Color::Rgb(..) => None,
    };
    let (ink, paper) = (colour(cell.fgcolor()), colour(cell.bgcolor()));
    let (ink, paper) = if cell.inverse() {
        (paper.unwrap_or(PAPER), Some(ink.unwrap_or(INK)))
    } else {
        (ink.unwrap_or(INK), paper)
    };
    Look { ink, paper, bold: cell.bold(), dim: cell.dim() }
}

/// Eighths of a cell's height, of a block.
fn block(text: &str) -> Option<u32> {
    let character = text.chars().next()?;
    ('▁'..='█').contains(&character).then(|| u32::from(character) - u32::from('▁') + 1)
}

/// The picture.
pub(crate) fn svg(screen: &Screen) -> String {
    let (rows, columns) = screen.size();
    let (width, height) = (f64::from(columns) * WIDTH, f64::from(rows) * HEIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {:.0}\" {FONT} xml:space=\"preserve\">\n\
         <title>flyover top</title>\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{PAPER}\"/>\n",
        width + 2.0 * MARGIN,
        height + 2.0 * MARGIN,
    );
    for row in 0..rows {
        let mut run: Option<(u16, Look, String)> = None;
        for column in 0..columns {
            let Some(cell) = screen.cell(row, column) else { continue };
            let (look, text) = (look(cell), if cell.has_contents() { cell.contents() } else { " " });
            if let Some(eighths) = block(text) {
                finish(&mut out, row, run.take());
                graph(&mut out, row, column, eighths, look.ink);
                continue;
            }
            match &mut run {
                Some((_, before, words)) if *before == look => words.push_str(text),
                _ => {
                    finish(&mut out, row, run.take());
                    run = Some((column, look, text.to_owned()));
                }
            }
        }
        finish(&mut out, row, run);
    }
    out.push_str("</svg>\n");
    out
}

fn graph(out: &mut String, row: u16, column: u16, eighths: u32, ink: &str) {
    let high = HEIGHT * f64::from(eighths) / 8.0;
    let (x, y) = (MARGIN + f64::from(column) * WIDTH, MARGIN + f64::from(row + 1) * HEIGHT - high);
    // Writing into memory does not fail.
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{WIDTH}\" height=\"{high:.1}\" fill=\"{ink}\"/>"
    );
}

/// Draws a run of cells, if there is anything to see.
fn finish(out: &mut String, row: u16, run: Option<(u16, Look, String)>) {
    let Some((column, look, text)) = run else { return };
    let (cells, top) = (text.chars().count() as f64, MARGIN + f64::from(row) * HEIGHT);
    if let Some(paper) = look.paper {
        let x = MARGIN + f64::from(column) * WIDTH;
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{HEIGHT}\" fill=\"{paper}\"/>",
            cells * WIDTH
        );
    }
    let words = text.trim_end();
    let shown = words.trim_start();
    if shown.is_empty() {
        return;
    }
    let skipped = words.chars().count() - shown.chars().count();
    let x = MARGIN + (f64::from(column) + skipped as f64) * WIDTH;
    let escaped = shown.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let bold = if look.bold { " font-weight=\"bold\"" } else { "" };
    let dim = if look.dim { " opacity=\"0.6\"" } else { "" };
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{:.1}\" fill=\"{}\"{bold}{dim}>{escaped}</text>",
        top + BASELINE,
        shown.chars().count() as f64 * WIDTH,
        look.ink,
    );
}
