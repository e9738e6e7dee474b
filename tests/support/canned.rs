//! A provider whose answers are a function of the request: for what the built-in one does not
//! speak. Plain HTTP on loopback, one request a connection.

use super::DEADLINE;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

/// Status, header lines and body.
pub(crate) type Said = (u16, &'static str, &'static str);

/// A request: `GET /key`, and the token that it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) token: String,
    /// ddollar's own, and not the command's.
    pub(crate) is_check: bool,
}

/// A running one. It serves as long as the test program, and nothing but loopback.
pub(crate) struct Canned {
    /// `http://127.0.0.1:PORT`
    pub(crate) url: String,
    /// The request before it is answered.
    asked: Receiver<Asked>,
    seen: Vec<Asked>,
}

impl Canned {
    pub(crate) fn start(answer: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> Canned {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, asked) = channel();
        let sender = Arc::new(Mutex::new(sender));
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (sender, answer) = (sender.clone(), answer.clone());
                thread::spawn(move || serve(client, &sender, answer.as_ref()));
            }
        });
        let seen = Vec::new();
        Canned { url, asked, seen }
    }

    /// Waits for a request of this line with this token.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, line: &str, token: &str) {
        loop {
            let Ok(asked) = self.asked.recv_timeout(DEADLINE) else {
                panic!("no {line} with {token}; seen: {:#?}", self.seen);
            };
            self.seen.push(asked.clone());
            if asked.line == line && asked.token == token {
                return;
            }
        }
    }

    /// Every request so far.
    pub(crate) fn seen(&mut self) -> &[Asked] {
        self.seen.extend(self.asked.try_iter());
        &self.seen
    }
}

fn serve(
    client: TcpStream,
    sender: &Mutex<Sender<Asked>>,
    answer: &dyn Fn(&Asked) -> Said,
) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let (mut token, mut length, mut is_check) = (String::new(), 0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => token = value.strip_prefix("Bearer ")?.to_owned(),
            "x-api-key" | "x-goog-api-key" | "api-key" => token = value.to_owned(),
            "user-agent" => is_check = value.starts_with("ddollar"),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    reader.take(length).read_to_end(&mut Vec::new()).ok()?;
    let line = first.rsplit_once(' ')?.0.to_owned();
    let asked = Asked {
        line,
        token,
        is_check,
    };
    let (status, head, body) = answer(&asked);
    sender.lock().unwrap().send(asked).ok()?;
    let head: String = head
        .lines()
        .map(|line| format!("{}\r\n", line.trim()))
        .collect();
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n{head}\r\n{body}"
    );
    (&client).write_all(text.as_bytes()).ok()
}
