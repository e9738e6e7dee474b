//! Text from outside, for people to read: characters that change its direction, are invisible or control
//! the terminal are shown as a replacement character.

use std::borrow::Cow;

/// What stands for a character that is not shown.
const REPLACEMENT: char = '\u{fffd}';

/// Whether a character is what it looks like. Not so are control characters, which a terminal may
/// obey; those that change the direction of what follows or of what came before (Unicode Standard
/// Annex 9); line and paragraph separators; and those of no width, which hide in a name.
pub(crate) fn is_visible(c: char) -> bool {
    let is_hidden = matches!(c,
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !is_hidden
}

/// The text with a replacement for each character that is not visible.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    match text.chars().all(is_visible) {
        true => text.into(),
        false => text
            .replace(
                |c: char| !is_visible(c),
                REPLACEMENT.encode_utf8(&mut [0; 4]),
            )
            .into(),
    }
}

/// The same for text of several lines, whose ends stay.
pub(crate) fn visible_lines(text: &str) -> Cow<'_, str> {
    match text.chars().all(|c| c == '\n' || is_visible(c)) {
        true => text.into(),
        false => {
            let lines: Vec<Cow<str>> = text.split('\n').map(visible).collect();
            lines.join("\n").into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_what_it_looks_like_is_replaced() {
        assert_eq!(visible("grün, 日本 ⚠️ naïve"), "grün, 日本 ⚠️ naïve");
        assert_eq!(
            visible("a\u{1b}[2Jb\rc\nd\u{9b}"),
            "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}"
        );
        assert_eq!(
            visible("rm \u{202e}gpj.x\u{2066}\u{200b}\u{2028}"),
            "rm \u{fffd}gpj.x\u{fffd}\u{fffd}\u{fffd}"
        );
        assert_eq!(visible_lines("one\ntwo\u{7}\n"), "one\ntwo\u{fffd}\n");
    }
}
