//! `ddollar proxy`: a gateway on loopback that rotates tokens for many applications.
//!
//! ```text
//! listener ─► client ─► forward ─► upstream ─► tunnel      a thread for each connection; these block
//!                          └─────► relay
//!   request  route  balancer  retry  stream_prelude  response  redact  local_response        (pure)
//! ```
//!
//! README.md in this folder has the way of a request, and who owns which truth.
//!
//! The main thread only listens to signals, to what there is to say, and to the first probes.

mod access_key; // what applications send in the place of a token
mod balancer; // which token, and what each answer teaches (pure)
mod client; // one client's connection
mod forward; // one request, from its head to the end of its answer
mod gateway; // the proxy of one supervised command
mod listener; // connections, and their bound
mod local_response; // what the proxy says itself (pure)
pub(crate) mod redact; // no token comes back (pure)
mod relay; // an answer on its way to the client
pub(crate) mod request; // a client's head (pure)
pub(crate) mod response; // a provider's head (pure)
mod retry; // what follows an attempt (pure)
mod room; // memory for bodies (pure)
pub(crate) mod route; // paths to providers (pure)
pub(crate) mod stream_prelude; // errors in the first events of a stream (pure)
mod tunnel; // through the environment's proxy
mod upstream; // connections to a provider

pub(crate) use access_key::PREFIX as SECRET_MARK;
pub(crate) use gateway::Gateway;

use crate::cli;
use crate::cli::PORT;
use crate::cli::config::{self, Road, TokenFiles};
use crate::common::Environment;
use crate::common::body::Body;
use crate::common::error::Error;
use crate::common::time::Now;
use crate::events::RunEvent;
use crate::events::console::Console;
use crate::events::systemd::{self, Service};
use crate::providers::Answer;
use crate::providers::Provider;
use crate::providers::endpoint::Endpoint;
use crate::providers::monitor::{Monitor, MonitorEvent};
use crate::providers::schedule::ProbeSchedule;
use crate::providers::scope::Scope;
use crate::system::signals;
use crate::tokens::ledger::{Ledger, Outlook};
use crate::tokens::policy::Rules;
use crate::tokens::store::Store;
use crate::tokens::strategy::Strategy;
use crate::tokens::{Renewal, TokenId, TokenPool};
use access_key::AccessKey;
use balancer::Balancer;
use crossbeam_channel::{Receiver, Sender, after, never, select, unbounded};
use local_response::Counts;
use nix::sys::signal::Signal;
use room::Room;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use upstream::Upstream;

/// So many pieces of memory for bodies are kept for later ones, none above so many bytes: agents ask with
/// some hundred kB, and few at the same time.
const KEPT_BODIES: usize = 4;
const LARGEST_KEPT: usize = 4 * 1024 * 1024;
/// As long as no token is good, token files are looked at this often.
const BETWEEN_LOOKS: Duration = Duration::from_secs(15);
/// Answers under way may take so long to end once the proxy is to stop.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// What all connections share.
pub(crate) struct Shared {
    /// In the order of the balancer's rings.
    upstreams: Vec<Upstream>,
    providers: Vec<&'static Provider>,
    balancer: Mutex<Balancer>,
    /// Something has changed for those who wait for a token.
    changed: Condvar,
    /// How many wait. Waking nobody costs a system call as well.
    waiting: AtomicUsize,
    key: AccessKey,
    /// What this proxy calls itself to an upstream on this machine, by which it knows a request
    /// that comes back.
    name: String,
    /// Whether any `Host` and any user will do: the listener is not for this machine alone, or stands
    /// behind a server that ends TLS.
    any_host: bool,
    /// How long a request may wait for a reset.
    hold: Duration,
    /// Whether a number of LLM tokens ends the run.
    is_capped: bool,
    /// Whether it then waits on: a supervisor pauses the command meanwhile.
    waits_for_ever: bool,
    /// Whether token files are read again when no token is good.
    rereads: bool,
    most_connections: usize,
    unproven: listener::Unproven,
    counters: Counters,
    /// What all bodies together may take.
    room: Room,
    /// Memory of bodies, for the next ones: new pages cost more than all else.
    bodies: Mutex<Vec<Body>>,
    stopping: AtomicBool,
    /// Readable once the proxy is to stop: its other end is closed then.
    stop: OwnedFd,
    say: Sender<RunEvent>,
    exhausted: Sender<Exhausted>,
    /// A connection has ended while the proxy stops.
    closed: Sender<()>,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicUsize,
    requests: AtomicU64,
    retries: AtomicU64,
    held: AtomicU64,
    /// Whether a request has come back.
    circle: AtomicBool,
    /// Whether a request with a credential of somebody else's has come.
    foreign: AtomicBool,
    /// Whether another user's program has come.
    strangers: AtomicBool,
    /// Whether a request has come that goes on with a token.
    carries: AtomicBool,
}

/// No token is usable for a request for longer than it may be held, nor for anything else that the
/// command uses.
pub(crate) type Exhausted = ();

impl Shared {
    fn balancer(&self) -> MutexGuard<'_, Balancer> {
        self.balancer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, at most so long.
    fn wait<'a>(
        &self,
        balancer: MutexGuard<'a, Balancer>,
        limit: Duration,
    ) -> MutexGuard<'a, Balancer> {
        // Under the lock: whoever changes something afterwards sees it.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let balancer = match self.changed.wait_timeout(balancer, limit) {
            Ok((balancer, _)) => balancer,
            Err(poisoned) => poisoned.into_inner().0,
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        balancer
    }

    /// Wakes those who wait, after something has changed under the lock.
    fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.changed.notify_all();
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            connections: self.counters.connections.load(Ordering::Relaxed),
            requests: self.counters.requests.load(Ordering::Relaxed),
            retries: self.counters.retries.load(Ordering::Relaxed),
            held: self.counters.held.load(Ordering::Relaxed),
        }
    }

    fn say(&self, notices: Vec<RunEvent>) {
        for notice in notices {
            let _ = self.say.send(notice);
        }
    }

    /// Tells the supervisor that the command cannot go on, as the ledger says.
    fn exhausted(&self) {
        let _ = self.exhausted.send(());
    }

    /// Memory for a body; what is in it means nothing.
    fn body_memory(&self) -> Body {
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.pop().unwrap_or_default()
    }

    /// Takes memory back.
    fn keep_body_memory(&self, body: Body) {
        let is_worth_it = (1..=LARGEST_KEPT).contains(&body.capacity());
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        if is_worth_it && bodies.len() < KEPT_BODIES {
            bodies.push(body);
        }
    }

    fn stop(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn connection_closed(&self) {
        if self.is_stopping() {
            let _ = self.closed.send(());
        }
    }
}

/// The moment on both clocks.
fn now() -> Now {
    Now {
        wall: SystemTime::now(),
        tick: Instant::now(),
    }
}

/// The ledger of these rings, as other runs have left it.
fn ledger(rings: &[(TokenPool, Endpoint)], store: &Store, threshold: f64) -> Ledger {
    let checked = |(pool, endpoint): &(TokenPool, Endpoint)| {
        let model = endpoint.models.first().map_or("", String::as_str);
        let scope = Scope::of_model(endpoint.provider, model);
        // The cheapest model is asked about where nobody has said which one is used.
        let is_named = endpoint.models.len() == 1 && model != endpoint.provider.cheapest_model;
        (pool.clone(), scope, is_named)
    };
    let mut ledger = Ledger::new(rings.iter().map(checked), now());
    let follows = |(_, endpoint): &(TokenPool, Endpoint)| endpoint.seen_goes == Some(0);
    ledger.follow(rings.iter().map(follows).collect());
    store.recall_scopes(&mut ledger, threshold, now());
    ledger
}

/// Where a proxy listens, and how it chooses and holds.
#[derive(Clone, Copy, Debug)]
struct Setup {
    listen: SocketAddr,
    strategy: Strategy,
    hold: Duration,
    waits_for_ever: bool,
    /// Whether it is there for other machines and users, too.
    is_open: bool,
    /// Whether token files are read again when no token is good.
    rereads: bool,
}

/// A proxy that takes connections. It stops taking any when this is dropped.
struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Closed to stop.
    stop: Option<OwnedFd>,
    notices: Receiver<RunEvent>,
    exhausted: Receiver<Exhausted>,
    closed: Receiver<()>,
}

impl Proxy {
    /// Listens, in front of the providers of these rings.
    fn start(
        rings: Vec<(TokenPool, Endpoint)>,
        ledger: Ledger,
        rules: Rules,
        setup: Setup,
        key: AccessKey,
    ) -> Result<Proxy, Error> {
        let listen = setup.listen;
        let failed = |what| move |why: String| Error::System { what, why };
        let listener = TcpListener::bind(listen)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|error| Error::Listen {
                address: listen.to_string(),
                why: error,
            })?;
        let address = listener.local_addr().unwrap_or(listen);
        // Of the standard library, which closes both ends to the commands that are started.
        let (stop, stopper) =
            std::io::pipe().map_err(|error| failed("cannot make a pipe")(error.to_string()))?;
        let (say, notices) = unbounded();
        let (exhausted_here, exhausted) = unbounded();
        let (closed_here, closed) = unbounded();
        let upstreams = rings
            .iter()
            .map(|(pool, endpoint)| Upstream::new(pool, endpoint))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed("cannot connect to a provider"))?;
        let is_capped = rules.max_tokens.is_some();
        let shared = Arc::new(Shared {
            providers: upstreams.iter().map(|upstream| upstream.provider).collect(),
            upstreams,
            balancer: Mutex::new(Balancer::new(ledger, rules, setup.strategy, now())),
            changed: Condvar::new(),
            waiting: AtomicUsize::new(0),
            key,
            name: format!("ddollar-{:016x}", RandomState::new().hash_one(address)),
            any_host: setup.is_open,
            hold: setup.hold,
            is_capped,
            waits_for_ever: setup.waits_for_ever,
            rereads: setup.rereads,
            most_connections: listener::most_connections(),
            unproven: listener::Unproven::default(),
            counters: Counters::default(),
            room: Room::default(),
            bodies: Mutex::default(),
            stopping: AtomicBool::new(false),
            stop: stop.into(),
            say,
            exhausted: exhausted_here,
            closed: closed_here,
        });
        let ours = shared.clone();
        std::thread::Builder::new()
            .name("listener".into())
            .stack_size(128 * 1024)
            .spawn(move || listener::listen(&listener, &ours))
            .map_err(|error| failed("cannot start the listener")(error.to_string()))?;
        Ok(Proxy {
            shared,
            address,
            stop: Some(stopper.into()),
            notices,
            exhausted,
            closed,
        })
    }

    /// Takes no more connections and no more requests.
    fn stop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.stop = None;
        drop(self.shared.balancer());
        self.shared.wake();
    }

    /// Takes in what a probe found.
    fn learn(&self, token: TokenId, model: &str, answer: Answer) -> Vec<RunEvent> {
        let mut balancer = self.shared.balancer();
        let say = balancer.probed(token.ring, token.index, model, answer, now());
        drop(balancer);
        self.shared.wake();
        say
    }

    /// Takes in what has changed in the files that this ring's tokens came from.
    fn renew(&self, ring: usize, renewal: &Renewal) {
        // Under the lock, so that nobody chooses a token whose text is not known yet.
        let mut balancer = self.shared.balancer();
        if let (Some(upstream), Some(added)) = (self.shared.upstreams.get(ring), &renewal.added) {
            upstream.add(added);
            self.shared.key.add(added);
        }
        balancer.renew(ring, renewal, now());
        drop(balancer);
        self.shared.wake();
    }

    /// Whether no token of a provider's is good for what was last asked of it.
    fn lacks_token(&self) -> bool {
        let balancer = self.shared.balancer();
        let mut rings = 0..self.shared.upstreams.len();
        rings.any(|ring| balancer.outlook(ring, now()) != Outlook::Usable)
    }

    /// Reads the token files again. Returns what there is to say.
    fn reread(&self, files: &mut TokenFiles, store: &mut Store, threshold: f64) -> Vec<RunEvent> {
        let ledger = self.shared.balancer().ledger().clone();
        let pools = (0..ledger.len()).filter_map(|ring| ledger.pool(ledger.checked(ring)));
        let (renewals, said) = files.renewals(pools, store, threshold, now());
        for (ring, renewal) in &renewals {
            self.renew(*ring, renewal);
        }
        let balancer = self.shared.balancer();
        let ledger = balancer.ledger();
        let pool = |ring| ledger.pool(ledger.checked(ring));
        let news = RunEvent::tokens_changed(&renewals, pool, self.shared.upstreams.len() > 1);
        news.into_iter().chain(said).collect()
    }

    fn is_idle(&self) -> bool {
        self.shared.counters.connections.load(Ordering::SeqCst) == 0
    }

    /// The base URL that leads here in place of a provider's own.
    fn base_url(&self, provider: &Provider) -> String {
        let path = route::base_path(provider);
        let mut address = self.address;
        if address.ip().is_unspecified() {
            // Bound to all addresses; this machine's own programs reach it here.
            address.set_ip(match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}/{}{path}", provider.name)
    }

    /// The lines that lead a shell's programs here.
    fn exports(&self) -> String {
        let mut lines = String::new();
        for upstream in &self.shared.upstreams {
            let provider = upstream.provider;
            if let Some(variable) = provider.base_url_variable {
                let url = self.base_url(provider);
                lines.push_str(&format!("export {variable}='{url}'\n"));
            }
            if let Some(variable) = provider.token_variables.first() {
                lines.push_str(&self.shared.key.export(variable));
            }
        }
        lines
    }
}

/// Runs the proxy until a signal ends it.
///
/// # Errors
/// What keeps it from being started.
pub(crate) fn run(
    args: &cli::Proxy,
    environment: &Environment,
    console: &Console,
) -> Result<ExitCode, Error> {
    let (listen, strategy, hold) = (args.gateway.listen, args.gateway.strategy, args.hold);
    if !listen.ip().is_loopback() && !args.gateway.allow_remote {
        return Err(Error::BadValue {
            flag: "--listen".into(),
            value: listen.to_string(),
            wants: "127.0.0.1:PORT, or --allow-remote to open the proxy to others".into(),
        });
    }
    let folder = config::state_folder(environment);
    let config = config::gateway(args, environment)?;
    let mut rings = config.rings;
    for (pool, endpoint) in &rings {
        // The shell has the proxy's own lines: each request would come back as another one.
        if upstream::leads_to(endpoint, listen) {
            return Err(Error::BaseUrl {
                variable: pool
                    .current()
                    .provider
                    .base_url_variable
                    .unwrap_or("the base URL")
                    .into(),
                why: "is this proxy itself",
            });
        }
    }
    // It has no children.
    let signals = signals::listen(unbounded().0)?;
    let (key, trouble) = match &folder {
        Some(folder) => AccessKey::kept_in(folder)?,
        None => {
            let why = "no XDG_STATE_HOME, no HOME";
            (AccessKey::new()?, Some(why.to_owned()))
        }
    };
    let (answering, mut answers) = unbounded();
    let (warning, warnings) = unbounded();
    let mut store = Store::open(config.state, "proxy", &warning);
    for (pool, endpoint) in &mut rings {
        store.suggest(endpoint);
        store.recall(
            pool,
            std::slice::from_ref(endpoint),
            config.rules.threshold,
            now(),
        );
    }
    let setup = Setup {
        listen,
        strategy,
        hold,
        waits_for_ever: false,
        is_open: args.gateway.allow_remote,
        rereads: config.token_files.are_there(),
    };
    let known = ledger(&rings, &store, config.rules.threshold);
    let mut proxy = Proxy::start(rings.clone(), known, config.rules.clone(), setup, key)?;

    console.say(&RunEvent::Loaded {
        tokens: rings.iter().map(|(pool, _)| pool.len()).sum(),
        providers: rings.len(),
    });
    for notice in &config.notices {
        console.say(notice);
    }
    for (_, endpoint) in &rings {
        for notice in config::unwatched(endpoint, Road::Proxied) {
            console.say(&notice);
        }
    }
    if args.gateway.allow_remote {
        let what = "The secret and all requests come in without TLS: whoever sees the network can read \
                    them, and spend the tokens. Put TLS in front of it";
        console.say(&RunEvent::Warning(what.into()));
    }
    if let Some(why) = trouble {
        let what = format!("The proxy's secret is good for this start only: {why}");
        console.say(&RunEvent::Warning(what));
    }
    let path = folder.map(|folder| folder.join(lines_file(proxy.address.port())));
    hand_over(&proxy.exports(), path.as_deref(), console);
    let listening = RunEvent::ProxyListening(proxy.address.to_string());
    console.say(&listening);
    let texts = config::readable(environment);
    let manager = systemd::Address::from(|name: &str| config::lookup(&texts, name));
    let mut service = manager.as_ref().and_then(Service::open);
    if let (Some(service), Some(message)) = (&mut service, listening.message()) {
        service.is_ready(&message.text);
    }

    // One question about each token: which of them work, and which share a quota.
    let mut monitors = Vec::new();
    for (ring, (pool, endpoint)) in rings.into_iter().enumerate() {
        let schedule = ProbeSchedule::new(args.checks.interval, config.rules.threshold);
        let mut monitor = Monitor::new(
            ring,
            pool.credentials(),
            vec![endpoint],
            schedule,
            answering.clone(),
        );
        (0..pool.len()).for_each(|index| monitor.ask(index));
        monitors.push(monitor);
    }
    // They end when they have answered.
    drop(monitors);

    let mut token_files = config.token_files;
    let mut signals = signals;
    let (mut deadline, mut look) = (never(), never());
    loop {
        let mut lacks_token = false;
        let service = service.as_mut();
        let sign = service.and_then(|service| service.sign_of_life(Instant::now()));
        select! {
            recv(sign.map_or_else(never, after)) -> _ => {}
            recv(signals) -> number => match number.map(Signal::try_from) {
                Ok(Ok(Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP | Signal::SIGQUIT)) => {
                    if proxy.shared.is_stopping() || proxy.is_idle() {
                        break;
                    }
                    proxy.stop();
                    deadline = after(LAST_WORDS);
                    console.say(&RunEvent::ProxyStopping(LAST_WORDS));
                }
                Ok(_) => {}
                Err(_) => signals = never(),
            },
            recv(answers) -> answer => match answer {
                Ok(MonitorEvent::Answered { ring, index, model, answer }) => {
                    let say = proxy.learn(TokenId { ring, index }, &model, answer);
                    say.iter().for_each(|notice| console.say(notice));
                    store.keep_all(proxy.shared.balancer().ledger(), now());
                }
                Ok(MonitorEvent::Lost { .. }) => {}
                Err(_) => answers = never(),
            },
            recv(warnings) -> warning => {
                if let Ok(what) = warning {
                    console.say(&RunEvent::Warning(what));
                }
            }
            recv(look) -> _ => lacks_token = proxy.lacks_token(),
            recv(proxy.notices) -> notice => {
                if let Ok(notice) = notice {
                    console.say(&notice);
                    lacks_token = notice.lacks_token();
                    store.keep_all(proxy.shared.balancer().ledger(), now());
                }
            }
            // Requests wait, or are answered; there is no command to stop.
            recv(proxy.exhausted) -> _ => {}
            recv(proxy.closed) -> _ => {}
            recv(deadline) -> _ => break,
        }
        if lacks_token && token_files.are_there() {
            let threshold = config.rules.threshold;
            for notice in proxy.reread(&mut token_files, &mut store, threshold) {
                console.say(&notice);
            }
            look = after(BETWEEN_LOOKS);
        }
        if proxy.shared.is_stopping() && proxy.is_idle() {
            break;
        }
    }
    // What was said before the end was waited for, or together with it.
    for notice in proxy.notices.try_iter() {
        console.say(&notice);
    }
    // A port that is no other start's either: its lines lead nowhere now.
    if let (0, Some(path)) = (listen.port(), path) {
        let _ = std::fs::remove_file(path);
    }
    console.say(&RunEvent::ProxyStopped);
    if let Some(service) = &service {
        service.is_stopping("");
    }
    Ok(ExitCode::SUCCESS)
}

/// The file of the lines: one for each port, so that no proxy takes another one's.
fn lines_file(port: u16) -> String {
    match port {
        PORT => "proxy.env".into(),
        _ => format!("proxy-{port}.env"),
    }
}

/// Prints the lines, and leaves them in a file for other shells.
fn hand_over(lines: &str, path: Option<&Path>, console: &Console) {
    let mut stdout = std::io::stdout();
    // Whoever started it without a reader has the file.
    let _ = stdout
        .write_all(lines.as_bytes())
        .and_then(|()| stdout.flush());
    let Some(path) = path else { return };
    match access_key::write_private(path, lines) {
        Ok(()) => console.say(&RunEvent::ProxyLines(path.display().to_string())),
        Err(error) => console.say(&RunEvent::Warning(format!(
            "The export lines are not kept in '{}': {error}",
            path.display()
        ))),
    }
}
