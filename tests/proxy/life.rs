//! Its start, several applications, and its end.

use crate::support::env::Desk;
use crate::support::gateway::{Gateway, message};
use crate::support::upstream::Upstream;
use crate::support::{DEADLINE, Provider, Supervise};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};

#[test]
fn its_lines_can_be_evaluated_and_stay_valid_from_one_start_to_the_next() {
    let mut provider = Provider::anthropic(&[0.1]);
    let gateway = Gateway::of(&mut provider);
    let lines = fs::read_to_string(gateway.lines()).unwrap();
    let shell = |text: &str| {
        let script =
            format!("{text}\nprintf '%s %s' \"$ANTHROPIC_BASE_URL\" \"$ANTHROPIC_API_KEY\"");
        let output = Command::new("sh")
            .args(["-c", &script])
            .env_clear()
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let expected = format!("http://{}/anthropic {}", gateway.address, gateway.secret);
    assert_eq!(shell(&lines), expected);
    let folder = gateway.desk().path().to_owned();
    let again = Supervise::with(&provider).env("XDG_STATE_HOME", folder.join(".local/state"));
    let again = Gateway::start(again, &[]);
    assert_eq!(again.secret, gateway.secret);
    let ended = gateway.stop().says_once("Proxy stopped");
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), lines);
}

#[test]
fn a_second_proxy_leaves_the_first_ones_lines_alone() {
    let provider = Provider::anthropic(&[0.1]);
    let home = Desk::new();
    let folder = home.join(".local/state/ddollar");
    fs::create_dir_all(&folder).unwrap();
    let first = folder.join("proxy.env");
    fs::write(&first, "export FIRST=1\n").unwrap();
    let run = Supervise::with(&provider).env("HOME", home.path());
    let gateway = Gateway::start(run, &[]);
    let lines = folder.join(gateway.lines().file_name().unwrap());
    let text = fs::read_to_string(&lines).unwrap();
    assert!(text.contains(&gateway.address), "{text}");
    gateway.stop();
    // Its port was the system's choice: the next start has another.
    assert!(!lines.exists());
    assert_eq!(fs::read_to_string(&first).unwrap(), "export FIRST=1\n");
}

#[test]
fn without_a_place_for_its_secret_it_goes_on_with_one_of_its_own() {
    let provider = Provider::anthropic(&[0.1]);
    for home in [None, Some("/dev/null"), Some("/proc")] {
        let mut run = Supervise::with(&provider).without("HOME");
        if let Some(home) = home {
            run = run.env("HOME", home);
        }
        let gateway = Gateway::start(run, &[]);
        let answered = gateway.post(json!({}));
        assert_eq!(answered.status, 200, "{answered:?}");
        gateway
            .stop()
            .says_once("secret is good for this start only");
    }
}

/// A secret that others know or that others have put there would open the proxy to them, and a pipe
/// would hold up the start.
#[test]
fn a_secret_that_may_not_be_its_own_is_not_used_and_stays_as_it_is() {
    let known = format!("ddollar-{}", "ab".repeat(24));
    type Put = fn(&Path, &str);
    let kinds: [(&str, Put); 4] = [
        ("others can read it", |path, known| {
            fs::write(path, known).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        }),
        ("others can read it", |path, known| {
            fs::write(path, known).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o620)).unwrap();
        }),
        ("it is a link", |path, known| {
            let other = path.with_file_name("other");
            fs::write(&other, known).unwrap();
            fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::symlink(other, path).unwrap();
        }),
        ("it is not a regular file", |path, _| {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
    ];
    let provider = Provider::anthropic(&[0.1]);
    for (why, put) in kinds {
        let state = Desk::new();
        let path = state.join("ddollar/proxy-secret");
        fs::create_dir(state.join("ddollar")).unwrap();
        put(&path, &known);
        let before = fs::symlink_metadata(&path).unwrap();
        let run = Supervise::with(&provider).env("XDG_STATE_HOME", state.path());
        let gateway = Gateway::start(run, &[]);
        assert_ne!(gateway.secret, known, "{why}");
        gateway
            .stop()
            .says_once("secret is good for this start only")
            .says(&[why]);
        let after = fs::symlink_metadata(&path).unwrap();
        assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()));
    }
}

#[test]
fn two_providers_and_many_applications_at_once() {
    let anthropic = Provider::anthropic(&[0.1, 0.1]);
    let openai = Provider::openai(&[0.1]);
    let mut prepared = Supervise::with(&anthropic);
    for (name, value) in openai.variables(&openai.url) {
        prepared = prepared.env(&name, value);
    }
    let gateway = Gateway::start(prepared, &["--threshold", "90"]);
    std::thread::scope(|scope| {
        for application in 0..12 {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut wire = gateway.wire();
                let path = match application % 2 {
                    0 => "/anthropic/v1/messages",
                    _ => "/openai/v1/chat/completions",
                };
                for turn in 0..5 {
                    let body = message(json!({"stream": turn % 2 == 0}));
                    wire.send(gateway.request(path, "", &body));
                    let answered = wire.answer();
                    assert_eq!(answered.status, 200, "{answered:?}");
                    assert!(answered.whole);
                }
            });
        }
    });
    let status = gateway.status();
    let served: u64 = (0..3)
        .map(|n| status["tokens"][n]["served"].as_u64().unwrap())
        .sum();
    assert_eq!(served, 60, "{status:#}");
    let metrics = gateway.get("/ddollar/metrics").text();
    assert!(
        metrics.contains("ddollar_token_served_total{provider=\"openai\",token=\"1\"} 30\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("ddollar_token_usable{provider=\"anthropic\",token=\"2\"} 1\n"),
        "{metrics}"
    );
}

#[test]
fn at_the_end_what_streams_ends_and_who_comes_is_refused() {
    let (go, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let upstream = Upstream::playing(move |played| {
        played.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
        let _ = gate.lock().unwrap().recv_timeout(DEADLINE);
        played.send("half");
        true
    });
    let mut gateway = Gateway::to(&upstream.url, "token-eeee-1", &[]);
    let mut idle = gateway.wire();
    let mut wire = gateway.wire();
    wire.send(gateway.request("/anthropic/v1/messages", "", "{}"));
    wire.until("half");
    gateway.run.signal(Signal::SIGTERM);
    gateway.run.stderr.wait("Stopping");
    assert_eq!(idle.until_the_end(), "", "an idle connection is closed");
    crate::support::eventually("new connections are refused", || {
        TcpStream::connect(&gateway.address).is_err().then_some(())
    });
    drop(go);
    wire.until("half");
    assert_eq!(wire.until_the_end(), "", "and then it closes");
    gateway.run.end().expect(0).says_once("Proxy stopped");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let upstream = Upstream::playing(|played| {
        played.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
        played.wait_closed();
        false
    });
    let mut gateway = Gateway::to(&upstream.url, "token-ffff-1", &[]);
    let mut wire = gateway.wire();
    wire.send(gateway.request("/anthropic/v1/messages", "", "{}"));
    wire.until("half");
    gateway.run.signal(Signal::SIGTERM);
    gateway.run.stderr.wait("Stopping");
    gateway.run.signal(Signal::SIGTERM);
    gateway.run.end().expect(0);
}

#[test]
fn what_keeps_it_from_starting_is_said() {
    let provider = Provider::anthropic(&[0.1]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Supervise::with(&provider)
        .start_as(&["proxy", "--listen", &address])
        .end()
        .expect(125);
    assert!(
        ended
            .stderr
            .contains(&format!("cannot listen on {address}: ")),
        "{}",
        ended.stderr
    );
    Supervise::bare()
        .start_as(&["proxy"])
        .end()
        .expect(125)
        .says_once("no API tokens found");
}

/// What a shell has that has read the proxy's own lines, and other names for the same address.
#[test]
fn a_provider_that_is_the_proxy_itself_keeps_it_from_starting() {
    // A port that is taken: whoever does not notice says that instead.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (listen, host) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "localhost"),
        ("127.0.0.1", "LocalHost"),
        ("[::1]", "[::1]"),
        ("[::1]", "[0:0::0:1]"),
        ("0.0.0.0", "127.0.0.9"),
        ("[::]", "localhost"),
    ] {
        let url = format!("http://{host}:{port}/anthropic");
        let place = format!("{listen}:{port}");
        let itself = Supervise::bare()
            .env("ANTHROPIC_API_KEY", "ddollar-made-up")
            .env("ANTHROPIC_BASE_URL", &url)
            .start_as(&["proxy", "--allow-remote", "--listen", &place])
            .end()
            .expect(125);
        assert!(
            itself
                .stderr
                .contains("ANTHROPIC_BASE_URL is this proxy itself"),
            "{listen} {url}: {}",
            itself.stderr
        );
    }
}

/// Through something in between nobody can tell by the address.
#[test]
fn a_request_that_comes_back_to_the_proxy_ends_there() {
    let between = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/anthropic", between.local_addr().unwrap());
    let back = Arc::new(OnceLock::<String>::new());
    let to = back.clone();
    std::thread::spawn(move || {
        for client in between.incoming().flatten() {
            let proxy = TcpStream::connect(to.wait()).unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), proxy.try_clone().unwrap()),
                (proxy, client),
            ] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    // The proxy's secret is the token of a shell that has read its lines.
    let secret = format!("ddollar-{}", "5".repeat(48));
    let prepared = Supervise::bare()
        .env("ANTHROPIC_BASE_URL", &url)
        .env("ANTHROPIC_API_KEY", &secret);
    let folder = prepared.desk().join(".local/state/ddollar");
    std::fs::create_dir_all(&folder).unwrap();
    let kept = folder.join("proxy-secret");
    fs::write(&kept, &secret).unwrap();
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o600)).unwrap();
    let mut gateway = Gateway::start(prepared, &[]);
    back.set(gateway.address.clone()).unwrap();
    let answered = gateway.post(json!({}));
    assert_eq!(answered.status, 508, "{answered:?}");
    assert!(answered.text().contains("leads back"), "{answered:?}");
    // ddollar's own question, this one, and each once more.
    gateway.run.stderr.wait("Requests come back to this proxy");
    assert!(gateway.status()["requests"].as_u64().unwrap() <= 8);
}
