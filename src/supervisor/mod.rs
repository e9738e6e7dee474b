//! The loop: it owns the child and ties the decisions to the world.
//!
//! Each turn is the same: tell what there is to tell, carry out the one action, wait for one event, let
//! the session decide. It promises to wait in one place only, and to read the clocks in one place
//! only. It decides nothing.

pub(crate) mod event;
mod launcher;
pub(crate) mod session;
mod stall;

use crate::cli::config::{self, Config, Road, TokenFiles};
use crate::clients::hook_server::HookEvent;
use crate::common::Warning;
use crate::common::error::Error;
use crate::common::time::Now;
use crate::events::RunEvent;
use crate::events::console::Console;
use crate::events::reporter::Reporter;
use crate::events::schema::Ending;
use crate::providers::monitor::{Monitor, MonitorEvent};
use crate::providers::schedule::ProbeSchedule;
use crate::proxy::{Exhausted, Gateway};
use crate::supervisor::event::{Action, Event, Outcome};
use crate::supervisor::session::{Session, Turn};
use crate::supervisor::stall::{Pulse, StallWatch};
use crate::system::exit_status::ExitStatus;
use crate::system::job::{Job, JobEvent};
use crate::system::os;
use crate::system::prompt::{END_OF_INPUT, Prompt};
use crate::system::signals::{self, Inherited};
use crate::tokens::TokenId;
use crate::tokens::store::Store;
use crossbeam_channel::{Receiver, RecvError, Sender, after, never, select_biased, unbounded};
use launcher::Launcher;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant, SystemTime};

/// From the first look at what the proxy sees to the second. Each rest is twice the one before, up to
/// the interval, so that the record of a short run has its lanes, too.
const FIRST_SAMPLE: Duration = Duration::from_secs(1);

/// Runs the command until it has finished or cannot go on.
///
/// # Errors
/// What keeps the command from being started, at first or again.
pub(crate) fn supervise(
    config: Config,
    console: &Console,
    inherited: Inherited,
) -> Result<Outcome, Error> {
    let mut supervisor = Supervisor::prepare(config, console, inherited)?;
    let result = supervisor.run();
    let ending = match &result {
        Ok(Outcome::AsChild(how)) => Ending::AsCommand(*how),
        Ok(Outcome::BySignal(signal)) => Ending::BySignal(*signal as i32),
        Ok(Outcome::TryAgainLater) => Ending::AgainLater,
        Err(error) => Ending::Failure(error.to_string()),
    };
    for event in supervisor.reporter.end(ending, now()) {
        console.say(&event);
    }
    result
}

/// The moment on both clocks; all deciding code gets it from here.
fn now() -> Now {
    Now {
        wall: SystemTime::now(),
        tick: Instant::now(),
    }
}

/// Everything that an action acts on.
struct Supervisor<'a> {
    session: Session,
    job: Job,
    launcher: Launcher,
    monitors: Vec<Monitor>,
    /// For each of them the model that it was last told to ask for: that of the command's requests.
    followed: Vec<String>,
    /// Whether the monitors watch the tokens in use; `None`: they never have.
    watching: Option<bool>,
    /// The proxy between the command and its providers, whether its requests come through or may yet.
    gateway: Option<Gateway>,
    samples: Samples,
    /// Watches for a command that does nothing, where that was asked for.
    stall: Option<StallWatch>,
    prompt: Option<Prompt>,
    sources: Sources,
    /// Where tokens can be looked for again.
    token_files: TokenFiles,
    /// What is kept of the tokens for other runs.
    store: Store,
    console: &'a Console,
    reporter: Reporter,
}

/// Where events come from, beside the job.
struct Sources {
    /// What the command says of itself; it says so before it ends.
    hooks: Receiver<HookEvent>,
    /// What the proxy has to say.
    notices: Receiver<RunEvent>,
    /// The numbers of the signals that were sent to ddollar.
    signals: Receiver<i32>,
    answers: Receiver<MonitorEvent>,
    /// What the proxy cannot serve.
    exhausted: Receiver<Exhausted>,
    /// What the user answers, and where the prompt sends it.
    lines: Receiver<String>,
    answer_here: Sender<String>,
    /// What threads cannot do.
    warnings: Receiver<Warning>,
}

/// When the reporter hears next what the proxy sees, and how long after that once more.
struct Samples {
    at: Instant,
    each: Duration,
    /// The user's interval, which is the longest.
    longest: Duration,
}

impl<'a> Supervisor<'a> {
    /// The loop. A child that has ended goes before an answer that would rotate it; what it said
    /// before it ended goes before its end (`Job::next_change`).
    fn run(&mut self) -> Result<Outcome, Error> {
        self.look_at_ledger();
        let mut turn = self.session.start(now());
        loop {
            self.tell(&mut turn);
            match turn.action {
                Action::Nothing | Action::Reread => {}
                Action::Probe(token) => self.probe(token),
                Action::Launch { again } => self.launch(again)?,
                Action::Stop(signal) => {
                    self.launcher.find_session();
                    self.job.stop(signal, now().tick);
                }
                Action::PassOn(signal) => {
                    self.launcher.find_session();
                    self.job.pass_on(signal, now().tick);
                }
                Action::Forward(signal) => self.job.signal(signal, now().tick),
                Action::ForwardNumber(number) => self.job.signal_number(number),
                Action::Pause => self.job.pause(now().tick),
                Action::Resume => self.job.resume(now().tick),
                Action::ResumeWith(token) => self.resume_with(token),
                Action::Ask => self.ask()?,
                Action::Suspend => self.suspend(),
                Action::Exit(outcome) => return Ok(self.close(outcome)),
            }
            let event = match turn.action {
                Action::Reread => self.reread(),
                _ => self.next_event()?,
            };
            self.record(&event);
            self.look_at_ledger();
            turn = self.session.handle(event, now());
        }
    }

    /// Waits for whatever happens next.
    fn next_event(&mut self) -> Result<Event, Error> {
        let deadline = self.housekeeping(now()).map_or_else(never, after);
        let sources = &mut self.sources;
        Ok(select_biased! {
            recv(sources.hooks) -> hook => heard(hook, &mut sources.hooks, Event::Hook),
            recv(sources.notices) -> said => heard(said, &mut sources.notices, Event::Proxy),
            recv(self.job.changes()) -> _ => Event::Job(self.job.next_change(now().tick)?),
            recv(sources.signals) -> sent => heard(sent, &mut sources.signals, Event::signal),
            recv(sources.answers) -> answer => self.probed(answer),
            recv(sources.exhausted) -> told => heard(told, &mut sources.exhausted, |()| Event::Exhausted),
            recv(sources.lines) -> line => heard(line, &mut sources.lines, Event::Line),
            recv(sources.warnings) -> what => heard(what, &mut sources.warnings, Event::Warning),
            recv(deadline) -> _ => self.deadline(now()),
        })
    }

    // ---- the beginning ----

    fn prepare(
        mut config: Config,
        console: &'a Console,
        inherited: Inherited,
    ) -> Result<Supervisor<'a>, Error> {
        let job = Job::new(inherited, config.rules.grace);
        if config.rules.interactive && job.terminal_file().is_none() {
            return Err(Error::NoTerminal);
        }
        let signals = signals::listen(job.waker())?;
        let (answering, answers) = unbounded();
        let (warning, warnings) = unbounded();
        let (hook_sender, hooks) = unbounded();
        let (answer_here, lines) = unbounded();
        console.say(&RunEvent::Starting);
        console.say(&RunEvent::Loaded {
            tokens: config.rings.iter().map(|(pool, _)| pool.len()).sum(),
            providers: config
                .rings
                .iter()
                .map(|(_, endpoints)| endpoints.len())
                .sum(),
        });
        for notice in &config.notices {
            console.say(notice);
        }

        if config.stall.is_some() && os::processes().is_empty() {
            let requests = match config.road {
                Road::Direct => "sees nothing here",
                _ => "goes by requests alone",
            };
            console.say(&RunEvent::Warning(format!(
                "Processor time cannot be read here, so --stall {requests}"
            )));
        }
        let mut store = Store::open(config.state.take(), config.command.client().name, &warning);
        say_warnings(&warnings, console);
        let is_one = config.rings.len() == 1;
        let mut doubt = None;
        for endpoint in config.rings.iter_mut().flat_map(|(_, all)| all) {
            store.suggest(endpoint);
            doubt = config::doubt(endpoint, config.road).filter(|_| is_one);
            for notice in config::unwatched(endpoint, config.road) {
                console.say(&notice);
            }
        }
        let mut monitors = Vec::new();
        let mut pools = Vec::new();
        let mut rings = Vec::new();
        for (ring, (mut pool, endpoints)) in
            std::mem::take(&mut config.rings).into_iter().enumerate()
        {
            store.recall(&mut pool, &endpoints, config.rules.threshold, now());
            rings.push((pool.clone(), endpoints.clone()));
            let schedule = ProbeSchedule::new(config.interval, config.rules.threshold);
            let tokens = pool.credentials();
            monitors.push(Monitor::new(
                ring,
                tokens,
                endpoints,
                schedule,
                answering.clone(),
            ));
            pools.push(pool);
        }
        let mut reporter = Reporter::open(
            &pools,
            std::mem::take(&mut config.wishes),
            inherited,
            &config.environment,
            warning,
        );
        let mut gateway = None;
        let mut placeholders = None;
        let mut offered = None;
        let open = |tokens_count| {
            let rings = config::by_provider(rings);
            let rereads = config.token_files.are_there();
            Gateway::open(
                rings,
                &config.rules,
                config.hold,
                &store,
                tokens_count,
                rereads,
            )
        };
        if config.road != Road::Proxied {
            console.say(&RunEvent::MonitorStarted(config.interval));
        }
        match config.road {
            Road::Direct => {}
            Road::Offered => match open(true) {
                Ok(opened) => {
                    let (environment, notice) = opened.offered(&config.environment);
                    console.say(&notice);
                    offered = Some(environment);
                    gateway = Some(opened);
                }
                Err(error) if config.rules.max_tokens.is_some() => return Err(error),
                Err(error) => console.say(&RunEvent::Warning(format!(
                    "No proxy, so tokens change by restart: {error}"
                ))),
            },
            Road::Proxied => {
                let opened = open(false)?;
                placeholders = Some(opened.placeholders(&pools, config.command.client()));
                console.say(&opened.notice());
                console.say(&opened.lead(&mut config.environment, &mut config.command));
                if let Some(again) = &mut config.again {
                    let _ = opened.lead(&mut config.environment, again);
                }
                gateway = Some(opened);
            }
        }
        let launcher = Launcher::new(&mut config, placeholders, offered, hook_sender)?;
        let hold = (config.road == Road::Proxied).then_some(config.hold);
        let mut session = Session::new(pools, config.rules, hold, now());
        session.says_on_failure(doubt);
        if config.token_files.are_there() {
            session.rereads_token_files();
        }
        let command = &config.command;
        session.expect_only(|own| config.named || command.is_known() && command.uses(own));
        let command = launcher.shown_first(&session);
        reporter.begin(command, session.threshold(), now());
        Ok(Supervisor {
            session,
            job,
            launcher,
            followed: vec![String::new(); monitors.len()],
            monitors,
            watching: None,
            samples: Samples {
                at: Instant::now(),
                each: FIRST_SAMPLE,
                longest: config.interval,
            },
            stall: config
                .stall
                .map(|limit| StallWatch::new(limit, Instant::now())),
            prompt: None,
            sources: Sources {
                hooks,
                notices: gateway.as_ref().map_or_else(never, Gateway::notices),
                signals,
                answers,
                exhausted: gateway.as_ref().map_or_else(never, Gateway::exhausted),
                lines,
                answer_here,
                warnings,
            },
            gateway,
            token_files: config.token_files,
            store,
            console,
            reporter,
        })
    }

    // ---- telling ----

    /// Tells everyone what the session has to say.
    fn tell(&mut self, turn: &mut Turn) {
        if let Action::Exit(_) = turn.action {
            self.job.close();
        }
        if self.session.take_news() {
            self.keep_state();
        }
        for event in &mut turn.events {
            match event {
                RunEvent::Saved { kept } => *kept = self.store.keeps(),
                RunEvent::Completed if self.reporter.is_unrehearsed() => {
                    *event = RunEvent::Unrehearsed;
                }
                _ => {}
            }
        }
        self.report(&turn.events, now());
        self.console.hold(self.job.has_screen());
        for event in &turn.events {
            self.console.say(event);
        }
    }

    /// Passes events on to the screen, the journal and the other outputs.
    fn report(&mut self, events: &[RunEvent], now: Now) {
        for helper in self.reporter.tell(events, now) {
            self.job.exclude(helper);
        }
    }

    /// Reports how full the tokens are at the run's turning points, for the journal.
    fn record(&mut self, event: &Event) {
        if let Event::Proxy(_) | Event::Job(JobEvent::Exited { .. }) = event {
            self.tell_levels(matches!(event, Event::Job(_)), now());
        }
        if matches!(event, Event::Line(line) if line != END_OF_INPUT) {
            self.console.is_answered();
        }
        let Event::Job(JobEvent::Exited { how, asked: false }) = event else {
            return;
        };
        if *how == ExitStatus::Code(0) || !self.gateway.as_ref().is_some_and(Gateway::is_unused) {
            return;
        }
        if self.session.is_proxied() {
            self.console.say(&RunEvent::Warning(
                "No request came through the proxy; --no-proxy leaves the command's requests alone"
                    .into(),
            ));
        } else if !how.is_deliberate() && self.launcher.withdraw() {
            // If the address leads nowhere, the next start does not fail for it as well.
            self.console.say(&RunEvent::NotThrough);
        }
    }

    /// Behind a proxy the session decides by the proxy's ledger, as it is now.
    fn look_at_ledger(&mut self) {
        let Some(gateway) = &self.gateway else { return };
        if gateway.carries() {
            self.session.goes_through_proxy(gateway.hold());
        }
        if self.session.is_proxied() {
            let ledger = gateway.ledger();
            for (ring, monitor) in self.monitors.iter().enumerate() {
                let model = ledger.followed(ring).map(|(_, model)| model);
                let known = self.followed.get_mut(ring);
                if let Some((model, known)) = model.zip(known).filter(|(new, old)| new != old) {
                    monitor.prefer(model);
                    model.clone_into(known);
                }
            }
            self.session.see(ledger, now());
        }
    }

    /// The proxy, if the command's requests come through it.
    fn in_use(&self) -> Option<&Gateway> {
        self.gateway.as_ref().filter(|_| self.session.is_proxied())
    }

    /// Keeps what is known of the tokens for other runs.
    fn keep_state(&mut self) {
        match &self.gateway {
            Some(gateway) if self.session.is_proxied() => gateway.keep(&mut self.store, now()),
            _ => self.store.keep(self.session.pools(), now()),
        }
    }

    // ---- actions ----

    fn probe(&mut self, token: TokenId) {
        if let Some(monitor) = self.monitors.get_mut(token.ring) {
            monitor.ask(token.index);
        }
    }

    /// Reads the token files again, and tells everyone who knows the tokens but the session, which decides.
    fn reread(&mut self) -> Event {
        let (renewals, say) = self.token_files.renewals(
            self.session.pools(),
            &mut self.store,
            self.session.threshold(),
            now(),
        );
        if let Some(event) = say {
            self.report(std::slice::from_ref(&event), now());
            self.console.say(&event);
        }
        for (ring, renewal) in &renewals {
            if let (Some(monitor), Some(added)) = (self.monitors.get(*ring), &renewal.added) {
                monitor.add(added.credentials());
            }
            if let Some(gateway) = &self.gateway {
                gateway.renew(*ring, renewal);
            }
        }
        Event::Tokens(renewals)
    }

    fn launch(&mut self, again: bool) -> Result<(), Error> {
        // What is typed from here on is the command's.
        self.prompt = None;
        if self.launcher.warns_of_input(again) {
            self.console.say(&RunEvent::InputIsReadOnce);
        }
        if let Some(warning) = self.launcher.warns_of_left_out(&self.session) {
            self.console.say(&warning);
        }
        let line = self.launcher.line(again, &self.session, now());
        self.console.say(&RunEvent::Launching {
            command: line.shown.clone(),
            first: !again,
        });
        self.session.says_on_start(line.told.clone());
        // Until requests come through, the proxy has nothing else to go by.
        if let Some(gateway) = self.gateway.as_ref().filter(|gateway| !gateway.carries()) {
            for (ring, pool) in self.session.pools().enumerate() {
                gateway.move_to(TokenId {
                    ring,
                    index: pool.current_index(),
                });
            }
        }
        let start = self.launcher.start(&line, again, &self.session);
        self.store.hold(self.session.pools());
        self.job.launch(start).map(drop)
    }

    fn resume_with(&mut self, token: TokenId) {
        if let Some(gateway) = &self.gateway {
            gateway.move_to(token);
        }
        self.job.resume(now().tick);
    }

    /// Puts the open question as soon as the terminal is ours; in the background, SIGCONT brings it
    /// back.
    fn ask(&mut self) -> Result<(), Error> {
        self.prompt = None;
        if !self.job.prepare_prompt() {
            return Ok(());
        }
        if let Some(question) = self.session.question(now()) {
            self.console.say(&question);
        }
        if let Some(tty) = self.job.terminal_file() {
            self.prompt = Some(Prompt::listen(tty, self.sources.answer_here.clone())?);
        }
        Ok(())
    }

    fn suspend(&mut self) {
        self.prompt = None;
        self.console.count_down(None, || false, now());
        self.job.signal(Signal::SIGTSTP, now().tick);
    }

    fn close(&mut self, outcome: Outcome) -> Outcome {
        if self.gateway.as_ref().is_some_and(Gateway::counted_nothing) {
            let what = "No request came through the proxy: --max-tokens has counted nothing";
            let warning = RunEvent::Warning(what.into());
            self.report(std::slice::from_ref(&warning), now());
            self.console.say(&warning);
        }
        if self.in_use().is_some() {
            // Also keeps which model was asked.
            self.keep_state();
        }
        // The next run may begin right after this one.
        self.store.close();
        say_warnings(&self.sources.warnings, self.console);
        outcome
    }

    /// What is to be done while nothing happens. Returns when there will be more of it.
    fn housekeeping(&mut self, now: Now) -> Option<Duration> {
        self.watch();
        self.job.tick(now.tick);
        self.console.hold(self.job.has_screen());
        if self.prompt.is_some() && self.session.question(now).is_none() {
            self.prompt = None;
        }
        let until = self.session.waits_until();
        let countdown = self
            .console
            .count_down(until, || self.job.is_foreground(), now);
        let times = [
            self.session.timeout(now),
            self.job.timeout(now.tick),
            countdown,
            self.reporter.tick(now),
            self.sample(now),
            self.launcher.tick(now),
            self.next_look(now),
        ];
        times.into_iter().flatten().min()
    }

    /// When it is looked next whether the command has stalled. Only a command that is to run can.
    fn next_look(&mut self, now: Now) -> Option<Duration> {
        let watch = self.stall.as_mut()?;
        if !self.session.is_running() {
            watch.rest(now.tick);
            return None;
        }
        Some(watch.due(now.tick))
    }

    /// A time that was waited for has come.
    fn deadline(&mut self, now: Now) -> Event {
        if self.next_look(now) != Some(Duration::ZERO) {
            return Event::Deadline;
        }
        let gateway = self.in_use();
        let doings = os::doings();
        let pulse = Pulse {
            requests: gateway.map(Gateway::pulse),
            processor: doings.processor,
            held: doings.stopped || gateway.is_some_and(Gateway::is_holding),
        };
        let watch = self.stall.as_mut();
        match watch.and_then(|watch| watch.look(pulse, now.tick)) {
            Some(span) => Event::Stalled {
                span,
                sees_requests: pulse.requests.is_some(),
                resumable: self.launcher.can_resume(),
            },
            None => Event::Deadline,
        }
    }

    /// Has the tokens in use watched as long as the child runs. Behind a proxy the command's own
    /// requests tell.
    fn watch(&mut self) {
        let running = self.session.is_running() && !self.session.is_proxied();
        if running == self.watching.unwrap_or(false) {
            return;
        }
        // The first start has not made any request yet; later the interval will do.
        let at_once = self.watching.is_none();
        self.watching = Some(running);
        for (monitor, pool) in self.monitors.iter_mut().zip(self.session.pools()) {
            match running {
                true => monitor.watch(pool.current_index(), at_once),
                false => monitor.rest(),
            }
        }
    }

    /// Tells now and then how full the tokens are, and keeps what is known of them. Returns when it will
    /// again.
    fn sample(&mut self, now: Now) -> Option<Duration> {
        self.in_use()?;
        let rest = self.samples.at.saturating_duration_since(now.tick);
        if !rest.is_zero() {
            return Some(rest);
        }
        self.tell_levels(false, now);
        // What answers have shown is no event, unless it is bad.
        self.keep_state();
        let each = self.samples.each.min(self.samples.longest);
        self.samples.each = each * 2;
        self.samples.at = now.tick + each;
        Some(each)
    }

    /// Tells what the command's own traffic, which a proxy sees, says of the tokens.
    fn tell_levels(&mut self, all: bool, now: Now) {
        let Some(gateway) = self.in_use() else {
            return;
        };
        let levels = gateway.levels(all, now);
        self.report(&levels, now);
    }

    // ---- sources ----

    /// An answer of a monitor. Behind a proxy, it goes to the proxy's ledger.
    fn probed(&mut self, answer: Result<MonitorEvent, RecvError>) -> Event {
        let (ring, index, model, answer) = match answer {
            Ok(MonitorEvent::Answered {
                ring,
                index,
                model,
                answer,
            }) => (ring, index, model, answer),
            Ok(MonitorEvent::Lost { ring }) => return Event::MonitorLost { ring },
            Err(RecvError) => {
                self.sources.answers = never();
                return Event::Nothing;
            }
        };
        let token = TokenId { ring, index };
        if let Some(gateway) = &self.gateway {
            let mut events = gateway.learn(token, &model, answer.clone());
            // Until requests come through the proxy, the session tells of it.
            if !self.session.is_proxied() {
                events.clear();
            }
            for event in &events {
                self.console.say(event);
            }
            self.report(&events, now());
        }
        Event::Probed { token, answer }
    }
}

/// What came from a source, as an event. A source whose other end is gone is always ready, and must
/// not be listened to any more.
fn heard<T>(
    received: Result<T, RecvError>,
    source: &mut Receiver<T>,
    event: impl FnOnce(T) -> Event,
) -> Event {
    match received {
        Ok(what) => event(what),
        Err(RecvError) => {
            *source = never();
            Event::Nothing
        }
    }
}

/// Says what a thread could not do, when no event will be waited for.
fn say_warnings(warnings: &Receiver<Warning>, console: &Console) {
    for what in warnings.try_iter() {
        console.say(&RunEvent::Warning(what));
    }
}
