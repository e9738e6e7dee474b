//! `ddollar status`: asks about every token at once, and shows what came back.
//!
//! Owns the asking and the printing. What the answers mean is `policy`'s to say, as in a run;
//! how they look is `view`'s.

mod view;

use crate::cli::{Status, config};
use crate::common::Environment;
use crate::common::duration::spaced;
use crate::common::error::{Error, TRY_AGAIN_LATER};
use crate::common::time::Now;
use crate::events::RunEvent;
use crate::events::console::{self, Console, Verbosity};
use crate::providers::monitor::ask_all;
use crate::proxy::SECRET_MARK;
use crate::tokens::Ring;
use crate::tokens::TokenPool;
use crate::tokens::policy::{self, Decision, Rules, Suspension};
use crate::tokens::store::Store;
use crossbeam_channel::unbounded;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};
use view::{RingView, View};

/// No token is usable, and none will be by waiting.
const HOPELESS: u8 = 1;

/// Shows it once, or again and again with `--watch`.
///
/// # Errors
/// There is nothing to ask about.
pub(crate) fn status(args: &Status, environment: &Environment) -> Result<ExitCode, Error> {
    let texts = config::readable(environment);
    let variable = |name: &str| config::lookup(&texts, name);
    let (rings, notices, _) = config::rings(&args.checks, &texts)?;
    let console = Console::new(Verbosity::Normal, variable);
    // The table itself names the tokens; that some were found twice it does not show.
    let is_news = |notice: &&RunEvent| !matches!(notice, RunEvent::Tokens { duplicates, .. } if duplicates.is_empty());
    for notice in notices.iter().filter(is_news) {
        console.say(notice);
    }
    for (pool, endpoints) in &rings {
        let is_proxied = pool.current().secret.is_of(SECRET_MARK);
        if let (true, Some(endpoint)) = (is_proxied, endpoints.first()) {
            console.say(&RunEvent::BehindProxy {
                provider: pool.current().provider,
                address: endpoint.base_url.clone(),
            });
        }
    }
    let mut style = console::style(variable);
    style.utf8 &= !args.show.ascii;
    let rules = config::rules(&args.checks);
    // What it finds out, the next run knows.
    let folder = config::state_folder(environment);
    let path = config::state_file(&args.state, folder.as_deref());
    let (warning, warnings) = unbounded();
    let mut store = Store::open(path, "status", &warning);
    for (pool, endpoints) in &rings {
        store.know(pool, endpoints);
    }
    loop {
        let now = || Now {
            wall: SystemTime::now(),
            tick: Instant::now(),
        };
        let began = now();
        let (mut view, mut asked) = look(&rings, &rules, began, Vec::new(), now);
        // All at once may be the provider's own trouble: a run asks again before it believes that.
        while let (false, Some(span)) = (args.watch, view.doubt()) {
            console.say(&RunEvent::Warning(format!(
                "Every token was rejected; asking again in {}",
                spaced(span)
            )));
            std::thread::sleep(span);
            (view, asked) = look(&rings, &rules, began, asked, now);
        }
        store.keep(asked.iter(), view.now);
        for what in warnings.try_iter() {
            console.say(&RunEvent::Warning(what));
        }
        let text = if args.show.json {
            view.json() + "\n"
        } else {
            let text = view.text(style);
            // The same place again, where there is one.
            match args.watch && std::io::stdout().is_terminal() {
                true => format!("\x1b[H\x1b[2J{text}"),
                false if args.watch => text + "\n",
                false => text,
            }
        };
        if !console::print(&text)? || !args.watch {
            return Ok(verdict(&view));
        }
        std::thread::sleep(args.checks.interval);
    }
}

/// Asks about every token, and lets the table decide as for a command that is to be started. With what
/// to show, and what was learned of the tokens of each ring, in addition to `before`.
fn look<'r>(
    rings: &'r [Ring],
    rules: &Rules,
    began: Now,
    before: Vec<TokenPool>,
    now: impl Fn() -> Now,
) -> (View<'r>, Vec<TokenPool>) {
    let asked: Vec<_> = rings
        .iter()
        .map(|(pool, endpoints)| (pool.credentials(), &endpoints[..]))
        .collect();
    let answers = ask_all(&asked);
    let now = now();
    let mut learned = Vec::new();
    let mut before = before.into_iter();
    let rings = rings.iter().enumerate().map(|(number, (pool, _))| {
        let mut asked = match before.next() {
            Some(pool) => pool,
            None => TokenPool::new(pool.tokens().cloned().collect())?,
        };
        let mut readings = vec![None; pool.len()];
        for (_, index, answer) in answers.iter().filter(|(ring, ..)| *ring == number) {
            policy::record(&mut asked, *index, answer, rules, now);
            if let Some(reading) = readings.get_mut(*index) {
                *reading = Some(&answer.reading);
            }
        }
        let decision = policy::decide(&asked, rules, Suspension::Ended { since: began }, now);
        let view = RingView::new(pool, &asked, &readings, decision, now);
        learned.push(asked);
        Some(view)
    });
    let rings = rings.flatten().collect();
    (View { now, rings }, learned)
}

/// 0 when a command could be started, 75 when one could later.
fn verdict(view: &View<'_>) -> ExitCode {
    let code = |ring: &RingView<'_>| match ring.decision {
        Decision::Keep
        | Decision::KeepUntil { .. }
        | Decision::Rotate { .. }
        | Decision::Probe { .. } => 0,
        Decision::Wait { .. } | Decision::ExceedsMaxWait { .. } => TRY_AGAIN_LATER,
        Decision::NoUsableToken => HOPELESS,
    };
    // One provider with a usable token is enough; a wait is better than none.
    let order = |code: &u8| {
        [0, TRY_AGAIN_LATER, HOPELESS]
            .iter()
            .position(|c| c == code)
    };
    let best = view.rings.iter().map(code).min_by_key(order);
    ExitCode::from(best.unwrap_or(HOPELESS))
}
