//! The server over real sockets on loopback.

use std::sync::mpsc;

use super::*;

const MESSAGE: &str = r#"{"model":"m","max_tokens":5,"messages":[]}"#;

fn start() -> (Server, mpsc::Receiver<Served>) {
    let (sender, receiver) = mpsc::channel();
    let server = Server::start(Scenario::night(), move |served| {
        let _ = sender.send(served.clone());
    });
    (server.unwrap(), receiver)
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    // Only so that a broken server fails the test instead of hanging it.
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
}

fn message(body: &str) -> String {
    format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nuser-agent: ddollar/0.3\r\n\
         x-api-key: rehearsal-anthropic-not-a-real-token-a002\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads one response with a content-length: head and body.
fn read_one(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(
            stream.read(&mut byte).unwrap(),
            1,
            "{:?}",
            String::from_utf8_lossy(&head)
        );
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

/// Sends everything and reads to the end of the connection.
fn exchange(server: &Server, request: &[u8]) -> Vec<u8> {
    let mut stream = connect(server);
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    // The end may come as a reset when our bytes were not all read.
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn keeps_the_connection_and_tells_the_observer_first() {
    let (server, served) = start();
    assert!(server.url().starts_with("http://127.0.0.1:"));
    let mut stream = connect(&server);
    for _ in 0..3 {
        stream.write_all(message(MESSAGE).as_bytes()).unwrap();
        let (head, body) = read_one(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("anthropic-ratelimit-requests-remaining: "),
            "{head}"
        );
        assert!(body.contains("Done."));
        let served = served.try_recv().unwrap();
        assert_eq!((served.status, served.who), (200, "ddollar"));
        assert_eq!(
            (served.token_label.as_str(), served.path.as_str()),
            ("anthropic#2", "/v1/messages")
        );
        assert!(!served.to_json().to_string().contains("not-a-real-token"));
    }
}

#[test]
fn reads_chunked_bodies_pipelined_requests_and_expect() {
    let (server, _served) = start();
    let mut stream = connect(&server);
    let (one, two) = MESSAGE.split_at(10);
    let head = "POST /v1/messages HTTP/1.1\r\nAuthorization: Bearer rehearsal-anthropic-not-a-real-token-a001\r\n";
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n",
        one.len(),
        two.len()
    );
    stream
        .write_all((chunked + &message(MESSAGE)).as_bytes())
        .unwrap();
    for _ in 0..2 {
        assert!(read_one(&mut stream).0.starts_with("HTTP/1.1 200 "));
    }
    let expects = format!(
        "{head}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        MESSAGE.len()
    );
    stream.write_all(expects.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(MESSAGE.as_bytes()).unwrap();
    assert!(read_one(&mut stream).0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn streams_in_chunks() {
    let (server, _served) = start();
    let body = MESSAGE.replace("{\"model", "{\"stream\":true,\"model");
    let request = message(&body).replace("host: x", "connection: close");
    let text = String::from_utf8(exchange(&server, request.as_bytes())).unwrap();
    assert!(text.contains("transfer-encoding: chunked\r\n"), "{text}");
    assert!(text.contains("\r\nevent: message_start\n"), "{text}");
    assert!(text.ends_with("\r\n0\r\n\r\n"), "{text}");
    let old = exchange(&server, request.replace("HTTP/1.1", "HTTP/1.0").as_bytes());
    let text = String::from_utf8(old).unwrap();
    assert!(
        text.contains("content-length: ") && text.contains("message_stop"),
        "{text}"
    );
}

#[test]
fn malformed_requests_get_400_and_the_server_lives_on() {
    let (server, served) = start();
    for bytes in [
        &b"hello\r\n\r\n"[..],
        b"\x16\x03\x01\x00\xff\xfe\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
    ] {
        let answer = exchange(&server, bytes);
        assert!(
            answer.starts_with(b"HTTP/1.1 400 "),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    let large = exchange(
        &server,
        b"POST / HTTP/1.1\r\nContent-Length: 33554433\r\n\r\n",
    );
    assert!(large.starts_with(b"HTTP/1.1 413 "));
    assert!(served.try_recv().is_err());
    let mut stream = connect(&server);
    stream.write_all(message(MESSAGE).as_bytes()).unwrap();
    assert!(read_one(&mut stream).0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_drop_ends_waiting_connections() {
    // The answer waits for long after its first event.
    let scenario = Scenario {
        stream_pause: IDLE,
        ..Scenario::night()
    };
    let server = Server::start(scenario, |_| ()).unwrap();
    let mut waiting = connect(&server);
    let body = MESSAGE.replace("{\"model", "{\"stream\":true,\"model");
    waiting.write_all(message(&body).as_bytes()).unwrap();
    let mut begun = Vec::new();
    while !begun.ends_with(b"event: message_start\n") {
        let mut byte = [0];
        waiting.read_exact(&mut byte).unwrap();
        begun.push(byte[0]);
    }
    let address = server.address;
    drop(server);
    let mut rest = Vec::new();
    let _ = waiting.read_to_end(&mut rest);
    let rest = String::from_utf8(rest).unwrap();
    assert!(!rest.contains("event: "), "{rest}");
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn the_provider_command_prints_its_url_and_what_it_serves() {
    let (sender, lines) = mpsc::channel::<Vec<u8>>();
    struct Lines(mpsc::Sender<Vec<u8>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (stdin, hold) = std::io::pipe().unwrap();
    let command =
        thread::spawn(move || super::super::serve(Scenario::night(), Lines(sender), stdin));
    let line = || -> Value {
        let mut text = Vec::new();
        while !text.ends_with(b"\n") {
            text.extend(lines.recv_timeout(Duration::from_secs(30)).unwrap());
        }
        serde_json::from_slice(&text).unwrap()
    };
    let url = line()["url"].as_str().unwrap().to_owned();
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.write_all(message(MESSAGE).as_bytes()).unwrap();
    read_one(&mut stream);
    assert_eq!(line()["token_label"], "anthropic#2");
    drop(hold);
    command.join().unwrap().unwrap();
}
