//! The chart as SVG: one file that needs no other, readable on light and dark backgrounds.

use super::chart::{Chart, Line};
use super::timeline::Activity;
use crate::common::mask::masked;
use crate::common::style::{Colour, Style};
use crate::common::visible::is_visible;
use crate::events::wording::percent;
use crate::providers::usage::is_near_limit;
use std::fmt::Write as _;

/// Sizes, in pixels.
const WIDTH: usize = 900;
const MARGIN: usize = 24;
/// Where the chart begins, after the names of its lanes.
const LEFT: usize = 150;
const CHART: usize = WIDTH - LEFT - 90;
const LANE: usize = 44;
const GAP: usize = 12;
const COMMAND: usize = 14;
const LINE: usize = 22;
/// Characters of 14 pixels on a line; longer lines are cut off.
const LETTERS: usize = 110;
/// Characters of the title on a line.
const TITLE_LETTERS: usize = 76;
/// Lines of the story at most; more are left out in the middle.
const MOST_LINES: usize = 40;

const STYLE: &str = "\
text{font:14px system-ui,sans-serif;fill:#1b1f24}\
.bg{fill:#fff}.h{font-size:18px;font-weight:600}.d,.d tspan{fill:#5b6570;font-size:13px}\
.n{font-variant-numeric:tabular-nums}\
.lane{fill:#f1f3f5}.grid{stroke:#d5dae0}.use{fill:#4a86c9}.over{fill:#c2410c}\
.limit{stroke:#c2410c;stroke-dasharray:4 4}.work{fill:#2f8f5b}.wait{fill:#e0a526}\
.gap{fill:#aab2bb}.hold{fill:#e0a526;fill-opacity:.16}.turn{stroke:#1b1f24}\
.good{fill:#23774a}.bad{fill:#b42318}.next{fill:#2563a8}.warn{fill:#a15c07}\
@media(prefers-color-scheme:dark){text{fill:#e6e9ed}.bg{fill:#14171b}\
.d,.d tspan{fill:#9aa5b1}.lane{fill:#20252b}.grid{stroke:#39414a}.use{fill:#5b9be0}\
.over{fill:#f0803c}.limit{stroke:#f0803c}.work{fill:#46b57a}.wait{fill:#e8b84a}\
.gap{fill:#5f6872}.turn{stroke:#e6e9ed}.good{fill:#5cc98c}.bad{fill:#f47067}\
.next{fill:#6cb0f5}.warn{fill:#e5a84b}}";

/// Draws the chart.
pub(crate) fn draw(chart: &Chart<'_>) -> String {
    let mut svg = Svg(String::new());
    let mut y = MARGIN + 18;
    svg.text(MARGIN, y, "h", &cut(&chart.title, TITLE_LETTERS));
    y += LINE;
    svg.text(MARGIN, y, "d", &chart.subtitle);
    y += LINE + GAP;
    y = lanes(&mut svg, chart, y);
    y = story(&mut svg, chart, y);
    let style = Style {
        utf8: true,
        colour: false,
        width: LETTERS,
    };
    for line in &chart.totals {
        for part in style.wrap(line, 0).lines() {
            svg.text(MARGIN, y, "", part);
            y += LINE;
        }
    }
    let height = y - LINE + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{}</title>\n\
         <style>{STYLE}</style>\n<rect class=\"bg\" width=\"{WIDTH}\" height=\"{height}\"/>\n{}</svg>\n",
        escaped(&chart.title),
        svg.0
    )
}

/// The lanes, the command's bar below them, and the axis. Returns where the next thing begins.
fn lanes(svg: &mut Svg, chart: &Chart<'_>, top: usize) -> usize {
    let scale = chart.scale(CHART);
    let bottom = top + chart.lanes.len() * (LANE + GAP) + COMMAND;
    for (at, label) in chart.ticks(8) {
        let x = LEFT + scale.cell(at);
        svg.line("grid", [x, top, x, bottom + 6]);
        svg.text_at(x, bottom + LINE, "d n", "middle", &label);
    }
    let mut y = top;
    for lane in &chart.lanes {
        svg.text(MARGIN, y + LANE / 2 + 5, "", &lane.label);
        svg.rect("lane", LEFT, y, CHART, LANE);
        let levels = scale.levels(lane);
        svg.levels(&levels, chart.threshold, y + LANE);
        let limit = y + LANE - height(chart.threshold);
        svg.line("limit", [LEFT, limit, LEFT + CHART, limit]);
        if let Some(last) = lane.last {
            let percent = format!("{}% used", percent(last));
            let x = LEFT + CHART + 8;
            svg.text(x, y + LANE / 2 + 5, "d n", &percent);
        }
        y += LANE + GAP;
    }
    svg.text(MARGIN, y + COMMAND - 2, "", "command");
    for span in chart.spans {
        let cells = scale.cells(span.from, span.to - 1);
        let (x, width) = (LEFT + cells.start, cells.len());
        let class = match span.doing {
            Activity::Working => "work",
            Activity::Waiting => "wait",
            Activity::Restarting => "gap",
        };
        svg.rect(class, x, y, width, COMMAND);
        if span.doing == Activity::Waiting {
            svg.rect("hold", x, top, width, y - top);
        }
    }
    // Rotations, as lines through all lanes; with names where there is room for them.
    let mut free = 0;
    for (at, who) in &chart.rotations {
        let x = LEFT + scale.cell(*at);
        svg.line("turn", [x, top - 4, x, bottom]);
        if x >= free {
            svg.text_at(x, top - 8, "d", "middle", &format!("\u{2192} {who}"));
            free = x + 8 * (who.chars().count() + 4);
        }
    }
    legend(svg, chart, bottom + 2 * LINE);
    bottom + 3 * LINE + GAP
}

/// What the colours mean.
fn legend(svg: &mut Svg, chart: &Chart<'_>, y: usize) {
    let over = format!("used above {}%", percent(chart.threshold));
    let mut x = LEFT;
    for (class, words) in [
        ("use", "used"),
        ("over", &over),
        ("work", "command works"),
        ("wait", "waits"),
        ("gap", "restarts"),
    ] {
        svg.rect(class, x, y - 10, 10, 10);
        svg.text(x + 16, y, "d", words);
        x += 40 + 8 * words.chars().count();
    }
}

fn story(svg: &mut Svg, chart: &Chart<'_>, top: usize) -> usize {
    let mut y = top;
    let surplus = chart.story.len().saturating_sub(MOST_LINES);
    let skipped = MOST_LINES / 2..MOST_LINES / 2 + surplus;
    for (number, line) in chart.story.iter().enumerate() {
        if number == skipped.start && surplus > 0 {
            svg.text(MARGIN, y, "d", &format!("... {surplus} more"));
            y += LINE;
        }
        if !skipped.contains(&number) {
            svg.story_line(y, line);
            y += LINE;
        }
    }
    y + GAP
}

/// How high a level is drawn: the whole lane is 105 %.
fn height(used: f64) -> usize {
    (used.clamp(0.0, 1.05) / 1.05 * LANE as f64).round() as usize
}

/// The elements so far.
struct Svg(String);

impl Svg {
    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(element);
        self.0.push('\n');
    }

    fn text(&mut self, x: usize, y: usize, class: &str, text: &str) {
        self.text_at(x, y, class, "start", text);
    }

    fn text_at(&mut self, x: usize, y: usize, class: &str, anchor: &str, text: &str) {
        let text = escaped(text);
        self.add(format_args!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn story_line(&mut self, y: usize, line: &Line) {
        let (glyph, _, colour) = line.sign;
        let class = match colour {
            Colour::Good => "good",
            Colour::Bad => "bad",
            Colour::Next => "next",
            Colour::Warning => "warn",
            Colour::Plain | Colour::Faint => "",
        };
        let x = MARGIN + 8 * line.at.len() + 12;
        self.text(MARGIN, y, "d n", &line.at);
        self.text_at(x, y, class, "middle", &glyph.to_string());
        self.text(x + 16, y, "", &line.words);
    }

    fn rect(&mut self, class: &str, x: usize, y: usize, width: usize, height: usize) {
        self.add(format_args!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>"
        ));
    }

    fn line(&mut self, class: &str, [x1, y1, x2, y2]: [usize; 4]) {
        self.add(format_args!(
            "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"
        ));
    }

    /// A lane's levels as two areas: up to the threshold, and above it.
    fn levels(&mut self, levels: &[Option<f64>], threshold: f64, bottom: usize) {
        let looks =
            |level: &Option<f64>| level.map(|used| (height(used), is_near_limit(used, threshold)));
        for (class, over) in [("use", false), ("over", true)] {
            let mut path = String::new();
            let mut x = LEFT;
            for run in levels.chunk_by(|a, b| looks(a) == looks(b)) {
                if let Some((high, is_over)) = run.first().and_then(looks)
                    && is_over == over
                {
                    let (high, wide) = (high.max(1), run.len());
                    let _ = write!(path, "M{x} {bottom}v-{high}h{wide}v{high}z");
                }
                x += run.len();
            }
            if !path.is_empty() {
                self.add(format_args!("<path class=\"{class}\" d=\"{path}\"/>"));
            }
        }
    }
}

/// The first `most` characters of a text.
fn cut(text: &str, letters: usize) -> String {
    let text = masked(text);
    match text.char_indices().nth(letters) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.into_owned(),
    }
}

/// Text between tags, cut to a line.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in cut(text, LETTERS).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // XML has no place for these, not even escaped.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if !is_visible(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
