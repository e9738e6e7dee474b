//! `llm`. Measured with 0.36.
//!
//! A prompt that got no answer is not in its log, so the line is repeated. A chat is not resumed:
//! `--continue` takes the last conversation of all, which could be another program's, and nothing shows
//! which one is ours.

use super::args::Grammar;
use super::{Client, GENERIC};

pub(super) const CLIENT: Client = Client {
    name: "llm",
    package: "llm",
    grammar: GRAMMAR,
    ..GENERIC
};

/// From its help: the options that take a value, which could otherwise pass for a prompt.
const GRAMMAR: Grammar = Grammar {
    one: "--model|-m --system|-s --conversation|--cid",
    nothing: "--continue|-c --no-stream --help|-h --version",
    ..Grammar::NONE
};

#[cfg(test)]
mod tests {
    use crate::clients::tests::check_resumes;

    #[test]
    fn lines_are_repeated() {
        check_resumes(&[
            ("llm 'do it'", false, "llm 'do it'"),
            ("llm chat -m x", false, "llm chat -m x"),
            ("llm chat --cid S", false, "llm chat --cid S"),
            ("python3 -m llm chat", false, "python3 -m llm chat"),
            ("uvx --from llm llm chat", false, "uvx --from llm llm chat"),
        ]);
    }
}
