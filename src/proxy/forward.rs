//! One request, from its head to the last byte of its answer.
//!
//! Owns the order of things: who may ask, which token, how an attempt goes, when it is made again,
//! and how the answer gets to the client. It promises that nothing is sent to a client before the
//! last attempt is chosen, that an answer that breaks off is seen to break off, and that each
//! attempt is told to the balancer. What is decided is decided by `request`, `route`, `balancer` and
//! `retry`. Blocks, on the connection's own thread.

mod answer;
mod attempt;
mod counter;
mod other_organization;
mod pass_on;
mod ticket;

use super::balancer::Pick;
use super::client::{ClientConnection, Gone, ReadResult, SPARE_MAX, Wake};
use super::local_response::{self, LocalResponse};
use super::relay::{self, GATHERED, STALL, put_raw};
use super::request::{Destination, Refusal, Request};
use super::response::{Framing, Response};
use super::retry::{After, Attempt, Attempts};
use super::room::BodyRoom;
use super::route::{Route, route};
use super::stream_prelude::{LONE_ERROR_MAX, Seen, StreamPrelude, lone_error};
use super::upstream::{HEARD_BY, Link, Upstream};
use super::{Shared, now};
use crate::common::body::Body;
use crate::common::http::reader::{BodyFraming, BodyPart, ReadError};
use crate::common::http::response::LAST_CHUNK;
use crate::common::http::stream::is_late;
use crate::common::json_places::{end_of_text, top_value};
use crate::events::RunEvent;
use crate::providers::Answer;
use crate::providers::meter::{Meter, Spent};
use crate::providers::reasoning::{self, OfAnother};
use crate::providers::scope::{EndpointKind, Scope, swap_model};
use crate::providers::{Dialect, Finding, ProbeTarget, Reading, Reply, Testimony};
use crate::tokens::ledger::{Outlook, Place};
use std::io::{self, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use answer::UpstreamError;
pub(super) use answer::UpstreamResponse;
pub(super) use counter::Counter;
use ticket::Choice;

/// While it waits, a request looks this often whether its client is still there.
const LOOK: Duration = Duration::from_millis(500);
/// A request whose token was rejected waits so long for a new one in the token's file.
const RENEWAL: Duration = Duration::from_secs(2);

/// Serves one connection to its end.
pub(crate) fn serve(client: &mut ClientConnection, shared: &Shared) {
    while client.wait_for_request(shared.stop()) {
        let kept = match client.head() {
            Ok(request) => {
                shared.counters.requests.fetch_add(1, Relaxed);
                answer(client, shared, &request)
            }
            Err(error) => unread(client, error),
        };
        client.listen_again();
        match kept {
            Ok(true) if !shared.is_stopping() => {}
            Ok(_) => return client.end(),
            Err(Gone) => return,
        }
    }
}

/// A request that could not be read. What follows it on the connection is anybody's guess.
fn unread(client: &mut ClientConnection, error: ReadError) -> Result<bool, Gone> {
    let (status, why) = match error {
        ReadError::Malformed(why) => (400, why),
        ReadError::HeadTooLarge => (
            431,
            "the head is larger than 64 KiB, or has too many fields",
        ),
        ReadError::TooLarge => (413, "the body is larger than 32 MiB"),
        ReadError::Io(error) if is_late(&error) => (408, "the request did not arrive in time"),
        ReadError::Closed | ReadError::Io(_) => return Err(Gone),
    };
    let own = LocalResponse::error(None, status, "invalid_request_error", why);
    client.send(&own.bytes(false, false))?;
    Ok(false)
}

/// Answers a request. Whether the connection goes on.
fn answer(client: &mut ClientConnection, shared: &Shared, request: &Request) -> Result<bool, Gone> {
    let is_head = request.method() == "HEAD";
    let refuse = |client: &mut ClientConnection, own: LocalResponse| {
        // Its body is not read, so the connection cannot go on.
        client.send(&own.bytes(false, is_head))?;
        Ok(false)
    };
    let checked = request.check(shared.any_host, |given| shared.key.is(given));
    // A program of the supervised command may have a credential of its own, and keeps working.
    let is_foreign = matches!(checked, Err(Refusal::NoSecret))
        && shared.waits_for_ever
        && request.has_credential();
    if let Err(refusal) = checked
        && !is_foreign
    {
        return refuse(client, refused(refusal));
    }
    if let Some(number) = client.prove() {
        shared.unproven.forget(number);
    }
    if is_foreign && !shared.counters.foreign.swap(true, Relaxed) {
        let what = "A request has a credential of its own: it goes on with that, without a token of \
                    ddollar's";
        shared.say(vec![RunEvent::Warning(what.into())]);
    }
    if request.has_passed(&shared.name) {
        if !shared.counters.circle.swap(true, Relaxed) {
            shared.say(vec![RunEvent::Circle]);
        }
        let why = "the provider's address leads back to this proxy; set its base URL to its own";
        return refuse(client, LocalResponse::error(None, 508, "api_error", why));
    }
    let target = request.target();
    let route = match (route(target, &shared.providers), request.method()) {
        (Route::Nowhere, _) => {
            let why =
                "no such address; it begins with the provider's name, as in /anthropic/v1/messages";
            return refuse(
                client,
                LocalResponse::error(None, 404, "not_found_error", why),
            );
        }
        (Route::Dotted, _) => {
            let why = "a part of the path is . or .., which leads elsewhere";
            return refuse(
                client,
                LocalResponse::error(None, 400, "invalid_request_error", why),
            );
        }
        _ if shared
            .key
            .is_in(target.split('?').next().unwrap_or_default().as_bytes()) =>
        {
            let why = "this proxy's secret does not belong in a path";
            return refuse(
                client,
                LocalResponse::error(None, 400, "invalid_request_error", why),
            );
        }
        // The answer to TRACE would show the token (RFC 9110 §9.3.8).
        (_, "CONNECT" | "TRACE") => {
            let why = "this is no proxy for connections or traces; set a base URL";
            return refuse(
                client,
                LocalResponse::error(None, 405, "invalid_request_error", why),
            );
        }
        (route, _) => route,
    };
    let is_tunnel = |path: &str| {
        let path = path.split('?').next().unwrap_or_default();
        !path.trim_end_matches('/').ends_with("/responses")
    };
    if request.is_websocket && !matches!(&route, Route::Provider { path, .. } if is_tunnel(path)) {
        // Codex tries it before HTTP, and then goes on without. Over a tunnel no limit would be seen and
        // nothing could go to another token.
        let why = "no WebSocket here; ask with POST";
        return refuse(
            client,
            LocalResponse::error(None, 426, "invalid_request_error", why),
        );
    }
    let is_for_provider = matches!(route, Route::Provider { .. });
    // Not for a body that is refused as soon as its length is looked at.
    let is_wanted = is_for_provider || !request.body.is_too_large();
    if request.waits && request.body != BodyFraming::NONE && is_wanted {
        client.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = match request.body {
        BodyFraming::Length(0..=SPARE_MAX) => client.memory().into(),
        _ => shared.body_memory(),
    };
    let mut rest = request.body;
    let mut room = shared.room.for_body(request.body);
    let read = match &mut room {
        Some(room) => client
            .body(&mut rest, &mut body)
            .inspect(|()| room.shrink_to(body.len())),
        None => {
            body.clear();
            Err(ReadError::TooLarge)
        }
    };
    let large = match read {
        Ok(()) => None,
        Err(ReadError::TooLarge) if is_for_provider => Some(rest),
        Err(error) => return unread(client, error),
    };
    let keep_alive = request.keep_alive && !shared.is_stopping();
    let own = match route {
        Route::Status | Route::Metrics if is_foreign => refused(Refusal::NoSecret),
        Route::Provider { ring, path } => {
            let Some(upstream) = shared.upstreams.get(ring) else {
                return Err(Gone);
            };
            let is_first = !is_foreign && !shared.counters.carries.swap(true, Relaxed);
            // Of a command that might have gone past the proxy, it is news.
            if is_first && shared.key.takes_tokens() {
                shared.say(vec![RunEvent::InPlace]);
            }
            let (scope, mut model) =
                Scope::of_request(upstream.provider, request.method(), &path, &body);
            if is_foreign {
                // It may be one that is not there for the run's tokens.
                model.clear();
            }
            let mut balancer = shared.balancer();
            if !is_foreign && balancer.is_spent() {
                drop(balancer);
                // The command is being ended. Clients do not ask again after this one.
                let why = "--max-tokens is reached";
                let dialect = Some(upstream.provider.dialect);
                let own = LocalResponse::error(dialect, 403, "permission_error", why);
                return refuse(client, own);
            }
            let now = now();
            let can_change = large.is_none() && !is_foreign;
            let other = match can_change {
                true => balancer.fallback(ring, &scope, now),
                false => None,
            };
            // Entered after that one, so that it is what was used last.
            let place = balancer.enter(ring, &scope, model, now).ok_or(Gone)?;
            drop(balancer);
            let mut exchange = Exchange {
                client,
                shared,
                upstream,
                place,
                other,
                has_fallen_back: false,
                kind: scope.kind,
                is_repeatable: scope.kind.is_repeatable(request.method(), &path),
                is_sent: false,
                request,
                is_foreign,
                path: Request::path(&upstream.base_path, &path, |one| shared.key.is_in(one)),
                body,
                room,
                last: None,
                large,
            };
            let sent = exchange.run()?;
            let is_read = exchange.large.is_none();
            exchange.give_body_back();
            drop(exchange);
            match sent {
                Sent::Answer(kept) => return Ok(kept && is_read),
                Sent::Nothing(own) if is_read => own,
                Sent::Nothing(own) => return refuse(client, own),
            }
        }
        Route::Status => {
            let balancer = shared.balancer();
            let now = now();
            LocalResponse::text(
                "application/json",
                local_response::status(shared.counts(), balancer.report(now), now),
            )
        }
        Route::Metrics => {
            let balancer = shared.balancer();
            let text = local_response::metrics(shared.counts(), balancer.report(now()));
            LocalResponse::text("text/plain; version=0.0.4", text)
        }
        Route::Nowhere | Route::Dotted => return Err(Gone),
    };
    client.send(&own.bytes(keep_alive, is_head))?;
    Ok(keep_alive)
}

fn refused(refusal: Refusal) -> LocalResponse {
    let (status, kind, why) = match refusal {
        Refusal::ForeignHost => (
            421,
            "permission_error",
            "the Host field is missing, or names another machine",
        ),
        Refusal::FromAPage => (403, "permission_error", "web pages may not ask here"),
        Refusal::NoSecret => (
            401,
            "authentication_error",
            "this proxy's secret is missing or wrong; 'ddollar proxy' prints it when it starts",
        ),
    };
    LocalResponse::error(None, status, kind, why)
}

/// What became of a request.
enum Sent {
    /// It was answered; whether the connection goes on.
    Answer(bool),
    /// There is no answer but this.
    Nothing(LocalResponse),
}

/// A request that is answered by a provider.
struct Exchange<'a> {
    client: &'a mut ClientConnection,
    shared: &'a Shared,
    upstream: &'a Upstream,
    /// Where the ledger keeps what is learned of it.
    place: Place,
    /// The same and the model for its fallback; once it goes out for that, of what it asked for.
    other: Option<(Place, String)>,
    has_fallen_back: bool,
    kind: EndpointKind,
    /// Whether it may be sent again when nobody knows what became of it.
    is_repeatable: bool,
    /// Whether the last attempt was sent.
    is_sent: bool,
    request: &'a Request,
    /// Whether it goes out with the client's own credential.
    is_foreign: bool,
    /// The path and query at the provider.
    path: String,
    /// The body; of one that is too large to be kept, its beginning.
    body: Body,
    /// What is set aside for it, as long as it is kept.
    room: Option<BodyRoom<'a>>,
    /// What came last, and with which token, until the request goes out again.
    last: Option<(Result<UpstreamResponse, UpstreamError>, usize)>,
    /// What is still to come of a body that is too large to be kept. It goes out once, as it comes.
    large: Option<BodyFraming>,
}

/// A refusal that another token's answer is to explain.
struct FirstAnswer {
    came: Result<UpstreamResponse, UpstreamError>,
    index: usize,
    asked: Instant,
    reading: Reading,
}

impl<'a> Exchange<'a> {
    fn run(&mut self) -> Result<Sent, Gone> {
        if self.is_foreign {
            let came = self.attempt(None)?;
            return self.pass_on(came, 0);
        }
        let hold_until = Instant::now() + self.shared.hold;
        let mut attempts = Attempts::default();
        let mut first: Option<FirstAnswer> = None;
        let mut next = self.ticket_of_owner(&[], hold_until)?;
        // A body that is not kept cannot be sent again.
        let is_kept = self.large.is_none();
        // How many tokens there were before one was rejected.
        let mut rejected = None;
        loop {
            let ticket = match next.take() {
                Some(ticket) => ticket,
                None => match self.ticket(&mut attempts, hold_until)? {
                    Choice::Go(ticket) => ticket,
                    Choice::Own(_) | Choice::Tried if self.is_renewed(&mut rejected)? => {
                        attempts.was_held();
                        continue;
                    }
                    Choice::Own(own) => return Ok(Sent::Nothing(own)),
                    Choice::Tried => match self.last.take() {
                        Some((came, index)) => return self.pass_on(came, index),
                        None => {
                            let own = LocalResponse::exhausted(self.upstream.provider, None);
                            return Ok(Sent::Nothing(own));
                        }
                    },
                },
            };
            self.let_go();
            let (index, asked) = (ticket.index, ticket.asked);
            let known = self.upstream.tokens();
            let came = self.attempt(Some(index))?;
            if is_kept && self.leaves_out_fields(&came, index) {
                let reading = Reading::unclear("the request names another organization");
                ticket.answered(Ok(reading), Testimony::Clear);
                self.last = Some((came, index));
                continue;
            }
            let reading = came
                .as_ref()
                .map(|came| self.reading(came))
                .map_err(|silent| silent.why.clone());
            let testimony = match (&reading, &came) {
                (Ok(reading), Ok(came)) => reading.testimony(came.status(), self.kind),
                _ => Testimony::Clear,
            };
            if let (true, Ok(reading), Ok(refused)) = (self.has_fallen_back, &reading, &came)
                && matches!(reading.finding, Finding::Unclear { .. })
                && (400..500).contains(&refused.status())
            {
                // The client has not asked for this model, and does not get its refusal.
                let status = refused.status();
                ticket.answered(Ok(reading.clone()), testimony);
                let say = self.shared.balancer().refuses_fallback(self.place, status);
                self.shared.say(say.into_iter().collect());
                self.change_model();
                self.other = None;
                attempts.was_held();
                self.last = Some((came, index));
                continue;
            }
            let next_step = match (&reading, &came) {
                // Of what makes a thing, only these say that nothing was done; and a provider may say that it is of
                // no use to ask again, as its own SDKs heed.
                (
                    Ok(Reading {
                        finding: Finding::Overloaded { .. },
                        ..
                    }),
                    Ok(answer),
                ) if !self.is_repeatable && !matches!(answer.status(), 429 | 503 | 529)
                    || answer.response.value("x-should-retry") == Some(b"false") =>
                {
                    attempts.after(index, Attempt::Spoilt)
                }
                (Err(_), _) if self.is_sent && !self.is_repeatable => {
                    attempts.after(index, Attempt::Spoilt)
                }
                (Ok(reading), _) => {
                    attempts.after(index, Attempt::Answered(&reading.finding, testimony))
                }
                (Err(_), Err(UpstreamError { began: true, .. })) => {
                    attempts.after(index, Attempt::Spoilt)
                }
                (Err(_), _) => attempts.after(index, Attempt::Unreached),
            };
            let after = match is_kept {
                true => next_step,
                false => After::PassOn,
            };
            if let Ok(Reading {
                finding: Finding::Rejected,
                ..
            }) = reading
            {
                rejected = Some(known);
            }
            let kept = (after == After::Witness && first.is_none()).then(|| reading.clone().ok());
            ticket.answered(reading, testimony);
            match after {
                After::PassOn => {
                    return self.pass_on_after(came, index, &attempts, first);
                }
                After::Again => self.last = Some((came, index)),
                After::Pause(pause) => {
                    self.last = Some((came, index));
                    self.let_go();
                    self.pause(pause)?;
                }
                After::Hop => match self.another(attempts.tried())? {
                    Some(other) => {
                        next = Some(other);
                        self.last = Some((came, index));
                    }
                    None => return self.pass_on(came, index),
                },
                After::Witness => {
                    match kept.flatten() {
                        Some(reading) => {
                            first = Some(FirstAnswer {
                                came,
                                index,
                                asked,
                                reading,
                            });
                        }
                        None => self.last = Some((came, index)),
                    }
                    match (self.another(attempts.tried())?, first.take()) {
                        (Some(other), kept) => {
                            next = Some(other);
                            first = kept;
                        }
                        (None, Some(first)) if self.leaves_out(&first, attempts.absent()) => {
                            self.last = Some((first.came, first.index));
                            attempts = Attempts::default();
                        }
                        // Another one was served this model before: that one is waited for.
                        (None, Some(first)) if self.lacks_model(&first, &attempts, true) => {
                            self.last = Some((first.came, first.index));
                            attempts = Attempts::default();
                        }
                        (None, Some(first)) => {
                            next = self.ticket_of_owner(attempts.absent(), hold_until)?;
                            if next.is_none() {
                                return self.pass_on(first.came, first.index);
                            }
                            self.last = Some((first.came, first.index));
                            attempts = Attempts::default();
                        }
                        (None, None) => {
                            let own = LocalResponse::exhausted(self.upstream.provider, None);
                            return Ok(Sent::Nothing(own));
                        }
                    }
                }
            }
            self.shared.counters.retries.fetch_add(1, Relaxed);
        }
    }

    /// Whether a new token takes the place of one that was `rejected`: somebody has replaced it in its file, which is
    /// read again now.
    fn is_renewed(&mut self, rejected: &mut Option<usize>) -> Result<bool, Gone> {
        let shared = self.shared;
        let until = Instant::now() + RENEWAL;
        let Some(known) = rejected.take().filter(|_| shared.rereads) else {
            return Ok(false);
        };
        loop {
            let balancer = shared.balancer();
            let left = until.saturating_duration_since(Instant::now());
            let is_new = self.upstream.tokens() > known;
            if is_new || left.is_zero() {
                return Ok(is_new);
            }
            drop(shared.wait(balancer, left.min(LOOK)));
            self.client.watch(None, Instant::now(), self.interim())?;
        }
    }

    /// The last answer goes to the client, and what it tells of an earlier one to the balancer.
    fn pass_on_after(
        &mut self,
        came: Result<UpstreamResponse, UpstreamError>,
        index: usize,
        attempts: &Attempts,
        first: Option<FirstAnswer>,
    ) -> Result<Sent, Gone> {
        let Some(first) = first else {
            return self.pass_on(came, index);
        };
        match &came {
            Ok(answer) if answer.status() < 300 => {
                self.lacks_model(&first, attempts, false);
                let mut balancer = self.shared.balancer();
                if attempts.blamed().is_some() {
                    let FirstAnswer {
                        index,
                        asked,
                        reading,
                        ..
                    } = first;
                    let say = balancer.blame(self.place, index, asked, reading, now());
                    self.shared.say(say);
                }
                if !attempts.absent().is_empty() && self.kind == EndpointKind::Other {
                    balancer.remember_owner(self.place.ring, self.thing(), index);
                }
                drop(balancer);
                self.last = Some((first.came, first.index));
                self.let_go();
                self.pass_on(came, index)
            }
            Ok(_) => self.pass_on(came, index),
            // The witness could not be heard.
            Err(_) => self.pass_on(first.came, first.index),
        }
    }

    /// What the path names, without the query.
    fn thing(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// The response before the next one is dropped, and its connection with it, unless the body was read
    /// to its end.
    fn let_go(&mut self) {
        if let Some((Ok(came), _)) = self.last.take() {
            self.reuse(came);
        }
    }

    /// Waits, and sees whether the client is still there.
    fn pause(&mut self, pause: Duration) -> Result<(), Gone> {
        let until = Instant::now() + pause;
        while self.client.watch(None, until, self.interim())? != Wake::Over {}
        Ok(())
    }

    /// What can be sent to the client before its answer begins: an interim one, if it knows these.
    fn interim(&self) -> &'static [u8] {
        match self.request.modern {
            true => b"HTTP/1.1 100 Continue\r\n\r\n",
            false => b"",
        }
    }

    /// Keeps the connection of a response that is not passed on, if nothing is left on it.
    fn reuse(&self, came: UpstreamResponse) {
        if came.whole && came.response.keep_alive {
            self.upstream.keep(came.link);
        }
    }
}
