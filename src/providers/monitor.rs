//! The monitor: a thread that asks a provider about its tokens.
//!
//! Owns the connection to one provider. It promises that a token goes to the provider's own
//! address only (no redirects, TLS or loopback), that each order gets an answer within a bounded
//! time, and that an answer is reported as it came: what it means is for `reading.rs` and
//! `tokens/policy.rs`.

use super::Authorization;
use super::tls::{cryptography, trusted, with_hint};
use crate::common::secret::Secret;
use crate::common::time::Now;
use crate::providers::endpoint::Endpoint;
use crate::providers::schedule::{self, ProbeSchedule};
use crate::providers::{Answer, Finding, ProbeForm, ProbeTarget, Provider, Reading, Reply};
use crossbeam_channel::{Receiver, Sender, after, never, select, unbounded};
use nix::errno::Errno;
use std::any::Any;
use std::io::{ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

/// A probe is given up after this time; the providers answer one in well under two seconds.
const TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// The first question comes this long after the start: it must not compete with the command's own
/// start for the processor, and a command that is over by then needs none.
const FIRST_QUESTION: Duration = Duration::from_millis(20);
/// A provider that is overloaded is asked again after this time, whatever it says.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// So many tokens are asked about at the same time.
const MOST_AT_ONCE: usize = 16;
/// Error bodies are a few hundred bytes; more of one is not read.
const LARGEST_BODY: u64 = 64 * 1024;
const LARGEST_HEAD: usize = 64 * 1024;

/// What a monitor has to tell.
#[derive(Debug)]
pub(crate) enum MonitorEvent {
    /// The answer to a question about a token of a ring; both are places, from 0.
    Answered {
        ring: usize,
        index: usize,
        /// The model that it was put for; another one may have replaced it.
        model: String,
        answer: Answer,
    },
    /// The monitor of a ring is gone: nothing more will be heard from it.
    Lost { ring: usize },
}

/// The tokens of a ring, in its order, and who accepts them.
pub(crate) type Credentials = Vec<(&'static Provider, Secret)>;

/// What the monitor is told.
#[derive(Debug)]
enum Order {
    /// Ask about this token at the pace of its limits, and, if `at_once`, soon.
    Watch { index: usize, at_once: bool },
    /// Ask about this token now.
    Ask { index: usize },
    /// These tokens come to the ring, at its end.
    Add(Credentials),
    /// Ask for this model from now on.
    Prefer(String),
    /// Ask about none until told otherwise.
    Rest,
}

/// A monitor. Its thread begins with the first question, since a command whose own requests tell needs
/// none, and ends when this is dropped, after the question under way.
pub(crate) struct Monitor {
    orders: Sender<Order>,
    /// What the thread is to do, until it begins.
    work: Option<Work>,
}

/// All that the thread needs.
struct Work {
    ring: usize,
    askers: Askers,
    schedule: ProbeSchedule,
    inbox: Receiver<Order>,
    events: Sender<MonitorEvent>,
}

impl Monitor {
    /// A monitor of one ring, whose providers are asked at `endpoints`; answers go to `events`.
    pub(crate) fn new(
        ring: usize,
        tokens: Credentials,
        endpoints: Vec<Endpoint>,
        schedule: ProbeSchedule,
        events: Sender<MonitorEvent>,
    ) -> Monitor {
        let (orders, inbox) = unbounded();
        Monitor {
            orders,
            work: Some(Work {
                ring,
                askers: Askers::new(tokens, endpoints),
                schedule,
                inbox,
                events,
            }),
        }
    }

    /// Asks about `index` each interval from now on, or sooner if its limits want it, and for the
    /// first time soon if `at_once`.
    pub(crate) fn watch(&mut self, index: usize, at_once: bool) {
        self.order(Order::Watch { index, at_once });
        self.begin();
    }

    /// Asks about `index` now.
    pub(crate) fn ask(&mut self, index: usize) {
        self.order(Order::Ask { index });
        self.begin();
    }

    /// Knows these tokens, too, from now on: they come at the ring's end.
    pub(crate) fn add(&self, tokens: Credentials) {
        self.order(Order::Add(tokens));
    }

    /// Asks for this model from now on, unless it was found not to be there.
    pub(crate) fn prefer(&self, model: &str) {
        self.order(Order::Prefer(model.to_owned()));
    }

    /// Asks about none until told otherwise.
    pub(crate) fn rest(&self) {
        self.order(Order::Rest);
    }

    fn order(&self, order: Order) {
        // A monitor that has ended has reported that itself.
        let _ = self.orders.send(order);
    }

    /// Starts the thread. Where the system refuses one, the monitor is lost.
    fn begin(&mut self) {
        let Some(work) = self.work.take() else { return };
        let lost = Lost {
            ring: work.ring,
            events: work.events.clone(),
        };
        let started = std::thread::Builder::new()
            .name(format!("monitor-{}", work.ring))
            .stack_size(512 * 1024)
            .spawn(move || {
                work.run();
                std::mem::forget(lost);
            });
        if let Err(error) = started {
            log::warn!("cannot start the monitor: {error}");
        }
    }
}

/// Reports the end of a thread that panicked, or of one that never began.
struct Lost {
    ring: usize,
    events: Sender<MonitorEvent>,
}

impl Drop for Lost {
    fn drop(&mut self) {
        let _ = self.events.send(MonitorEvent::Lost { ring: self.ring });
    }
}

impl Work {
    fn run(self) {
        let Work {
            ring,
            askers: mut asker,
            mut schedule,
            inbox,
            events,
        } = self;
        let mut watched = None;
        let mut failures = 0_u32;
        let mut due = never();
        loop {
            let (index, needed) = select! {
                recv(inbox) -> order => match order {
                    Ok(Order::Watch { index, at_once }) => {
                        watched = Some(index);
                        failures = 0;
                        due = after(if at_once {
                            FIRST_QUESTION
                        } else {
                            schedule.interval()
                        });
                        continue;
                    }
                    Ok(Order::Ask { index }) => (index, true),
                    Ok(Order::Add(tokens)) => {
                        asker.add(tokens);
                        continue;
                    }
                    Ok(Order::Prefer(model)) => {
                        asker.askers.iter_mut().for_each(|asker| asker.prefer(&model));
                        continue;
                    }
                    Ok(Order::Rest) => {
                        watched = None;
                        due = never();
                        continue;
                    }
                    Err(_) => return,
                },
                recv(due) -> _ => match watched {
                    Some(index) if asker.may_ask(index) => (index, false),
                    _ => continue,
                },
            };
            let answer = asker.answer(index, needed);
            let now = Now {
                wall: SystemTime::now(),
                tick: answer.asked,
            };
            let usage = answer.reading.as_ref().ok().map(|reading| &reading.usage);
            let crossing = usage.and_then(|usage| schedule.look(index, usage, now));
            if watched == Some(index) {
                failures = match &answer.reading {
                    Ok(reading) if !matches!(reading.finding, Finding::Overloaded { .. }) => 0,
                    _ => failures + 1,
                };
                let asked_for = match &answer.reading {
                    Ok(Reading {
                        finding: Finding::Overloaded { retry_after },
                        ..
                    }) => retry_after.unwrap_or_default().min(LONGEST_PAUSE),
                    _ => Duration::ZERO,
                };
                let pause = match (failures, usage) {
                    (0, Some(usage)) => schedule.pause(crossing, usage, now),
                    _ => {
                        let backoff = schedule::backoff(failures.saturating_sub(1));
                        schedule.interval().max(backoff).max(asked_for)
                    }
                };
                due = after(pause);
            }
            let asked = asker.of(index).map(|(asker, _)| asker.wanted.clone());
            let event = MonitorEvent::Answered {
                ring,
                index,
                model: asked.unwrap_or_default(),
                answer,
            };
            if events.send(event).is_err() {
                return;
            }
        }
    }
}

/// Puts the questions of one ring: an asker for each of its providers.
struct Askers {
    /// Of each token: its provider's asker, and its text.
    tokens: Vec<(usize, Secret)>,
    askers: Vec<Prober>,
}

impl Askers {
    fn new(tokens: Credentials, endpoints: Vec<Endpoint>) -> Askers {
        let mut askers = Askers {
            tokens: Vec::new(),
            askers: endpoints.into_iter().map(Prober::new).collect(),
        };
        askers.add(tokens);
        askers
    }

    fn add(&mut self, tokens: Credentials) {
        let own = |provider: &Provider| {
            let mut askers = self.askers.iter();
            let place = askers.position(|asker| asker.provider.name == provider.name);
            place.unwrap_or(usize::MAX)
        };
        let tokens = tokens.into_iter();
        self.tokens
            .extend(tokens.map(|(provider, secret)| (own(provider), secret)));
    }

    fn of(&mut self, index: usize) -> Option<(&mut Prober, Secret)> {
        let (place, secret) = self.tokens.get(index)?;
        Some((self.askers.get_mut(*place)?, secret.clone()))
    }

    /// Whether there is something to ask about this token at an interval.
    fn may_ask(&mut self, index: usize) -> bool {
        self.of(index)
            .is_some_and(|(asker, _)| asker.subjects(false).next().is_some())
    }

    /// Asks about one token.
    fn answer(&mut self, index: usize, needed: bool) -> Answer {
        guarded(|| {
            let (asker, secret) = self.of(index).ok_or("no such token")?;
            asker.ask(&secret, needed)
        })
    }
}

/// Why a question has no answer.
enum NoAnswer {
    /// The provider said nothing, in a few words.
    Silence(String),
    /// It could not be put: this process may open no more files, which says nothing of the provider.
    Shortage,
}

/// What is known of a token in that case.
const SHORT_OF_FILES: &str = "too few open files are allowed to ask: see ulimit -n";

/// Whether a request failed for want of a descriptor, of this process or of the system.
fn is_short_of_files(error: &ureq::Error) -> bool {
    let ureq::Error::Io(error) = error else {
        return false;
    };
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
}

/// The answer to a question. A library's panic costs one answer, not the night's monitoring.
fn guarded(ask: impl FnOnce() -> Result<Reading, String>) -> Answer {
    let asked = Instant::now();
    let reading = catch_unwind(AssertUnwindSafe(ask));
    Answer {
        asked,
        reading: reading.unwrap_or_else(|panic| {
            Err(match lacked_a_thread(&*panic) {
                true => "the system gives no thread to ask on; see ulimit -u and -v".into(),
                false => "internal error".into(),
            })
        }),
    }
}

/// Whether this panic is that of `std::thread::spawn`, when the system gives no thread: ureq looks
/// names up on one of its own.
pub(crate) fn lacked_a_thread(panic: &(dyn Any + Send)) -> bool {
    let text = panic.downcast_ref::<String>();
    text.is_some_and(|text| text.starts_with("failed to spawn thread"))
}

/// Asks about every token of every ring once, several at a time. The answers, each with the places
/// of its ring and of its token there, are in no order.
pub(crate) fn ask_all(rings: &[(Credentials, &[Endpoint])]) -> Vec<(usize, usize, Answer)> {
    let tokens: Vec<(usize, usize)> = rings
        .iter()
        .enumerate()
        .flat_map(|(ring, (tokens, _))| (0..tokens.len()).map(move |index| (ring, index)))
        .collect();
    let answers = Mutex::new(Vec::with_capacity(tokens.len()));
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((ring, index)) = tokens.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
            let Some((tokens, endpoints)) = rings.get(ring) else {
                continue;
            };
            let Some((provider, secret)) = tokens.get(index) else {
                continue;
            };
            let own = endpoints
                .iter()
                .find(|endpoint| endpoint.provider.name == provider.name);
            let answer = guarded(|| {
                let endpoint = own.ok_or("no such provider")?.clone();
                Prober::new(endpoint).ask(secret, true)
            });
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.push((ring, index, answer));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..tokens.len().min(MOST_AT_ONCE) {
            let builder = std::thread::Builder::new().stack_size(512 * 1024);
            // With fewer threads it takes longer.
            let _ = builder.spawn_scoped(scope, work);
        }
        work();
    });
    answers.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Puts the question for one provider.
struct Prober {
    provider: &'static Provider,
    endpoint: Endpoint,
    /// The user's certificates first, if there are any; the bundled ones after them. A failed
    /// handshake has sent no token yet, so trying the next is safe.
    agents: Vec<Agent>,
    /// The form of the question that the provider took last.
    attempt: ProbeForm,
    /// The model that questions are put for. Another one stands in for it where the provider does not have it.
    wanted: String,
    /// Models that the provider does not have.
    gone: Vec<String>,
}

impl Prober {
    fn new(endpoint: Endpoint) -> Prober {
        Prober {
            provider: endpoint.provider,
            wanted: endpoint.models.first().cloned().unwrap_or_default(),
            endpoint,
            agents: Vec::new(),
            attempt: ProbeForm::First,
            gone: Vec::new(),
        }
    }

    /// Asks for this model from now on, if the provider has it.
    fn prefer(&mut self, model: &str) {
        model.clone_into(&mut self.wanted);
        if self.model() != model && !self.gone.iter().any(|gone| gone == model) {
            self.endpoint.has_seen(model);
            self.attempt = ProbeForm::First;
        }
    }

    /// Makes the agents, at the first question.
    fn connect(&mut self) {
        let mut roots = Vec::new();
        let trusted = trusted(&self.endpoint.certificates);
        if !trusted.is_empty() {
            roots.push(RootCerts::new_with_certs(&trusted));
        }
        roots.push(RootCerts::WebPki);
        self.agents = roots
            .into_iter()
            .map(|roots| agent(&self.endpoint, roots))
            .collect();
    }

    fn subjects(&self, needed: bool) -> impl Iterator<Item = ProbeTarget> + use<> {
        self.provider
            .subjects(&self.endpoint.base_url, self.model(), needed)
    }

    /// The model that is asked for; empty when none is known.
    fn model(&self) -> &str {
        self.endpoint.models.first().map_or("", String::as_str)
    }

    /// The answer about one token, or in a few words why there is none.
    fn ask(&mut self, secret: &Secret, needed: bool) -> Result<Reading, String> {
        if self.agents.is_empty() {
            self.connect();
        }
        let mut known: Option<Reading> = None;
        for subject in self.subjects(needed) {
            let reading = match self.question(secret, subject) {
                Ok(reading) => reading,
                Err(NoAnswer::Silence(why)) => return Err(why),
                Err(NoAnswer::Shortage) => Reading::unclear(SHORT_OF_FILES),
            };
            let served = reading.finding == Finding::Served;
            known = Some(match known {
                Some(first) => first.and(reading),
                None => reading,
            });
            if !served {
                break;
            }
        }
        Ok(known.unwrap_or_else(|| {
            let why = self
                .provider
                .unwatched(&self.endpoint.base_url, self.model());
            Reading::unclear(why.unwrap_or_default())
        }))
    }

    fn question(&mut self, secret: &Secret, subject: ProbeTarget) -> Result<Reading, NoAnswer> {
        let probe = self.provider.probe(subject, self.model(), self.attempt);
        if probe.is_none() {
            return Ok(Reading::unclear("it has no model of this name"));
        }
        let mut reply = self.exchange(secret, subject, self.attempt)?;
        // A model that was guessed may not be there. The limits of another are better than none.
        while subject == ProbeTarget::Model && reply.status == 404 && self.endpoint.models.len() > 1
        {
            let gone = self.endpoint.models.remove(0);
            log::debug!("{}: there is no model '{gone}'", self.provider.label);
            self.gone.push(gone);
            reply = self.exchange(secret, subject, self.attempt)?;
        }
        let reply = match self.provider.next_attempt(subject, self.attempt, &reply) {
            None => reply,
            Some(attempt) => {
                log::debug!("{}: asking in another form", self.provider.label);
                let reply = self.exchange(secret, subject, attempt)?;
                // A form that is refused as well was not what was wrong.
                self.attempt = match reply.status {
                    400 | 422 => ProbeForm::First,
                    _ => attempt,
                };
                reply
            }
        };
        if let Some(why) = self.provider.impostor_of_probe(&reply) {
            return Err(NoAnswer::Silence(why));
        }
        let mut reading = self.provider.read(subject, &reply, SystemTime::now());
        // Windows are named after headers, and the group is one. What holds the token is an echo.
        let windows = &mut reading.usage.windows;
        windows.retain(|window| !secret.is_echoed_in(&window.name));
        reading.quota_group = reading
            .quota_group
            .filter(|group| !secret.is_echoed_in(group));
        reading.said = self.provider.refusal(&reply, &reading.finding);
        log::debug!(
            "{}: status {}, {:?}",
            self.provider.label,
            reply.status,
            reading.finding
        );
        Ok(reading)
    }

    fn exchange(
        &self,
        secret: &Secret,
        subject: ProbeTarget,
        attempt: ProbeForm,
    ) -> Result<Reply, NoAnswer> {
        let mut refused = String::new();
        for agent in &self.agents {
            match self.send(agent, secret, subject, attempt) {
                Ok(reply) => return Ok(reply),
                Err(error) if is_short_of_files(&error) => return Err(NoAnswer::Shortage),
                Err(error) => {
                    // Only what the library says of itself; should it ever quote a header, the
                    // token is taken out.
                    refused = secret.redact(&self.in_words(&error));
                    if !is_about_certificates(&error) {
                        break;
                    }
                }
            }
        }
        log::debug!("{} does not answer: {refused}", self.provider.label);
        Err(NoAnswer::Silence(refused))
    }

    /// Why there is no answer: who was asked, and what came of it. Never a user name or password.
    fn in_words(&self, error: &ureq::Error) -> String {
        let uri: http::Uri = self.endpoint.base_url.parse().unwrap_or_default();
        let host = uri.host().unwrap_or_default();
        let port = uri.port().map_or(String::new(), |port| format!(":{port}"));
        let through = match &self.endpoint.proxy {
            Some(proxy) => format!(" through the proxy {}:{}", proxy.host(), proxy.port()),
            None => String::new(),
        };
        let why = match error {
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::Timeout(_) => "no answer in time".into(),
            ureq::Error::HostNotFound => "there is no host of this name".into(),
            error => error.to_string(),
        };
        with_hint(format!("{host}{port}{through}: {why}"))
    }

    fn send(
        &self,
        agent: &Agent,
        secret: &Secret,
        subject: ProbeTarget,
        attempt: ProbeForm,
    ) -> Result<Reply, ureq::Error> {
        let probe = self
            .provider
            .probe(subject, self.model(), attempt)
            .ok_or_else(|| ureq::Error::BadUri("nothing to ask".into()))?;
        let mut request = http::Request::builder()
            .method(probe.method.clone())
            .uri(probe.url(&self.endpoint.base_url));
        let takes_both = self.provider.takes_both(&self.endpoint.base_url);
        let both = [probe.authorization, Authorization::Bearer];
        for field in both.into_iter().take(1 + usize::from(takes_both)) {
            let value = format!("{}{}", field.prefix(), secret.expose());
            let mut value = http::HeaderValue::try_from(value).map_err(http::Error::from)?;
            value.set_sensitive(true);
            request = request.header(field.header_name(), value);
        }
        for (name, value) in &probe.headers {
            request = request.header(*name, value);
        }
        if let Some(workspace) = &self.endpoint.workspace {
            request = request.header("anthropic-workspace-id", workspace);
        }
        let (parts, body) = agent.run(request.body(probe.body)?)?.into_parts();
        let mut text = Vec::new();
        // Status and headers are what counts; a body that breaks off is as good as it is.
        let _ = body.into_reader().take(LARGEST_BODY).read_to_end(&mut text);
        Ok(Reply {
            status: parts.status.as_u16(),
            headers: parts
                .headers
                .iter()
                .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
                .collect(),
            body: text,
        })
    }
}

fn agent(endpoint: &Endpoint, roots: RootCerts) -> Agent {
    let tls = TlsConfig::builder()
        .root_certs(roots)
        .unversioned_rustls_crypto_provider(cryptography())
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        // A 429 is an answer, and its headers are what we came for.
        .http_status_as_error(false)
        // A redirect would carry the token to an address that nobody checked.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .https_only(!endpoint.plain)
        .timeout_global(Some(TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .max_response_header_size(LARGEST_HEAD)
        .max_idle_connections(1)
        .proxy(endpoint.proxy.clone())
        .user_agent(concat!("ddollar/", env!("CARGO_PKG_VERSION")))
        .build();
    config.new_agent()
}

fn is_about_certificates(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Rustls(_) => true,
        // rustls reports through the stream that it wraps.
        ureq::Error::Io(error) => error.kind() == ErrorKind::InvalidData,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_costs_one_answer_and_says_when_a_thread_was_missing() {
        let why = |text: String| guarded(|| panic!("{text}")).reading.unwrap_err();
        let refused = std::io::Error::from_raw_os_error(11);
        assert!(why(format!("failed to spawn thread: {refused:?}")).contains("ulimit -u"));
        assert_eq!(why("anything else".into()), "internal error");
    }
}
