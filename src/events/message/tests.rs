//! The words of events: how times and limits read, and that each sentence fits a line.

use super::*;
use crate::providers::usage::Usage;
use crate::providers::{Reading, by_name};
use crate::system::exit_status::ExitStatus;
use crate::tokens::TokenId;
use crate::tokens::condition::Condition;
use nix::sys::signal::Signal;
use std::time::Duration;

#[test]
fn a_time_has_its_date_when_it_is_not_todays() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let soon = local(now, now);
    assert!(soon.len() == 8 && soon.matches(':').count() == 2, "{soon}");
    let days = |count: u64| local(now + Duration::from_secs(count * 86_400), now);
    let later = days(3);
    assert!(later.len() == 9 && later.starts_with("Mon "), "{later}");
    assert_eq!(days(30).len(), 10);
    assert!(days(30).starts_with("2027-02-1"), "{}", days(30));
    let never = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60);
    assert!(local(never, now).contains("beyond"));
}

/// Words of a terminal's line: an emoji is two columns wide, what modifies it none.
fn columns(text: &str) -> usize {
    let wide = |c| match c {
        '\u{26a0}' => 2,
        '\u{fe0f}' => 0,
        _ => 1,
    };
    text.chars().map(wide).sum()
}

/// With the longest that is usual: a wait until another day, twelve tokens, two providers. Paths,
/// commands and what the system says are as long as they are.
#[test]
fn every_sentence_fits_a_line_of_80_columns() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let anthropic = by_name("anthropic").unwrap();
    let azure = by_name("azure").unwrap();
    let token = |provider, several| TokenRef {
        id: TokenId { ring: 0, index: 10 },
        of: 12,
        provider,
        several,
        name: "…x2Lp, ANTHROPIC_API_KEY_12",
    };
    let mut all = vec![
        RunEvent::Discovering,
        RunEvent::Starting,
        RunEvent::Loaded {
            tokens: 12,
            providers: 12,
        },
        RunEvent::Withheld("ANTHROPIC_API_KEY, ANTHROPIC_API_KEY_2".into()),
        RunEvent::Watching,
        RunEvent::ExposedFile {
            path: "~/.config/ddollar/tokens".into(),
            fix: "chmod 600",
        },
        RunEvent::Unwatched {
            provider: by_name("huggingface").unwrap(),
            why: None,
        },
        RunEvent::Client {
            name: "claude",
            added: "--settings, --session-id, CLAUDE_CODE_RESUME_INTERRUPTED_TURN=1".into(),
        },
        RunEvent::OtherCredential("ANTHROPIC_AUTH_TOKEN"),
        RunEvent::NoState,
        RunEvent::StartsWith(token(anthropic, true)),
        RunEvent::MonitorStarted(Duration::from_secs(5000)),
        RunEvent::SessionResumed,
        RunEvent::Unrehearsed,
        RunEvent::Repeated(vec![token(anthropic, true), token(azure, true)]),
        RunEvent::InputIsReadOnce,
        RunEvent::AutoRotating,
        RunEvent::Switched(token(anthropic, true)),
        RunEvent::TurnFailed,
        RunEvent::NoNextToken,
        RunEvent::Stalled {
            span: Duration::from_secs(86_399),
            sees_requests: true,
            then: AfterStall::GivenUp,
        },
        RunEvent::AllExhausted,
        RunEvent::WaitingForProvider {
            provider: azure,
            span: Duration::from_secs(299),
            at: now,
            at_most: None,
        },
        RunEvent::WaitingForProvider {
            provider: azure,
            span: Duration::from_secs(40),
            at: now,
            at_most: Some(Duration::from_secs(90)),
        },
        RunEvent::Pausing(Duration::from_secs(86_399)),
        RunEvent::Resuming,
        RunEvent::SessionContinued,
        RunEvent::ForcingKill,
        RunEvent::StoppedByHand,
        RunEvent::ContinuedByHand,
        RunEvent::NeedsTerminal,
        RunEvent::Unkillable(12),
        RunEvent::NotStarted("Text file busy".into()),
        RunEvent::AskRotate(Some(Duration::from_secs(86_399))),
        RunEvent::AskExhausted,
        RunEvent::NoSuchChoice,
        RunEvent::KeepingOn,
        RunEvent::Saved { kept: true },
        RunEvent::Completed,
        RunEvent::Failed(ExitStatus::Signal(Signal::SIGTERM as i32)),
        RunEvent::Retrying {
            number: 10,
            of: 12,
            span: Duration::from_secs(299),
        },
        RunEvent::ShortLives,
        RunEvent::NeverHeard,
        RunEvent::NoneLeft(azure),
        RunEvent::AnswersAgain(azure),
        RunEvent::Unclear {
            provider: anthropic,
            why: "a web page came back in the place of an answer".into(),
        },
        RunEvent::Unclear {
            provider: azure,
            why: "access is refused, maybe not for the token".into(),
        },
        RunEvent::MonitorLost,
        RunEvent::ThroughProxy {
            added: "ANTHROPIC_BASE_URL, ENABLE_TOOL_SEARCH=true".into(),
            does_without: Some("Remote Control"),
        },
        RunEvent::Offered {
            address: "127.0.0.1:41414".into(),
            several: true,
        },
        RunEvent::InPlace,
        RunEvent::NotThrough,
        RunEvent::ProxyListening("127.0.0.1:41414".into()),
        RunEvent::ProxyLines("/home/user/.local/state/ddollar/proxy.env".into()),
        RunEvent::ProxyStopping(Duration::from_secs(30)),
        RunEvent::ProxyStopped,
        RunEvent::Circle,
        RunEvent::WorkUnits {
            done: 155,
            open: 155,
            finished: false,
            repeated: 155,
        },
    ];
    for why in [
        "is not a JSON object",
        "has hooks that are no JSON object",
        "has an env that is no JSON object",
    ] {
        all.push(RunEvent::NoHooks(why));
    }
    for model in ["", "some"] {
        for row in crate::providers::PROVIDERS {
            if let Some(why) = row.unwatched(row.base_url, model) {
                all.push(RunEvent::Unwatched {
                    provider: row,
                    why: Some(why),
                });
            }
        }
    }
    for limit in [
        Limit::Near { used: 1.0 },
        Limit::Reached,
        Limit::SpendCap,
        Limit::Rejected,
    ] {
        all.push(RunEvent::Limit {
            token: token(azure, true),
            limit,
            scope: None,
            until: None,
            window: None,
            said: None,
        });
    }
    for abandoned in [false, true] {
        all.push(RunEvent::HoldOver {
            token: token(azure, true),
            abandoned,
        });
    }
    for silence in [
        ProbeFailure::Overloaded,
        ProbeFailure::OutOfReach,
        ProbeFailure::Doubtful,
    ] {
        all.push(RunEvent::Silent {
            provider: azure,
            silence,
            why: None,
        });
    }
    for quotas in [1, 11] {
        all.push(RunEvent::Quotas {
            provider: azure,
            tokens: 12,
            quotas,
        });
    }
    for seconds in [
        5, 3599, 7_199, 35_999, 86_399, 300_000, 359_999, 600_000, 3_000_000,
    ] {
        let span = Duration::from_secs(seconds);
        let at = now + span;
        for several in [false, true] {
            let mut token = token(anthropic, several);
            token.id.index = 8;
            token.of = 9;
            all.push(RunEvent::WaitingForReset {
                token,
                span,
                at,
                now,
                held: true,
            });
        }
        all.push(RunEvent::StillWaiting { span, at, now });
        all.push(RunEvent::ModelSpent {
            token: token(azure, false),
            model: "claude-opus-5-5".into(),
            at,
            now,
        });
        for to in [Some("claude-sonnet-5-5".into()), None] {
            all.push(RunEvent::FellBack {
                token: token(azure, true),
                model: "claude-opus-5-5".into(),
                to,
            });
        }
        all.push(RunEvent::MaxTokens {
            spent: 1_999_999_999_999,
            most: 999_900_000_000,
        });
        all.push(RunEvent::TooLong {
            index: Some(11),
            at,
            now,
        });
    }
    let mut wide = all;
    wide.retain(|notice| {
        let Message { mark, text } = notice.message().unwrap();
        let text = mark.text(true).to_owned() + &text;
        text.lines().any(|line| columns(line) > 80)
    });
    let wide: Vec<String> = wide
        .iter()
        .filter_map(|event| Some(event.message()?.text.into_owned()))
        .collect();
    assert!(wide.is_empty(), "{wide:#?}");
}

#[test]
fn the_monitor_line_reads_as_in_the_transcript() {
    let window = |name: &str, limit: u64, remaining: u64| Window {
        name: name.into(),
        limit: Some(limit),
        remaining: Some(remaining),
        utilization: 1.0 - remaining as f64 / limit as f64,
        resets_at: None,
    };
    let usage = Usage {
        windows: vec![
            window("requests", 1000, 48),
            window("tokens", 50_000, 4_877),
        ],
    };
    let event = RunEvent::Checked {
        token: TokenRef {
            id: TokenId { ring: 0, index: 0 },
            of: 1,
            provider: by_name("anthropic").unwrap(),
            several: false,
            name: "",
        },
        reading: Ok(Reading {
            usage,
            finding: Finding::Served,
            quota_group: None,
            said: None,
        }),
    };
    assert_eq!(
        event.message().unwrap().text,
        "Monitor: Anthropic - Requests: 952/1000 (95.2%), Tokens: 45123/50000 (90.2%) [token 1]"
    );
}

#[test]
fn a_limit_that_is_near_never_reads_as_full() {
    let now = crate::common::time::Now {
        wall: SystemTime::UNIX_EPOCH,
        tick: std::time::Instant::now(),
    };
    let near = Condition::NearLimit {
        until: crate::common::time::Until::after(Duration::ZERO, now),
    };
    let says = |used| Limit::of(near, Some(used)).words(1);
    for (used, text) in [(0.952, "95%"), (0.9999, "99%"), (0.97, "97%")] {
        let line = format!("Token limit approaching ({text} used)");
        assert_eq!(says(used), line);
    }
    for used in [1.0, 1.02] {
        assert_eq!(says(used), "Token limit reached");
    }
}
