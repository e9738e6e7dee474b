//! Gemini CLI: its options and how it resumes. Measured with 0.61.0.

use super::args::{Grammar, Part, Takes};
use super::{CONTINUE, Client, GENERIC, subcommand, words_of};
use std::ffi::OsString;

pub(super) const CLIENT: Client = Client {
    name: "gemini",
    package: "@google/gemini-cli",
    providers: &["gemini"],
    grammar: GRAMMAR,
    resume,
    ..GENERIC
};

/// From its help.
const GRAMMAR: Grammar = &[
    (&["--model", "-m"], Takes::One),
    (&["--prompt", "-p"], Takes::One),
    (&["--prompt-interactive", "-i"], Takes::One),
    (&["--approval-mode"], Takes::One),
    (&["--policy"], Takes::One),
    (&["--allowed-mcp-server-names"], Takes::One),
    (&["--allowed-tools"], Takes::One),
    (&["--extensions", "-e"], Takes::One),
    (&["--resume", "-r"], Takes::Optional),
    (&["--session-id"], Takes::One),
    (&["--delete-session"], Takes::One),
    (&["--include-directories"], Takes::One),
    (&["--output-format", "-o"], Takes::One),
    (&["--debug", "-d"], Takes::Nothing),
    (&["--sandbox", "-s"], Takes::Nothing),
    (&["--yolo", "-y"], Takes::Nothing),
    (&["--skip-trust"], Takes::Nothing),
    (&["--list-extensions", "-l"], Takes::Nothing),
    (&["--list-sessions"], Takes::Nothing),
    (&["--screen-reader"], Takes::Nothing),
    (&["--help", "-h"], Takes::Nothing),
    (&["--version", "-v"], Takes::Nothing),
];

/// Resumes the session that the user's line names, else the newest of the folder, with a prompt where
/// the line has one.
fn resume(parts: &[Part], _: Option<&str>) -> Option<Vec<OsString>> {
    if matches!(
        subcommand(parts),
        Some((_, "mcp" | "extensions" | "skills" | "hooks"))
    ) || parts
        .iter()
        .any(|part| part.is("--list-sessions") || part.is("--delete-session"))
    {
        return None;
    }
    let drop = [
        "--resume",
        "--session-id",
        "--prompt",
        "--prompt-interactive",
        "--",
        "",
    ];
    let mut words = words_of(
        parts
            .iter()
            .filter(|part| !drop.contains(&part.name.as_str())),
    );
    let named = |name: &str| {
        parts
            .iter()
            .find(|part| part.is(name))
            .and_then(|part| part.value.clone())
    };
    let id = named("--session-id").or_else(|| named("--resume"));
    words.extend(["--resume".into(), id.unwrap_or_else(|| "latest".into())]);
    let is_interactive = parts.iter().any(|part| part.is("--prompt-interactive"));
    let has_prompt = parts
        .iter()
        .any(|part| part.is("--prompt") || part.is_word());
    if is_interactive {
        words.extend(["--prompt-interactive".into(), CONTINUE.into()]);
    } else if has_prompt {
        words.extend(["--prompt".into(), CONTINUE.into()]);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use crate::clients::tests::check_resumes;

    #[test]
    fn resumes() {
        check_resumes(&[
            (
                "gemini -p 'do it' --skip-trust",
                false,
                "gemini --skip-trust --resume latest --prompt GO",
            ),
            (
                "gemini 'do it' -m pro",
                false,
                "gemini -m pro --resume latest --prompt GO",
            ),
            (
                "gemini --session-id S -p 'do it'",
                false,
                "gemini --resume S --prompt GO",
            ),
            ("gemini", false, "gemini --resume latest"),
            (
                "gemini -i 'do it'",
                false,
                "gemini --resume latest --prompt-interactive GO",
            ),
            ("gemini mcp list", false, "gemini mcp list"),
        ]);
    }
}
