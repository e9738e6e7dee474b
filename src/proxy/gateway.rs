//! The proxy of one supervised command: what `supervise` puts between the command and its providers.
//!
//! A known client, or a command with `--proxy`, is led here, with the proxy's secret in place of all
//! tokens of a provider. Any other command is offered the address beside its token. Once requests come, the
//! session reads the proxy's ledger; nothing is rotated by a restart, and the command is paused only when
//! everything that it uses is refused for longer than its requests are held. It decides nothing.

use super::access_key::AccessKey;
use super::{Exhausted, Proxy, Setup, listener, upstream};
use crate::clients::{self, Client, CommandLine};
use crate::common::Environment;
use crate::common::error::Error;
use crate::common::time::Now;
use crate::events::RunEvent;
use crate::providers::Answer;
use crate::providers::endpoint::Endpoint;
use crate::tokens::ledger::Ledger;
use crate::tokens::policy::Rules;
use crate::tokens::store::Store;
use crate::tokens::strategy::Strategy;
use crate::tokens::{Renewal, Token, TokenId, TokenPool};
use crossbeam_channel::Receiver;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A running proxy for one command.
pub(crate) struct Gateway {
    proxy: Proxy,
}

impl Gateway {
    /// Listens on a free port of this machine, with a secret of its own. With `tokens_count`, a token of
    /// these rings is as good as the secret. It `rereads` when new ones may be there.
    ///
    /// # Errors
    /// When the system refuses a port, a thread or randomness.
    pub(crate) fn open(
        rings: Vec<(TokenPool, Endpoint)>,
        rules: &Rules,
        hold: Duration,
        store: &Store,
        tokens_count: bool,
        rereads: bool,
    ) -> Result<Gateway, Error> {
        let mut key = AccessKey::new()?;
        if tokens_count {
            // The command is worth more than an offer that it may not take.
            if listener::most_connections() <= listener::FEWEST_CONNECTIONS {
                return Err(Error::System {
                    what: "too few open files are allowed",
                    why: "see ulimit -n".into(),
                });
            }
            let tokens = rings.iter().flat_map(|(pool, _)| pool.tokens());
            key = key.or_one_of(tokens.map(|token| token.secret.clone()).collect());
        }
        let setup = Setup {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            strategy: Strategy::Sticky,
            hold,
            waits_for_ever: true,
            is_open: false,
            rereads,
        };
        Ok(Gateway {
            proxy: Proxy::start(
                rings.clone(),
                super::ledger(&rings, store, rules.threshold),
                rules.clone(),
                setup,
                key,
            )?,
        })
    }

    /// What the proxy has to say.
    pub(crate) fn notices(&self) -> Receiver<RunEvent> {
        self.proxy.notices.clone()
    }

    /// Says that a request cannot be served before long.
    pub(crate) fn exhausted(&self) -> Receiver<Exhausted> {
        self.proxy.exhausted.clone()
    }

    /// Whether no request has come through it yet.
    pub(crate) fn is_unused(&self) -> bool {
        self.proxy.shared.counters.requests.load(Relaxed) == 0
    }

    /// Whether a request has come that goes on with a token.
    pub(crate) fn carries(&self) -> bool {
        self.proxy.shared.counters.carries.load(Relaxed)
    }

    /// Whether LLM tokens were to be counted, and none could be.
    pub(crate) fn counted_nothing(&self) -> bool {
        !self.carries() && self.proxy.shared.is_capped
    }

    /// How often a request has begun, or bytes of one have moved.
    pub(crate) fn pulse(&self) -> u64 {
        let begun = self.proxy.shared.counters.requests.load(Relaxed);
        upstream::moved().wrapping_add(begun)
    }

    /// Whether a request waits for a reset.
    pub(crate) fn is_holding(&self) -> bool {
        self.proxy.shared.balancer().is_holding()
    }

    /// How long it holds a request.
    pub(crate) fn hold(&self) -> Duration {
        self.proxy.shared.hold
    }

    /// Where it listens.
    pub(crate) fn notice(&self) -> RunEvent {
        RunEvent::ProxyListening(self.proxy.address.to_string())
    }

    /// What the command gets in place of the tokens of each pool: the proxy's secret.
    pub(crate) fn placeholders(&self, pools: &[TokenPool], client: &Client) -> Vec<Token> {
        let placeholder = |pool: &TokenPool| {
            let mut token: Token = self.proxy.shared.key.stand_in(pool.current());
            let is_hooked = client.has_hooks && token.provider.name == clients::HOOKED_PROVIDER;
            // As an API key it would meet the dialog about keys that the client has not seen.
            if is_hooked && !token.variables.is_empty() {
                token.variables = vec![clients::HOOKED_TOKEN_VARIABLE];
            }
            token
        };
        pools.iter().map(placeholder).collect()
    }

    /// The environment with the proxy's address in place of each provider's own, for a command that has
    /// its token; and what there is to say of it.
    pub(crate) fn offered(&self, environment: &Environment) -> (Environment, RunEvent) {
        let upstreams = self.proxy.shared.upstreams.iter();
        let added: Vec<(&str, String)> = upstreams
            .filter_map(|upstream| {
                let url = self.proxy.base_url(upstream.provider);
                Some((upstream.provider.base_url_variable?, url))
            })
            .collect();
        let mut offered = environment.clone();
        set(&mut offered, &added);
        let address = self.proxy.address.to_string();
        let mut upstreams = self.proxy.shared.upstreams.iter();
        let several = upstreams.any(|upstream| upstream.tokens() > 1);
        (offered, RunEvent::Offered { address, several })
    }

    /// Leads the command here: base URLs, and what its client wants besides. What was changed is in
    /// the notice.
    pub(crate) fn lead(
        &self,
        environment: &mut Environment,
        command: &mut CommandLine,
    ) -> RunEvent {
        let client = command.client();
        let upstreams = || self.proxy.shared.upstreams.iter().map(|up| up.provider);
        let url_of = |name: &str| {
            let provider = upstreams().find(|provider| provider.name == name)?;
            Some(self.proxy.base_url(provider))
        };
        let mut added: Vec<(&str, String)> = upstreams()
            .filter_map(|provider| {
                Some((provider.base_url_variable?, self.proxy.base_url(provider)))
            })
            .collect();
        let is_used = |name: &str| {
            let mut used = upstreams().filter(|provider| command.uses(provider));
            used.any(|provider| provider.name == name)
        };
        let own = client.base_url_variables.iter();
        added.extend(
            own.filter(|(_, provider)| is_used(provider))
                .filter_map(|(name, provider)| Some((*name, url_of(provider)?))),
        );
        let urls: Vec<(&str, String)> = upstreams()
            .map(|provider| (provider.name, self.proxy.base_url(provider)))
            .collect();
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| known == name);
            found.and_then(|(_, value)| value.to_str().map(str::to_owned))
        };
        match (client.proxy_variables)(&urls, &variable) {
            Ok(variables) => added.extend(variables),
            Err(why) => log::warn!("{}: {why}", client.name),
        }
        for (name, value) in client.behind_proxy {
            if !environment.iter().any(|(known, _)| known == name) {
                added.push((name, (*value).to_owned()));
            }
        }
        // A credential of the user's own would go to the proxy in place of the secret.
        environment.retain(|(known, _)| known != clients::HOOKED_TOKEN_VARIABLE);
        set(environment, &added);

        // Where it listens has been said.
        let is_address = |value: &str| value.contains("http://");
        let mut shown: Vec<String> = added
            .iter()
            .map(|(name, value)| match is_address(value) {
                true => (*name).to_owned(),
                false => format!("{name}={value}"),
            })
            .collect();
        if let Some(url) = command.takes_base_url_for().and_then(url_of) {
            let (led, added) = command.clone().with_base_url(url);
            let words = added.iter().map(|word| word.to_string_lossy());
            shown.push(words.collect::<Vec<_>>().join(" "));
            *command = led;
        }
        RunEvent::ThroughProxy {
            added: shown.join(", "),
            does_without: client.does_without,
        }
    }

    /// Takes in what a probe found: what there is to say of it, beside what the session says.
    pub(crate) fn learn(&self, token: TokenId, model: &str, answer: Answer) -> Vec<RunEvent> {
        let mut say = self.proxy.learn(token, model, answer);
        say.retain(|event| !matches!(event, RunEvent::Silent { .. } | RunEvent::AnswersAgain(..)));
        say
    }

    /// Takes in what has changed in the files that this ring's tokens came from.
    pub(crate) fn renew(&self, ring: usize, renewal: &Renewal) {
        self.proxy.renew(ring, renewal);
    }

    /// Requests are to go out with this token from now on. Whoever wants that says so.
    pub(crate) fn move_to(&self, token: TokenId) {
        self.proxy.shared.balancer().move_to(token);
        self.proxy.shared.wake();
    }

    /// All that is known of the tokens by now.
    pub(crate) fn ledger(&self) -> Ledger {
        self.proxy.shared.balancer().ledger().clone()
    }

    /// How full each real token is by now, and what was spent with it: `all` of that, or what grew much.
    pub(crate) fn levels(&self, all: bool, now: Now) -> Vec<RunEvent> {
        let mut balancer = self.proxy.shared.balancer();
        let levels = balancer.report(now).map(|report| RunEvent::Seen {
            token: report.token,
            usage: report.usage.clone(),
        });
        let mut levels: Vec<RunEvent> = levels.collect();
        levels.extend(balancer.spendings(all));
        levels
    }

    /// Keeps what is known of the real tokens.
    pub(crate) fn keep(&self, store: &mut Store, now: Now) {
        store.keep_all(self.proxy.shared.balancer().ledger(), now);
    }
}

/// Sets these variables, which lead here.
fn set(environment: &mut Environment, added: &[(&str, String)]) {
    environment.retain(|(known, _)| !added.iter().any(|(name, _)| known == name));
    let added = added.iter();
    environment.extend(added.map(|(name, value)| (name.into(), value.into())));
    bypass_proxies(environment);
}

/// Makes programs that use a proxy of the network go straight to this machine, whoever tells them of that
/// proxy: a client may know it from its own settings.
fn bypass_proxies(environment: &mut Environment) {
    const NAMES: [&str; 2] = ["NO_PROXY", "no_proxy"];
    let value = |name: &str| {
        let mut known = environment.iter();
        let (_, value) = known.find(|(known, value)| known == name && !value.is_empty())?;
        Some(value.clone())
    };
    let [upper, lower] = NAMES.map(value);
    let both = [upper.clone().or(lower.clone()), lower.or(upper)];
    environment.retain(|(known, _)| !NAMES.iter().any(|name| known == name));
    for (name, known) in NAMES.into_iter().zip(both) {
        let value = match known {
            // It names every host, and only by itself (curl(1)).
            Some(all) if all == "*" => all,
            Some(mut hosts) => {
                hosts.push(",127.0.0.1");
                hosts
            }
            None => "127.0.0.1".into(),
        };
        environment.push((name.into(), value));
    }
}
