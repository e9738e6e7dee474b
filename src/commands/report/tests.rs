//! Records of nights, and the picture that each becomes.

use super::timeline::{Activity, End, Entry};
use super::*;
use crate::events::schema::{
    Cause, Ending, Level, LimitHit, Millis, Record, RecordedRing, Run, Verdict, Who,
};
use crate::system::exit_status::ExitStatus;
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// 2026-01-01T22:00:00Z
const EVENING: Millis = 1_767_304_800_000;
const MINUTE: Millis = 60_000;

const PLAIN: Style = Style {
    utf8: false,
    colour: false,
    width: 80,
};

fn who(token: usize) -> Who {
    Who {
        provider: "anthropic".into(),
        token,
    }
}

fn head(tokens: usize) -> Record {
    Record::Run(Run {
        schema: 1,
        version: "0.3.0".into(),
        pid: 7,
        command: "claude --continue".into(),
        threshold: 0.95,
        rehearsal: false,
        providers: vec![RecordedRing {
            name: "anthropic".into(),
            label: "Anthropic".into(),
            tokens,
            names: ["…k7Qw, ANTHROPIC_API_KEY", "…x2Lp, tokens:1"]
                .map(String::from)
                .into(),
        }],
    })
}

fn used(token: usize, used: f64) -> Record {
    Record::Usage {
        who: who(token),
        finding: Verdict::Served,
        why: None,
        group: None,
        windows: vec![Level {
            name: "requests".into(),
            used,
            limit: None,
            remaining: None,
            resets: None,
        }],
        left_out: 0,
    }
}

fn near(token: usize, minute: Millis) -> Record {
    Record::Limit(LimitHit {
        who: who(token),
        cause: Cause::Near,
        used: Some(0.96),
        until: Some(EVENING + minute * MINUTE),
        window: Some("input-tokens".into()),
        why: None,
    })
}

/// Two tokens: an hour with each, then half an hour of waiting, then half an hour of work.
fn night() -> Vec<(Millis, Record)> {
    let launch = |again, token| Record::Launch {
        again,
        tokens: vec![token],
    };
    let exit = Record::Exit {
        how: ExitStatus::Signal(15),
        asked: true,
    };
    vec![
        (0, head(2)),
        (0, launch(false, 1)),
        (1, used(1, 0.1)),
        (1, used(2, 0.2)),
        (60, used(1, 0.96)),
        (60, near(1, 300)),
        (60, Record::Stop),
        (61, exit),
        (
            62,
            Record::Rotate {
                who: who(2),
                from: 1,
            },
        ),
        (62, launch(true, 2)),
        (90, used(2, 0.5)),
        (120, used(2, 0.96)),
        (120, near(2, 150)),
        (
            120,
            Record::Wait {
                provider: "anthropic".into(),
                token: Some(2),
                until: EVENING + 150 * MINUTE,
                held: false,
            },
        ),
        (120, Record::Pause),
        (151, used(2, 0.0)),
        (151, Record::Resume),
        (
            180,
            Record::Exit {
                how: ExitStatus::Code(0),
                asked: false,
            },
        ),
        (180, Record::End(Ending::AsCommand(ExitStatus::Code(0)))),
    ]
}

fn lines(facts: &[(Millis, Record)]) -> String {
    let line = |(minute, fact): &(Millis, Record)| fact.json(EVENING + minute * MINUTE) + "\n";
    facts.iter().map(line).collect()
}

fn read(text: &str, now: Option<Millis>) -> Result<Timeline, NoTimeline> {
    Timeline::read(text.split_inclusive('\n'), now)
}

fn drawn(night: &Timeline, width: usize) -> String {
    text(night, TimeZone::UTC, Style { width, ..PLAIN })
}

#[test]
fn a_token_that_was_added_during_the_run_has_a_lane_of_its_own() {
    let mut records = night();
    records[0].1 = head(1);
    let night = read(&lines(&records), None).unwrap();
    records[0].1 = head(2);
    let known_from_the_start = read(&lines(&records), None).unwrap();
    assert_eq!(drawn(&night, 80), drawn(&known_from_the_start, 80));
}

/// Three tokens one after the other within an hour: a command with one token would have waited for the
/// last of their resets, not for each.
#[test]
fn what_is_saved_is_the_union_of_the_times() {
    let rotate = |token, from| Record::Rotate {
        who: who(token),
        from,
    };
    let facts = [
        (0, head(3)),
        (
            0,
            Record::Launch {
                again: false,
                tokens: vec![1],
            },
        ),
        (10, near(1, 120)),
        (10, rotate(2, 1)),
        (30, near(2, 150)),
        (30, rotate(3, 2)),
        (40, near(3, 60)),
        (40, rotate(1, 3)),
        (200, near(1, 220)),
        (200, rotate(2, 1)),
    ];
    let night = read(&lines(&facts), None).unwrap();
    assert_eq!(night.saved, (150 - 10 + 20) * MINUTE);
}

#[test]
fn a_night_is_told_on_one_screen() {
    let night = read(&lines(&night()), None).unwrap();
    assert_eq!(
        drawn(&night, 80),
        "\
claude --continue
2026-01-01 22:00:00 to 2026-01-02 01:00:00 (3h): finished

           22:00     22:30      23:00      23:30     00:00      00:30
token 1/2  1111111111111111111119                                            96%
token 2/2  2                     222222222255555555559999999999990000000000   0%
command    =====================-R===================............==========
           0 to 9, #: tenths used  = works  . waits  - restarts  R next token

22:00:00  > Started with token 1/2
23:00:00  ! Token 1/2 is near its limit: LLM input tokens, 96% used, resets
            03:00:00
23:02:00  R Rotated to token 2/2 (the restart took 2m)
00:00:00  ! Token 2/2 is near its limit: LLM input tokens, 96% used, resets
            00:30:00
00:00:00  W Waited 31m for token 2/2: promised 00:30:00, usable 00:31:00 (+1m)
01:00:00  * Finished

Worked 2h 27m, waited 31m, restarting 2m
2 starts, 1 rotation, 1 wait; 6 checks
Without ddollar it would have met its first limit at 23:00:00
Saved about 3h 58m of waiting for resets
Anthropic: 1 ...k7Qw, ANTHROPIC_API_KEY; 2 ...x2Lp, tokens:1
"
    );
}

#[test]
fn what_the_signs_mean_is_told_on_a_narrow_screen_too() {
    let night = read(&lines(&night()), None).unwrap();
    for utf8 in [true, false] {
        let style = Style {
            utf8,
            width: 40,
            ..PLAIN
        };
        let text = text(&night, TimeZone::UTC, style);
        let (lanes, _) = text.split_once("\n\n22:00:00").unwrap();
        assert!(lanes.ends_with(" next token"), "{text}");
        assert!(
            lanes.contains(" works ") && !lanes.contains("..\n"),
            "{text}"
        );
        assert!(
            lanes.lines().all(|line| line.chars().count() <= 40),
            "{text}"
        );
    }
}

#[test]
fn before_the_first_start_and_behind_the_end_nothing_is_restarted() {
    let exit = Record::Exit {
        how: ExitStatus::Code(0),
        asked: false,
    };
    let launch = Record::Launch {
        again: false,
        tokens: vec![1],
    };
    let end = Record::End(Ending::AsCommand(ExitStatus::Code(0)));
    let facts = [(-1, head(1)), (0, launch), (10, exit), (11, end)];
    let run = read(&lines(&facts), None).unwrap();
    assert_eq!(run.time(Activity::Working), 10 * MINUTE);
    assert_eq!(run.time(Activity::Restarting), 0);
    let text = drawn(&run, 80);
    assert!(text.contains("\nWorked 10m, waited 0s\n"), "{text}");
}

#[test]
fn times_are_those_of_the_zone() {
    let night = read(&lines(&night()), None).unwrap();
    let zone = TimeZone::fixed(jiff::tz::offset(5));
    let text = text(&night, zone, PLAIN);
    assert!(
        text.contains("2026-01-02 03:00:00 to 06:00:00 (3h)"),
        "{text}"
    );
    assert!(text.contains("03:00:00  > Started"), "{text}");
}

#[test]
fn a_run_that_goes_on_is_told_until_now() {
    let mut facts = night();
    facts.truncate(15);
    let now = Some(EVENING + 140 * MINUTE);
    // The last line is being written.
    let torn = lines(&facts) + "{\"at\":\"2026-01-02T00:1";
    let night = read(&torn, now).unwrap();
    assert_eq!((night.end.clone(), night.damaged), (End::Open, 0));
    assert_eq!(night.time(Activity::Waiting), 20 * MINUTE);
    let text = drawn(&night, 80);
    assert!(
        text.contains("to 2026-01-02 00:20:00 (2h 20m): still running"),
        "{text}"
    );
    assert!(
        text.contains("W Waiting for token 2/2: promised 00:30:00"),
        "{text}"
    );

    let night = read(&torn, None).unwrap();
    assert_eq!((night.end.clone(), night.damaged), (End::CutOff, 1));
    let text = drawn(&night, 80);
    assert!(text.contains("(2h): cut off, no end is recorded"), "{text}");
    assert!(
        text.contains("1 line of the journal could not be read"),
        "{text}"
    );
}

#[test]
fn what_is_not_known_is_counted_and_skipped() {
    let later = "{\"at\":\"2026-01-01T22:00:30Z\",\"event\":\"teleport\"}\n";
    let mut lines = lines(&night());
    let second = lines.find('\n').unwrap() + 1;
    lines.insert_str(second, later);
    let lines = lines.replacen("\"journal\":1", "\"journal\":9", 1);
    let night = read(&lines, None).unwrap();
    assert_eq!((night.unknown, night.damaged, night.starts), (1, 0, 2));
    let text = drawn(&night, 80);
    assert!(text.contains("a later one: 1 event not shown"), "{text}");
}

#[test]
fn the_last_run_of_a_file_counts() {
    let mut twice = lines(&night());
    twice.push_str(&lines(&night()[..2]));
    let night = read(&twice, None).unwrap();
    assert_eq!((night.starts, night.end), (1, End::CutOff));
}

#[test]
fn what_is_no_journal_is_said_to_be_none() {
    let unusable = |text| read(text, None).err();
    assert_eq!(unusable(""), Some(NoTimeline::Empty));
    assert_eq!(unusable("\n \n"), Some(NoTimeline::Empty));
    for text in [
        "root:x:0:0\n",
        "{}",
        "{\"event\":\"run\"}",
        "{\"at\":\"2026-01-01T22:00:00Z\",\"event\":\"pause\"}\n",
        "\u{fffd}\u{fffd}",
    ] {
        assert_eq!(unusable(text), Some(NoTimeline::NotAJournal), "{text}");
    }
}

/// Looking back through the story at each rotation takes minutes here, and twenty seconds optimized.
#[test]
fn a_week_of_rotations_is_read_once() {
    let (again, tokens) = (false, vec![1]);
    let mut facts = vec![(0, head(3)), (0, Record::Launch { again, tokens })];
    for minute in 1..50_000 {
        facts.push((minute, near(1, minute + 5)));
        let (who, from) = (who(3), 2);
        facts.push((minute, Record::Rotate { who, from }));
    }
    let lines = lines(&facts);
    let began = Instant::now();
    let night = read(&lines, None).unwrap();
    assert!(began.elapsed() < Duration::from_secs(40));
    assert_eq!((night.rotations, night.saved), (49_999, 0));
}

/// A line of some kilobytes must not become gigabytes.
#[test]
fn a_head_that_claims_more_tokens_than_anyone_has_costs_little() {
    let Record::Run(mut run) = head(10_000) else {
        unreachable!("a head is a run");
    };
    run.providers = vec![run.providers[0].clone(); 20];
    let night = read(&lines(&[(0, Record::Run(run))]), None).unwrap();
    assert_eq!(night.tracks.len(), 1000);
}

#[test]
fn a_child_that_fails_and_waits_is_not_said_to_work() {
    let exit = Record::Exit {
        how: ExitStatus::Code(1),
        asked: false,
    };
    let facts = [
        (0, head(1)),
        (
            0,
            Record::Launch {
                again: false,
                tokens: vec![1],
            },
        ),
        (10, exit),
        (
            10,
            Record::Wait {
                provider: "anthropic".into(),
                token: None,
                until: EVENING + 12 * MINUTE,
                held: false,
            },
        ),
        (
            15,
            Record::Launch {
                again: true,
                tokens: vec![1],
            },
        ),
        (20, Record::End(Ending::AgainLater)),
    ];
    let night = read(&lines(&facts), None).unwrap();
    assert_eq!(night.time(Activity::Working), 15 * MINUTE);
    assert_eq!(night.time(Activity::Waiting), 5 * MINUTE);
    assert!(
        night
            .story
            .iter()
            .any(|(_, chapter)| *chapter == Entry::Exited(ExitStatus::Code(1)))
    );
    let text = drawn(&night, 80);
    assert!(text.contains("Waited 5m for Anthropic to answer"), "{text}");
}

#[test]
fn a_rotation_behind_a_proxy_is_no_restart() {
    let seen = |token, share: f64| match used(token, share) {
        Record::Usage {
            who,
            why,
            group,
            mut windows,
            ..
        } => {
            windows[0].resets = Some(EVENING + 100 * MINUTE);
            Record::Usage {
                who,
                finding: Verdict::Seen,
                why,
                group,
                windows,
                left_out: 0,
            }
        }
        other => other,
    };
    let limit = Record::Limit(LimitHit {
        who: who(1),
        cause: Cause::Near,
        used: Some(0.96),
        until: None,
        window: None,
        why: None,
    });
    let rotate = Record::Rotate {
        who: who(2),
        from: 1,
    };
    let launch = Record::Launch {
        again: false,
        tokens: vec![1],
    };
    let facts = [
        (0, head(2)),
        (0, launch),
        (10, seen(1, 0.95)),
        (40, limit),
        (40, rotate),
        (50, seen(2, 0.1)),
        (60, Record::End(Ending::AgainLater)),
    ];
    let night = read(&lines(&facts), None).unwrap();
    assert_eq!((night.starts, night.rotations, night.checks), (1, 1, 0));
    assert_eq!(night.time(Activity::Working), 60 * MINUTE);
    assert_eq!(night.time(Activity::Restarting), 0);
    assert_eq!(night.saved, 60 * MINUTE);
    let steps = |track: usize| {
        let steps = night.tracks[track].steps.iter();
        let minute = |at: Millis| (at - EVENING) / MINUTE;
        let spans = steps.map(|step| (minute(step.from), minute(step.to)));
        spans.collect::<Vec<_>>()
    };
    assert_eq!((steps(0), steps(1)), (vec![(10, 40)], vec![(50, 60)]));
    let text = drawn(&night, 80);
    assert!(text.contains("R Rotated to token 2/2\n"), "{text}");
    assert!(
        text.contains("is near its limit: 96% used, resets 23:40:00"),
        "{text}"
    );
}

/// Requests for token 1 that a proxy held; in minutes.
fn holds(facts: &[(Millis, Record)]) -> Timeline {
    let launch = Record::Launch {
        again: false,
        tokens: vec![1],
    };
    let mut all = vec![(0, head(1)), (0, launch)];
    all.extend_from_slice(facts);
    all.push((60, Record::End(Ending::AgainLater)));
    read(&lines(&all), None).unwrap()
}

fn hold(until: Millis) -> Record {
    Record::Wait {
        provider: "anthropic".into(),
        token: Some(1),
        until: EVENING + until * MINUTE,
        held: true,
    }
}

fn release(token: Option<usize>) -> Record {
    Record::Release {
        provider: "anthropic".into(),
        token,
    }
}

#[test]
fn requests_that_a_proxy_holds_are_a_wait() {
    let night = holds(&[(10, hold(15)), (12, hold(18)), (20, release(Some(1)))]);
    assert_eq!(night.waits.len(), 1);
    assert_eq!(night.time(Activity::Waiting), 10 * MINUTE);
    assert_eq!(night.time(Activity::Working), 50 * MINUTE);
    let text = drawn(&night, 80);
    let told = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        told.contains(
            "Held requests 10m for token 1/1: promised 22:18:00, went out 22:20:00 (+2m)"
        ),
        "{text}"
    );
    let value: serde_json::Value = serde_json::from_str(&json(&night)).unwrap();
    let wait = &value["waits"][0];
    assert_eq!(
        (&wait["held"], &wait["usable"], &wait["to"]),
        (
            &true.into(),
            &"2026-01-01T22:20:00.000Z".into(),
            &"2026-01-01T22:20:00.000Z".into()
        )
    );

    let night = holds(&[(10, hold(15)), (12, release(None))]);
    assert_eq!(night.time(Activity::Waiting), 2 * MINUTE);
    assert!(drawn(&night, 100).contains("promised 22:15:00, given up"));
    let night = holds(&[(10, hold(15))]);
    assert!(drawn(&night, 80).contains("Holding requests for token 1/1: promised 22:15:00"));
}

/// The reset turned out to be too far away: the command is paused while its requests are held.
#[test]
fn a_hold_that_becomes_a_pause_is_one_wait() {
    let Record::Wait {
        provider, token, ..
    } = hold(0)
    else {
        unreachable!("a hold is a wait");
    };
    let wait = Record::Wait {
        provider,
        token,
        until: EVENING + 40 * MINUTE,
        held: false,
    };
    let night = holds(&[
        (10, hold(15)),
        (12, wait),
        (12, Record::Pause),
        (40, release(Some(1))),
        (41, Record::Resume),
    ]);
    let [wait] = &night.waits[..] else {
        panic!("{:?}", night.waits);
    };
    assert_eq!(wait.to, Some(EVENING + 41 * MINUTE));
    assert!(!wait.held);
    assert_eq!(night.time(Activity::Waiting), 31 * MINUTE);
}

/// Before there were releases, the end of a hold was not told: such a wait is a promise only.
#[test]
fn the_journal_of_an_earlier_ddollar_reads_as_before() {
    let line = hold(15).json(EVENING + 10 * MINUTE);
    let earlier = line.replace(",\"held\":true", "");
    assert_ne!(line, earlier);
    let text = lines(&[
        (0, head(1)),
        (
            0,
            Record::Launch {
                again: false,
                tokens: vec![1],
            },
        ),
    ]) + &earlier
        + "\n"
        + &lines(&[(60, Record::End(Ending::AgainLater))]);
    let night = read(&text, None).unwrap();
    assert_eq!((night.waits.len(), night.unknown, night.damaged), (0, 0, 0));
    assert_eq!(night.time(Activity::Working), 60 * MINUTE);
}

#[test]
fn the_json_names_what_the_text_tells() {
    let night = read(&lines(&night()), None).unwrap();
    let value: serde_json::Value = serde_json::from_str(&json(&night)).unwrap();
    assert_eq!(value["end"]["outcome"], "as-command");
    assert_eq!(value["seconds"]["waited"], 31.0 * 60.0);
    assert_eq!(value["rotations"], 1);
    assert_eq!(value["waits"][0]["promised"], "2026-01-02T00:30:00.000Z");
    assert_eq!(value["tokens"][0]["used"].as_array().unwrap().len(), 2);
}

#[test]
fn checks_that_have_no_line_are_counted() {
    let mut check = used(1, 0.5);
    if let Record::Usage { left_out, .. } = &mut check {
        *left_out = 20;
    }
    let night = read(
        &lines(&[(0, head(1)), (1, used(1, 0.4)), (22, check)]),
        None,
    )
    .unwrap();
    assert_eq!(night.checks, 22);
}

#[test]
fn of_a_run_with_more_events_than_anybody_reads_the_newest_are_told_and_all_are_counted() {
    let launch = |again| Record::Launch {
        again,
        tokens: vec![1],
    };
    let wait = |minute| Record::Wait {
        provider: "anthropic".into(),
        token: Some(1),
        until: EVENING + minute * MINUTE,
        held: false,
    };
    let waits = 2_400;
    let text = (0..waits).map(|minute| {
        lines(&[
            (2 * minute, wait(2 * minute + 1)),
            (2 * minute, Record::Pause),
            (2 * minute + 1, Record::Resume),
        ])
    });
    let first = lines(&[(0, head(1)), (0, launch(false))]);
    let end = Ending::AsCommand(ExitStatus::Code(0));
    let last = lines(&[(2 * waits, Record::End(end))]);
    let night = Timeline::read(
        std::iter::once(first)
            .chain(text)
            .chain([last])
            .flat_map(|text| {
                text.split_inclusive('\n')
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            }),
        None,
    )
    .unwrap();
    assert_eq!(night.time(Activity::Waiting), waits * MINUTE);
    assert!(night.waits.len() <= 2_000 && night.story.len() <= 2_000);
    let drawn = drawn(&night, 80);
    assert!(
        drawn.contains("finished") && drawn.contains("2400 waits"),
        "{drawn}"
    );
    assert!(drawn.contains("1000 earlier events not shown"), "{drawn}");
    // Each that is told has its wait.
    let value: serde_json::Value = serde_json::from_str(&json(&night)).unwrap();
    let told = value["story"].as_array().unwrap();
    let waits = value["waits"].as_array().unwrap();
    let number = told[told.len() - 2]["wait"].as_u64().unwrap();
    assert_eq!(number, waits.len() as u64 - 1);
}

/// A picture without markup that the text has brought in.
#[test]
fn the_svg_escapes_what_it_quotes() {
    let mut facts = night();
    let text = "<script>&\"'\u{ffff}".to_owned();
    facts.insert(3, (1, Record::Note { text }));
    let night = read(&lines(&facts), None).unwrap();
    let svg = svg(&night, TimeZone::UTC);
    assert!(
        svg.contains("&lt;script&gt;&amp;\"'\u{fffd}</text>"),
        "{svg}"
    );
    assert!(svg.contains("prefers-color-scheme:dark"));
    assert!(!svg.contains("<script") && !svg.contains("href") && !svg.contains("url("));
}

proptest! {
    #[test]
    fn any_facts_in_any_order_make_a_night(
        facts in proptest::collection::vec((0..10_000i64, crate::events::schema::tests::fact()), 0..60),
        tokens in 0..20usize,
        width in 20usize..=80,
        utf8 in any::<bool>(),
        going_on in any::<bool>(),
    ) {
        let mut text = lines(&[(0, head(tokens))]);
        text.push_str(&lines(&facts));
        let night = read(&text, going_on.then_some(EVENING)).unwrap();
        prop_assert!(night.to >= night.from);
        for spans in night.spans.windows(2) {
            prop_assert!(spans[0].from < spans[0].to && spans[0].to <= spans[1].from);
        }
        let drawn = super::text(&night, TimeZone::UTC, Style { utf8, width, ..PLAIN });
        prop_assert!(utf8 || drawn.is_ascii());
        for line in drawn.lines() {
            prop_assert!(line.chars().count() <= width, "{}", line);
            prop_assert!(!line.chars().any(char::is_control));
        }
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&json(&night));
        prop_assert!(parsed.is_ok());
        prop_assert!(svg(&night, TimeZone::UTC).ends_with("</svg>\n"));
    }

    #[test]
    fn any_text_is_a_night_or_none(text in "(\\PC|\n)*") {
        let _ = read(&text, None);
    }
}
