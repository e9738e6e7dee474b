//! Plays the built-in night in virtual time against the pure code: a worker of about ten requests a
//! second, a probe every second, a policy of the plainest kind. Guards the arithmetic of `night.json`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::respond::respond;
use super::scenario::{NIGHT_UNITS, Scenario};
use super::state::State;
use super::wire::{Body, Request};

/// The numbers of one played night; times in milliseconds since the start.
#[derive(Debug, Default)]
struct Night {
    rotations: Vec<u64>,
    waits: Vec<(u64, u64)>,
    limited: u32,
    finished: u64,
}

/// How fast everything is, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// From one work unit to the next.
    unit: u64,
    /// From the start to the first probe of the interval.
    phase: u64,
    /// From a probe over the threshold to the stopped child.
    reaction: u64,
    /// From the decision to the next child's first request.
    restart: u64,
    /// Where in its second the wall clock stands at the start.
    clock: u64,
}

struct Player {
    state: State,
    tokens: Vec<String>,
    start: SystemTime,
}

impl Player {
    /// One request: status, the used part of the requests limit, and milliseconds from `Date` to reset.
    fn ask(&mut self, now: u64, token: usize, max_tokens: u32, agent: &str) -> (u16, f64, u64) {
        let body = json!({ "model": "m", "max_tokens": max_tokens,
            "messages": [{ "role": "user", "content": "." }] });
        let request = Request {
            method: "POST".to_owned(),
            target: "/v1/messages".to_owned(),
            headers: vec![
                ("x-api-key".to_owned(), self.tokens[token].clone()),
                ("user-agent".to_owned(), agent.to_owned()),
            ],
            body: body.to_string().into_bytes(),
            ..Request::default()
        };
        let now = Duration::from_millis(now);
        let (response, _) = respond(&mut self.state, now, self.start + now, &request);
        let Body::Whole(_) = response.body else {
            panic!("a stream")
        };
        let header = |name: &str| {
            let mut headers = response.headers.iter();
            headers
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.as_str())
        };
        let number = |name| header(name).unwrap().parse::<f64>().unwrap();
        let limit = number("anthropic-ratelimit-requests-limit");
        let remaining = number("anthropic-ratelimit-requests-remaining");
        let reset = header("anthropic-ratelimit-requests-reset").unwrap();
        let reset: SystemTime = reset.parse::<jiff::Timestamp>().unwrap().into();
        let date = self.start + now;
        let seconds = date.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let date = UNIX_EPOCH + Duration::from_secs(seconds);
        let ahead = reset.duration_since(date).unwrap_or_default();
        let ahead = u64::try_from(ahead.as_millis()).unwrap();
        (response.status, 1.0 - remaining / limit, ahead)
    }
}

fn play(pace: Pace) -> Night {
    let scenario = Scenario::night();
    let tokens = scenario.tokens_of("anthropic");
    let start = UNIX_EPOCH + Duration::from_millis(1_795_337_377_000 + pace.clock);
    let mut player = Player {
        state: State::new(scenario),
        tokens,
        start,
    };
    let mut night = Night::default();
    let (mut token, mut units) = (0, 0);
    let mut next_unit = 50;
    let mut next_probe = 1000 + pace.phase;
    // The probe of every token at the start.
    for index in 0..3 {
        assert!(player.ask(1, index, 0, "ddollar/0").1 < 0.85);
    }
    let mut now = 1;
    while units < NIGHT_UNITS {
        assert!(now < 120_000, "no end: {night:?}");
        now += 1;
        if now >= next_unit {
            let (status, ..) = player.ask(now, token, 64, "worker");
            match status {
                200 => units += 1,
                429 => night.limited += 1,
                _ => panic!("status {status}"),
            }
            next_unit = now + pace.unit;
        }
        if now < next_probe {
            continue;
        }
        next_probe = now + 1000;
        let (_, used, _) = player.ask(now, token, 0, "ddollar/0");
        if used <= 0.95 {
            continue;
        }
        // The worker goes on while the decision is made.
        let decided = now + pace.reaction;
        while next_unit < decided {
            night.limited += u32::from(player.ask(next_unit, token, 64, "worker").0 == 429);
            units += 1;
            next_unit += pace.unit;
        }
        now = decided;
        let others = [(token + 1) % 3, (token + 2) % 3];
        let mut resets = vec![(player.ask(now, token, 0, "ddollar/0").2, token)];
        let mut rotated = false;
        for other in others {
            let (_, used, ahead) = player.ask(now, other, 0, "ddollar/0");
            // Neither the 10 points for a token that was left nor the threshold for a new one is near.
            assert!(!(0.75..=0.945).contains(&used), "token {other} at {used}");
            if used < 0.85 {
                token = other;
                night.rotations.push(now);
                rotated = true;
                break;
            }
            resets.push((ahead, other));
        }
        if !rotated {
            let (ahead, earliest) = resets.into_iter().min().unwrap();
            assert_eq!(
                (token, earliest),
                (2, 2),
                "organization 3 is the one to wait for"
            );
            night.waits.push((now, now + ahead));
            now += ahead;
            assert!(
                player.ask(now, token, 0, "ddollar/0").1 < 0.85,
                "full at the advertised reset"
            );
        }
        next_unit = now + pace.restart;
        next_probe = now + 1000;
    }
    night.finished = now;
    night
}

/// Every combination of paces, with `reactions` for the slowest of the answers.
fn paces(reactions: [u64; 3]) -> Vec<Pace> {
    let mut paces = Vec::new();
    for unit in [100, 104, 115, 150] {
        for phase in [0, 250, 500, 900] {
            for reaction in reactions {
                for clock in [0, 500, 990] {
                    paces.push(Pace {
                        unit,
                        phase,
                        reaction,
                        restart: 80,
                        clock,
                    });
                }
            }
        }
    }
    paces
}

#[test]
fn the_night_has_two_rotations_one_wait_and_no_429() {
    for pace in paces([0, 50, 250]) {
        let night = play(pace);
        let seen = format!("{pace:?} {night:?}");
        assert_eq!(night.limited, 0, "{seen}");
        assert_eq!(night.rotations.len(), 2, "{seen}");
        assert_eq!(night.waits.len(), 1, "{seen}");
        assert!(night.rotations[1] < night.waits[0].0, "{seen}");
        let waited = night.waits[0].1 - night.waits[0].0;
        assert!((2_500..=6_500).contains(&waited), "{seen}");
        assert!(night.finished > night.waits[0].1, "{seen}");
        assert!(night.finished < 35_000, "{seen}");
    }
}

#[test]
fn a_slow_supervisor_meets_no_429_either() {
    for pace in paces([500, 1000, 2000]) {
        let night = play(pace);
        assert_eq!(night.limited, 0, "{pace:?} {night:?}");
        assert_eq!(night.rotations.len(), 2, "{pace:?} {night:?}");
    }
}

#[test]
fn the_usual_night_takes_about_twenty_seconds() {
    let night = play(Pace {
        unit: 103,
        phase: 50,
        reaction: 50,
        restart: 60,
        clock: 400,
    });
    println!("{night:?}");
    assert_eq!(night.limited, 0);
    assert!((3_500..=6_000).contains(&night.rotations[0]), "{night:?}");
    assert!(
        (3_500..=6_000).contains(&(night.rotations[1] - night.rotations[0])),
        "{night:?}"
    );
    assert!(
        (3_500..=6_000).contains(&(night.waits[0].0 - night.rotations[1])),
        "{night:?}"
    );
    assert!(
        (4_000..=6_500).contains(&(night.waits[0].1 - night.waits[0].0)),
        "{night:?}"
    );
    assert!(
        (500..=5_000).contains(&(night.finished - night.waits[0].1)),
        "{night:?}"
    );
    assert!((17_000..=22_500).contains(&night.finished), "{night:?}");
}

#[test]
fn the_scenario_for_a_command_spends_one_organization_after_the_other() {
    let mut state = State::new(Scenario::for_command());
    let used = |state: &State| -> Vec<bool> {
        (0..6)
            .map(|token| state.windows(token)[0].remaining <= 45)
            .collect()
    };
    for (second, expected) in [
        (4, [false, false, false]),
        (6, [true, false, false]),
        (13, [true, true, false]),
        (20, [true, true, true]),
        (24, [true, true, true]),
        (25, [true, true, false]),
    ] {
        state.advance(Duration::from_secs(second));
        assert_eq!(used(&state), [expected, expected].concat(), "at {second} s");
    }
}
