//! The journal that a run leaves, and the report on it.

use crate::support::env::PROGRAM;
use crate::support::{Desk, Provider, Supervise, eventually, spent_at};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A state folder that outlives the run in it.
struct State(Desk);

impl State {
    fn new() -> State {
        State(Desk::new())
    }

    /// One in which `true` was run.
    #[track_caller]
    fn after_a_run() -> State {
        let provider = Provider::anthropic(&[0.1]);
        let state = State::new();
        let run = state.of(Supervise::with(&provider));
        run.start(&["true"]).end().expect(0);
        state
    }

    fn runs(&self) -> PathBuf {
        self.0.join("ddollar/runs")
    }

    fn journals(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.runs()).into_iter().flatten();
        let mut journals: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        journals.sort();
        journals
    }

    fn of(&self, run: Supervise) -> Supervise {
        run.env("XDG_STATE_HOME", self.0.path())
    }

    fn report(&self, arguments: &[&str]) -> Output {
        self.0
            .command(PROGRAM)
            .env("XDG_STATE_HOME", self.0.path())
            .env("TZ", "UTC")
            .arg("report")
            .args(arguments)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn shows(&self, arguments: &[&str]) -> String {
        let output = self.report(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn facts(&self) -> Value {
        serde_json::from_str(&self.shows(&["--json"])).unwrap()
    }
}

#[test]
fn runs_are_listed_with_the_names_that_report_takes_the_newest_first() {
    let state = State::new();
    let output = state.report(&["--list"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(error.contains("there is no run to report on"), "{error}");
    let provider = Provider::anthropic(&[0.1]);
    for code in ["0", "3"] {
        let run = state.of(Supervise::with(&provider));
        let command = format!("sleep 1.1; exit {code}");
        let _ = run.start(&["sh", "-c", &command]).end();
    }
    let text = state.shows(&["--list"]);
    let journals = state.journals();
    let names: Vec<&str> = journals
        .iter()
        .map(|journal| journal.file_stem().unwrap().to_str().unwrap())
        .collect();
    let [old, new] = names[..] else {
        panic!("{names:?}");
    };
    // A line that is too long goes on in the next one.
    let told = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (first, second) = told.split_once(&format!(" {old} ")).unwrap();
    assert!(first.starts_with(new), "{text}");
    let failed = "(1s): process exited with status 3 sh -c 'sleep 1.1; exit 3'";
    assert!(first.ends_with(failed), "{text}");
    let finished = "(1s): finished sh -c 'sleep 1.1; exit 0'";
    assert!(second.ends_with(finished), "{text}");
    assert!(state.shows(&[old]).contains("): finished\n"));
}

/// What cannot be done is refused, and not left out in silence.
#[test]
fn options_of_report_that_do_not_go_together_are_named() {
    let state = State::after_a_run();
    for (arguments, flag, problem) in [
        (["--list", "--json"], "--list", "a RUN, --json or --svg"),
        (["--list", "--svg=x"], "--list", "a RUN, --json or --svg"),
        (["--list", "x"], "--list", "a RUN, --json or --svg"),
        (["--json", "--svg=-"], "--svg", "--json"),
    ] {
        let output = state.report(&arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        let wanted = format!("option '{flag}' does not go with {problem}\n");
        assert!(error.contains(&wanted), "{error}");
        assert_eq!(output.status.code(), Some(125));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_run_with_a_rotation_and_a_wait_is_told_in_the_morning() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let state = State::new();
    let mut run = state
        .of(Supervise::with(&provider))
        .options(&["--patience", "0s"])
        .agent();
    run.wait_ready_with(1);
    provider.set("org-1", 0.96);
    let pid = run.wait_ready_with(2);
    provider.control(json!([spent_at("org-1", "9m"), spent_at("org-2", "2s")]));
    run.wait_stopped(pid);

    // It can be looked at while it goes on; the disk may be a moment behind.
    eventually("the wait is in the report", || {
        let text = state.shows(&[]);
        let told = text.contains("… Waiting for token 2/2: promised ");
        (told && text.contains("): still running\n")).then_some(())
    });
    run.stderr.wait("Session continued");
    run.tell("exit 0");
    run.end().expect(0);

    let text = state.shows(&[]);
    let mut rest = text.as_str();
    for part in [
        "sh ",
        "): finished\n",
        "token 1/2  ",
        "token 2/2  ",
        "command    ",
        "▶ Started with token 1/2\n",
        "! Token 1/2 is near its limit: requests, 96% used, resets ",
        "↻ Rotated to token 2/2 (the restart took ",
        "! Token 2/2 has reached its limit: requests, resets ",
        "… Waited ",
        " for token 2/2: promised ",
        ", usable ",
        "✓ Finished\n",
        "2 starts, 1 rotation, 1 wait; ",
        "Saved about ",
    ] {
        let at = rest.find(part);
        let at = at.unwrap_or_else(|| panic!("{part:?} is missing, or too early, in:\n{text}"));
        rest = &rest[at + part.len()..];
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "no colours without a terminal");
    let plain = state.shows(&["--ascii"]);
    assert!(
        plain.is_ascii() && plain.contains("R Rotated to token 2/2"),
        "{plain}"
    );

    let facts = state.facts();
    assert_eq!(facts["end"], json!({"outcome": "as-command", "code": 0}));
    assert_eq!(facts["waits"].as_array().unwrap().len(), 1);
    assert_eq!(facts["damaged_lines"], 0);

    let svg = state.0.join("night.svg");
    assert_eq!(state.shows(&["--svg", svg.to_str().unwrap()]), "");
    let svg = fs::read_to_string(svg).unwrap();
    assert!(
        svg.starts_with("<svg ") && svg.contains("\u{2192} token 2/2"),
        "{svg}"
    );
    assert_eq!(state.shows(&["--svg", "-"]), svg);
}

#[test]
fn a_journal_is_for_its_owner_and_is_found_by_name_or_path() {
    let provider = Provider::anthropic(&[0.1]);
    let state = State::new();
    for code in ["3", "4"] {
        let script = format!("exit {code}");
        let run = state.of(Supervise::with(&provider));
        run.start(&["sh", "-c", &script]).end();
        // Names sort by the second.
        let journals = state.journals();
        for (i, journal) in journals.iter().enumerate() {
            fs::rename(
                journal,
                state.runs().join(format!("2026010{i}T000000Z-7.jsonl")),
            )
            .unwrap();
        }
    }
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state.runs()), 0o700);
    let journals = state.journals();
    assert_eq!(journals.len(), 2);
    assert_eq!(mode(&journals[0]), 0o600);

    assert!(state.shows(&[]).contains("status 4"));
    assert!(
        state
            .shows(&[journals[0].to_str().unwrap()])
            .contains("status 3")
    );
    assert!(
        state
            .shows(&["20260100T000000Z-7.jsonl"])
            .contains("status 3")
    );
}

#[test]
fn a_named_journal_is_appended_to() {
    let provider = Provider::anthropic(&[0.1]);
    let state = State::new();
    let file = state.0.join("night.jsonl");
    let file = file.to_str().unwrap();
    for code in ["3", "4"] {
        let script = format!("exit {code}");
        state
            .of(Supervise::with(&provider))
            .options(&["--journal", file])
            .start(&["sh", "-c", &script])
            .end();
    }
    assert_eq!(state.journals().len(), 0);
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(text.matches("\"event\":\"run\"").count(), 2);
    assert!(state.shows(&[file]).contains("status 4"));
}

/// Two runs in one file at the same time could not be told apart.
#[test]
fn a_journal_that_another_run_writes_is_left_to_that_one() {
    let provider = Provider::anthropic(&[0.1]);
    let desk = Desk::new();
    let file = desk.join("night.jsonl");
    let journal = ["--journal", file.to_str().unwrap()];
    let mut first = Supervise::with(&provider).options(&journal).agent();
    first.wait_ready_with(1);
    eventually("the first run writes it", || {
        fs::read_to_string(&file)
            .ok()
            .filter(|text| text.contains("run"))
    });
    let mut second = Supervise::with(&provider).options(&journal).agent();
    second
        .stderr
        .wait("No journal of this run: another run is writing it");
    second.finish();
    first.finish();
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("\"event\":\"run\"").count(), 1, "{text}");
    // What is no file is nobody's.
    let null = || Supervise::with(&provider).options(&["--journal", "/dev/null"]);
    let mut first = null().agent();
    first.wait_ready_with(1);
    null()
        .start(&["true"])
        .end()
        .expect(0)
        .never_says("No journal");
    first.finish();
}

#[test]
fn the_newest_fifty_stay() {
    let provider = Provider::anthropic(&[0.1]);
    let state = State::new();
    fs::create_dir_all(state.runs()).unwrap();
    for number in 0..55 {
        let name = format!("20200101T0000{number:02}Z-1.jsonl");
        fs::write(state.runs().join(name), "").unwrap();
    }
    fs::write(state.runs().join("notes.txt"), "mine").unwrap();
    let mut run = state.of(Supervise::with(&provider)).agent();
    run.wait_ready_with(1);
    let names = eventually("the oldest are gone", || {
        let journals = state.journals();
        let names = journals.iter().map(|path| path.file_name().unwrap());
        let names: Vec<String> = names
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        (names.len() == 51).then_some(names)
    });
    run.finish();
    assert_eq!(names[0], "20200101T000006Z-1.jsonl");
    assert_eq!(names[50], "notes.txt");
}

#[test]
fn a_run_goes_on_without_a_journal_and_says_so_once() {
    let provider = Provider::anthropic(&[0.1]);
    // Where the folder should be there is a file: as unwritable as a read-only disk, also for root.
    let state = State::new();
    fs::write(state.0.join("ddollar"), "").unwrap();
    let mut run = state.of(Supervise::with(&provider)).agent();
    run.wait_ready_with(1);
    run.stderr.wait("No journal of this run: ");
    run.tell("exit 0");
    run.end().expect(0).says_once("No journal of this run: ");

    // A full disk.
    let run = Supervise::with(&provider).options(&["--journal", "/dev/full"]);
    let mut run = run.agent();
    run.wait_ready_with(1);
    run.stderr.wait("The journal of this run has gaps: ");
    run.tell("exit 0");
    run.end()
        .expect(0)
        .says_once("The journal of this run has gaps: ");

    // Nobody reads at the other end of a pipe.
    let run = Supervise::with(&provider);
    let pipe = run.desk().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let pipe = pipe.to_str().unwrap().to_owned();
    run.options(&["--journal", &pipe])
        .start(&["true"])
        .end()
        .expect(125)
        .says(&["cannot use the journal '", "hint: "]);
}

#[test]
fn a_run_that_was_killed_is_told_as_far_as_it_got() {
    let provider = Provider::anthropic(&[0.1]);
    let state = State::new();
    let mut run = state.of(Supervise::with(&provider)).agent();
    run.wait_ready_with(1);
    // A moment after the start there is a file, and a moment later something in it.
    eventually("a check is in the journal", || {
        let journals = state.journals();
        let text = fs::read_to_string(journals.first()?).ok()?;
        text.contains("\"event\":\"usage\"").then_some(())
    });
    run.signal(nix::sys::signal::Signal::SIGKILL);
    run.end().expect(128 + 9);
    let text = state.shows(&[]);
    assert!(text.contains("): cut off, no end is recorded\n"), "{text}");
    assert!(text.contains("▶ Started with token 1/1\n"), "{text}");
}

#[test]
fn what_cannot_be_reported_on_is_named_with_a_hint() {
    let state = State::new();
    let other = state.0.write("other", "root:x:0:0:root:/root:/bin/sh\n");
    let empty = state.0.write("empty", "");
    let cases: &[(&[&str], &str)] = &[
        (&[], "there is no run to report on"),
        (&["no-such-run"], "cannot use the journal 'no-such-run'"),
        (&["/"], "cannot use the journal '/'"),
        (&[other.to_str().unwrap()], "' is not the journal of a run"),
        (&[empty.to_str().unwrap()], "' is empty"),
        (&["one", "two"], "'two' is one word too many for 'report'"),
        (
            &["--interval", "1s"],
            "unknown option '--interval' for 'report'",
        ),
    ];
    for (arguments, problem) in cases {
        let output = state.report(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{stderr}");
        assert!(
            stderr.starts_with("ddollar: ") && stderr.contains(problem),
            "{stderr}"
        );
        assert!(
            stderr.lines().nth(1).unwrap().starts_with("hint: "),
            "{stderr}"
        );
        assert_eq!((stderr.lines().count(), output.stdout.len()), (2, 0));
    }
}

#[test]
fn a_run_is_found_by_its_name_with_and_without_the_ending() {
    let state = State::after_a_run();
    let journals = state.journals();
    let whole = journals[0].file_name().unwrap().to_str().unwrap();
    for name in [whole, whole.trim_end_matches(".jsonl")] {
        let output = state.report(&[name]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("true\n"), "{name}: {text}");
    }
}

#[test]
fn an_svg_that_does_not_fit_on_the_disk_is_a_failure() {
    let state = State::after_a_run();
    let output = state.report(&["--svg", "/dev/full"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(
        stderr.contains("cannot use the SVG file '/dev/full'"),
        "{stderr}"
    );
}

/// A slip of the fingers: the run, where the picture's file is to stand.
#[test]
fn an_svg_does_not_take_the_place_of_a_journal() {
    let state = State::after_a_run();
    let journal = state.journals().remove(0);
    let before = fs::read(&journal).unwrap();
    let own = ["--svg", journal.to_str().unwrap()];
    // Nor of that of another run than the one that is drawn.
    let other = state.0.write("night.jsonl", &before);
    for arguments in [&own[..], &[&own[..], &[other.to_str().unwrap()]].concat()] {
        let output = state.report(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{stderr}");
        assert!(stderr.contains("it is the journal of a run"), "{stderr}");
        assert!(stderr.contains("hint: name another file"), "{stderr}");
        assert!(fs::read(&journal).unwrap() == before);
    }
}

/// What a shell makes of `>(command)` has no other name than this.
#[test]
fn an_svg_goes_into_a_pipe_or_stands_at_the_end_of_stdout() {
    let state = State::after_a_run();
    for name in ["/dev/stdout", "/dev/fd/1"] {
        assert!(state.shows(&["--svg", name]).starts_with("<svg "));
    }
    let all = state.0.write("all", "before\n");
    let stdout = fs::OpenOptions::new().append(true).open(&all).unwrap();
    let mut report = state.0.command(PROGRAM);
    report.env("XDG_STATE_HOME", state.0.path()).stdout(stdout);
    report.args(["report", "--svg", "/dev/stdout"]);
    assert!(report.status().unwrap().success());
    let text = fs::read_to_string(all).unwrap();
    assert!(text.starts_with("before\n<svg "), "{text}");
}

/// A file that the user may not write, and one that nobody may: a program that runs.
#[test]
fn an_svg_never_damages_a_file_that_cannot_be_written() {
    let state = State::after_a_run();
    let journal = fs::read_to_string(&state.journals()[0]).unwrap();

    let place = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o777))
        .tempdir()
        .unwrap();
    let (read_only, tool) = (place.path().join("kept.svg"), place.path().join("tool"));
    fs::write(&read_only, "precious").unwrap();
    fs::set_permissions(&read_only, fs::Permissions::from_mode(0o444)).unwrap();
    fs::copy("/bin/sleep", &tool).unwrap();
    fs::write(place.path().join("night.jsonl"), journal).unwrap();
    let mut running = Command::new(&tool).arg("60").spawn().unwrap();

    for (path, why) in [(&read_only, "ermission denied"), (&tool, "busy")] {
        let before = fs::read(path).unwrap();
        let mut report = Command::new(PROGRAM);
        report.env_clear().current_dir(place.path());
        report.args(["report", "night.jsonl", "--svg"]).arg(path);
        if path == &read_only && nix::unistd::Uid::effective().is_root() {
            // To root nothing is read-only.
            report.uid(65534).gid(65534);
        }
        let output = report.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{stderr}");
        assert!(
            stderr.contains("cannot use the SVG file") && stderr.contains(why),
            "{stderr}"
        );
        assert!(fs::read(path).unwrap() == before, "{path:?} was changed");
    }
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 3);
}

/// A link is followed, what it leads to keeps its permissions, and nothing is left beside it.
#[test]
fn an_svg_takes_the_place_of_the_file_that_a_link_leads_to() {
    let state = State::after_a_run();
    let place = Desk::new();
    let (file, link) = (place.join("old.svg"), place.join("link.svg"));
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("old.svg", &link).unwrap();
    let before = fs::read_dir(place.path()).unwrap().count();
    state.shows(&["--svg", link.to_str().unwrap()]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&file).unwrap().starts_with("<svg "));
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), before);
}

/// Of 49 days with a check in each minute, which is more than 32 MiB, in little memory.
#[test]
fn a_run_of_many_weeks_is_told_to_its_end() {
    let state = State::new();
    let minutes = 49 * 24 * 60;
    let at = |minute: i64| {
        let at = jiff::Timestamp::from_second(1_800_000_000 + 60 * minute).unwrap();
        format!("{{\"at\":\"{at:.3}\",\"event\":")
    };
    let mut text = at(0)
        + "\"run\",\"journal\":1,\"ddollar\":\"0.3.0\",\"pid\":1,\"command\":\"agent\",\"threshold\":0.95,\
           \"providers\":[{\"name\":\"anthropic\",\"label\":\"Anthropic\",\"tokens\":1}]}\n";
    text += &(at(0) + "\"launch\",\"again\":false,\"tokens\":[1]}\n");
    let window = |name| {
        format!(
            "{{\"name\":\"{name}\",\"used\":0.4375,\"limit\":1000,\"remaining\":562,\
             \"resets\":\"2027-01-15T08:00:00.000Z\"}}"
        )
    };
    let windows = ["requests", "tokens", "input-tokens", "output-tokens"].map(window);
    let usage = format!(
        "\"usage\",\"provider\":\"anthropic\",\"token\":1,\"finding\":\"served\",\"windows\":[{}]}}\n",
        windows.join(",")
    );
    for minute in 1..minutes {
        text.push_str(&at(minute));
        text.push_str(&usage);
    }
    text += &(at(minutes) + "\"end\",\"outcome\":\"as-command\",\"code\":0}\n");
    assert!(text.len() > 32 << 20, "{}", text.len());
    fs::write(state.0.join("long.jsonl"), text).unwrap();
    let script = "ulimit -v 100000; exec \"$0\" report long.jsonl";
    let told = state
        .0
        .command("sh")
        .args(["-c", script, PROGRAM])
        .output()
        .unwrap();
    let (said, wrong) = (
        String::from_utf8_lossy(&told.stdout),
        String::from_utf8_lossy(&told.stderr),
    );
    assert!(said.contains("(1176h)"), "{said}{wrong}");
    assert!(
        said.contains("finished") && said.contains("70559 checks"),
        "{said}"
    );
}
