//! Plots of cost against connections, as SVG.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::report::Row;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 6] = ["#0b6e99", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#555555"];

/// Figures by connections.
type Series = BTreeMap<String, Vec<(u64, f64)>>;

/// What rows of one name and their peers and yardsticks cost; empty if there are fewer than two sizes.
pub fn series<'a>(rows: impl Iterator<Item = &'a Row>) -> Series {
    let mut series = Series::new();
    for row in rows {
        let mut add = |name: &str, cycles: f64| {
            series.entry(name.to_owned()).or_default().push((row.connections, cycles));
        };
        add("flyover", row.cycles_per_packet.median);
        if let (Some(peer), Some(cycles)) = (&row.peer, row.peer_cycles) {
            add(peer, cycles);
        }
        for (name, cycles) in &row.yardsticks {
            add(name, *cycles);
        }
    }
    series.retain(|_, points| points.len() > 1);
    for points in series.values_mut() {
        points.sort_by_key(|(connections, _)| *connections);
    }
    series
}

fn readable(connections: u64) -> String {
    match connections {
        n if n >= 1 << 20 => format!("{} M", n >> 20),
        n if n >= 1 << 16 => format!("{} k", n >> 10),
        n => n.to_string(),
    }
}

/// One plot: connections by powers of two to the right, cycles upwards from 0.
pub fn svg(title: &str, series: &Series) -> String {
    let points = || series.values().flatten();
    let logs = points().map(|(connections, _)| (*connections as f64).log2());
    let (low, high) = logs.fold((f64::MAX, f64::MIN), |(low, high), log| (low.min(log), high.max(log)));
    let most = points().map(|(_, cycles)| *cycles).fold(1.0, f64::max);
    let step = [10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0].into_iter().find(|step| most / step <= 8.0);
    let step = step.unwrap_or(most / 4.0);
    let top = (most / step).ceil() * step;
    let x = |connections: u64| {
        let share = ((connections as f64).log2() - low) / (high - low).max(1e-9);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    };
    let y = |cycles: f64| HEIGHT - BOTTOM - cycles / top * (HEIGHT - TOP - BOTTOM);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}: cycles a packet</text>\n"
    );
    let mut tick = 0.0;
    while tick <= top {
        let at = y(tick);
        let (end, label) = (WIDTH - RIGHT, LEFT - 8.0);
        let _ = writeln!(
            text,
            "<line x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{label}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            at + 4.0
        );
        tick += step;
    }
    let mut sizes: Vec<u64> = points().map(|(connections, _)| *connections).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in sizes {
        let at = x(size);
        let label = readable(size);
        let bottom = HEIGHT - BOTTOM + 20.0;
        let _ = writeln!(text, "<text x=\"{at:.1}\" y=\"{bottom}\" text-anchor=\"middle\">{label}</text>");
    }
    let _ = writeln!(
        text,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">connections</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 8.0
    );
    for ((name, points), (line, colour)) in series.iter().zip(COLOURS.iter().cycle().enumerate()) {
        let path: Vec<String> = points
            .iter()
            .map(|(connections, cycles)| format!("{:.1},{:.1}", x(*connections), y(*cycles)))
            .collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (connections, cycles) in points {
            let _ = writeln!(
                text,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(*connections),
                y(*cycles)
            );
        }
        let at = TOP + 16.0 * line as f64 + 10.0;
        let left = WIDTH - RIGHT + 16.0;
        let _ = writeln!(text, "<text x=\"{left}\" y=\"{at}\" fill=\"{colour}\">{name}</text>");
    }
    text + "</svg>\n"
}
