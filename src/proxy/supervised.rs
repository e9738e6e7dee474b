//! The proxy of one supervised command: what `supervise --proxy` puts between the command and its
//! providers.
//!
//! The command gets one stand-in for all tokens of a provider, the proxy's secret, and the session
//! sees one token a provider, which is usable as long as any of them is. So nothing is ever rotated
//! by a restart, and the command is paused only when a reset is too far away to hold its requests.
//! It promises that the command sees no limit as long as a token can recover. It decides nothing.

use super::access_key::AccessKey;
use super::{Exhausted, Place, Proxy};
use crate::clients::{self, Client, CommandLine};
use crate::common::error::Error;
use crate::common::time::Now;
use crate::events::RunEvent;
use crate::providers::Answer;
use crate::providers::endpoint::Endpoint;
use crate::providers::usage::Usage;
use crate::providers::{Finding, Reading};
use crate::tokens::condition::is_same_end;
use crate::tokens::policy::Rules;
use crate::tokens::store::Store;
use crate::tokens::strategy::Strategy;
use crate::tokens::{Token, TokenId, TokenPool};
use crossbeam_channel::Receiver;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

/// A running proxy for one command.
pub(crate) struct Gateway {
    proxy: Proxy,
    /// For each ring, the end of the wait that the session knows of.
    told: Vec<Option<SystemTime>>,
}

impl Gateway {
    /// Listens on a free port of this machine, with a secret of its own.
    ///
    /// # Errors
    /// When the system refuses a port, a thread or randomness.
    pub(crate) fn open(
        rings: Vec<(TokenPool, Endpoint)>,
        rules: &Rules,
        hold: Duration,
    ) -> Result<Gateway, Error> {
        let place = Place {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            strategy: Strategy::Sticky,
            hold,
            waits_for_ever: true,
        };
        Ok(Gateway {
            told: vec![None; rings.len()],
            proxy: Proxy::start(rings, rules.clone(), place, AccessKey::new()?)?,
        })
    }

    /// What the proxy has to say.
    pub(crate) fn notices(&self) -> Receiver<RunEvent> {
        self.proxy.notices.clone()
    }

    /// What it cannot serve.
    pub(crate) fn exhausted(&self) -> Receiver<Exhausted> {
        self.proxy.exhausted.clone()
    }

    /// Where it listens.
    pub(crate) fn notice(&self) -> RunEvent {
        RunEvent::ProxyListening {
            address: self.proxy.address.to_string(),
        }
    }

    /// For each pool, one with a single token that stands for all of its own.
    pub(crate) fn stand_ins(&self, pools: Vec<TokenPool>, client: &Client) -> Vec<TokenPool> {
        let stand_in = |pool: &TokenPool| {
            let mut token: Token = self.proxy.shared.key.stand_in(pool.current());
            let is_hooked = client.has_hooks && token.provider.name == clients::HOOKED_PROVIDER;
            // As an API key it would meet the dialog about keys that the client has not seen.
            if is_hooked && !token.variables.is_empty() {
                token.variables = vec![clients::HOOKED_TOKEN_VARIABLE];
            }
            TokenPool::new(vec![token])
        };
        pools.iter().filter_map(stand_in).collect()
    }

    /// Leads the command here: base URLs, and what its client wants besides. What was changed is in
    /// the notice.
    pub(crate) fn lead(
        &self,
        environment: &mut Vec<(OsString, OsString)>,
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
        let own = client.base_url_variables.iter();
        added.extend(own.filter_map(|(name, provider)| Some((*name, url_of(provider)?))));
        for (name, value) in client.behind_proxy {
            if !environment.iter().any(|(known, _)| known == name) {
                added.push((name, (*value).to_owned()));
            }
        }
        // A credential of the user's own would go to the proxy in the place of the secret.
        environment.retain(|(known, _)| {
            known != clients::HOOKED_TOKEN_VARIABLE && !added.iter().any(|(name, _)| known == name)
        });
        let set = added
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        environment.extend(set);
        bypass_proxies(environment);

        // Where it listens has been said.
        let is_address = |value: &str| value.starts_with("http://");
        let mut shown: Vec<String> = added
            .iter()
            .map(|(name, value)| match is_address(value) {
                true => (*name).to_owned(),
                false => format!("{name}={value}"),
            })
            .collect();
        if let Some((provider, arguments)) = client.base_url_argument
            && let Some(url) = url_of(provider)
        {
            let arguments = arguments(&url);
            let words = arguments.iter().map(|word| word.to_string_lossy());
            shown.push(words.collect::<Vec<_>>().join(" "));
            *command = command.clone().with_arguments(arguments);
        }
        RunEvent::ThroughProxy {
            added: shown.join(", "),
            does_without: client.does_without,
        }
    }

    /// What it means for the placeholder of a ring that the proxy cannot serve a request.
    pub(crate) fn event(&mut self, told: Exhausted, now: Now) -> Option<(TokenId, Answer)> {
        let Exhausted { ring, wait } = told;
        let end = now.wall + wait.unwrap_or_default();
        let known = self.told.get_mut(ring)?;
        // Each waiting request tells it, again and again.
        let is_known = known.is_some_and(|known| is_same_end(known, end));
        if is_known && wait.is_some() {
            return None;
        }
        *known = wait.map(|_| end);
        let finding = match wait {
            Some(_) => Finding::Limited { retry_after: wait },
            None => Finding::SpendCapped { until: None },
        };
        let answer = Answer {
            asked: now.tick,
            reading: Ok(bare(finding)),
        };
        Some((TokenId { ring, index: 0 }, answer))
    }

    /// Takes in what a probe found about a real token: what there is to say, and what it means for
    /// the one that stands for all.
    pub(crate) fn heard(
        &self,
        token: TokenId,
        answer: Answer,
        now: Now,
    ) -> (Vec<RunEvent>, TokenId, Answer) {
        let asked = answer.asked;
        let kept = match &answer.reading {
            Err(why) => Some(Err(why.clone())),
            Ok(reading) => match &reading.finding {
                finding @ (Finding::Overloaded { .. } | Finding::Unclear { .. }) => {
                    Some(Ok(bare(finding.clone())))
                }
                _ => None,
            },
        };
        let told = self.proxy.shared.balancer().told(token);
        let checked = told.map(|token| RunEvent::Checked {
            token,
            reading: answer.reading.clone(),
        });
        let mut say: Vec<RunEvent> = checked.into_iter().collect();
        say.extend(self.proxy.learn(token, answer));
        // The session says these itself.
        say.retain(|notice| {
            !matches!(
                notice,
                RunEvent::Silent { .. } | RunEvent::AnswersAgain { .. }
            )
        });
        let reading =
            kept.unwrap_or_else(|| Ok(bare(self.proxy.shared.balancer().outlook(token.ring, now))));
        let token = TokenId {
            ring: token.ring,
            index: 0,
        };
        (say, token, Answer { asked, reading })
    }

    /// What the session says of the token that stands for all, as it is true of all.
    pub(crate) fn reword(&self, notice: RunEvent, decided: bool, now: Now) -> Option<RunEvent> {
        match notice {
            // The proxy has said which token, and why. Its own words come alone.
            RunEvent::Limit { .. } if decided => None,
            RunEvent::NoNextToken => Some(RunEvent::AllExhausted),
            RunEvent::WaitingForReset {
                token,
                span,
                at,
                now: said,
                held: false,
            } => {
                let first = self.proxy.shared.balancer().first_reset(token.id.ring, now);
                Some(RunEvent::WaitingForReset {
                    token: first.unwrap_or(token),
                    span,
                    at,
                    now: said,
                    held: false,
                })
            }
            notice => Some(notice),
        }
    }

    /// The tokens to ask when the session asks about the one that stands for all.
    pub(crate) fn whom_to_ask(&self, ring: usize, now: Now) -> impl Iterator<Item = usize> {
        let asked = self.proxy.shared.balancer().whom_to_ask(ring, now);
        asked.into_iter()
    }

    /// How full each real token is by now.
    pub(crate) fn levels(&self, now: Now) -> Vec<RunEvent> {
        let balancer = self.proxy.shared.balancer();
        let levels = balancer.report(now).map(|report| RunEvent::Seen {
            token: report.token,
            usage: report.usage.clone(),
        });
        levels.collect()
    }

    /// Keeps what is known of the real tokens.
    pub(crate) fn keep(&self, store: &mut Store, now: Now) {
        store.keep(self.proxy.shared.balancer().pools(), now);
    }
}

/// A reading without windows: those of one token say nothing about all.
fn bare(finding: Finding) -> Reading {
    Reading {
        usage: Usage::default(),
        finding,
        quota_group: None,
    }
}

/// Makes programs that use a proxy of the network go straight to this machine.
fn bypass_proxies(environment: &mut Vec<(OsString, OsString)>) {
    let proxied = environment.iter().any(|(name, _)| {
        let name = name.to_string_lossy().to_ascii_lowercase();
        matches!(&*name, "http_proxy" | "all_proxy")
    });
    if !proxied {
        return;
    }
    for name in ["NO_PROXY", "no_proxy"] {
        let known = environment.iter_mut().find(|(known, _)| known == name);
        match known {
            Some((_, value)) => value.push(",127.0.0.1"),
            None => environment.push((name.into(), "127.0.0.1".into())),
        }
    }
}
