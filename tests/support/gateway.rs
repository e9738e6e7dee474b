//! A running `ddollar proxy`, and a client that sends it exactly the bytes that a test wants.

use super::DEADLINE;
use super::env::Desk;
use super::provider::Provider;
use super::run::{Ended, Run, Supervise};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// A proxy. It ends with this value.
pub(crate) struct Gateway {
    pub(crate) run: Run,
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
    pub(crate) secret: String,
}

/// How long the token with this number, from 1, is not usable, as the proxy's status says.
pub(crate) fn seconds_left(status: &Value, number: usize) -> u64 {
    let time = |value: &Value| {
        let time: jiff::Timestamp = value.as_str().unwrap().parse().unwrap();
        time.as_second()
    };
    let left = time(&status["tokens"][number - 1]["until"]) - time(&status["at"]);
    u64::try_from(left).unwrap()
}

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    /// The head, with its empty line.
    pub(crate) head: String,
    /// Without chunk sizes.
    pub(crate) body: Vec<u8>,
    /// The body is as long as the head or its last chunk says.
    pub(crate) whole: bool,
}

impl Answered {
    /// A field's value; the name in any case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

/// A connection to a proxy, or to anything else.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub(crate) fn to(address: &str) -> Wire {
        Wire::of(TcpStream::connect(address).unwrap())
    }

    /// A connection that is open already.
    pub(crate) fn of(stream: TcpStream) -> Wire {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire {
            stream,
            read: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Ends our side only.
    pub(crate) fn end(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    fn fill(&mut self) -> usize {
        let mut piece = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(count) => {
                    self.read.extend_from_slice(&piece[..count]);
                    return count;
                }
                // With a time limit a read is not taken up again after a signal (signal(7)).
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    eprintln!("the connection failed: {error}");
                    return 0;
                }
            }
        }
    }

    /// Waits until this text has come, and takes everything up to its end.
    #[track_caller]
    pub(crate) fn until(&mut self, text: &str) -> String {
        loop {
            let found = self
                .read
                .windows(text.len())
                .position(|part| part == text.as_bytes());
            if let Some(at) = found {
                let rest = self.read.split_off(at + text.len());
                let taken = std::mem::replace(&mut self.read, rest);
                return String::from_utf8_lossy(&taken).into_owned();
            }
            assert!(self.fill() > 0, "no {text:?} in {:?}", self.rest());
        }
    }

    /// What has come and was not taken.
    pub(crate) fn rest(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// Everything until the other side ends the connection.
    pub(crate) fn until_the_end(&mut self) -> String {
        while self.fill() > 0 {}
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }

    /// The next response; interim ones are passed over.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answered {
        let mut head = self.until("\r\n\r\n");
        while head.starts_with("HTTP/1.1 100") {
            head = self.until("\r\n\r\n");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answered = Answered {
            status,
            head,
            body: Vec::new(),
            whole: true,
        };
        if answered.field("transfer-encoding") == Some("chunked") {
            answered.whole = self.chunks(&mut answered.body);
        } else if let Some(length) = answered.field("content-length") {
            let length: usize = length.parse().unwrap();
            while self.read.len() < length && self.fill() > 0 {}
            answered.whole = self.read.len() >= length;
            let rest = self.read.split_off(length.min(self.read.len()));
            answered.body = std::mem::replace(&mut self.read, rest);
        } else if status != 204 && status != 304 {
            while self.fill() > 0 {}
            answered.body = std::mem::take(&mut self.read);
        }
        answered
    }

    /// Reads chunks; whether the last one came.
    fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let Some(end) = self.read.windows(2).position(|part| part == b"\r\n") else {
                if self.fill() == 0 {
                    return false;
                }
                continue;
            };
            let size = std::str::from_utf8(&self.read[..end]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            while self.read.len() < end + 2 + size + 2 {
                if self.fill() == 0 {
                    return false;
                }
            }
            let rest = self.read.split_off(end + 2 + size + 2);
            body.extend_from_slice(&self.read[end + 2..end + 2 + size]);
            self.read = rest;
            if size == 0 {
                return true;
            }
        }
    }
}

/// A message of the usual shape; `more` goes into its JSON.
pub(crate) fn message(more: Value) -> String {
    let mut body = json!({"model": "claude-haiku-5-5", "max_tokens": 5,
        "messages": [{"role": "user", "content": "."}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

/// Posts a body to an address with this credential; `fields` are whole lines. The answer is still to
/// come.
pub(crate) fn post(address: &str, path: &str, secret: &str, fields: &str, body: &str) -> Wire {
    let mut wire = Wire::to(address);
    wire.send(request(address, path, secret, fields, body));
    wire
}

fn request(address: &str, path: &str, secret: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nx-api-key: {secret}\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    )
}

impl Gateway {
    /// A proxy in front of `provider`, whose tokens it has asked once each.
    pub(crate) fn of(provider: &mut Provider) -> Gateway {
        Gateway::with(provider, &[])
    }

    /// The same, with more options.
    pub(crate) fn with(provider: &mut Provider, options: &[&str]) -> Gateway {
        let address = provider.url.clone();
        Gateway::behind(provider, &address, options)
    }

    /// The same, with the provider at another address.
    pub(crate) fn behind(provider: &mut Provider, address: &str, options: &[&str]) -> Gateway {
        let gateway = Gateway::start(Supervise::behind(provider, address), options);
        // Asked and answered: from here on the proxy knows the groups.
        for number in 1..=provider.tokens().len() {
            gateway.eventually_status(|status| status["tokens"][number - 1]["group"].is_string());
        }
        provider.served();
        gateway
    }

    /// A proxy to another address, which tells no quota groups.
    pub(crate) fn to(address: &str, tokens: &str, options: &[&str]) -> Gateway {
        let run = Supervise::bare()
            .env("ANTHROPIC_BASE_URL", address)
            .env("ANTHROPIC_API_KEYS", tokens);
        Gateway::start(run, options)
    }

    pub(crate) fn start(prepared: Supervise, options: &[&str]) -> Gateway {
        let mut run = prepared.start_as(&[&["proxy", "--listen", "127.0.0.1:0"], options].concat());
        let base = run.stdout.wait("_BASE");
        let secret = run.stdout.wait("API_KEY=");
        let value = |line: &str| line.split('\'').nth(1).unwrap().to_owned();
        let base = value(&base);
        let address = base.split('/').nth(2).unwrap().to_owned();
        run.stderr.wait("Proxy listens");
        Gateway {
            run,
            address,
            secret: value(&secret),
        }
    }

    pub(crate) fn wire(&self) -> Wire {
        Wire::to(&self.address)
    }

    /// A request's head and body for `path`, with the secret; `fields` are whole lines.
    pub(crate) fn request(&self, path: &str, fields: &str, body: &str) -> String {
        request(&self.address, path, &self.secret, fields, body)
    }

    /// Posts a message, and waits for its answer.
    #[track_caller]
    pub(crate) fn post(&self, more: Value) -> Answered {
        self.post_to("/anthropic/v1/messages", more)
    }

    #[track_caller]
    pub(crate) fn post_to(&self, path: &str, more: Value) -> Answered {
        post(&self.address, path, &self.secret, "", &message(more)).answer()
    }

    /// Gets a path with the secret.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answered {
        let mut wire = self.wire();
        wire.send(format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
            self.secret
        ));
        wire.answer()
    }

    pub(crate) fn status(&self) -> Value {
        self.get("/ddollar/status").json()
    }

    /// Waits until the status shows something.
    pub(crate) fn eventually_status(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        super::eventually("a status", || Some(self.status()).filter(&wanted))
    }

    /// The file with the lines for shells, while it runs.
    pub(crate) fn lines(&self) -> PathBuf {
        let (_, port) = self.address.rsplit_once(':').unwrap();
        let folder = self.run.desk.join(".local/state/ddollar");
        folder.join(format!("proxy-{port}.env"))
    }

    pub(crate) fn desk(&self) -> &Desk {
        &self.run.desk
    }

    /// Ends it in order.
    #[track_caller]
    pub(crate) fn stop(self) -> Ended {
        self.run.signal(Signal::SIGTERM);
        self.run.end().expect(0)
    }
}

/// A moment in which nothing is to happen, for what must not come.
pub(crate) fn a_moment() {
    std::thread::sleep(Duration::from_millis(300));
}
