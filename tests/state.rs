//! What one run knows, the next one knows: the state file, in order and in trouble.

use crate::support::env::works;
use crate::support::pty::{CTRL_C, Setup, skipped};
use crate::support::{Desk, Provider, Run, Supervise, eventually, organizations, proc, spent_at};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A folder for the state of several runs.
struct Shelf(Desk);

impl Shelf {
    fn new() -> Shelf {
        Shelf(Desk::new())
    }

    /// The file, where ddollar looks for it.
    fn file(&self) -> PathBuf {
        self.0.join("ddollar/state.json")
    }

    /// A run that keeps its state here.
    fn run(&self, provider: &Provider) -> Supervise {
        Supervise::with(provider).env("XDG_STATE_HOME", self.0.path())
    }

    /// Puts this in the file's place.
    fn put(&self, text: &str) {
        fs::create_dir_all(self.file().parent().unwrap()).unwrap();
        fs::write(self.file(), text).unwrap();
    }

    /// The conditions of all tokens in the file, in the order of their names.
    fn conditions(&self) -> Vec<String> {
        let Ok(text) = fs::read_to_string(self.file()) else {
            return Vec::new();
        };
        let file: Value = serde_json::from_str(&text).expect("never half a file");
        assert!(matches!(file["version"].as_u64(), Some(1 | 2)), "{file}");
        let entries = file["tokens"].as_object().unwrap();
        let condition = |key: &str| entries[key]["condition"].as_str().unwrap().to_owned();
        // What holds in every scope stands at a token's own name, and goes first.
        let tokens = entries.keys().filter(|key| !key.contains('/'));
        let conditions = tokens.map(|token| {
            let in_scope = format!("{token}/");
            let mut scopes = entries.keys().filter(|key| key.starts_with(&in_scope));
            match (condition(token).as_str(), scopes.next()) {
                ("usable", Some(scope)) => condition(scope),
                (condition, _) => condition.to_owned(),
            }
        });
        conditions.collect()
    }

    /// Makes every limit in the file end so many seconds from now. When that is.
    fn ends_in(&self, ahead: u32) -> f64 {
        let end = seconds() + f64::from(ahead);
        let text = fs::read_to_string(self.file()).unwrap();
        let mut file: Value = serde_json::from_str(&text).unwrap();
        for entry in file["tokens"].as_object_mut().unwrap().values_mut() {
            let end = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(end);
            let end = jiff::Timestamp::try_from(end).unwrap();
            entry["until"] = end.to_string().into();
        }
        self.put(&file.to_string());
        end
    }

    /// Waits until so many tokens are known to be limited.
    fn wait_limited(&self, count: usize) {
        eventually("the state knows", || {
            let known = self.conditions();
            let limited = known.iter().filter(|condition| *condition == "limited");
            (limited.count() == count).then_some(())
        });
    }
}

fn seconds() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO).as_secs_f64()
}

fn all_spent(first: &str, second: &str) -> Value {
    json!([spent_at("org-1", first), spent_at("org-2", second)])
}

/// Two tokens, both of which a first run has found spent for about nine minutes; it ended before its
/// command did.
fn a_night_that_ran_dry(shelf: &Shelf) -> Provider {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = shelf.run(&provider).options(&["--patience", "0s"]).agent();
    let child = run.wait_ready_with(1);
    provider.control(all_spent("9m", "8m"));
    run.wait_stopped(child);
    run.signal(Signal::SIGTERM);
    run.end().expect(0);
    provider
}

/// Two tokens, of which a run has left the first one, spent for ten minutes.
fn a_run_that_moved_on(shelf: &Shelf) -> Provider {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = shelf.run(&provider).agent();
    run.wait_ready_with(1);
    provider.control(spent_at("org-1", "10m"));
    run.wait_ready_with(2);
    run.finish();
    provider
}

/// Asserts that ddollar asks the provider nothing between two moments.
fn assert_no_question(provider: &mut Provider, from: f64, to: f64) {
    for line in provider.served() {
        let at = line["at"].as_f64().unwrap();
        assert!(at <= from || at >= to, "{line}");
    }
}

#[test]
fn a_token_found_spent_is_passed_over_by_the_next_run() {
    let shelf = Shelf::new();
    let mut provider = a_run_that_moved_on(&shelf);
    assert_eq!(shelf.conditions().len(), 2);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&shelf.file()), 0o600);
    assert_eq!(mode(shelf.file().parent().unwrap()), 0o700);

    let mut run = shelf.run(&provider).agent();
    let before = seconds();
    run.wait_ready_with(2);
    for _ in 0..3 {
        provider.wait_for_probe("anthropic#2");
    }
    run.finish()
        .says(&["▶  Starting with token 2/2", "▶  Launching: "])
        .never_says("Switched")
        .says_once("Launching");
    let served = provider.served();
    let asked = served
        .iter()
        .filter(|line| line["token_label"] == "anthropic#1" && line["at"].as_f64() > Some(before));
    assert_eq!(asked.count(), 0, "the state knows already");
}

#[test]
fn a_run_beside_another_does_not_start_on_what_that_one_found_spent() {
    let shelf = Shelf::new();
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let mut first = shelf.run(&provider).agent();
    first.wait_ready_with(1);
    provider.control(spent_at("org-1", "10m"));
    first.wait_ready_with(2);
    shelf.wait_limited(1);
    let mut second = shelf.run(&provider).agent();
    second.wait_ready_with(2);
    second.finish();
    first.finish();
}

#[test]
fn killed_while_waiting_and_started_again_it_waits_for_the_same_reset() {
    let shelf = Shelf::new();
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = shelf.run(&provider).agent();
    let child = run.wait_ready_with(1);
    provider.control(all_spent("90s", "20s"));
    let reset = seconds() + 20.0;
    run.wait_stopped(child);
    shelf.wait_limited(2);
    run.signal(Signal::SIGKILL);
    run.end().expect(137);
    eventually("the child is gone", || proc::is_gone(child).then_some(()));

    let mut run = shelf.run(&provider).options(&["--resume", "false"]).agent();
    run.stderr.wait("Waiting for limits to reset");
    // Each token was asked once before that.
    let again = seconds();
    assert!(again < reset - 0.5, "started again in time");
    run.wait_ready_with(2);
    assert!(seconds() > reset - 0.1, "not before the reset");
    assert_no_question(&mut provider, again, reset - 0.1);
    run.finish()
        .says(&[
            "✓ Monitor started (checking limits every 200ms)\n",
            "⚠️  Token limit reached\n   token 1/2 …",
            "\n⚠️  All tokens exhausted!\n▶  Waiting for limits to reset (",
            ")... token 2/2 at ",
            "▶  Switched to token 2/2\n▶  Launching: ",
            "✓ Process completed successfully\n",
        ])
        .never_says("Session resumed")
        .never_says("Pausing subprocess")
        .says_once("Launching");
}

#[test]
fn what_the_provider_says_now_counts_more_than_what_it_said_to_another_run() {
    let shelf = Shelf::new();
    let provider = a_night_that_ran_dry(&shelf);
    shelf.ends_in(600);
    // The provider has changed its mind.
    provider.control(all_spent("90s", "6s"));
    let reset = seconds() + 6.0;
    let mut run = shelf.run(&provider).agent();
    run.stderr.wait("Waiting for limits to reset");
    run.wait_ready_with(2);
    assert!(seconds() > reset - 0.1, "not before the reset");
    run.finish().says_once("Launching");
}

/// Somebody has paid, or a reset was named in a wrong unit: no run waits for years, or gives up, without
/// a question.
#[test]
fn a_limit_of_years_that_is_over_is_found_out_by_the_next_run() {
    let shelf = Shelf::new();
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    provider.control(json!({"answer": {"fault": "429", "retry_after": 99_999_999}}));
    let options = ["--patience", "0s", "--max-wait", "1s"];
    let run = shelf.run(&provider).options(&options);
    run.start(&["sleep", "60"]).end().expect(75);
    provider.clear_faults();
    for more in [&[][..], &["--proxy"]] {
        let run = shelf.run(&provider).options(&options).options(more);
        run.start(&["true"]).end().expect(0).says_once("Launching");
    }
    assert!(provider.served().iter().any(|line| line["status"] == 200));
}

#[test]
fn what_max_wait_ends_the_next_run_knows_after_a_question_about_each_token() {
    let shelf = Shelf::new();
    let mut provider = a_night_that_ran_dry(&shelf);
    let before = seconds();
    shelf
        .run(&provider)
        .options(&["--max-wait", "5m"])
        .start(&["true"])
        .end()
        .expect(75)
        .says(&["✗ The earliest reset (token 2) is ", "beyond --max-wait"])
        .never_says("Launching");
    let served = provider.served();
    let asked = served
        .iter()
        .filter(|line| line["at"].as_f64() > Some(before))
        .map(|line| line["token_label"].as_str().unwrap());
    assert_eq!(asked.collect::<Vec<_>>(), ["anthropic#1", "anthropic#2"]);
}

#[test]
fn signals_end_a_run_that_waits_for_its_first_start() {
    let shelf = Shelf::new();
    let provider = a_night_that_ran_dry(&shelf);
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut run = shelf.run(&provider).start(&["true"]);
        run.stderr.wait("Waiting for limits to reset");
        run.signal(Signal::SIGUSR1);
        run.signal(signal);
        run.end().expect(code).never_says("Launching");
    }
}

#[test]
fn interactive_mode_asks_before_the_first_start() {
    let shelf = Shelf::new();
    let provider = a_night_that_ran_dry(&shelf);
    let folder = shelf.0.path().to_str().unwrap();
    let mut screen = Setup::with(&provider)
        .options("--interactive --patience 0s")
        .env("XDG_STATE_HOME", folder)
        .bash();
    let question = |text: &str| {
        for line in [
            "All tokens exhausted!",
            "1) Wait for limits to reset",
            "2) Exit and save state",
        ] {
            assert!(text.contains(line), "{text}");
        }
    };
    screen.line("$D true");
    question(&screen.wait("Choice [1]: "));
    screen.line("2");
    assert_eq!(screen.prompt(), 75);
    screen.line("$D true");
    question(&screen.wait("Choice [1]: "));
    assert_eq!(screen.interrupt(CTRL_C), 130);
    provider.control(all_spent("90s", "8s"));
    let end = seconds() + 8.0;
    screen.line("$D echo DONE-IT");
    question(&screen.wait("Choice [1]: "));
    screen.line("");
    screen.wait("Launching: echo");
    assert!(seconds() > end - 0.1, "not before the end of the limit");
    assert_eq!(screen.prompt(), 0);
    screen.leave();
}

#[test]
fn siblings_in_the_quota_of_a_spent_token_are_spent() {
    let shelf = Shelf::new();
    let places = ["org-1", "org-1", "org-2"];
    let orgs = organizations(&[0.1, 0.1]);
    let mut provider = Provider::start("anthropic", &places, orgs, json!([]));
    let mut run = shelf.run(&provider).agent();
    run.wait_ready_with(1);
    // Each group is known before the limit is.
    provider.wait_for_probe("anthropic#3");
    provider.control(spent_at("org-1", "10m"));
    run.wait_ready_with(3);
    run.finish();
    let mut run = shelf.run(&provider).agent();
    run.wait_ready_with(3);
    run.finish().says(&["Starting with token 3/3"]);
}

#[test]
fn a_rejection_is_asked_about_before_it_is_believed() {
    let shelf = Shelf::new();
    let provider = Provider::anthropic(&[0.1]);
    provider.fault("401");
    let run = shelf.run(&provider).start(&["sleep", "60"]);
    run.end()
        .expect(75)
        .says(&["Launching", " rejected token "]);
    let run = shelf.run(&provider).start(&["sleep", "60"]);
    run.end()
        .expect(75)
        .says(&["✗ No Anthropic token is left that can recover"])
        .never_says("Launching");
    provider.clear_faults();
    let mut run = shelf.run(&provider).agent();
    run.wait_ready_with(1);
    run.finish();
    // And now it is known to be good.
    assert_eq!(shelf.conditions(), ["usable"]);
}

#[test]
fn a_rejected_token_comes_last_and_is_asked_once_soon_after_the_start() {
    let shelf = Shelf::new();
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    provider.control(json!({"answer": {"token": "anthropic#1", "fault": "401"}}));
    let mut run = shelf.run(&provider).agent();
    run.wait_ready_at_last_with(2);
    run.finish();
    provider.clear_faults();
    let mut run = shelf.run(&provider).agent();
    run.wait_ready_with(2);
    provider.wait_for("the mended token", |line| {
        line["token_label"] == "anthropic#1" && line["status"] == 200
    });
    eventually("it is usable", || {
        (shelf.conditions() == ["usable", "usable"]).then_some(())
    });
    run.finish();
    let mut run = shelf.run(&provider).agent();
    run.wait_ready_with(1);
    run.finish();
}

#[test]
fn the_usual_place_is_in_home_and_no_state_leaves_it_alone() {
    let provider = Provider::anthropic(&[0.1]);
    for (options, kept) in [
        (&[][..], true),
        (&["--no-state", "--journal", "/dev/null"], false),
    ] {
        let home = Desk::new();
        let mut probed = Provider::anthropic(&[0.1]);
        let run = Supervise::with(&probed).options(options);
        let mut run = run.env("HOME", home.path()).agent();
        run.wait_ready_with(1);
        for _ in 0..2 {
            probed.wait_for_probe("anthropic#1");
        }
        let file = home.join(".local/state/ddollar/state.json");
        if kept {
            eventually("the file", || file.exists().then_some(()));
        }
        run.finish();
        assert_eq!(file.exists(), kept);
        assert_eq!(home.join(".local").exists(), kept);
    }
    // Nowhere to keep it: only those hear of it who want to know all.
    for (options, said) in [(&["-v"][..], 1), (&[], 0)] {
        let run = Supervise::with(&provider).options(options).without("HOME");
        let ended = run.start(&["true"]).end().expect(0);
        assert_eq!(ended.stderr.matches("No state is kept").count(), said);
    }
}

/// A run that keeps its state in this file goes on to its end, and says this once.
#[track_caller]
fn goes_on_and_says(provider: &mut Provider, supervise: Supervise, words: &str) {
    let mut run = supervise.agent();
    run.wait_ready_with(1);
    for _ in 0..4 {
        provider.wait_for_probe("anthropic#1");
    }
    run.stderr.wait(words);
    run.finish().says_once("Launching").says_once(words);
}

#[test]
fn a_file_that_cannot_be_read_is_set_aside() {
    let now = "{\"version\":1,\"tokens\":{}}";
    for (text, says, aside) in [
        (&now[..20], "is damaged", ".damaged"),
        ("not a state\n\u{0}", "is damaged", ".damaged"),
    ] {
        let shelf = Shelf::new();
        shelf.put(text);
        let mut provider = Provider::anthropic(&[0.1]);
        let run = shelf.run(&provider);
        goes_on_and_says(&mut provider, run, says);
        let aside = format!("{}{aside}", shelf.file().display());
        assert_eq!(fs::read_to_string(aside).unwrap(), text);
        assert_eq!(shelf.conditions(), ["usable"]);
    }
}

/// As mktemp(1) makes one for `--state`.
#[test]
fn in_an_empty_file_nothing_is_known() {
    let shelf = Shelf::new();
    shelf.put("");
    let mut provider = Provider::anthropic(&[0.1]);
    let mut run = shelf.run(&provider).agent();
    run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#1");
    eventually("the finding", || {
        (fs::metadata(shelf.file()).ok()?.len() > 0).then_some(())
    });
    run.finish().never_says("state");
    assert_eq!(shelf.conditions(), ["usable"]);
}

/// Another user could say that every token is rejected.
#[test]
fn a_state_that_others_can_write_is_not_believed() {
    for mode in [0o620, 0o602] {
        let shelf = Shelf::new();
        let provider = a_run_that_moved_on(&shelf);
        fs::set_permissions(shelf.file(), fs::Permissions::from_mode(mode)).unwrap();
        // That the first token is spent is not known any more, and found out anew.
        let mut run = shelf.run(&provider).agent();
        run.wait_ready_with(1);
        run.wait_ready_with(2);
        run.finish()
            .says_once("is not believed: others can write it");
        let mode = fs::metadata(shelf.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(shelf.conditions().len(), 2);
    }
}

#[test]
fn a_file_of_a_newer_version_is_left_where_it_is() {
    let shelf = Shelf::new();
    let text = "{\"version\":3,\"more\":[]}";
    shelf.put(text);
    let mut provider = Provider::anthropic(&[0.1]);
    let run = shelf.run(&provider);
    goes_on_and_says(&mut provider, run, "is of a newer version");
    assert_eq!(fs::read_to_string(shelf.file()).unwrap(), text);
}

#[test]
fn a_file_of_version_1_is_read_and_what_an_older_program_moved_aside_is_taken_back() {
    let shelf = Shelf::new();
    let provider = a_run_that_moved_on(&shelf);
    // As an older program leaves it: its own file, and this one aside.
    let aside = format!("{}.newer", shelf.file().display());
    fs::rename(shelf.file(), &aside).unwrap();
    shelf.put("{\"version\":1,\"tokens\":{}}");
    let mut run = shelf.run(&provider).agent();
    run.wait_ready_with(2);
    run.finish().says(&["Starting with token 2/2"]);
    assert!(!Path::new(&aside).exists());
    assert_eq!(shelf.conditions().len(), 2);
}

#[test]
fn what_status_finds_the_next_run_knows() {
    let shelf = Shelf::new();
    let provider = Provider::anthropic(&[0.1, 0.1]);
    provider.control(spent_at("org-1", "10m"));
    let status = || shelf.run(&provider).start_as(&["status"]).end();
    status().expect(0);
    let mut conditions = shelf.conditions();
    conditions.sort();
    assert_eq!(conditions, ["limited", "usable"]);
    let mut run = shelf.run(&provider).agent();
    run.wait_ready_with(2);
    run.finish();
    // And what it finds to be over is over.
    provider.set("org-1", 0.1);
    status().expect(0);
    let mut run = shelf.run(&provider).agent();
    run.wait_ready_with(1);
    run.finish();
}

/// Three at once: each token is held by one run, and a run that was killed holds none.
#[test]
fn runs_that_share_the_state_start_on_different_tokens() {
    let shelf = Shelf::new();
    let provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let start = || shelf.run(&provider).agent();
    let mut runs: Vec<Run> = (0..3).map(|_| start()).collect();
    let mut tokens: Vec<usize> = runs.iter_mut().map(|run| run.wait_ready().1).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [1, 2, 3]);
    let mut killed = start();
    let (_, first) = killed.wait_ready();
    assert_eq!(first, 1, "the first of those that one run holds");
    killed.signal(Signal::SIGKILL);
    killed.end().expect(137);
    let mut next = start();
    assert_eq!(next.wait_ready().1, 1);
    next.finish();
    for run in runs {
        run.finish().never_says("are known to be spent");
    }
}

#[test]
fn what_is_no_file_is_left_alone() {
    let makers: [fn(&Path); 4] = [
        |path| fs::create_dir(path).unwrap(),
        |path| symlink("/nowhere/at/all", path).unwrap(),
        |path| symlink("/etc/passwd", path).unwrap(),
        |path| {
            let mode = nix::sys::stat::Mode::S_IRWXU;
            nix::unistd::mkfifo(path, mode).unwrap();
        },
    ];
    for make in makers {
        let shelf = Shelf::new();
        fs::create_dir(shelf.file().parent().unwrap()).unwrap();
        make(&shelf.file());
        let before = fs::symlink_metadata(shelf.file()).unwrap();
        let mut provider = Provider::anthropic(&[0.1]);
        let run = shelf.run(&provider);
        goes_on_and_says(&mut provider, run, "No state is kept: ");
        let after = fs::symlink_metadata(shelf.file()).unwrap();
        assert_eq!(before.file_type(), after.file_type());
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_no_reason_to_stop() {
    let mut provider = Provider::anthropic(&[0.1]);
    let run = Supervise::with(&provider).options(&["--state", "/dev/null/state.json"]);
    goes_on_and_says(&mut provider, run, "No state is kept: ");
    let run = Supervise::with(&provider).options(&["--state", "/dev/full"]);
    goes_on_and_says(&mut provider, run, "No state is kept: ");
    let run = Supervise::with(&provider).options(&["--state", "/proc/self/state"]);
    goes_on_and_says(&mut provider, run, "No state is kept: ");
}

#[test]
fn a_limit_on_file_sizes_is_no_reason_to_stop() {
    let shelf = Shelf::new();
    let mut provider = Provider::anthropic(&[0.1]);
    let run = shelf.run(&provider).after("ulimit -f 0");
    goes_on_and_says(&mut provider, run, "No state is kept: ");
    assert!(!shelf.file().exists());
    let leftover = format!("{}.new", shelf.file().display());
    assert!(!Path::new(&leftover).exists());
}

/// `mount` with these options on the folder of the state, in a namespace of the run's own.
fn on_a_disk_that_is(options: &str, before: &str) {
    let mount = ["-Urm", "mount", "-t", "tmpfs", "none", "/mnt"];
    if !works("unshare", &mount) {
        return skipped("state", "no mount namespace");
    }
    let mut provider = Provider::anthropic(&[0.1]);
    let setup = Setup::with(&provider);
    fs::create_dir(setup.desk().join("disk")).unwrap();
    let mut command = setup.command("unshare");
    let script = format!(
        "mount -t tmpfs -o {options} none disk && {before} && XDG_STATE_HOME=$PWD/disk exec $D sleep 60"
    );
    command.args(["-Urm", "sh", "-c", &script]);
    let mut run = setup.headless_command(command);
    for _ in 0..3 {
        provider.wait_for_probe("anthropic#1");
    }
    run.wait_err("Launching: sleep");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end(), 143);
    let said = run.err();
    assert_eq!(said.matches("No state is kept: ").count(), 1, "{said}");
}

#[test]
fn a_read_only_disk_is_no_reason_to_stop() {
    on_a_disk_that_is("ro", "true");
}

#[test]
fn a_full_disk_is_no_reason_to_stop() {
    on_a_disk_that_is("size=64k", "! head -c 1M /dev/zero >disk/filler");
}

#[test]
fn a_lock_that_is_never_released_holds_nobody_up() {
    let shelf = Shelf::new();
    shelf.put("{\"version\":1,\"tokens\":{}}");
    let lock = File::create(format!("{}.lock", shelf.file().display())).unwrap();
    lock.lock().unwrap();
    let mut provider = Provider::anthropic(&[0.1]);
    let run = shelf.run(&provider);
    goes_on_and_says(&mut provider, run, "another process holds its lock");
    assert!(shelf.conditions().is_empty());
}

#[test]
fn what_a_killed_run_has_left_behind_is_in_nobodys_way() {
    let shelf = Shelf::new();
    shelf.put("{\"version\":1,\"tokens\":{}}");
    for name in [".new", ".lock"] {
        let path = format!("{}{name}", shelf.file().display());
        fs::write(path, "{\"version\":1,\"tok").unwrap();
    }
    let mut provider = Provider::anthropic(&[0.1]);
    let mut run = shelf.run(&provider).agent();
    run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#1");
    eventually("the new state", || {
        (shelf.conditions() == ["usable"]).then_some(())
    });
    run.finish();
    let left = format!("{}.new", shelf.file().display());
    assert!(!Path::new(&left).exists());
}

#[test]
fn runs_that_end_together_lose_nothing_of_each_other() {
    let shelf = Shelf::new();
    let mut both: Vec<(Provider, Run)> = (0..6)
        .map(|_| {
            let provider = Provider::anthropic(&[0.1]);
            let run = shelf.run(&provider).agent();
            (provider, run)
        })
        .collect();
    for (provider, run) in &mut both {
        run.wait_ready_with(1);
        provider.control(spent_at("org-1", "10m"));
        provider.wait_for("the limit", |line| line["status"] == 429);
    }
    shelf.wait_limited(6);
    for (_, run) in both {
        run.signal(Signal::SIGTERM);
        run.end();
    }
    assert_eq!(shelf.conditions().len(), 6);
}
