//! C57: the wall clock is set while the run waits.

use crate::support::proc;
use crate::support::pty::{Headless, Setup, skipped};
use crate::support::{Provider, eventually, spent_at};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::{Duration, Instant};

/// A run whose wall clock is what the file `clock` says, as far as libfaketime can; paused.
fn paused_with_own_clock(provider: &Provider, reset: &str) -> Option<(Headless, Pid)> {
    // A static binary takes no library in.
    if cfg!(target_env = "musl") {
        return None;
    }
    let places = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib",
        "/usr/local/lib",
    ];
    let library = places
        .iter()
        .map(|place| format!("{place}/faketime/libfaketime.so.1"));
    let library = library.into_iter().find(|path| Path::new(path).exists())?;
    let setup = Setup::with(provider).options("--interval 1s");
    let clock = setup.desk.write("clock", "+0");
    let setup = setup
        .env("LD_PRELOAD", &library)
        .env("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    let run = setup.headless(&["sigecho.pl"]);
    let child = run.pid_after("READY");
    provider.control(spent_at("org-1", reset));
    eventually("the pause", || proc::is_stopped(child).then_some(()));
    run.wait_err("Waiting for limits to reset");
    Some((run, child))
}

fn set_clock(run: &Headless, offset: &str) {
    std::fs::write(run.desk.join("clock.new"), offset).unwrap();
    std::fs::rename(run.desk.join("clock.new"), run.desk.join("clock")).unwrap();
}

fn goes_on(child: Pid, within: Duration) {
    let began = Instant::now();
    while !proc::is_running(child) {
        assert!(
            began.elapsed() < within,
            "still paused after {:?}",
            began.elapsed()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The clock goes back an hour: the wait ends all the same.
#[test]
fn c57_wall_clock_back() {
    let provider = Provider::anthropic(&[0.1]);
    let Some((run, child)) = paused_with_own_clock(&provider, "5s") else {
        return skipped("C57", "libfaketime is not installed, or cannot be loaded");
    };
    set_clock(&run, "-3600");
    goes_on(child, Duration::from_secs(120));
}

/// The clock goes forward an hour: the provider is asked first, and the pause lasts while it says so.
#[test]
fn c57_wall_clock_forward() {
    let mut provider = Provider::anthropic(&[0.1]);
    let Some((run, child)) = paused_with_own_clock(&provider, "40s") else {
        return skipped("C57", "libfaketime is not installed, or cannot be loaded");
    };
    provider.served();
    set_clock(&run, "+3600");
    provider.wait_for_probe("anthropic#1");
    eventually("another wait", || {
        (run.err().matches("Waiting for limits").count() > 1).then_some(())
    });
    assert!(proc::is_stopped(child));
    goes_on(child, Duration::from_secs(120));
}

/// ddollar itself was stopped past the reset: it goes on at once when it is continued.
#[test]
fn c57_stopped_past_the_reset() {
    let provider = Provider::anthropic(&[0.1]);
    let run = Setup::with(&provider).headless(&["sigecho.pl"]);
    let child = run.pid_after("READY");
    provider.control(spent_at("org-1", "3s"));
    eventually("the pause", || proc::is_stopped(child).then_some(()));
    run.wait_err("Waiting for limits to reset");
    let reset = Instant::now() + Duration::from_secs(5);
    kill(run.pid(), Signal::SIGSTOP).unwrap();
    std::thread::sleep(reset.saturating_duration_since(Instant::now()));
    assert!(proc::is_stopped(child));
    kill(run.pid(), Signal::SIGCONT).unwrap();
    goes_on(child, Duration::from_secs(10));
}
