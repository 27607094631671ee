//! The screen drawn: from top to bottom ports, paths and workers, connections, events, keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Row, Sparkline, Table, TableState, Wrap};

use super::app::{App, Over};
use super::rates::{FlowRates, Paths, PortRates, Rate};
use crate::api::{EventInfo, FlowState};
use crate::cli::format::{seconds, tuple};
use crate::cli::verdict;

/// Lines for events, on a screen of usual and of great height; a title is above them.
const EVENTS: [u16; 2] = [3, 8];
/// From this height on there is room for more of them.
const TALL: u16 = 36;
/// From this width on connections' ports are shown.
const WIDE: u16 = 100;

const HELP: &str = "\
up, down, PgUp, PgDn   choose a connection
Enter, e               explain it
s                      order by bit/s, packets/s, bytes, age
/                      only connections with these words: an address,
                       tcp, software, wan0, :443; Esc shows all again
p, space               hold the picture, go on
q, Esc, Ctrl-C         end

hardware, software, kernel: packets a second that the NIC carried,
that workers carried, that the kernel was given. BUSY, SLEEP: per cent
of the last second. cyc/pkt: what a packet takes, a mean since the start.
Up and down scroll a long explanation; any other key goes back.";

/// A number with the unit that makes it short: `1.2k`, `34M`.
fn short(value: f64) -> String {
    let mut scaled = value.max(0.0);
    for unit in ["", "k", "M", "G"] {
        if scaled < 999.5 {
            return if unit.is_empty() || scaled >= 99.95 {
                format!("{scaled:.0}{unit}")
            } else {
                format!("{scaled:.1}{unit}")
            };
        }
        scaled /= 1000.0;
    }
    format!("{scaled:.1}T")
}

pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let ports = u16::try_from(app.rates.ports.len()).unwrap_or(u16::MAX).clamp(1, 6) + 1;
    let workers = u16::try_from(app.rates.workers.len()).unwrap_or(u16::MAX).clamp(3, 6) + 1;
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(ports),
        Constraint::Length(workers),
        Constraint::Min(3),
        Constraint::Length(1 + if frame.area().height < TALL { EVENTS[0] } else { EVENTS[1] }),
        Constraint::Length(1),
    ]);
    let [title, port_area, middle, flows, events, keys] = areas.areas(frame.area());
    draw_title(frame, title, app);
    draw_ports(frame, port_area, &app.rates.ports);
    let [paths, reasons, worker_area] =
        Layout::horizontal([Constraint::Length(25), Constraint::Min(20), Constraint::Length(31)])
            .areas(middle);
    draw_paths(frame, paths, app.rates.paths);
    draw_reasons(frame, reasons, &app.rates.reasons);
    draw_workers(frame, worker_area, app);
    draw_flows(frame, flows, app);
    draw_events(frame, events, app);
    draw_keys(frame, keys, app);
    match &app.over {
        Over::Nothing => {}
        Over::Help => draw_over(frame, "keys", HELP, app.scrolled),
        Over::Explanation(text) => {
            draw_over(frame, "up, down scroll; any other key goes back", text, app.scrolled);
        }
    }
}

fn head(text: &str) -> Line<'_> {
    Line::from(text).style(Style::new().add_modifier(Modifier::BOLD))
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let line = match (&app.last, &app.trouble) {
        (_, Some(why)) => Line::from(format!(" {why}")).style(Style::new().fg(Color::White).bg(Color::Red)),
        (None, None) => Line::from(" asking the gateway"),
        (Some(last), None) => {
            let status = &last.status;
            let mut spans = vec![
                Span::from(format!(" flyover {} ", status.version)).bold(),
                if status.ready { Span::from("ready").green() } else { Span::from("not ready").red() },
                Span::from(format!("  up {}  policy {}", seconds(status.uptime_s as f64), status.policy)),
            ];
            let faults = verdict::faults(status).len() + status.notices.len();
            if faults > 0 {
                spans.insert(2, Span::from(format!("  {faults} to look at: flyover status")).yellow());
            }
            if app.paused {
                spans.insert(1, Span::from(" HELD ").reversed());
            }
            Line::from(spans)
        }
    };
    frame.render_widget(line, area);
}

fn draw_ports(frame: &mut Frame<'_>, area: Rect, ports: &[PortRates]) {
    let [table, graph] = Layout::horizontal([Constraint::Length(59), Constraint::Min(10)]).areas(area);
    let rate = |rate: Rate| format!("{:>7} {:>7}", short(rate.packets), short(rate.bits));
    let mut lines = vec![head("PORT            LINK   RX pkt/s   bit/s  TX pkt/s   bit/s")];
    for port in ports {
        let name: String = port.name.chars().take(15).collect();
        let link = if port.up { Span::from("up  ").green() } else { Span::from("down").red() };
        lines.push(Line::from(vec![
            Span::from(format!("{name:15} ")),
            link,
            Span::from(format!("    {}   {}", rate(port.rx), rate(port.tx))),
        ]));
    }
    frame.render_widget(Paragraph::new(lines), table);
    let rows = graph.rows().skip(1);
    for (row, port) in rows.zip(ports) {
        let room = usize::from(row.width);
        let shown: Vec<u64> = port.history.iter().rev().take(room).rev().copied().collect();
        frame.render_widget(Sparkline::default().data(shown).style(Style::new().fg(Color::Cyan)), row);
    }
}

fn draw_paths(frame: &mut Frame<'_>, area: Rect, paths: Paths) {
    let all = paths.hardware + paths.software + paths.kernel;
    let share = |part: f64| if all > 0.0 { 100.0 * part / all } else { 0.0 };
    let line = |name: &'static str, part: f64, color| {
        Line::from(vec![
            Span::from(format!("{name:9}")).style(Style::new().fg(color)),
            Span::from(format!("{:>7} {:>5.1}%", short(part), share(part))),
        ])
    };
    let lines = vec![
        head("PATH       pkt/s  share"),
        line("hardware", paths.hardware, Color::Magenta),
        line("software", paths.software, Color::Green),
        line("kernel", paths.kernel, Color::Yellow),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_reasons(frame: &mut Frame<'_>, area: Rect, reasons: &[(String, f64)]) {
    let mut lines = vec![head(" pkt/s TO KERNEL, DROP")];
    for (name, rate) in reasons.iter().take(usize::from(area.height).saturating_sub(1)) {
        let color = if name.starts_with("drop ") { Color::Red } else { Color::Reset };
        lines.push(Line::from(format!("{:>6} {name}", short(*rate))).style(Style::new().fg(color)));
    }
    if reasons.is_empty() {
        lines.push(Line::from("none").dim());
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let mut lines = vec![head("CORE  BUSY SLEEP  pkt/s cyc/pkt")];
    for worker in &app.rates.workers {
        let color = if worker.busy > 90.0 { Color::Red } else { Color::Reset };
        lines.push(Line::from(vec![
            Span::from(format!("{:>4} ", worker.core)),
            Span::from(format!("{:>4.0}%", worker.busy)).style(Style::new().fg(color)),
            Span::from(format!(
                " {:>4.0}% {:>6} {:>7.0}",
                worker.sleeping,
                short(worker.packets),
                worker.cycles
            )),
        ]));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn state_color(state: FlowState) -> Color {
    match state {
        FlowState::Hardware => Color::Magenta,
        FlowState::Software => Color::Green,
        FlowState::Probing => Color::Cyan,
        FlowState::Candidate => Color::Yellow,
        FlowState::Closing => Color::DarkGray,
    }
}

fn draw_flows(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let flows = app.flows();
    let known = app.last.as_ref().map_or(0, |last| last.flows.len());
    let of = match &app.last {
        Some(last) if !last.all_flows => format!("{} of the first {known} connections", flows.len()),
        _ => format!("{} of {known} connections", flows.len()),
    };
    let title = format!(" {of}, by {} ", app.order.name());
    let wide = area.width >= WIDE;
    let row = |FlowRates { flow, rate }: &&FlowRates| {
        let mut cells = vec![
            Line::from(flow.proto.clone()),
            Line::from(flow.state.name()).style(Style::new().fg(state_color(flow.state))),
            Line::from(tuple(&flow.orig)),
            Line::from(short(rate.packets)).right_aligned(),
            Line::from(short(rate.bits)).right_aligned(),
            Line::from(seconds(flow.age_s)).right_aligned(),
        ];
        if wide {
            let ports = match (&flow.in_port, &flow.out_port) {
                (Some(from), Some(to)) => format!("{from} > {to}"),
                _ => "-".to_owned(),
            };
            cells.insert(3, Line::from(ports));
        }
        Row::new(cells)
    };
    let mut widths = vec![Constraint::Length(4), Constraint::Length(9), Constraint::Min(30)];
    let mut titles = vec!["", "STATE", "CONNECTION", " pkt/s", " bit/s", "   AGE"];
    if wide {
        widths.push(Constraint::Length(16));
        titles.insert(3, "PORTS");
    }
    widths.extend([Constraint::Length(6); 3]);
    let header = Row::new(titles);
    let table = Table::new(flows.iter().map(row), widths)
        .header(header.style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::new().borders(Borders::TOP).title(title));
    let selected = (!flows.is_empty()).then_some(app.selected);
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let line = |event: &EventInfo| {
        let fields: String = event.fields.iter().map(|(name, value)| format!("  {name}={value}")).collect();
        let time = event.time.get(11..19).unwrap_or_default();
        let color = match event.level.as_str() {
            "error" => Color::Red,
            "warn" => Color::Yellow,
            _ => Color::Reset,
        };
        Line::from(vec![
            Span::from(format!("{time} ")).dim(),
            Span::from(format!("{}{fields}", event.message)).style(Style::new().fg(color)),
        ])
    };
    let last = app.events.iter().rev().take(usize::from(area.height.saturating_sub(1))).map(line);
    let mut lines: Vec<Line<'_>> = last.collect();
    lines.reverse();
    let block = Block::new().borders(Borders::TOP).title(" events ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn draw_keys(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let line = if app.typing {
        Line::from(format!(" only with: {}_", app.filter)).reversed()
    } else if app.filter.is_empty() {
        Line::from(" q end  s order  / filter  Enter explain  p hold  ? help").dim()
    } else {
        Line::from(format!(" only with: {}   / and Esc show all   ? help", app.filter)).yellow()
    };
    frame.render_widget(line, area);
}

fn draw_over(frame: &mut Frame<'_>, title: &str, text: &str, scrolled: u16) {
    let all = frame.area();
    let widest =
        text.lines().map(|line| line.chars().count()).chain([title.chars().count()]).max().unwrap_or(0);
    let width = u16::try_from(widest).unwrap_or(u16::MAX).saturating_add(4).min(all.width);
    // As many as lines are broken into; words that are kept whole may make it more.
    let room = usize::from(width.saturating_sub(2)).max(1);
    let rows = text.lines().map(|line| line.chars().count().div_ceil(room).max(1)).sum::<usize>();
    let broken = if width == all.width { 2 } else { 0 };
    let rows = u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(broken);
    let height = rows.saturating_add(2).min(all.height);
    let area = all.centered(Constraint::Length(width), Constraint::Length(height));
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(format!(" {title} "));
    // No further than to the last of it.
    let scrolled = scrolled.min(rows.saturating_sub(height.saturating_sub(2)));
    let paragraph = Paragraph::new(text).wrap(Wrap { trim: false }).scroll((scrolled, 0));
    frame.render_widget(paragraph.block(block), area);
}
