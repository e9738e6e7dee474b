//! How text is drawn on a terminal: glyphs, bars, colours, and lines that fit.
//!
//! It promises plain ASCII where UTF-8 is not wanted, no colour where it is not, and lines no longer
//! than the width. A key is hidden before a line is broken or cut. What a terminal can do is found out
//! by `console.rs`.

use super::mask::masked;

/// What the reader's terminal, or file, can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) utf8: bool,
    pub(crate) colour: bool,
    /// In columns, at least [`NARROWEST`].
    pub(crate) width: usize,
}

/// Below this width nothing readable fits; lines then run over.
pub(crate) const NARROWEST: usize = 20;
/// Wider terminals are not filled: lines of more than 80 columns are hard to read.
pub(crate) const WIDEST: usize = 80;

/// A colour that both light and dark terminals show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Plain,
    Good,
    Next,
    Warning,
    Bad,
    Faint,
}

impl Style {
    /// `text` in this colour.
    pub(crate) fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Good => "32",
            Colour::Next => "36",
            Colour::Warning => "33",
            Colour::Bad => "31",
            Colour::Faint => "2",
            Colour::Plain => "",
        };
        if self.colour && !code.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.into()
        }
    }

    /// The glyph, or the letter in its place.
    pub(crate) fn glyph(self, glyph: char, ascii: char) -> char {
        if self.utf8 { glyph } else { ascii }
    }

    /// One cell that is this full: 0.0 to 1.0 and above. In ASCII the tens of percent, `#` for all.
    pub(crate) fn level(self, used: f64) -> char {
        const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        // A cast saturates, and makes 0 of what is no number.
        if self.utf8 {
            LEVELS[((used * 8.0) as usize).min(7)]
        } else {
            let tenth = (used * 10.0 + 1e-9) as u32;
            char::from_digit(tenth, 10).unwrap_or('#')
        }
    }

    /// A bar of so many cells that is this full. One that is not quite full does not look so.
    pub(crate) fn bar(self, used: f64, cells: usize) -> String {
        let full = (used.clamp(0.0, 1.0) * cells as f64) as usize;
        let (done, left) = (self.glyph('█', '#'), self.glyph('░', '.'));
        (0..cells)
            .map(|cell| if cell < full { done } else { left })
            .collect()
    }

    /// `text` in lines that fit; the second and later ones are indented by `indent` columns. Words
    /// that fit no line are broken.
    pub(crate) fn wrap(self, text: &str, indent: usize) -> String {
        let indent = if indent + NARROWEST / 2 <= self.width {
            indent
        } else {
            0
        };
        // Half a key has no key's shape any more.
        let text = masked(text);
        let text = match self.utf8 {
            true => text,
            false => text.replace('…', "...").into(),
        };
        let mut lines = String::new();
        let mut column = 0;
        for (number, word) in text.split(' ').enumerate() {
            let length = word.chars().count();
            if column > indent && column + 1 + length > self.width {
                newline(&mut lines, &mut column, indent);
            } else if number > 0 {
                lines.push(' ');
                column += 1;
            }
            for c in word.chars() {
                if column >= self.width {
                    newline(&mut lines, &mut column, indent);
                }
                lines.push(c);
                column += 1;
            }
        }
        lines
    }

    /// Each line of `text` in lines that fit; the second and later ones are indented by `indent`
    /// columns more than the first.
    pub(crate) fn folded(self, text: &str, indent: usize) -> String {
        let lines = text.split('\n').map(|line| {
            let own = line.len() - line.trim_start_matches(' ').len();
            self.wrap(line, own + indent)
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// `text`, cut off where the width ends.
    pub(crate) fn cut(self, text: &str) -> String {
        let text = masked(text);
        if text.chars().count() <= self.width {
            return text.into_owned();
        }
        let kept = text.chars().take(self.width.saturating_sub(3));
        kept.collect::<String>() + "..."
    }
}

fn newline(lines: &mut String, column: &mut usize, indent: usize) {
    while lines.ends_with(' ') {
        lines.pop();
    }
    lines.push('\n');
    lines.extend(std::iter::repeat_n(' ', indent));
    *column = indent;
}

/// The words with everything beyond ASCII replaced, for readers who have nothing else.
pub(crate) fn ascii(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii() { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Style = Style {
        utf8: false,
        colour: false,
        width: 30,
    };

    #[test]
    fn bars_and_levels_do_not_round_up() {
        assert_eq!(PLAIN.bar(0.5, 10), "#####.....");
        assert_eq!(PLAIN.bar(0.999, 10), "#########.");
        assert_eq!(PLAIN.bar(7.0, 3), "###");
        assert_eq!(PLAIN.bar(f64::NAN, 3), "...");
        let levels = [0.0, 0.09, 0.1, 0.95, 0.9999, 1.0, 3.0];
        let drawn: String = levels.iter().map(|used| PLAIN.level(*used)).collect();
        assert_eq!(drawn, "00199##");
        let utf8 = Style {
            utf8: true,
            ..PLAIN
        };
        let drawn: String = levels.iter().map(|used| utf8.level(*used)).collect();
        assert_eq!(drawn, "▁▁▁████");
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(
            PLAIN.wrap("11:12:13  one two three four five six seven", 10),
            "11:12:13  one two three four\n          five six seven"
        );
        assert_eq!(PLAIN.wrap("", 4), "");
        assert_eq!(
            PLAIN.folded("one\n\n  1) two three four five six seven ", 3),
            "one\n\n  1) two three four five six\n     seven "
        );
        assert_eq!(PLAIN.wrap("    a  b", 2), "    a  b");
        assert_eq!(PLAIN.cut(&"x".repeat(31)), "x".repeat(27) + "...");
    }

    proptest! {
        #[test]
        fn every_line_fits_and_no_word_is_lost(text in "[a-zé ]{0,200}", width in 20usize..100, indent in 0usize..30) {
            let style = Style { width, ..PLAIN };
            let wrapped = style.wrap(&text, indent);
            for line in wrapped.lines() {
                prop_assert!(line.chars().count() <= width, "{}", line);
            }
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&wrapped), letters(&text));
        }
    }
}
