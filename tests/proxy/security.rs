//! Who is refused, and where no token is.

use crate::support::gateway::{Gateway, Wire};
use crate::support::proc::{self, Process};
use crate::support::upstream::Upstream;
use crate::support::{Fault, Faulty, Provider, Supervise, spent_at};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A proxy in front of an upstream that must not be asked.
fn untouched() -> (Upstream, Gateway) {
    let upstream = Upstream::playing(|played| {
        played.answer(200, "", "{}");
        true
    });
    let gateway = Gateway::to(&upstream.url, "token-cccc-1", &[]);
    (upstream, gateway)
}

fn status_of(gateway: &Gateway, bytes: &str) -> u16 {
    let mut wire = gateway.wire();
    wire.send(bytes);
    wire.answer().status
}

#[test]
fn who_sends_a_wrong_secret_is_not_told_that_none_came() {
    let (_upstream, gateway) = untouched();
    let mut wire = gateway.wire();
    wire.send("GET /ddollar/status HTTP/1.1\r\nHost: localhost\r\nx-api-key: old\r\n\r\n");
    let text = wire.answer().text();
    assert!(
        text.contains("secret is missing or wrong; 'ddollar proxy' prints it"),
        "{text}"
    );
}

#[test]
fn strangers_are_refused_and_cost_nothing() {
    let (upstream, gateway) = untouched();
    let secret = &gateway.secret;
    let path = "/anthropic/v1/messages";
    let here = "Host: 127.0.0.1\r\n";
    let key = format!("x-api-key: {secret}\r\n");
    for (head, status) in [
        (format!("POST {path} HTTP/1.1\r\n{here}"), 401),
        (
            format!("POST {path} HTTP/1.1\r\n{here}x-api-key: {secret}x\r\n"),
            401,
        ),
        (
            format!("POST {path} HTTP/1.1\r\n{here}x-api-key: token-cccc-1\r\n"),
            401,
        ),
        (format!("POST {path}?key={secret}x HTTP/1.1\r\n{here}"), 401),
        (
            "GET /ddollar/status HTTP/1.1\r\nHost: localhost\r\n".into(),
            401,
        ),
        (
            "GET /ddollar/metrics HTTP/1.1\r\nHost: localhost\r\n".into(),
            401,
        ),
        ("GET / HTTP/1.1\r\nHost: localhost\r\n".into(), 401),
        (
            format!("POST {path} HTTP/1.1\r\nHost: evil.example\r\n{key}"),
            421,
        ),
        (format!("POST {path} HTTP/1.1\r\n{key}"), 421),
        (format!("POST {path} HTTP/1.1\r\n{here}{here}{key}"), 421),
        (
            format!("POST {path} HTTP/1.1\r\n{here}{key}Origin: http://127.0.0.1\r\n"),
            403,
        ),
        (
            format!(
                "OPTIONS {path} HTTP/1.1\r\n{here}Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n"
            ),
            403,
        ),
        (
            format!("POST {path} HTTP/1.1\r\n{here}{key}Sec-Fetch-Site: cross-site\r\n"),
            403,
        ),
        (
            format!(
                "GET /anthropic/v1/responses HTTP/1.1\r\n{here}{key}Connection: Upgrade\r\nUpgrade: websocket\r\n"
            ),
            426,
        ),
        (format!("GET /nowhere HTTP/1.1\r\n{here}{key}"), 404),
        (
            format!("GET /openai/v1/models HTTP/1.1\r\n{here}{key}"),
            404,
        ),
    ] {
        let mut wire = gateway.wire();
        wire.send(format!("{head}\r\n"));
        let answered = wire.answer();
        assert_eq!(answered.status, status, "{head} {answered:?}");
        assert!(
            !answered.head.to_lowercase().contains("access-control"),
            "{answered:?}"
        );
        assert!(!answered.text().contains(secret), "{answered:?}");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn what_can_be_read_in_two_ways_is_refused_and_costs_nothing() {
    let (upstream, gateway) = untouched();
    let start = format!(
        "POST /anthropic/v1/messages HTTP/1.1\r\nHost: localhost\r\nx-api-key: {}\r\n",
        gateway.secret
    );
    for (head, status) in [
        (
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            400,
        ),
        (
            "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd".to_owned(),
            400,
        ),
        ("Content-Length: 3, 4\r\n\r\nabcd".to_owned(), 400),
        ("Content-Length: -1\r\n\r\n".to_owned(), 400),
        ("Content-Length: 0x3\r\n\r\nabc".to_owned(), 400),
        ("Transfer-Encoding: chunked, gzip\r\n\r\n".to_owned(), 400),
        ("Transfer-Encoding: xchunked\r\n\r\n".to_owned(), 400),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\nabc\r\n0\r\n\r\n".to_owned(),
            400,
        ),
        ("Transfer-Encoding: chunked\r\n\r\nxyz\r\n".to_owned(), 400),
        ("X-Folded: a\r\n b\r\n\r\n".to_owned(), 400),
        ("X-Bare: a\nX: b\r\n\r\n".to_owned(), 400),
        ("X-Nul: a\0b\r\n\r\n".to_owned(), 400),
        ("Bad Name: a\r\n\r\n".to_owned(), 400),
        (": a\r\n\r\n".to_owned(), 400),
        (format!("X-Long: {}\r\n\r\n", "a".repeat(70_000)), 431),
        (format!("{}\r\n", "X: y\r\n".repeat(1000)), 431),
        (
            "Content-Length: 99999999999999999999999\r\n\r\n".to_owned(),
            413,
        ),
    ] {
        assert_eq!(
            status_of(&gateway, &format!("{start}{head}")),
            status,
            "{head:.60}"
        );
    }
    // What goes to no provider is not read.
    let own = start.replace("/anthropic/v1/messages", "/ddollar/status");
    for head in [
        "Content-Length: 33554433\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
    ] {
        assert_eq!(status_of(&gateway, &format!("{own}{head}")), 413, "{head}");
    }
    for (bytes, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400),
        (
            "CONNECT api.anthropic.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            401,
        ),
    ] {
        assert_eq!(status_of(&gateway, bytes), status, "{bytes}");
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(gateway.get("/ddollar/status").status, 200);
}

#[test]
fn a_token_that_is_echoed_is_masked_everywhere() {
    let echo = "sk-echoed-token-dddd-1";
    let upstream = Upstream::playing(move |played| {
        let fields = format!("x-echo: {echo}\r\nrequest-id: {echo}\r\n");
        let body = format!("{{\"error\":{{\"message\":\"bad key {echo}\"}}}}");
        match played.number {
            0 => played.answer(404, &fields, &body),
            1 => played.answer(200, &fields, &body),
            _ => {
                played.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
                let (one, two) = echo.split_at(9);
                for piece in [
                    "data: {\"type\":\"content_block_start\"}\n\n",
                    "data: ",
                    one,
                    two,
                    "\n\n",
                ] {
                    played.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
                    std::thread::sleep(std::time::Duration::from_millis(30));
                }
                played.send("0\r\n\r\n");
            }
        }
        true
    });
    let gateway = Gateway::to(&upstream.url, echo, &["-v", "--log", "proxy.log"]);
    for _ in 0..3 {
        let answered = gateway.post(json!({}));
        assert!(answered.whole, "{answered:?}");
        let all = format!("{}{}", answered.head, answered.text());
        assert!(!all.contains("dddd") && !all.contains("echoed"), "{all}");
        assert!(all.contains(&"*".repeat(echo.len())), "{all}");
    }
    let log = fs::read_to_string(gateway.desk().join("proxy.log")).unwrap();
    let ended = gateway.stop();
    for text in [log, ended.stderr, String::from_utf8(ended.stdout).unwrap()] {
        assert!(!text.contains("dddd"), "{text}");
    }
}

#[test]
fn no_token_and_no_secret_is_where_it_must_not_be() {
    let mut provider = Provider::anthropic(&[0.1, 0.1]);
    let front = Faulty::front_of(&provider);
    let gateway = Gateway::behind(&mut provider, &front.url, &["-v", "--log", "proxy.log"]);
    let tokens = provider.tokens().to_vec();
    provider.control(spent_at("org-1", "2h"));
    assert_eq!(gateway.post(json!({})).status, 200);
    provider.fault("401");
    gateway.post(json!({}));
    provider.clear_faults();
    front.fault(Fault::Close);
    gateway.post(json!({}));
    for path in ["/ddollar/status", "/ddollar/metrics"] {
        let text = gateway.get(path).text();
        assert!(
            !tokens.iter().any(|token| text.contains(token.as_str())),
            "{text}"
        );
        assert!(!text.contains(&gateway.secret));
    }
    for process in Process::all() {
        let line = proc::command_line(process.pid).join(" ");
        assert!(!line.contains(&gateway.secret) && !line.contains(&tokens[0]));
    }
    // Its tokens are for it alone, not for the programs that have its secret.
    #[cfg(not(feature = "portable"))]
    {
        let path = format!("/proc/{}/environ", gateway.run.pid);
        let environment = fs::read(path).unwrap();
        let environment = String::from_utf8_lossy(&environment);
        assert!(environment.contains("HOME=") && !environment.contains(&tokens[0]));
    }
    let lines = gateway.lines();
    for path in [lines.with_file_name("proxy-secret"), lines] {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&gateway.secret) && !text.contains(&tokens[0]));
    }
    let log = fs::read_to_string(gateway.desk().join("proxy.log")).unwrap();
    let secret = gateway.secret.clone();
    let ended = gateway.stop();
    for text in [log, ended.stderr] {
        assert!(!text.contains(&secret), "{text}");
        assert!(
            !tokens.iter().any(|token| text.contains(&token[..12])),
            "{text}"
        );
    }
}

#[test]
fn it_listens_on_this_machine_only_unless_told_otherwise() {
    let provider = Provider::anthropic(&[0.1]);
    let refused = Supervise::with(&provider).start_as(&["proxy", "--listen", "0.0.0.0:0"]);
    let ended = refused.end().expect(125);
    assert!(ended.stderr.contains("--allow-remote"), "{}", ended.stderr);
}

#[test]
fn connections_that_say_nothing_or_little_hold_nobody_up() {
    let (_upstream, gateway) = untouched();
    // Two thousand, each with the beginning of a head.
    let mut open: Vec<TcpStream> = Vec::new();
    for _ in 0..2000 {
        let Ok(mut stream) = TcpStream::connect(&gateway.address) else {
            break;
        };
        let _ = stream.write_all(b"POST /anthropic/v1/messages HTTP/1.1\r\nHost: loc");
        open.push(stream);
        if open.len().is_multiple_of(200) {
            // The listener's queue is short, and an answer says that it is empty.
            gateway.status();
        }
    }
    assert_eq!(gateway.post(json!({})).status, 200);
    let memory = proc::status(gateway.run.pid, "VmRSS", 10);
    assert!(memory < 100_000, "{memory} kB");
    // They are gone when their time is up: the head must come within five seconds. The first have made
    // room for later ones before that.
    let mut last = Wire::of(open.pop().unwrap());
    assert_eq!(last.answer().status, 408);
    let said = Wire::of(open.swap_remove(0)).until_the_end();
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 408"),
        "{said}"
    );
    gateway.eventually_status(|status| status["connections"] == 1);
}

#[test]
fn who_does_not_show_the_secret_is_shown_out_and_who_did_may_stay() {
    let (_upstream, gateway) = untouched();
    let mut known = gateway.wire();
    let key = format!("x-api-key: {}\r\n", gateway.secret);
    let ask = format!("GET /ddollar/status HTTP/1.1\r\nHost: localhost\r\n{key}\r\n");
    known.send(&ask);
    assert_eq!(known.answer().status, 200);
    // Silent from the start, and after a wrong secret.
    assert_eq!(gateway.wire().until_the_end(), "");
    known.send(&ask);
    assert_eq!(known.answer().status, 200);
}

/// Root only: others cannot become another user.
#[test]
fn a_program_of_another_user_is_not_served_whatever_it_knows() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let (upstream, gateway) = untouched();
    let (host, port) = gateway.address.split_once(':').unwrap();
    let script = format!(
        "exec 3<>/dev/tcp/{host}/{port}; printf 'GET /ddollar/status HTTP/1.1\\r\\nHost: localhost\\r\\nx-api-key: {}\\r\\n\\r\\n' >&3; head -n 1 <&3",
        gateway.secret
    );
    let ask = |user: u32| {
        let mut shell = Command::new("bash");
        shell.env_clear().env("PATH", "/usr/bin:/bin");
        shell.args(["-c", &script]).uid(user).gid(user);
        String::from_utf8(shell.output().unwrap().stdout).unwrap()
    };
    assert!(ask(0).starts_with("HTTP/1.1 200"));
    assert!(ask(65534).starts_with("HTTP/1.1 403"));
    assert_eq!(upstream.count(), 0);
    let ended = gateway.stop();
    assert!(
        ended.stderr.contains("another user (uid 65534)"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_proxy_for_others_says_that_it_has_no_tls_and_takes_any_host() {
    let provider = Provider::anthropic(&[0.1]);
    let gateway = Gateway::start(Supervise::with(&provider), &["--allow-remote"]);
    let ask = format!(
        "GET /ddollar/status HTTP/1.1\r\nHost: llm.example\r\nx-api-key: {}\r\n\r\n",
        gateway.secret
    );
    assert_eq!(status_of(&gateway, &ask), 200);
    let ended = gateway.stop();
    assert!(ended.stderr.contains("without TLS"), "{}", ended.stderr);
}
