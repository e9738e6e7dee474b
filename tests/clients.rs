//! Known clients: a stand-in for `claude` that does what the real one does with its settings, and
//! what ddollar makes of the others' command lines.

use crate::support::env::{Desk, PROGRAM, output};
use crate::support::run::Ended;
use crate::support::{AGENT, Provider, Run, Supervise, spent_at};
use serde_json::json;
use std::fs;

/// Asks for its token, tells its session, and then does what its stdin says: `fail ERROR` tells of
/// a turn that has failed, and goes on waiting, as the real one does at a terminal.
const CLAUDE: &str = r#"
trap 'echo "TERM $$"; exit 143' TERM
settings= before=
shown=
for word; do
    if [ "$before" = --settings ]; then settings=$word; fi
    case "$before $word" in
    *--settings | *--session-id | '--settings '* | '--session-id '*) ;;
    *) shown="$shown $word" ;;
    esac
    before=$word
done
helper=$(printf %s "$settings" | sed -n 's/.*"apiKeyHelper":"\([^"]*\)".*/\1/p')
hook=$(printf %s "$settings" | sed -n 's/.*"command":"\([^"]*__hook\)".*/\1/p')
token=$(eval "$helper")
tell() {
    printf '{"hook_event_name":"%s","session_id":"U-1","transcript_path":"%s","error":"%s"}' \
        "$1" "$TRANSCRIPT" "${2-}" | eval "$hook"
}
fail() { tell StopFailure "$1"; echo "TOLD $1"; }
tell SessionStart
echo "READY $$ token=${token##*-} env=${ANTHROPIC_API_KEY-none}$shown turn=$CLAUDE_CODE_RESUME_INTERRUPTED_TURN"
while read -r line; do eval "$line"; done
"#;

/// One that is kept from telling anything by `disableAllHooks`. What it does with ids is measured with
/// the real one (2.1.330); its session is on disk after `begin`.
const WITHOUT_HOOKS: &str = r#"
trap 'exit 143' TERM
rest= id=
while [ $# -gt 0 ]; do
    case $1 in
    --session-id) how=new id=$2; shift ;;
    --resume) how=on id=$2; shift ;;
    --settings) shift ;;
    *) rest="$rest $1" ;;
    esac
    shift
done
folder=$HOME/.claude/projects/-of-this-folder
begin() { mkdir -p "$folder" && echo '{}' >"$folder/$id.jsonl" && echo BEGUN; }
case $how in
new) [ ! -e "$folder/$id.jsonl" ] || { echo "Session ID $id is already in use" >&2; exit 1; } ;;
on) [ -e "$folder/$id.jsonl" ] || { echo "No conversation found: $id" >&2; exit 1; } ;;
esac
echo "READY $how $id$rest"
while read -r line; do eval "$line"; done
"#;

/// A run of that, and the id of its first session.
pub(crate) fn without_hooks(supervise: Supervise, words: &[&str]) -> (Run, String) {
    let desk = supervise.desk();
    let program = desk.write("claude", format!("#!/bin/sh\n{WITHOUT_HOOKS}"));
    let mut run = supervise.start(&[&[program.to_str().unwrap()], words].concat());
    let line = run.stdout.wait("READY new ");
    let id = line.split(' ').nth(2).unwrap().to_owned();
    (run, id)
}

/// A run of the stand-in, whose session is on disk.
fn claude(supervise: Supervise, words: &[&str]) -> Run {
    let desk = supervise.desk();
    let program = desk.write("claude", format!("#!/bin/sh\n{CLAUDE}"));
    let transcript = desk.write("transcript.jsonl", "{}\n");
    let supervise = supervise.env("TRANSCRIPT", transcript);
    supervise.start(&[&[program.to_str().unwrap()], words].concat())
}

/// Waits for a start of it: everything that it says of itself but its pid.
fn ready(run: &mut Run) -> String {
    let line = run.stdout.wait("READY ");
    line.split_once(' ').unwrap().1.to_owned()
}

fn hourly(provider: &Provider) -> Supervise {
    by_restart(provider).options(&["--interval", "1h"])
}

/// A run whose requests are left alone.
pub(crate) fn by_restart(provider: &Provider) -> Supervise {
    Supervise::with(provider).options(&["--no-proxy"])
}

#[test]
fn a_client_that_is_told_to_continue_resumes_although_no_session_is_known() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let supervise = by_restart(&provider);
    let program = supervise
        .desk()
        .write("claude", format!("#!/bin/sh\n{AGENT}"));
    let mut run = supervise.start(&[program.to_str().unwrap(), "--continue"]);
    run.stdout.wait("READY");
    provider.wait_for_probe("anthropic#2");
    provider.set("org-1", 0.96);
    run.stdout.wait("READY");
    run.finish()
        .says(&[
            "Switched to token 2/2\n",
            "/claude --continue\n✓ Session resumed\n",
        ])
        .never_says("begins anew");
}

#[test]
fn the_token_goes_through_the_helper_and_a_rotation_resumes_the_session() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = claude(by_restart(&provider), &["do", "it"]);
    assert!(ready(&mut run).ends_with("token=1 env=none do it turn=1"));
    provider.wait_for_probe("anthropic#2");
    provider.control(json!({"set": {"organization": "org-1", "bucket": "requests", "used": 0.97}}));
    assert!(ready(&mut run).ends_with("token=2 env=none --resume U-1 turn=1"));
    run.finish().says(&[
        "claude: with --settings, --session-id, CLAUDE_CODE_RESUME_INTERRUPTED_TURN=1\n",
        "/claude do it\n",
        "Token limit approaching (97% used)",
        "Switched to token 2/2\n",
        "/claude --resume U-1\n",
        "Session resumed",
    ]);
}

#[test]
fn a_budget_that_starts_anew_at_each_restart_is_told_of_at_the_start() {
    let provider = Provider::anthropic(&[0.1]);
    let words = ["-p", "--max-budget-usd", "5", "do it"];
    let mut run = claude(by_restart(&provider), &words);
    ready(&mut run);
    let said = "claude: --max-budget-usd starts anew at each restart\n";
    run.finish().says(&[said, "Launching"]);
    let mut run = claude(Supervise::with(&provider), &words);
    ready(&mut run);
    run.finish().never_says("starts anew");
}

/// As after an upgrade in the middle of the night.
#[test]
#[cfg_attr(
    any(feature = "portable", not(target_os = "linux")),
    ignore = "the program is known by its file alone"
)]
fn a_program_file_that_is_gone_still_hands_tokens_over_and_hears_the_client() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let supervise = hourly(&provider).copied();
    let program = supervise.desk().join("ddollar");
    let mut run = claude(supervise, &["do", "it"]);
    assert!(ready(&mut run).ends_with("token=1 env=none do it turn=1"));
    provider.wait_for_probe("anthropic#2");
    fs::remove_file(program).unwrap();
    provider.control(spent_at("org-1", "9m"));
    run.tell("fail rate_limit");
    assert!(ready(&mut run).ends_with("token=2 env=none --resume U-1 turn=1"));
    run.finish()
        .says(&["Token limit reached\n", "Switched to token 2/2\n"]);
}

#[test]
fn a_turn_that_failed_on_a_limit_goes_on_with_the_next_token_though_the_client_stays() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = claude(hourly(&provider), &["--continue"]);
    ready(&mut run);
    provider.wait_for_probe("anthropic#2");
    provider.control(spent_at("org-1", "9m"));
    run.tell("fail rate_limit");
    assert!(ready(&mut run).ends_with("token=2 env=none --resume U-1 turn=1"));
    run.finish().says(&[
        "Token limit reached\n",
        "Auto-rotating to next token...\n",
        "Switched to token 2/2\n",
        "Process completed successfully",
    ]);
}

#[test]
fn the_clients_word_counts_more_than_a_probe() {
    // Both organizations serve a probe; the client's model is what is spent.
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = claude(hourly(&provider), &["-p", "do"]);
    ready(&mut run);
    provider.wait_for_probe("anthropic#2");
    run.tell("fail rate_limit; exit 1");
    assert!(ready(&mut run).contains("token=2 env=none -p --resume U-1 Continue"));
    run.finish().says(&[
        "exited with status 1",
        "Token limit reached",
        "Switched to token 2/2",
    ]);
}

#[test]
fn a_status_of_zero_after_a_limit_is_no_success() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = claude(hourly(&provider), &["-p", "do"]);
    ready(&mut run);
    provider.wait_for_probe("anthropic#2");
    run.tell("fail rate_limit; exit 0");
    assert!(ready(&mut run).contains("token=2"));
    run.finish().says_once("Process completed successfully");
}

#[test]
fn with_one_quota_a_turn_that_failed_waits_for_the_reset_and_goes_on() {
    let organizations =
        json!({"org-1": {"buckets": {"requests": {"limit": 1000, "resets": "10m", "used": 0.1}}}});
    let mut provider = Provider::start("anthropic", &["org-1", "org-1"], organizations, json!([]));
    let mut run = claude(hourly(&provider), &[]);
    ready(&mut run);
    provider.wait_for_probe("anthropic#2");
    provider.control(spent_at("org-1", "6s"));
    run.tell("fail rate_limit");
    assert!(ready(&mut run).ends_with("token=1 env=none --resume U-1 turn=1"));
    run.finish()
        .says(&["2 tokens, 1 quota", "Waiting for limits to reset"])
        .never_says("Switched");
}

#[test]
fn a_turn_that_failed_on_an_overload_is_tried_again() {
    let mut provider = Provider::anthropic(&[0.1]);
    let mut run = claude(hourly(&provider), &["-p", "do"]);
    ready(&mut run);
    provider.wait_for_probe("anthropic#1");
    run.tell("fail overloaded; exit 1");
    assert!(ready(&mut run).contains("token=1 env=none -p --resume U-1"));
    run.finish()
        .says(&["exited with status 1\n", "Anthropic is overloaded"]);
}

#[test]
fn a_failure_that_is_none_of_ours_changes_nothing() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = claude(hourly(&provider), &["-p", "do"]);
    ready(&mut run);
    provider.wait_for_probe("anthropic#2");
    run.tell("fail max_output_tokens; fail authentication_failed; exit 3");
    run.end().expect(3).never_says("Switched");
}

#[test]
fn a_turn_that_failed_on_a_rejection_goes_on_when_the_provider_knows_the_token_again() {
    let mut provider = Provider::anthropic(&[0.1]);
    let mut run = claude(hourly(&provider), &[]);
    ready(&mut run);
    provider.wait_for_probe("anthropic#1");
    provider.control(json!({"answer": {"fault": "401", "times": 1}}));
    run.tell("fail authentication_failed");
    assert!(ready(&mut run).ends_with("token=1 env=none --resume U-1 turn=1"));
    run.finish()
        .says(&["perhaps by mistake", "Session resumed"]);
}

#[test]
fn trouble_that_is_over_does_not_end_the_client_at_the_next_limit() {
    let mut provider = Provider::anthropic(&[0.1]);
    let mut run = claude(by_restart(&provider), &[]);
    ready(&mut run);
    run.tell("fail authentication_failed");
    run.stdout.wait("TOLD");
    // The second is asked after what was told.
    provider.served();
    for _ in 0..2 {
        provider.wait_for_probe("anthropic#1");
    }
    provider.control(spent_at("org-1", "2s"));
    run.stderr.wait("Session continued");
    run.finish().never_says("Session resumed");
}

#[test]
fn a_session_that_never_began_is_started_anew() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let supervise = by_restart(&provider);
    let mut run = claude(supervise, &["-p", "do"]);
    ready(&mut run);
    fs::remove_file(run.desk.join("transcript.jsonl")).unwrap();
    provider.wait_for_probe("anthropic#2");
    provider.control(json!({"set": {"organization": "org-1", "bucket": "requests", "used": 0.97}}));
    assert!(ready(&mut run).ends_with("token=2 env=none -p do turn=1"));
    run.finish();
}

#[test]
fn a_named_session_that_never_began_is_started_by_its_name_again() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let supervise = by_restart(&provider);
    let mut run = claude(supervise, &["--session-id=S", "-p", "do"]);
    ready(&mut run);
    fs::remove_file(run.desk.join("transcript.jsonl")).unwrap();
    provider.wait_for_probe("anthropic#2");
    provider.set("org-1", 0.97);
    assert!(ready(&mut run).ends_with("token=2 env=none --session-id=S -p do turn=1"));
    run.finish();
}

#[test]
fn without_hooks_a_session_goes_on_by_the_id_that_it_was_given() {
    for (words, wanted) in [
        (&["-p", "do"][..], " -p Continue where you left off."),
        (&["do"], ""),
        (
            &["--bare", "-p", "do"],
            " --bare -p Continue where you left off.",
        ),
    ] {
        let mut provider = Provider::anthropic(&[0.1, 0.1]);
        let (mut run, id) = without_hooks(by_restart(&provider), words);
        run.tell("begin");
        run.stdout.wait("BEGUN");
        provider.wait_for_probe("anthropic#2");
        provider.set("org-1", 0.97);
        assert_eq!(run.stdout.wait("READY"), format!("READY on {id}{wanted}"));
        run.finish()
            .says(&[&format!("--resume {id}"), "Session resumed"]);
    }
}

#[test]
fn without_hooks_a_session_that_never_began_is_started_anew_under_another_id() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let (mut run, id) = without_hooks(by_restart(&provider), &["-p", "do"]);
    provider.wait_for_probe("anthropic#2");
    provider.set("org-1", 0.97);
    let line = run.stdout.wait("READY new ");
    assert!(line.ends_with(" -p do") && !line.contains(&id), "{line}");
    run.finish();
}

#[test]
fn only_a_process_of_the_command_is_answered() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = claude(hourly(&provider), &[]);
    let pid = ready(&mut run).split(' ').next().unwrap().to_owned();
    provider.wait_for_probe("anthropic#2");
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let address = environ
        .split(|byte| *byte == 0)
        .find_map(|pair| pair.strip_prefix(b"DDOLLAR_CALLBACK="))
        .map(|address| String::from_utf8(address.to_vec()).unwrap())
        .expect("an address");
    let desk = Desk::new();
    let stranger = |word: &str| {
        let input = desk.write(
            "input",
            r#"{"hook_event_name": "StopFailure", "error": "rate_limit"}"#,
        );
        output(
            desk.command(PROGRAM)
                .arg(word)
                .env("DDOLLAR_CALLBACK", &address)
                .stdin(fs::File::open(input).unwrap()),
        )
    };
    let token = stranger("__token");
    assert!(!token.status.success() && token.stdout.is_empty());
    assert!(stranger("__hook").status.success());
    // The same call from within is heard, so the one before was not.
    run.tell("echo ASKED; eval \"$helper\"; echo");
    run.stdout.wait("ASKED");
    assert_eq!(run.stdout.wait(""), provider.token(1));
    run.finish().never_says("Token limit reached");
}

#[test]
fn a_slow_caller_keeps_no_other_from_its_answer() {
    let provider = Provider::anthropic(&[0.1]);
    let mut run = claude(hourly(&provider), &[]);
    ready(&mut run);
    let drip = r#"use IO::Socket::UNIX; $| = 1;
        my $name = $ENV{DDOLLAR_CALLBACK};
        my $peer = $name =~ m{^/} ? $name : "\0$name";
        my $line = IO::Socket::UNIX->new(Peer => $peer) or die;
        syswrite $line, "h"; print "DRIPS\n"; while (1) { sleep 1; syswrite $line, " " or exit; }"#;
    let drip = run.desk.write("drip.pl", drip);
    run.tell(&format!("perl {} &", drip.display()));
    run.stdout.wait("DRIPS");
    run.tell("echo \"TOKEN $(eval \"$helper\")\"");
    assert_eq!(
        run.stdout.wait("TOKEN"),
        format!("TOKEN {}", provider.token(1))
    );
    run.finish();
}

#[test]
fn the_users_own_settings_are_kept() {
    let provider = Provider::anthropic(&[0.1]);
    let supervise = hourly(&provider);
    let own = r#"{"model": "opus", "hooks": {"Stop": []}}"#;
    let desk = supervise.desk();
    let program = desk.write("claude", "#!/bin/sh\necho \"$@\"\n");
    let run = supervise.start(&[program.to_str().unwrap(), "--settings", own, "-p", "x"]);
    let ended = run.end().expect(0);
    let out = String::from_utf8(ended.stdout).unwrap();
    assert!(
        out.contains(r#""model":"opus""#) && out.contains("apiKeyHelper"),
        "{out}"
    );
    assert!(out.trim_end().ends_with(" -p x"), "{out}");
}

#[test]
fn what_stands_in_a_settings_file_is_on_no_command_line() {
    // Others may read a command line, and it holds no word of more than 128 KiB.
    let provider = Provider::anthropic(&[0.1]);
    let supervise = hourly(&provider);
    let long = "x".repeat(200_000);
    let own = json!({"env": {"HIDDEN": "made-up-secret", "LONG": long}});
    let own = supervise.desk().write("own.json", own.to_string());
    let script = "#!/bin/sh\necho \"$1 $5 $6\"; cat \"$2\"; tr '\\0' ' ' </proc/$$/cmdline\n";
    let program = supervise.desk().write("claude", script);
    let run = supervise.start(&[
        program.to_str().unwrap(),
        "--settings",
        own.to_str().unwrap(),
        "-p",
        "x",
    ]);
    let out = String::from_utf8(run.end().expect(0).stdout).unwrap();
    let (words, rest) = out.split_once('\n').unwrap();
    assert_eq!(words, "--settings -p x");
    assert!(rest.contains("apiKeyHelper") && rest.contains(&long));
    assert_eq!(rest.matches("made-up-secret").count(), 1);
}

#[test]
fn settings_that_cannot_be_merged_stay_and_the_token_is_in_the_environment() {
    for (own, why) in [
        ("{broken", "is not a JSON object"),
        ("/no/such/file", "cannot be read"),
    ] {
        let provider = Provider::anthropic(&[0.1]);
        let supervise = hourly(&provider);
        let program = supervise
            .desk()
            .write("claude", "#!/bin/sh\necho \"$ANTHROPIC_API_KEY $*\"\n");
        let run = supervise.start(&[program.to_str().unwrap(), "-c", "--settings", own]);
        let ended = run.end().expect(0);
        let out = String::from_utf8(ended.stdout.clone()).unwrap();
        assert_eq!(out, format!("{} -c --settings {own}\n", provider.token(1)));
        ended.says(&[&format!("The command's --settings {why}")]);
    }
}

#[test]
fn nothing_is_changed_with_resume_same_or_the_client_generic() {
    for options in [["--resume", "same"], ["--client", "generic"]] {
        let provider = Provider::anthropic(&[0.1]);
        let supervise = hourly(&provider).options(&options);
        let script = "#!/bin/sh\necho \"$ANTHROPIC_API_KEY $CLAUDE_CODE_RESUME_INTERRUPTED_TURN/$DDOLLAR_CALLBACK $*\"\n";
        let program = supervise.desk().write("claude", script);
        let run = supervise.start(&[program.to_str().unwrap(), "-p", "x"]);
        let ended = run.end().expect(0);
        let out = String::from_utf8(ended.stdout.clone()).unwrap();
        assert_eq!(out, format!("{} / -p x\n", provider.token(1)));
        ended.never_says("claude: with");
    }
}

/// Stands in for codex: it keeps the file of its session open, as the real one does (0.171).
const CODEX: &str = r#"
folder=$HOME/.codex/sessions/2026/11/29
mkdir -p "$folder"
echo '{}' >"$folder/rollout-2026-11-29T01-00-00-99999999-2163-7683-b35e-90f0f0c07051.jsonl"
case $* in
*without*) ;;
*) exec 9>>"$folder/rollout-2026-11-29T01-48-18-01a224fd-2163-7683-b35e-90f0f0c07051.jsonl" ;;
esac
OPENAI_API_KEY=$CODEX_API_KEY
"#;

/// A run of that with these words, and how it is started again near a limit.
fn codex_again(words: &[&str]) -> String {
    let mut provider = Provider::openai(&[0.1, 0.1]);
    let supervise = by_restart(&provider);
    let program = supervise
        .desk()
        .write("codex", format!("#!/bin/sh\n{CODEX}{AGENT}"));
    let mut run = supervise.start(&[&[program.to_str().unwrap()], words].concat());
    let line = run.stdout.wait("READY");
    assert!(line.ends_with(&format!(" 1 {}", words.join(" "))), "{line}");
    provider.wait_for_probe("openai#2");
    provider.set("org-1", 0.97);
    let line = run.stdout.wait("READY");
    let again = line.split_once(" 2 ").unwrap().1.to_owned();
    let (said, not) = match again.contains("resume") {
        true => ("Session resumed", "begins anew"),
        false => ("codex: no session is known to resume", "Session resumed"),
    };
    run.finish()
        .says(&["codex: with CODEX_API_KEY\n", said])
        .never_says(not);
    again
}

#[test]
#[cfg_attr(
    feature = "portable",
    ignore = "which files a process has open is not told"
)]
fn codex_gets_its_own_variable_and_resumes_the_session_that_it_has_open() {
    assert_eq!(
        codex_again(&["exec", "--json", "do it"]),
        "exec --json resume 01a224fd-2163-7683-b35e-90f0f0c07051 Continue where you left off."
    );
}

/// For the provider that it has built in, it would insist on a sign-in.
#[test]
fn interactive_codex_gets_a_provider_that_takes_its_token_from_the_environment() {
    let provider = Provider::openai(&[0.1]);
    let supervise = hourly(&provider);
    let program = supervise
        .desk()
        .write("codex", "#!/bin/sh\necho \"$CODEX_API_KEY $*\"\n");
    let ended = supervise.start(&[program.to_str().unwrap(), "do it"]).end();
    let out = String::from_utf8(ended.expect(0).stdout).unwrap();
    let beginning = format!("{} -c model_provider=\"ddollar\" -c ", provider.token(1));
    assert!(out.starts_with(&beginning), "{out}");
    let url = format!("base_url=\"{}/v1\"", provider.url);
    assert!(out.contains(&url) && out.ends_with(" do it\n"), "{out}");
}

/// The last session of the folder is somebody else's.
#[test]
fn without_a_session_of_its_own_codex_is_started_with_the_same_words() {
    assert_eq!(codex_again(&["exec", "without"]), "exec without");
}

/// Stands in for opencode: its log says which session has which title (1.18).
const OPENCODE: &str = r#"
log=$HOME/.local/share/opencode/log
mkdir -p "$log"
new() { echo "timestamp=T level=INFO run=$$ message=created id=$1 slug=x title=\"$2\" agent=y" >>"$log/opencode.log"; }
if [ "$2" = --title ]; then new ses_ours "$3"; new ses_other "New session"; fi
"#;

#[test]
fn opencode_is_asked_for_its_model_and_resumes_the_session_of_its_title() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let supervise = by_restart(&provider);
    let program = supervise
        .desk()
        .write("opencode", format!("#!/bin/sh\n{OPENCODE}{AGENT}"));
    let model = ["-m", "anthropic/claude-sonnet-5-5"];
    let mut run = supervise.start(&[
        program.to_str().unwrap(),
        "run",
        model[0],
        model[1],
        "do it",
    ]);
    let line = run.stdout.wait("READY");
    assert!(line.contains(" 1 run --title do it (ddollar "), "{line}");
    assert_eq!(
        provider.wait_for_probe("anthropic#2")["model"],
        "claude-sonnet-5-5"
    );
    provider.set("org-1", 0.97);
    let line = run.stdout.wait("READY");
    let again =
        "2 run -m anthropic/claude-sonnet-5-5 --session ses_ours Continue where you left off.";
    assert!(line.ends_with(again), "{line}");
    run.finish().says(&["opencode: with --title\n"]);
}

#[test]
fn a_client_that_exits_with_zero_after_a_limit_goes_on_with_the_next_token() {
    let mut provider = Provider::openai(&[0.1, 0.1]);
    let supervise = hourly(&provider);
    let program = supervise
        .desk()
        .write("aider", format!("#!/bin/sh\n{AGENT}"));
    let mut run = supervise.start(&[program.to_str().unwrap(), "--message", "do it"]);
    run.stdout.wait("READY");
    provider.wait_for_probe("openai#2");
    provider.control(spent_at("org-1", "9m"));
    run.tell("exit 0");
    let line = run.stdout.wait("READY");
    let again = " 2 --restore-chat-history --message Continue where you left off.";
    assert!(line.ends_with(again), "{line}");
    run.finish()
        .says(&["Token limit reached", "Switched to token 2/2"])
        .says_once("Process completed successfully");
}

#[test]
fn what_a_client_cannot_do_after_a_restart_is_said_at_the_start() {
    for (words, cannot) in [
        (
            &["opencode"][..],
            "opencode: its full-screen program waits for you after a restart",
        ),
        (
            &["opencode", "--prompt", "x"],
            "opencode: its session is found again with `run` alone, so each restart begins --prompt anew",
        ),
        (
            &["opencode", "--session", "ses_1", "--prompt", "x"],
            "opencode: its full-screen program waits for you after a restart",
        ),
        (
            &["aider", "a.py"],
            "aider: its chat waits for you after a restart",
        ),
        (
            &["claude", "-p", "x", "--no-session-persistence"],
            "claude: it keeps no session, so each restart begins the task anew",
        ),
        (
            &["codex", "exec", "--ephemeral", "x"],
            "codex: it keeps no session, so each restart begins the task anew",
        ),
        (&["opencode", "run", "x"], ""),
        (&["aider", "--message", "x"], ""),
        (&["claude", "-p", "x"], ""),
        (&["codex", "exec", "x"], ""),
    ] {
        let provider = match words[0] {
            "claude" => Provider::anthropic(&[0.1]),
            _ => Provider::openai(&[0.1]),
        };
        let supervise = hourly(&provider);
        let program = supervise.desk().write(words[0], "#!/bin/sh\n");
        let run = supervise.start(&[&[program.to_str().unwrap()], &words[1..]].concat());
        let ended = run.end().expect(0);
        match cannot {
            "" => ended.never_says("waits for you").never_says("anew"),
            cannot => ended.says(&[cannot, "Launching"]),
        };
    }
}

#[test]
fn copilot_is_supervised_with_a_provider_of_the_users_own_alone() {
    let provider = Provider::openai(&[0.1]);
    let script = "#!/bin/sh\necho \"$COPILOT_PROVIDER_API_KEY $COPILOT_PROVIDER_BASE_URL\"\n";
    let start = |set: bool, options: &[&str]| {
        let supervise = hourly(&provider).options(options);
        let url = format!("{}/v1", provider.url);
        let supervise = if set {
            supervise.env("COPILOT_PROVIDER_BASE_URL", url)
        } else {
            supervise
        };
        let program = supervise.desk().write("copilot", script);
        supervise
            .start(&[program.to_str().unwrap(), "--continue"])
            .end()
    };
    start(false, &[])
        .expect(125)
        .says(&["copilot would ask", "hint: set COPILOT_PROVIDER_BASE_URL"]);
    let out = |ended: Ended| String::from_utf8(ended.stdout).unwrap();
    let line = out(start(true, &[]).expect(0));
    assert_eq!(line, format!("{} {}/v1\n", provider.token(1), provider.url));
    let line = out(start(true, &["--proxy"]).expect(0));
    assert!(
        line.starts_with("ddollar-") && line.contains(" http://127.0.0.1:"),
        "{line}"
    );
    assert!(!line.contains(&provider.url), "{line}");
}

#[test]
fn the_client_says_which_tokens_are_watched() {
    let provider = Provider::anthropic(&[0.1]);
    let supervise = hourly(&provider).env("GROQ_API_KEY", "gsk-made-up-1");
    let program = supervise
        .desk()
        .write("claude", "#!/bin/sh\necho \"groq=$GROQ_API_KEY\"\n");
    let run = supervise.start(&[program.to_str().unwrap()]);
    let ended = run
        .end()
        .expect(0)
        .says(&["Loaded 1 token(s) across 1 provider(s)"]);
    assert_eq!(
        String::from_utf8(ended.stdout).unwrap(),
        "groq=gsk-made-up-1\n"
    );
}

#[test]
fn a_client_without_a_token_of_its_own_is_not_ended_by_those_of_others() {
    let provider = Provider::openai(&[1.0]);
    let supervise = by_restart(&provider);
    let program = supervise.desk().write("claude", "#!/bin/sh\nsleep 60\n");
    let run = supervise.start(&[program.to_str().unwrap()]);
    run.end().expect(125).says(&[
        "no API token for claude found in the environment\n",
        "hint: set ANTHROPIC_API_KEY; ",
    ]);
}

#[test]
fn in_one_ring_a_client_gets_no_token_of_another_provider() {
    let provider = Provider::anthropic(&[0.1]);
    let supervise = hourly(&provider)
        .env("GROQ_API_KEY", "gsk-made-up-1")
        .options(&["--mixed"]);
    let script = "#!/bin/sh\necho \"groq=$GROQ_API_KEY $DDOLLAR_PROVIDER\"\n";
    let program = supervise.desk().write("claude", script);
    let run = supervise.start(&[program.to_str().unwrap()]);
    let out = String::from_utf8(run.end().expect(0).stdout).unwrap();
    assert_eq!(out, "groq= anthropic\n");
}

#[test]
fn a_short_name_of_a_model_is_asked_for_in_full() {
    let mut provider = Provider::anthropic(&[0.1]);
    let supervise = hourly(&provider).env("ANTHROPIC_MODEL", "sonnet");
    let run = claude(supervise, &[]);
    assert_eq!(
        provider.wait_for_probe("anthropic#1")["model"],
        "claude-sonnet-5-5"
    );
    run.finish();
}

#[test]
fn a_model_that_the_provider_does_not_know_is_not_asked_for_again() {
    // The client's usual model is one that this provider does not have.
    let scenario = json!({"models": ["claude-haiku-5-5"]});
    let mut provider = Provider::playing("anthropic", &["org-1"], scenario);
    let run = claude(by_restart(&provider), &[]);
    for _ in 0..2 {
        provider.wait_for("a probe that is served", |line| line["status"] == 200);
    }
    let served = provider.served();
    let unknown = served.iter().filter(|line| line["status"] == 404).count();
    assert_eq!(unknown, 1, "{served:#?}");
    run.finish();
}

/// The names of tokens at the start are those that were counted.
#[test]
fn tokens_that_a_client_never_asks_for_are_not_named() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    Supervise::with(&provider)
        .options(&["--client", "claude", "--no-proxy"])
        .env("OPENAI_API_KEY", "token-of-another")
        .script("true")
        .end()
        .says(&["Loaded 2 token(s) across 1 provider(s)", "Anthropic: 1 "])
        .never_says("OpenAI: 1 ");
}
