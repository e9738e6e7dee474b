//! A provider that breaks the protocol or the connection: one clear notice, and a child that does
//! not notice.

use crate::support::faulty::HUGE;
use crate::support::gateway::{message, post};
use crate::support::{Fault, Faulty, Provider, Run, Supervise, proc};
use nix::unistd::Pid;
use serde_json::json;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// One run whose provider answers the first probe, and then with `fault`.
fn with_fault(fault: &str) -> (Provider, Run, Pid) {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let mut run = Supervise::with(&provider).options(&["-v"]).agent();
    let pid = run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#2");
    provider.fault(fault);
    provider.wait_for_probe("anthropic#1");
    (provider, run, pid)
}

/// The same, and what breaks is the protocol or the connection.
fn with_break(fault: Fault) -> (Provider, Faulty, Run, Pid) {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let front = Faulty::front_of(&provider);
    let supervise = Supervise::behind(&provider, &front.url);
    let mut run = supervise.options(&["-v"]).agent();
    let pid = run.wait_ready_with(1);
    provider.wait_for_probe("anthropic#2");
    front.fault(fault);
    front.wait_for_probe(provider.token(1));
    (provider, front, run, pid)
}

/// The run has said `notice` once; its child is the first and the only one, and runs.
fn is_undisturbed(mut run: Run, pid: Pid, notice: &str) {
    run.stderr.wait(notice);
    assert_eq!(run.only_child(), pid);
    assert!(proc::is_running(pid));
    run.finish()
        .says_once("⚠️")
        .says_once("Launching")
        .never_says("Switched")
        .says(&["✓ Process completed successfully"]);
}

#[test]
fn garbage_is_told_once_and_disturbs_nothing() {
    let (_provider, _front, run, pid) = with_break(Fault::Garbage);
    is_undisturbed(run, pid, "⚠️  Anthropic cannot be reached (");
}

#[test]
fn half_a_header_is_told_once_and_disturbs_nothing() {
    let (_provider, _front, run, pid) = with_break(Fault::HalfHeader);
    is_undisturbed(run, pid, "⚠️  Anthropic cannot be reached (");
}

#[test]
fn a_closed_connection_is_told_once_and_disturbs_nothing() {
    let (_provider, _front, run, pid) = with_break(Fault::Close);
    is_undisturbed(run, pid, "⚠️  Anthropic cannot be reached (");
}

#[test]
fn silence_is_told_once_and_disturbs_nothing() {
    let (_provider, _front, run, pid) = with_break(Fault::Silent);
    is_undisturbed(run, pid, "⚠️  Anthropic cannot be reached (");
}

#[test]
fn a_redirect_is_not_followed_and_told_once() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let location = format!("http://{}/v1/messages", elsewhere.local_addr().unwrap());
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let front = Faulty::front_of(&provider);
    front.fault(Fault::Redirect(location));
    let mut run = Supervise::behind(&provider, &front.url).agent();
    let pid = run.wait_ready_with(1);
    for _ in 0..3 {
        front.wait_for_probe(provider.token(1));
    }
    is_undisturbed(run, pid, "⚠️  Anthropic shows no limits: ");
    assert!(
        elsewhere.accept().is_err(),
        "nobody went where the redirect leads"
    );
}

#[test]
fn forty_megabytes_of_body_cost_neither_memory_nor_the_childs_peace() {
    let (mut provider, _front, mut run, pid) = with_break(Fault::HugeBody);
    for _ in 0..3 {
        provider.wait_for_probe("anthropic#1");
    }
    let peak = proc::status(run.pid, "VmHWM", 10);
    assert!(peak < 30_000, "{peak} kB");
    assert_eq!(run.only_child(), pid);
    // The limits are in the head, which is as good as ever.
    provider.set("org-1", 0.96);
    run.wait_ready_with(2);
    run.finish()
        .says_once("⚠️")
        .says(&["Switched to token 2/2"]);
}

#[test]
fn an_overloaded_provider_is_told_once_and_never_rotates() {
    for status in ["529", "503", "500"] {
        let (_provider, run, pid) = with_fault(status);
        is_undisturbed(run, pid, "⚠️  Anthropic is overloaded");
    }
}

#[test]
fn a_passing_outage_is_told_once_with_its_end() {
    let (mut provider, mut run, pid) = with_fault("529");
    run.stderr.wait("Anthropic is overloaded");
    // Asked a second time, after a pause, it says the same.
    provider.wait_for_probe("anthropic#1");
    provider.clear_faults();
    run.stderr.wait("✓ Anthropic answers again");
    assert_eq!(run.only_child(), pid);
    run.finish().says_once("overloaded").says_once("Launching");
}

#[test]
fn a_closed_port_is_told_once_and_disturbs_nothing() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    // The near end of a connection: nobody listens there, and nobody else gets the number.
    let held = TcpStream::connect(provider.url.trim_start_matches("http://")).unwrap();
    let port = held.local_addr().unwrap().port();
    let mut run = Supervise::behind(&provider, &format!("http://127.0.0.1:{port}")).agent();
    let pid = run.wait_ready_with(1);
    is_undisturbed(run, pid, "⚠️  Anthropic cannot be reached (");
}

#[test]
fn an_answer_that_says_nothing_about_limits_is_told_once() {
    let mut provider = Provider::anthropic(&[0.1]);
    provider.fault("404");
    let mut run = Supervise::with(&provider).agent();
    let pid = run.wait_ready_with(1);
    for _ in 0..3 {
        provider.wait_for_probe("anthropic#1");
    }
    is_undisturbed(run, pid, "⚠️  Anthropic shows no limits: ");
}

/// The answer to a message with this token, to the end of the connection.
fn exchange(front: &Faulty, token: &str) -> String {
    let address = front.url.trim_start_matches("http://");
    let mut wire = post(address, "/v1/messages", token, "", &message(json!({})));
    wire.end();
    wire.until_the_end()
}

#[test]
fn broken_answers_on_the_wire() {
    let provider = Provider::anthropic(&[0.1]);
    let front = Faulty::front_of(&provider);
    let broken = |fault| {
        front.fault(fault);
        exchange(&front, provider.token(1))
    };
    let garbage = broken(Fault::Garbage);
    assert!(
        !garbage.is_empty() && !garbage.starts_with("HTTP/"),
        "{garbage}"
    );
    let half = broken(Fault::HalfHeader);
    assert!(
        half.starts_with("HTTP/1.1 200 OK\r\n") && !half.ends_with('\n'),
        "{half}"
    );
    assert_eq!(broken(Fault::Close), "");
    assert_eq!(broken(Fault::Silent), "");
    let huge = broken(Fault::HugeBody);
    assert!(huge.starts_with("HTTP/1.1 200 OK\r\n") && huge.len() > HUGE);
    assert!(huge.contains("\r\nanthropic-ratelimit-requests-remaining: "));
    let redirect = broken(Fault::Redirect("http://127.0.0.1:9/".to_owned()));
    assert!(redirect.starts_with("HTTP/1.1 302 "), "{redirect}");
    assert!(redirect.contains("\r\nlocation: http://127.0.0.1:9/\r\n"));
}

#[test]
fn broken_faults() {
    let provider = Provider::anthropic(&[0.1, 0.1]);
    let front = Faulty::front_of(&provider);
    let delay = Duration::from_millis(250);
    for fault in [
        Fault::Garbage,
        Fault::HalfHeader,
        Fault::HugeBody,
        Fault::Close,
        Fault::Silent,
        Fault::Redirect("http://x/".to_owned()),
        Fault::Slow(delay),
    ] {
        front.fault_for(provider.token(2), fault.clone());
        // The other token is served as ever.
        let usual = exchange(&front, provider.token(1));
        assert!(
            usual.starts_with("HTTP/1.1 200 OK\r\n"),
            "{fault:?}: {usual}"
        );
        assert!(usual.contains("Done."), "{fault:?}: {usual}");
        let begun = Instant::now();
        let broken = exchange(&front, provider.token(2));
        match fault {
            Fault::Slow(_) => {
                assert!(broken.contains("Done.") && begun.elapsed() >= delay);
            }
            _ => assert!(!broken.contains("Done."), "{fault:?}: {broken}"),
        }
    }
    front.clear();
    assert!(exchange(&front, provider.token(2)).contains("Done."));
}
