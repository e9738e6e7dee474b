//! `llm`: how it resumes. Measured with 0.36.

use super::args::Part;
use super::{Client, GENERIC, subcommand, words_of};
use std::ffi::OsString;

pub(super) const CLIENT: Client = Client {
    name: "llm",
    package: "llm",
    resume,
    ..GENERIC
};

/// A chat continues. A prompt that got no answer is not in `llm`'s log, so it is sent again.
fn resume(parts: &[Part], _: Option<&str>) -> Option<Vec<OsString>> {
    let chats = matches!(subcommand(parts), Some((_, "chat")));
    let names = ["-c", "--continue", "--cid", "--conversation"];
    if !chats || parts.iter().any(|part| names.contains(&part.name.as_str())) {
        return None;
    }
    let mut words = words_of(parts.iter());
    words.push("--continue".into());
    Some(words)
}

#[cfg(test)]
mod tests {
    use crate::clients::tests::check_resumes;

    #[test]
    fn resumes() {
        check_resumes(&[
            ("llm 'do it'", false, "llm 'do it'"),
            ("llm chat -m x", false, "llm chat -m x --continue"),
            ("llm chat --cid S", false, "llm chat --cid S"),
            (
                "python3 -m llm chat",
                false,
                "python3 -m llm chat --continue",
            ),
            (
                "uvx --from llm llm chat",
                false,
                "uvx --from llm llm chat --continue",
            ),
        ]);
    }
}
