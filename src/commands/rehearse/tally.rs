//! What a worker's journal says in the end.
//! Owns: reading journal lines and counting. Promises: any text is accepted; a line that is not whole
//! is passed over. Pure. Does not write journals.

use serde_json::Value;

/// The balance of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Units that were done, each counted once.
    pub(crate) done: u32,
    /// Units that were never done.
    pub(crate) open: u32,
    /// Begins beyond the first of a unit: work that a restart made necessary again.
    pub(crate) repeated: u32,
}

/// Counts what `journal_text` says about the units `1..=units`.
pub(crate) fn tally(journal_text: &str, units: u32) -> Tally {
    let mut begins = vec![0_u32; units as usize];
    let mut done = vec![false; units as usize];
    for (unit, event) in entries(journal_text) {
        let place = (unit as usize).wrapping_sub(1);
        match (event.as_str(), begins.get_mut(place), done.get_mut(place)) {
            ("begin", Some(begins), _) => *begins += 1,
            ("done", _, Some(done)) => *done = true,
            _ => {}
        }
    }
    let done = u32::try_from(done.iter().filter(|done| **done).count()).unwrap_or(units);
    Tally {
        done,
        open: units - done,
        repeated: begins.iter().map(|begins| begins.saturating_sub(1)).sum(),
    }
}

/// The first unit in `1..=units` that is not done, or nothing when all are.
pub(super) fn first_open(journal_text: &str, units: u32) -> Option<u32> {
    let mut done = vec![false; units as usize];
    for (unit, event) in entries(journal_text) {
        if let ("done", Some(done)) = (
            event.as_str(),
            done.get_mut((unit as usize).wrapping_sub(1)),
        ) {
            *done = true;
        }
    }
    (1..)
        .zip(done)
        .find(|(_, done)| !done)
        .map(|(unit, _)| unit)
}

/// Every whole line. A cut line has lost its closing brace, so it does not parse.
fn entries(text: &str) -> impl Iterator<Item = (u32, String)> {
    text.lines().filter_map(|line| {
        let value: Value = serde_json::from_str(line).ok()?;
        let unit = u32::try_from(value.get("unit")?.as_u64()?).ok()?;
        Some((unit, value.get("event")?.as_str()?.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_done_open_and_repeated() {
        let text = concat!(
            "{\"unit\":1,\"event\":\"begin\",\"pid\":7}\n{\"unit\":1,\"event\":\"done\",\"pid\":7}\n",
            "{\"unit\":2,\"event\":\"begin\",\"pid\":7}\n",
            "{\"unit\":2,\"event\":\"begin\",\"pid\":8}\n{\"unit\":2,\"event\":\"done\",\"pid\":8}\n",
            "{\"unit\":3,\"event\":\"begin\",\"pid\":8}\n{\"unit\":3,\"event\":\"failed\",\"pid\":8}\n",
            "{\"unit\":9,\"event\":\"done\",\"pid\":8}\n",
        );
        assert_eq!(
            tally(text, 4),
            Tally {
                done: 2,
                open: 2,
                repeated: 1
            }
        );
        assert_eq!(first_open(text, 4), Some(3));
        assert_eq!(first_open(text, 2), None);
    }

    #[test]
    fn a_partial_last_line_is_ignored() {
        let text = "{\"unit\":1,\"event\":\"done\",\"pid\":7}\n{\"unit\":2,\"event\":\"do";
        assert_eq!(
            tally(text, 2),
            Tally {
                done: 1,
                open: 1,
                repeated: 0
            }
        );
        assert_eq!(first_open(text, 2), Some(2));
        for cut in 0..text.len() {
            tally(&text[..cut], 2);
        }
    }

    #[test]
    fn other_text_is_passed_over() {
        let text =
            "\n\u{0}garbage\n[]\n{\"unit\":-1,\"event\":\"done\"}\n{\"unit\":1,\"event\":3}\n";
        assert_eq!(
            tally(text, 1),
            Tally {
                done: 0,
                open: 1,
                repeated: 0
            }
        );
        assert_eq!(tally("", 0), Tally::default());
    }
}
