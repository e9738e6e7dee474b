//! opencode: its options and how it resumes. Measured with 1.18.33.

use super::args::{Grammar, Part, Takes};
use super::{CONTINUE, Client, GENERIC, subcommand, words_of};
use std::ffi::OsString;

pub(super) const CLIENT: Client = Client {
    name: "opencode",
    package: "opencode-ai",
    grammar: GRAMMAR,
    resume,
    ..GENERIC
};

/// From its help.
const GRAMMAR: Grammar = &[
    (&["--model", "-m"], Takes::One),
    (&["--agent"], Takes::One),
    (&["--session", "-s"], Takes::One),
    (&["--continue", "-c"], Takes::Nothing),
    (&["--fork"], Takes::Nothing),
    (&["--command"], Takes::One),
    (&["--format"], Takes::One),
    (&["--file", "-f"], Takes::One),
    (&["--title"], Takes::One),
    (&["--attach"], Takes::One),
    (&["--port"], Takes::One),
    (&["--hostname"], Takes::One),
    (&["--variant"], Takes::One),
    (&["--dir"], Takes::One),
    (&["--log-level"], Takes::One),
    (&["--prompt"], Takes::One),
    (&["--share"], Takes::Nothing),
    (&["--thinking"], Takes::Nothing),
    (&["--print-logs"], Takes::Nothing),
    (&["--help", "-h"], Takes::Nothing),
    (&["--version", "-v"], Takes::Nothing),
];

/// Its subcommands that work on no session. From its help.
const SUBCOMMANDS: &[&str] = &[
    "acp",
    "mcp",
    "attach",
    "debug",
    "providers",
    "auth",
    "agent",
    "upgrade",
    "uninstall",
    "serve",
    "web",
    "models",
    "stats",
    "export",
    "import",
    "github",
    "pr",
    "session",
    "plugin",
    "db",
    "completion",
];

/// `opencode run PROMPT` → `opencode run --continue CONTINUE`; any other line gets `--continue`.
fn resume(parts: &[Part], _: Option<&str>) -> Option<Vec<OsString>> {
    let drop = [
        "--continue",
        "--fork",
        "--file",
        "--prompt",
        "--title",
        "--",
    ];
    let (place, word) = subcommand(parts).unwrap_or((parts.len(), ""));
    let runs = word == "run";
    // The one word of the full-screen program is a folder.
    if !runs && SUBCOMMANDS.contains(&word) {
        return None;
    }
    let kept = parts.iter().enumerate().filter(|(at, part)| {
        !drop.contains(&part.name.as_str()) && (!part.is_word() || *at == place)
    });
    let mut words = words_of(kept.map(|(_, part)| part));
    if !parts.iter().any(|part| part.is("--session")) {
        words.push("--continue".into());
    }
    if runs {
        words.push(CONTINUE.into());
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use crate::clients::tests::check_resumes;

    #[test]
    fn resumes() {
        check_resumes(&[
            ("opencode run 'do it'", false, "opencode run --continue GO"),
            (
                "opencode run -m a/b -s S 'do it'",
                false,
                "opencode run -m a/b -s S GO",
            ),
            ("opencode", false, "opencode --continue"),
            (
                "opencode ../project",
                false,
                "opencode ../project --continue",
            ),
            ("opencode serve", false, "opencode serve"),
            (
                "pnpm dlx opencode-ai run 'x'",
                false,
                "pnpm dlx opencode-ai run --continue GO",
            ),
        ]);
    }
}
