//! The loop: it owns the child and ties the decisions to the world.
//!
//! The only file that knows both sides. Each turn is the same: wait for one event, let the session
//! decide, say what there is to say, take the one step. It promises to wait in one place only, and
//! to read the clocks in one place only.

pub(crate) mod event;
pub(crate) mod session;
use crate::cli::config::{self as options, Options};
use crate::clients::hook_server::{self as callback, Callback};
use crate::clients::session_file as transcript;
use crate::clients::{self, Line};
use crate::common::error::Error;
use crate::common::time::Now;
use crate::events::console::Console;
use crate::events::fact::Observer;
use crate::events::message::Notice;
use crate::events::reporter::Herald;
use crate::providers::monitor::Monitor;
use crate::providers::schedule::Pace;
use crate::proxy::{Gate, Told};
use crate::supervisor::event::{Event, Outcome, Step};
use crate::supervisor::session::{Reply, Session};
use crate::system::exit_status::Change;
use crate::system::job::Stage;
use crate::system::os::PrivateFile;
use crate::system::prompt::Prompt;
use crate::system::signals::{self, Inherited};
use crate::tokens::store::Records;
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
    options: Options,
    console: &Console,
    inherited: Inherited,
) -> Result<Outcome, Error> {
    let mut world = World::prepare(options, console, inherited)?;
    let result = world.run();
    world.herald.end(&result, now());
    result
}

/// Says what a thread could not do, when no event will be waited for.
fn say_trouble(reports: &Receiver<Event>, console: &Console) {
    for event in reports.try_iter() {
        if let Event::Trouble { what } = event {
            console.say(&Notice::Degraded { what });
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
struct World<'a> {
    session: Session,
    console: &'a Console,
    stage: Stage<'a>,
    monitors: Vec<Monitor>,
    herald: Herald,
    interval: Duration,
    /// When the herald hears next what the proxy sees, and how long after that once more.
    sample_at: Instant,
    sample_each: Duration,
    /// What is kept of the tokens for other runs.
    records: Records,
    /// The proxy between the command and its providers, and what it has to tell.
    gate: Option<Gate>,
    tidings: Receiver<Told>,
    prompt: Option<Prompt>,
    /// What threads report: the monitors and the prompt. The sender keeps it connected.
    reports: Receiver<Event>,
    reporting: Sender<Event>,
    /// What the command says of itself; it says so before it ends.
    told: Receiver<Event>,
    /// What the last step, or the last look at the child, has found out.
    found: Option<Event>,
    signals: Receiver<Signal>,
    /// The command, and the user's own line for every start after the first.
    command: Line,
    again: Option<Line>,
    /// What these lines name.
    _files: Vec<PrivateFile>,
    callback: Option<Callback>,
    /// The id that the last session was started with, when the user's line leaves that to ddollar.
    named: Option<String>,
    environment: Vec<(OsString, OsString)>,
    mixed: bool,
    /// Whether the last event may have told something new of a token.
    has_news: bool,
    /// Tokens that the child gets whatever happens.
    handed: Vec<Token>,
    name: Option<String>,
}

impl<'a> World<'a> {
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
        if let Event::Say(_) | Event::Child(Change::Exited { .. }) = event {
            self.tell_levels(now());
        }
        if let Some(helper) = self.herald.heard(event, now()) {
            self.stage.spare(helper);
        }
    }

    /// And so does what is done about it; what was learned of the tokens goes to the state.
    fn record(&mut self, reply: &mut Reply) {
        if std::mem::take(&mut self.has_news) {
            self.keep_state();
        }
        let say = std::mem::take(&mut reply.say);
        reply.say = self.as_it_is(say, reply.step);
        for helper in self.herald.decided(reply, &self.session, now()) {
            self.stage.spare(helper);
        }
    }

    fn prepare(
        mut options: Options,
        console: &'a Console,
        inherited: Inherited,
    ) -> Result<World<'a>, Error> {
        let stage = Stage::set(inherited, options.rules.grace, console);
        if options.rules.interactive && stage.terminal_file().is_none() {
            return Err(Error::NoTerminal);
        }
        let signals = signals::listen()?;
        let (reporting, reports) = unbounded();
        let (telling, told) = unbounded();
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

        let mut records = Records::open(options.state, &reporting);
        say_trouble(&reports, console);
        let mut monitors = Vec::new();
        let mut pools = Vec::new();
        let mut rings = Vec::new();
        for (ring, (mut pool, endpoints)) in options.rings.into_iter().enumerate() {
            records.recall(&mut pool, &endpoints, options.rules.threshold, now());
            rings.push((pool.clone(), endpoints.clone()));
            let events = reporting.clone();
            let pace = Pace::new(options.interval, options.rules.threshold);
            monitors.push(Monitor::start(ring, &pool, endpoints, pace, events)?);
            pools.push(pool);
        }
        let observer = Observer::new(pools.iter(), options.proxied.is_some());
        let herald = Herald::call(
            observer,
            options.wishes,
            inherited,
            &options.environment,
            &reporting,
        );
        let mut environment = options.environment;
        let gate = match options.proxied {
            None => {
                console.say(&Notice::MonitorStarted {
                    interval: options.interval,
                });
                None
            }
            Some(hold) => {
                let gate = Gate::open(options::by_provider(rings), &options.rules, hold)?;
                pools = gate.stand_ins(pools, options.command.client());
                console.say(&gate.notice());
                console.say(&gate.lead(&mut environment, &mut options.command));
                if let Some(again) = &mut options.again {
                    let _ = gate.lead(&mut environment, again);
                }
                Some(gate)
            }
        };
        let callback = if options.calls_back {
            let callback = Callback::listen(telling).map_err(|error| Error::System {
                what: "cannot listen for the command",
                why: error.to_string(),
            })?;
            environment.push((callback::VARIABLE.into(), callback.address().into()));
            Some(callback)
        } else {
            None
        };
        let mut world = World {
            session: Session::new(pools, options.rules, now()),
            console,
            stage,
            monitors,
            herald,
            interval: options.interval,
            sample_at: Instant::now(),
            sample_each: FIRST_SAMPLE,
            records,
            tidings: gate.as_ref().map_or_else(never, Gate::told),
            gate,
            prompt: None,
            reports,
            reporting,
            told,
            found: None,
            signals,
            command: options.command,
            again: options.again,
            _files: options.files,
            callback,
            named: None,
            environment,
            mixed: options.mixed,
            has_news: false,
            handed: options.handed,
            name: options.name,
        };
        let command = world.shown(world.command.shown_first());
        world.herald.begin(&world.session, command, now());
        Ok(world)
    }

    /// Waits for the one next thing. A child that has just ended goes before an answer that would
    /// rotate it.
    fn next_event(&mut self) -> Result<Event, Error> {
        loop {
            // Its last words may have come while its end was looked at. They say what the end means.
            if let Ok(event) = self.told.try_recv() {
                return Ok(event);
            }
            if self.found.is_some()
                && let Some(event) = self.last_words()
            {
                return Ok(event);
            }
            if let Some(event) = self.found.take() {
                return Ok(event);
            }
            if let Some(event) = self.stage.kept_stop(now().tick) {
                return Ok(event);
            }
            let chores = self.chores(now()).map_or_else(never, after);
            let nothing = never();
            let changes = self.stage.changes().unwrap_or(&nothing);
            let timer = self.session.timeout(now()).map_or_else(never, after);
            select_biased! {
                recv(changes) -> _ => {
                    self.found = self.stage.take_change(now().tick)?;
                    if matches!(self.found, Some(Event::Child(Change::Exited { .. }))) {
                        self.rest();
                    }
                }
                recv(self.told) -> event => match event {
                    Ok(event) => return Ok(event),
                    Err(_) => self.told = never(),
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
                recv(self.tidings) -> told => match (told, &mut self.gate) {
                    (Ok(told), Some(gate)) => {
                        if let Some(event) = gate.event(told, now()) {
                            return Ok(event);
                        }
                    }
                    _ => self.tidings = never(),
                },
                recv(timer) -> _ => return Ok(Event::Deadline),
                recv(chores) -> _ => {}
            }
        }
    }

    /// What is to be done while nothing happens. Returns when there will be more of it.
    fn chores(&mut self, now: Now) -> Option<Duration> {
        let until = self.session.waits_until();
        let is_foreground = || self.stage.is_foreground();
        let countdown = self.console.count_down(until, is_foreground, now);
        let others = self.herald.tend(now);
        let sample = self.sample(now);
        let stop = self.stage.keeps_stop(now.tick);
        [countdown, others, sample, stop]
            .into_iter()
            .flatten()
            .min()
    }

    /// Tells now and then how full the tokens are. Returns when it will again.
    fn sample(&mut self, now: Now) -> Option<Duration> {
        self.gate.as_ref()?;
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
        let Some(gate) = &self.gate else {
            return;
        };
        for (provider, index, usage) in gate.levels(now) {
            self.herald.seen(provider, index, &usage, now);
        }
    }

    /// What the proxy said before the command ended is told before its end. How all tokens stand is
    /// told after it, as it was: that decides.
    fn last_words(&mut self) -> Option<Event> {
        let gate = self.gate.as_ref()?;
        for _ in 0..self.tidings.len() {
            match self.tidings.try_recv().ok()? {
                Told::Say(notice) => return Some(Event::Say(Box::new(notice))),
                told => gate.tell_later(told),
            }
        }
        None
    }

    /// Behind a proxy, a real token's answer tells how things stand for the one that the command has.
    fn through_gate(&mut self, event: Event) -> Event {
        match (&self.gate, event) {
            (Some(gate), Event::Answer { token, answer }) => {
                self.herald.answered(token, &answer, now());
                let (say, event) = gate.heard(token, answer, now());
                for notice in &say {
                    self.console.say(notice);
                }
                let told = Reply {
                    say,
                    step: Step::Nothing,
                };
                for helper in self.herald.decided(&told, &self.session, now()) {
                    self.stage.spare(helper);
                }
                event
            }
            (_, event) => event,
        }
    }

    /// Behind a proxy, what the session says of one token is true of all.
    fn as_it_is(&self, say: Vec<Notice>, step: Step) -> Vec<Notice> {
        match &self.gate {
            None => say,
            Some(gate) => {
                let notices = say.into_iter();
                notices
                    .filter_map(|said| gate.reword(said, step, now()))
                    .collect()
            }
        }
    }

    /// Says what there is to say and takes the step; a finished run has an outcome.
    fn carry_out(&mut self, reply: Reply) -> Result<Option<Outcome>, Error> {
        let Reply { say, step } = reply;
        if step == Step::Prompt {
            return self.ask_user(&say).map(|()| None);
        }
        if let Step::Finish(_) = step {
            self.stage.clear();
        }
        for notice in &say {
            self.console.say(notice);
        }
        match step {
            Step::Nothing | Step::Prompt => {}
            Step::Launch { again } => match self.launch(again) {
                // A shortage may pass; a night is not thrown away for it.
                Err(Error::System { why, .. }) if again => {
                    self.found = Some(Event::NotStarted { why });
                }
                result => result?,
            },
            Step::Ask(token) => {
                let Some(monitor) = self.monitors.get(token.ring) else {
                    return Ok(None);
                };
                match &self.gate {
                    None => monitor.ask(token.index),
                    Some(gate) => gate
                        .whom_to_ask(token.ring, now())
                        .for_each(|index| monitor.ask(index)),
                }
            }
            Step::Forward(signal) => self.stage.signal(signal),
            Step::Terminate(signal) => {
                self.prompt = None;
                self.rest();
                self.stage.terminate(signal);
            }
            Step::Kill => self.stage.kill(),
            Step::Pause => {
                self.rest();
                self.stage.pause();
            }
            Step::Freeze => self.stage.signal(Signal::SIGSTOP),
            Step::Hold => self.stage.hold(),
            Step::Resume => {
                self.prompt = None;
                self.stage.go_on();
                self.watch(false);
            }
            Step::HandOver => self.stage.hand_over(),
            Step::Continue => self.stage.go_on(),
            Step::Mirror {
                for_terminal,
                in_background,
            } => self.stage.mirror(for_terminal, in_background),
            Step::SuspendSelf => {
                self.prompt = None;
                self.console.count_down(None, || false, now());
                self.stage.suspend();
            }
            Step::Reap => self.stage.reap(),
            Step::Sweep { signal } => self.found = Some(self.stage.sweep(signal)),
            Step::Finish(outcome) => {
                // The next run may begin right after this one.
                self.records.close();
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
        if let Some(callback) = &self.callback {
            let hooked = in_use().find(|token| token.provider.name == clients::HOOKED_PROVIDER);
            callback.hand_out(hooked.map(|token| token.secret.clone()));
        }
        let tokens = in_use().chain(&self.handed);
        self.stage.launch(&words, name, &self.environment, tokens)?;
        if again {
            self.console.say(&Notice::SessionResumed);
        }
        self.watch(!again);
        Ok(())
    }

    /// The id of the session that the command works on, if that is known, and whether it has begun.
    fn client_session(&self) -> Option<(String, bool)> {
        let told = self.callback.as_ref().and_then(Callback::session);
        // Hooks may be turned off; then the id is the one that it was given.
        told.or_else(|| {
            let id = self.named.clone()?;
            let begun = transcript::exists(&id, &self.environment);
            Some((id, begun))
        })
    }

    /// The words that begin the work, and as people read them. Each session has an id of its own: one
    /// that the client knows already, it refuses.
    fn anew(&mut self) -> (Vec<OsString>, Vec<OsString>) {
        let may_be_named = self.again.is_none() && self.command.starts_anew();
        self.named = may_be_named.then(transcript::new_id);
        let words = self.command.first(self.named.as_deref());
        (words, self.command.shown_first().to_vec())
    }

    /// Says what led to the question, and puts it as soon as the terminal is ours; in the background,
    /// SIGCONT brings it back.
    fn ask_user(&mut self, question: &[Notice]) -> Result<(), Error> {
        self.prompt = None;
        self.stage.hold();
        let is_ours = self.stage.is_foreground();
        if is_ours {
            self.stage.prepare_prompt();
        }
        for notice in question {
            if is_ours || !notice.is_question() {
                self.console.say(notice);
            }
        }
        if !is_ours {
            return Ok(());
        }
        if let Some(tty) = self.stage.terminal_file() {
            self.prompt = Some(Prompt::listen(tty, self.reporting.clone())?);
        }
        Ok(())
    }

    /// Keeps what is known of the tokens for other runs.
    fn keep_state(&mut self) {
        match &self.gate {
            None => self.records.keep(self.session.pools(), now()),
            Some(gate) => gate.keep(&mut self.records, now()),
        }
    }

    fn watch(&self, at_once: bool) {
        if self.gate.is_some() {
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
            tokens::shown(words, tokens.chain(&self.handed))
        })
    }
}
