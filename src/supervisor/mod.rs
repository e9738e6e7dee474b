//! The loop: it owns the child and ties the decisions to the world.
//!
//! The only file that knows both sides. Each turn is the same: wait for one event, let the session
//! decide, say what there is to say, take the one step. It promises to wait in one place only, and
//! to read the clocks in one place only.

pub(crate) mod event;
pub(crate) mod session;
use crate::cli::config::{self, Config};
use crate::clients::hook_server::{self, HookEvent, HookServer};
use crate::clients::session_file;
use crate::clients::{self, CommandLine};
use crate::common::error::Error;
use crate::common::time::Now;
use crate::events::console::Console;
use crate::events::fact::Observer;
use crate::events::message::Notice;
use crate::events::reporter::Reporter;
use crate::providers::monitor::Monitor;
use crate::providers::schedule::ProbeSchedule;
use crate::proxy::{Gateway, Told};
use crate::supervisor::event::{Action, Event, Outcome};
use crate::supervisor::session::{Reply, Session};
use crate::system::exit_status::ChildEvent;
use crate::system::job::Job;
use crate::system::os::PrivateFile;
use crate::system::prompt::Prompt;
use crate::system::signals::{self, Inherited};
use crate::tokens::store::Store;
use crate::tokens::{self, Token};
use crossbeam_channel::{Receiver, Sender, after, never, select_biased, unbounded};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::time::{Duration, Instant, SystemTime};

/// From the first look at what the proxy sees to the second. Each rest is twice the one before, up to
/// the interval, so that the record of a short run has its lanes, too.
const FIRST_SAMPLE: Duration = Duration::from_secs(1);
/// Tells a command that can use any provider whose token it has.
const PROVIDER: &str = "DDOLLAR_PROVIDER";

/// Runs the command until it has finished or cannot go on.
///
/// # Errors
/// What keeps the command from being started, at first or again.
pub(crate) fn supervise(
    options: Config,
    console: &Console,
    inherited: Inherited,
) -> Result<Outcome, Error> {
    let mut supervisor = Supervisor::prepare(options, console, inherited)?;
    let result = supervisor.run();
    supervisor.reporter.end(&result, now());
    result
}

/// Says what a thread could not do, when no event will be waited for.
fn say_trouble(reports: &Receiver<Event>, console: &Console) {
    for event in reports.try_iter() {
        if let Event::Trouble { what } = event {
            console.say(&Notice::Warning { what });
        }
    }
}

/// The moment on both clocks; all deciding code gets it from here.
fn now() -> Now {
    Now {
        wall: SystemTime::now(),
        tick: Instant::now(),
    }
}

/// Everything that a step acts on and an event comes from.
struct Supervisor<'a> {
    session: Session,
    console: &'a Console,
    job: Job<'a>,
    monitors: Vec<Monitor>,
    reporter: Reporter,
    interval: Duration,
    /// When the herald hears next what the proxy sees, and how long after that once more.
    sample_at: Instant,
    sample_each: Duration,
    /// What is kept of the tokens for other runs.
    store: Store,
    /// The proxy between the command and its providers, and what it has to tell.
    gateway: Option<Gateway>,
    tidings: Receiver<Told>,
    prompt: Option<Prompt>,
    /// What threads report: the monitors and the prompt. The sender keeps it connected.
    reports: Receiver<Event>,
    reporting: Sender<Event>,
    /// What the command says of itself; it says so before it ends.
    hooks: Receiver<HookEvent>,
    /// What the last step, or the last look at the child, has found out.
    found: Option<Event>,
    signals: Receiver<Signal>,
    /// The command, and the user's own line for every start after the first.
    command: CommandLine,
    again: Option<CommandLine>,
    /// What these lines name.
    _files: Vec<PrivateFile>,
    hook_server: Option<HookServer>,
    /// The id that the last session was started with, when the user's line leaves that to ddollar.
    named: Option<String>,
    environment: Vec<(OsString, OsString)>,
    mixed: bool,
    /// Whether the last event may have told something new of a token.
    has_news: bool,
    /// Tokens that the child gets whatever happens.
    passthrough: Vec<Token>,
    name: Option<String>,
}

impl<'a> Supervisor<'a> {
    /// The loop.
    fn run(&mut self) -> Result<Outcome, Error> {
        let mut reply = self.session.start(now());
        loop {
            self.record(&mut reply);
            if let Some(outcome) = self.carry_out(reply)? {
                return Ok(outcome);
            }
            let event = self.next_event()?;
            self.take_note(&event);
            reply = self.session.handle(event, now());
        }
    }

    /// What happened goes to the journal and to those who want to be told.
    fn take_note(&mut self, event: &Event) {
        self.has_news = event.is_finding();
        // A record without how full the tokens were at its turning points says little.
        if let Event::Say(_) | Event::Child(ChildEvent::Exited { .. }) = event {
            self.tell_levels(now());
        }
        if let Some(helper) = self.reporter.heard(event, now()) {
            self.job.exclude(helper);
        }
    }

    /// And so does what is done about it; what was learned of the tokens goes to the state.
    fn record(&mut self, reply: &mut Reply) {
        if std::mem::take(&mut self.has_news) {
            self.keep_state();
        }
        let say = std::mem::take(&mut reply.say);
        reply.say = self.as_it_is(say, reply.action);
        for helper in self.reporter.decided(reply, &self.session, now()) {
            self.job.exclude(helper);
        }
    }

    fn prepare(
        mut options: Config,
        console: &'a Console,
        inherited: Inherited,
    ) -> Result<Supervisor<'a>, Error> {
        let job = Job::new(inherited, options.rules.grace, console);
        if options.rules.interactive && job.terminal_file().is_none() {
            return Err(Error::NoTerminal);
        }
        let signals = signals::listen()?;
        let (reporting, reports) = unbounded();
        let (hook_sender, hooks) = unbounded();
        console.say(&Notice::Starting);
        console.say(&Notice::Loaded {
            tokens: options.rings.iter().map(|(pool, _)| pool.len()).sum(),
            providers: options
                .rings
                .iter()
                .map(|(_, endpoints)| endpoints.len())
                .sum(),
        });
        for notice in &options.notices {
            console.say(notice);
        }

        let mut store = Store::open(options.state, &reporting);
        say_trouble(&reports, console);
        let mut monitors = Vec::new();
        let mut pools = Vec::new();
        let mut rings = Vec::new();
        for (ring, (mut pool, endpoints)) in options.rings.into_iter().enumerate() {
            store.recall(&mut pool, &endpoints, options.rules.threshold, now());
            rings.push((pool.clone(), endpoints.clone()));
            let events = reporting.clone();
            let schedule = ProbeSchedule::new(options.interval, options.rules.threshold);
            monitors.push(Monitor::start(ring, &pool, endpoints, schedule, events)?);
            pools.push(pool);
        }
        let observer = Observer::new(pools.iter(), options.proxied.is_some());
        let reporter = Reporter::call(
            observer,
            options.wishes,
            inherited,
            &options.environment,
            &reporting,
        );
        let mut environment = options.environment;
        let gateway = match options.proxied {
            None => {
                console.say(&Notice::MonitorStarted {
                    interval: options.interval,
                });
                None
            }
            Some(hold) => {
                let gateway = Gateway::open(config::by_provider(rings), &options.rules, hold)?;
                pools = gateway.stand_ins(pools, options.command.client());
                console.say(&gateway.notice());
                console.say(&gateway.lead(&mut environment, &mut options.command));
                if let Some(again) = &mut options.again {
                    let _ = gateway.lead(&mut environment, again);
                }
                Some(gateway)
            }
        };
        let hook_server = if options.calls_back {
            let server = HookServer::listen(hook_sender).map_err(|error| Error::System {
                what: "cannot listen for the command",
                why: error.to_string(),
            })?;
            environment.push((hook_server::VARIABLE.into(), server.address().into()));
            Some(server)
        } else {
            None
        };
        let mut supervisor = Supervisor {
            session: Session::new(pools, options.rules, now()),
            console,
            job,
            monitors,
            reporter,
            interval: options.interval,
            sample_at: Instant::now(),
            sample_each: FIRST_SAMPLE,
            store,
            tidings: gateway.as_ref().map_or_else(never, Gateway::told),
            gateway,
            prompt: None,
            reports,
            reporting,
            hooks,
            found: None,
            signals,
            command: options.command,
            again: options.again,
            _files: options.files,
            hook_server,
            named: None,
            environment,
            mixed: options.mixed,
            has_news: false,
            passthrough: options.passthrough,
            name: options.name,
        };
        let command = supervisor.shown(supervisor.command.shown_first());
        supervisor
            .reporter
            .begin(&supervisor.session, command, now());
        Ok(supervisor)
    }

    /// Waits for the one next thing. A child that has just ended goes before an answer that would
    /// rotate it.
    fn next_event(&mut self) -> Result<Event, Error> {
        loop {
            // Its last words may have come while its end was looked at. They say what the end means.
            if let Ok(hook) = self.hooks.try_recv() {
                return Ok(hook.into());
            }
            if self.found.is_some()
                && let Some(event) = self.last_words()
            {
                return Ok(event);
            }
            if let Some(event) = self.found.take() {
                return Ok(event);
            }
            if let Some(event) = self.job.take_deferred_stop(now().tick) {
                return Ok(event);
            }
            let housekeeping = self.housekeeping(now()).map_or_else(never, after);
            let nothing = never();
            let changes = self.job.changes().unwrap_or(&nothing);
            let timer = self.session.timeout(now()).map_or_else(never, after);
            select_biased! {
                recv(changes) -> _ => {
                    self.found = self.job.take_change(now().tick)?;
                    if matches!(self.found, Some(Event::Child(ChildEvent::Exited { .. }))) {
                        self.rest();
                    }
                }
                recv(self.hooks) -> hook => match hook {
                    Ok(hook) => return Ok(hook.into()),
                    Err(_) => self.hooks = never(),
                },
                recv(self.signals) -> signal => match signal {
                    Ok(signal) => return Ok(Event::Signal(signal)),
                    // A disconnected channel is always ready; it must not spin.
                    Err(_) => self.signals = never(),
                },
                recv(self.reports) -> report => match report {
                    Ok(event) => return Ok(self.through_gate(event)),
                    Err(_) => self.reports = never(),
                },
                recv(self.tidings) -> told => match (told, &mut self.gateway) {
                    (Ok(told), Some(gateway)) => {
                        if let Some(event) = gateway.event(told, now()) {
                            return Ok(event);
                        }
                    }
                    _ => self.tidings = never(),
                },
                recv(timer) -> _ => return Ok(Event::Deadline),
                recv(housekeeping) -> _ => {}
            }
        }
    }

    /// What is to be done while nothing happens. Returns when there will be more of it.
    fn housekeeping(&mut self, now: Now) -> Option<Duration> {
        let until = self.session.waits_until();
        let is_foreground = || self.job.is_foreground();
        let countdown = self.console.count_down(until, is_foreground, now);
        let others = self.reporter.tick(now);
        let sample = self.sample(now);
        let stop = self.job.deferred_stop_in(now.tick);
        [countdown, others, sample, stop]
            .into_iter()
            .flatten()
            .min()
    }

    /// Tells now and then how full the tokens are. Returns when it will again.
    fn sample(&mut self, now: Now) -> Option<Duration> {
        self.gateway.as_ref()?;
        let rest = self.sample_at.saturating_duration_since(now.tick);
        if !rest.is_zero() {
            return Some(rest);
        }
        self.tell_levels(now);
        let each = self.sample_each.min(self.interval);
        self.sample_each = each * 2;
        self.sample_at = now.tick + each;
        Some(each)
    }

    /// Tells what the command's own traffic, which a proxy sees, says of the tokens.
    fn tell_levels(&mut self, now: Now) {
        let Some(gateway) = &self.gateway else {
            return;
        };
        for (provider, index, usage) in gateway.levels(now) {
            self.reporter.seen(provider, index, &usage, now);
        }
    }

    /// What the proxy said before the command ended is told before its end. How all tokens stand is
    /// told after it, as it was: that decides.
    fn last_words(&mut self) -> Option<Event> {
        let gateway = self.gateway.as_ref()?;
        for _ in 0..self.tidings.len() {
            match self.tidings.try_recv().ok()? {
                Told::Say(notice) => return Some(Event::Say(Box::new(notice))),
                told => gateway.tell_later(told),
            }
        }
        None
    }

    /// Behind a proxy, a real token's answer tells how things stand for the one that the command has.
    fn through_gate(&mut self, event: Event) -> Event {
        match (&self.gateway, event) {
            (Some(gateway), Event::Answer { token, answer }) => {
                self.reporter.answered(token, &answer, now());
                let (say, event) = gateway.heard(token, answer, now());
                for notice in &say {
                    self.console.say(notice);
                }
                let told = Reply {
                    say,
                    action: Action::Nothing,
                };
                for helper in self.reporter.decided(&told, &self.session, now()) {
                    self.job.exclude(helper);
                }
                event
            }
            (_, event) => event,
        }
    }

    /// Behind a proxy, what the session says of one token is true of all.
    fn as_it_is(&self, say: Vec<Notice>, action: Action) -> Vec<Notice> {
        match &self.gateway {
            None => say,
            Some(gateway) => {
                let notices = say.into_iter();
                notices
                    .filter_map(|said| gateway.reword(said, action, now()))
                    .collect()
            }
        }
    }

    /// Says what there is to say and takes the step; a finished run has an outcome.
    fn carry_out(&mut self, reply: Reply) -> Result<Option<Outcome>, Error> {
        let Reply { say, action } = reply;
        if action == Action::Prompt {
            return self.ask_user(&say).map(|()| None);
        }
        if let Action::Finish(_) = action {
            self.job.clear();
        }
        for notice in &say {
            self.console.say(notice);
        }
        match action {
            Action::Nothing | Action::Prompt => {}
            Action::Launch { again } => match self.launch(again) {
                // A shortage may pass; a night is not thrown away for it.
                Err(Error::System { why, .. }) if again => {
                    self.found = Some(Event::NotStarted { why });
                }
                result => result?,
            },
            Action::Ask(token) => {
                let Some(monitor) = self.monitors.get(token.ring) else {
                    return Ok(None);
                };
                match &self.gateway {
                    None => monitor.ask(token.index),
                    Some(gateway) => gateway
                        .whom_to_ask(token.ring, now())
                        .for_each(|index| monitor.ask(index)),
                }
            }
            Action::Forward(signal) => self.job.signal(signal),
            Action::Terminate(signal) => {
                self.prompt = None;
                self.rest();
                self.job.terminate(signal);
            }
            Action::Kill => self.job.kill(),
            Action::Pause => {
                self.rest();
                self.job.pause();
            }
            Action::Freeze => self.job.signal(Signal::SIGSTOP),
            Action::Hold => self.job.hold(),
            Action::Resume => {
                self.prompt = None;
                self.job.go_on();
                self.watch(false);
            }
            Action::HandOver => self.job.hand_over(),
            Action::Continue => self.job.go_on(),
            Action::Mirror {
                for_terminal,
                in_background,
            } => self.job.mirror(for_terminal, in_background),
            Action::SuspendSelf => {
                self.prompt = None;
                self.console.count_down(None, || false, now());
                self.job.suspend();
            }
            Action::Reap => self.job.reap(),
            Action::Sweep { signal } => self.found = Some(self.job.sweep(signal)),
            Action::Finish(outcome) => {
                // The next run may begin right after this one.
                self.store.close();
                say_trouble(&self.reports, self.console);
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    fn launch(&mut self, again: bool) -> Result<(), Error> {
        // What is typed from here on is the command's.
        self.prompt = None;
        let (words, shown) = match (&self.again, again) {
            (Some(line), true) => (line.first(None), line.shown_first().to_vec()),
            (None, true) => match self.client_session() {
                Some((_, false)) => self.anew(),
                session => {
                    let id = session.as_ref().map(|(id, _)| id.as_str());
                    (self.command.again(id), self.command.shown_again(id))
                }
            },
            (_, false) => self.anew(),
        };
        let command = self.shown(&shown);
        let first = !again;
        self.console.say(&Notice::Launching { command, first });
        let name = self.shown(words.get(..1).unwrap_or_default());
        if self.mixed {
            let provider = self
                .session
                .pools()
                .next()
                .map(|pool| pool.current().provider);
            let named = provider.map(|provider| (PROVIDER.into(), provider.name.into()));
            self.environment.retain(|(name, _)| name != PROVIDER);
            self.environment.extend(named);
        }
        let in_use = || self.session.pools().map(|pool| pool.current());
        if let Some(server) = &self.hook_server {
            let hooked = in_use().find(|token| token.provider.name == clients::HOOKED_PROVIDER);
            server.hand_out(hooked.map(|token| token.secret.clone()));
        }
        let tokens = in_use().chain(&self.passthrough);
        self.job.launch(&words, name, &self.environment, tokens)?;
        if again {
            self.console.say(&Notice::SessionResumed);
        }
        self.watch(!again);
        Ok(())
    }

    /// The id of the session that the command works on, if that is known, and whether it has begun.
    fn client_session(&self) -> Option<(String, bool)> {
        let told = self.hook_server.as_ref().and_then(HookServer::session);
        // Hooks may be turned off; then the id is the one that it was given.
        told.or_else(|| {
            let id = self.named.clone()?;
            let begun = session_file::exists(&id, &self.environment);
            Some((id, begun))
        })
    }

    /// The words that begin the work, and as people read them. Each session has an id of its own: one
    /// that the client knows already, it refuses.
    fn anew(&mut self) -> (Vec<OsString>, Vec<OsString>) {
        let may_be_named = self.again.is_none() && self.command.takes_session_id();
        self.named = may_be_named.then(session_file::new_id);
        let words = self.command.first(self.named.as_deref());
        (words, self.command.shown_first().to_vec())
    }

    /// Says what led to the question, and puts it as soon as the terminal is ours; in the background,
    /// SIGCONT brings it back.
    fn ask_user(&mut self, question: &[Notice]) -> Result<(), Error> {
        self.prompt = None;
        self.job.hold();
        let is_ours = self.job.is_foreground();
        if is_ours {
            self.job.prepare_prompt();
        }
        for notice in question {
            if is_ours || !notice.is_question() {
                self.console.say(notice);
            }
        }
        if !is_ours {
            return Ok(());
        }
        if let Some(tty) = self.job.terminal_file() {
            self.prompt = Some(Prompt::listen(tty, self.reporting.clone())?);
        }
        Ok(())
    }

    /// Keeps what is known of the tokens for other runs.
    fn keep_state(&mut self) {
        match &self.gateway {
            None => self.store.keep(self.session.pools(), now()),
            Some(gateway) => gateway.keep(&mut self.store, now()),
        }
    }

    fn watch(&self, at_once: bool) {
        if self.gateway.is_some() {
            // The command's own requests tell, once each token was asked; a first start has not
            // made any.
            return;
        }
        for (monitor, pool) in self.monitors.iter().zip(self.session.pools()) {
            monitor.watch(pool.current_index(), at_once);
        }
    }

    fn rest(&self) {
        for monitor in &self.monitors {
            monitor.rest();
        }
    }

    /// A command line as people read it.
    fn shown(&self, words: &[OsString]) -> String {
        self.name.clone().unwrap_or_else(|| {
            let tokens = self.session.pools().flat_map(|pool| pool.tokens());
            tokens::shown(words, tokens.chain(&self.passthrough))
        })
    }
}
