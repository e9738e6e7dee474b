//! One attempt: the request goes out with one token, and its answer comes in as far as that decides what
//! follows.

use super::*;

/// Few heads are larger.
const HEAD_ROOM: usize = 2048;

impl Exchange<'_> {
    /// Sends the request with this token, or with the client's own credential, and reads as much of the
    /// response as decides what follows.
    pub(super) fn attempt(
        &mut self,
        index: Option<usize>,
    ) -> Result<Result<UpstreamResponse, UpstreamError>, Gone> {
        let Some(readable) = index.and_then(|index| self.upstream.readable(index, &self.body))
        else {
            return self.attempt_as_it_is(index);
        };
        // Another token may read all of it.
        let whole = std::mem::replace(&mut self.body, readable);
        let came = self.attempt_as_it_is(index);
        self.body = whole;
        came
    }

    fn attempt_as_it_is(
        &mut self,
        index: Option<usize>,
    ) -> Result<Result<UpstreamResponse, UpstreamError>, Gone> {
        let rest = self.large;
        let is_small = self.body.len() <= GATHERED && rest.is_none();
        let begun = self.body.len() as u64;
        let mut first = self.client.memory();
        // A small body goes in one piece with the head.
        first.reserve(HEAD_ROOM + if is_small { self.body.len() } else { 0 });
        let token = index.map(|index| self.upstream.token(index));
        let credentials = token
            .as_ref()
            .map(|token| self.upstream.credentials(token, &self.path));
        let destination = Destination {
            path: &self.path,
            host: &self.upstream.host,
            credentials: credentials.as_deref().unwrap_or_default(),
            length: match rest {
                None => Some(begun),
                Some(BodyFraming::Length(left)) => Some(begun + left),
                Some(_) => None,
            },
            // A provider elsewhere cannot be this proxy, and is told nothing about it.
            via: self.upstream.is_here().then_some(&self.shared.name),
            left_out: index.map_or(&[], |index| self.upstream.left_out(index)),
        };
        self.request
            .put_upstream(&mut first, &destination, |value| {
                self.shared.key.is_in(value)
            });
        if is_small {
            first.extend_from_slice(&self.body);
        }
        let came = match rest {
            None => self.ask(&first, !is_small),
            Some(rest) => self.ask_once(&first, rest),
        };
        self.client.give_back(first);
        came
    }

    /// Sends what goes first, and the body if it is to follow, and waits for the response.
    fn ask(
        &mut self,
        first: &[u8],
        body_follows: bool,
    ) -> Result<Result<UpstreamResponse, UpstreamError>, Gone> {
        // A connection that was kept may have been closed at the other end in this moment, or be dead. Nothing
        // has been answered on it then, so the request goes again, on a new one.
        let mut kept = self.is_repeatable.then(|| self.upstream.kept()).flatten();
        self.is_sent = false;
        loop {
            let reused = kept.is_some();
            let (mut fresh, is_doubted) = match kept.take() {
                Some(link) => link,
                None => match self.upstream.connect() {
                    Ok(link) => (link, false),
                    Err(why) => return Ok(Err(UpstreamError { began: false, why })),
                },
            };
            let rest = if body_follows { &self.body[..] } else { &[] };
            let sent = send(&mut fresh, first, rest);
            self.is_sent = sent.is_ok();
            let came = self.response(fresh, is_doubted)?;
            match (came, sent) {
                (Err(UpstreamError { began: false, .. }), _) if reused => continue,
                (Err(silent), Ok(())) => return Ok(Err(silent)),
                (Err(UpstreamError { began, .. }), Err(error)) => {
                    let why = error.to_string();
                    return Ok(Err(UpstreamError { began, why }));
                }
                // A provider may refuse a request before it has read all of it.
                (Ok(came), sent) => {
                    let mut came = came;
                    came.response.keep_alive &= sent.is_ok();
                    return self.look(came);
                }
            }
        }
    }

    /// Sends what goes first and a body that was not kept, and waits for the response.
    fn ask_once(
        &mut self,
        first: &[u8],
        mut rest: BodyFraming,
    ) -> Result<Result<UpstreamResponse, UpstreamError>, Gone> {
        // A new connection: on one that was kept, nobody could ask again.
        let mut link = match self.upstream.connect() {
            Ok(link) => link,
            Err(why) => return Ok(Err(UpstreamError { began: false, why })),
        };
        let framing = match rest {
            BodyFraming::Length(_) => Framing::AsItCame,
            BodyFraming::Chunked(_) | BodyFraming::UntilEnd => Framing::Chunked,
        };
        let mut out = Vec::new();
        put_raw(&mut out, &std::mem::take(&mut self.body), framing);
        let mut sent = send(&mut link, first, &out);
        // A provider may refuse a request before it has read all of it.
        while sent.is_ok() {
            out.clear();
            let piece = self.client.next_piece(&mut rest).map_err(|_| Gone)?;
            match piece {
                Some(piece) => put_raw(&mut out, piece, framing),
                None if framing == Framing::Chunked => out.extend_from_slice(LAST_CHUNK),
                None => {}
            }
            let is_last = piece.is_none();
            sent = send(&mut link, &out, &[]);
            if is_last {
                self.large = None;
                break;
            }
        }
        match (self.response(link, false)?, sent) {
            (Ok(mut came), sent) => {
                came.response.keep_alive &= sent.is_ok();
                self.look(came)
            }
            (Err(UpstreamError { began, .. }), Err(error)) => {
                let why = error.to_string();
                Ok(Err(UpstreamError { began, why }))
            }
            (Err(silent), Ok(())) => Ok(Err(silent)),
        }
    }

    /// The head of the response, on a connection that may be dead, or is known not to be.
    fn response(
        &mut self,
        mut link: Link,
        is_doubted: bool,
    ) -> Result<Result<UpstreamResponse, UpstreamError>, Gone> {
        let now = Instant::now();
        let until = now + STALL;
        let mut doubted = is_doubted.then_some(now + HEARD_BY);
        let to_head = self.request.method() == "HEAD";
        let silent = |began, why: &str| {
            let why = why.to_owned();
            Ok(Err(UpstreamError { began, why }))
        };
        let spoilt = |why| silent(true, why);
        let went = |link: &Link, why| silent(!link.buffered().is_empty(), why);
        loop {
            match link.try_head(|bytes| Response::parse(bytes, to_head)) {
                Ok(Some(response)) if response.status == 101 && !self.request.is_websocket => {
                    return spoilt("the provider speaks another protocol");
                }
                // An interim answer is for the proxy, which has sent everything.
                Ok(Some(response)) if response.status < 200 && response.status != 101 => continue,
                Ok(Some(response)) => {
                    if doubted.is_some() {
                        link.source_ref().trust();
                    }
                    return Ok(Ok(UpstreamResponse {
                        rest: response.body,
                        link,
                        response,
                        held: Vec::new(),
                        whole: false,
                        broken: false,
                        failure: None,
                    }));
                }
                Ok(None) => {}
                Err(_) => return spoilt("the provider does not answer in HTTP"),
            }
            let wait = doubted.unwrap_or(until);
            match self.client.read_on(&mut link, wait, self.interim())? {
                ReadResult::Late if doubted.take().is_some() => link.source_ref().trust(),
                ReadResult::Some => {}
                ReadResult::End => return went(&link, "the provider closed the connection"),
                ReadResult::Broken => return went(&link, "the connection to the provider broke"),
                ReadResult::Late => return spoilt("the provider did not answer in time"),
            }
        }
    }
}

/// Sends what goes first, and what is too large to be part of that.
fn send(link: &mut Link, first: &[u8], rest: &[u8]) -> io::Result<()> {
    let socket = link.source();
    socket.write_all(first)?;
    socket.write_all(rest)?;
    socket.flush()
}
