//! The chart as text: one screen, at most as wide as the style says.

use super::chart::{Chart, ROTATION, Scale};
use super::timeline::Activity;
use crate::common::style::{Colour, Style, ascii};
use crate::providers::usage::is_near_limit;

/// With fewer cells the chart would show nothing, and is left out.
const FEWEST_CELLS: usize = 10;
/// Lines of the story at most; of a longer one the beginning and the end are shown.
const MOST_LINES: usize = 14;
const FIRST_LINES: usize = 4;
/// Columns at the right end of a lane, for how full the token was last.
const PERCENT: usize = 5;

/// Draws the chart; each line ends with a newline.
pub(crate) fn draw(chart: &Chart<'_>, style: Style) -> String {
    let mut lines = vec![style.cut(&chart.title), style.wrap(&chart.subtitle, 2)];
    lines.push(String::new());
    lanes(chart, style, &mut lines);
    story(chart, style, &mut lines);
    lines.push(String::new());
    lines.extend(chart.totals.iter().map(|line| style.wrap(line, 2)));
    let mut text = String::new();
    for line in lines {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    if style.utf8 { text } else { ascii(&text) }
}

/// A run in a list of several: its name, when it was and how it ended, and what it ran.
pub(crate) fn entry(name: &str, chart: &Chart<'_>, style: Style) -> String {
    let when = style.wrap(&format!("{name}  {}", chart.subtitle), 2);
    let text = format!("{when}\n{}\n", style.cut(&format!("  {}", chart.title)));
    if style.utf8 { text } else { ascii(&text) }
}

fn lanes(chart: &Chart<'_>, style: Style, lines: &mut Vec<String>) {
    let labels = chart.lanes.iter().map(|lane| lane.label.chars().count());
    let margin = labels.max().unwrap_or(0).max("command".len()) + 2;
    let cells = style.width.saturating_sub(margin + PERCENT);
    if cells < FEWEST_CELLS {
        return;
    }
    let scale = chart.scale(cells);
    lines.push(axis(chart, &scale, margin));
    for lane in &chart.lanes {
        let mut row = format!("{:margin$}", lane.label);
        for level in scale.levels(lane) {
            match level {
                Some(used) if is_near_limit(used, chart.threshold) => {
                    row.push_str(&style.paint(Colour::Warning, &style.level(used).to_string()));
                }
                Some(used) => row.push(style.level(used)),
                None => row.push(' '),
            }
        }
        if let Some(last) = lane.last {
            row.push_str(&format!(
                "{:4.0}%",
                (last * 100.0 + 1e-9).floor().min(999.0)
            ));
        }
        lines.push(row);
    }
    lines.push(command(chart, style, &scale, margin));
    let legend = legend(style, margin);
    lines.extend(legend.map(|line| style.paint(Colour::Faint, &line)));
    lines.push(String::new());
}

fn axis(chart: &Chart<'_>, scale: &Scale, margin: usize) -> String {
    let mut line = " ".repeat(margin);
    // A label and a gap take up to ten columns.
    for (at, label) in chart.ticks(scale.len / 10) {
        let column = margin + scale.cell(at);
        let length = line.chars().count();
        if (column > length || length == margin) && column + label.len() <= margin + scale.len {
            line.extend(std::iter::repeat_n(' ', column - length));
            line.push_str(&label);
        }
    }
    line
}

/// What the command did in each cell. Where it did several things, the rarest is shown.
fn command(chart: &Chart<'_>, style: Style, scale: &Scale, margin: usize) -> String {
    let mut cells = vec![' '; scale.len];
    for doing in [Activity::Working, Activity::Waiting, Activity::Restarting] {
        let glyph = glyph(style, doing);
        for span in chart.spans.iter().filter(|span| span.doing == doing) {
            if let Some(cells) = cells.get_mut(scale.cells(span.from, span.to - 1)) {
                cells.fill(glyph);
            }
        }
    }
    for (at, _) in &chart.rotations {
        if let Some(cell) = cells.get_mut(scale.cell(*at)) {
            *cell = style.glyph(ROTATION.0, ROTATION.1);
        }
    }
    format!("{:margin$}", "command") + &cells.iter().collect::<String>()
}

fn glyph(style: Style, doing: Activity) -> char {
    match doing {
        Activity::Working => style.glyph('━', '='),
        Activity::Waiting => style.glyph('░', '.'),
        Activity::Restarting => style.glyph('╌', '-'),
    }
}

/// What the characters mean, in as many lines as it takes.
fn legend(style: Style, margin: usize) -> impl Iterator<Item = String> {
    let (levels, rotation) = if style.utf8 {
        ("▁ to █: used", ROTATION.0)
    } else {
        ("0 to 9, #: tenths used", ROTATION.1)
    };
    let mut lines = vec![levels.to_owned()];
    for (sign, word) in [
        (glyph(style, Activity::Working), "works"),
        (glyph(style, Activity::Waiting), "waits"),
        (glyph(style, Activity::Restarting), "restarts"),
        (rotation, "next token"),
    ] {
        let item = format!("  {sign} {word}");
        let length = |text: &str| text.chars().count();
        match lines.last_mut() {
            Some(line) if length(line) + length(&item) <= style.width => line.push_str(&item),
            _ => lines.push(item.trim_start().to_owned()),
        }
    }
    let length = lines.iter().map(|line| line.chars().count()).max();
    let column = margin.min(style.width.saturating_sub(length.unwrap_or(0)));
    lines
        .into_iter()
        .map(move |line| " ".repeat(column) + &line)
}

fn story(chart: &Chart<'_>, style: Style, lines: &mut Vec<String>) {
    let left_out = match chart.story.len() {
        length if length > MOST_LINES => FIRST_LINES..length - (MOST_LINES - FIRST_LINES - 1),
        _ => 0..0,
    };
    for (number, line) in chart.story.iter().enumerate() {
        if number == left_out.start && !left_out.is_empty() {
            lines.push(style.cut(&format!("... {} more; --json has all", left_out.len())));
        }
        if left_out.contains(&number) {
            continue;
        }
        let (glyph, letter, colour) = line.sign;
        let sign = style.glyph(glyph, letter).to_string();
        let indent = line.at.len() + 4;
        let text = style.wrap(&format!("{}  {sign} {}", line.at, line.words), indent);
        // Painted last: escape sequences take no columns.
        let painted = style.paint(colour, &sign);
        lines.push(text.replacen(&sign, &painted, 1));
    }
}
