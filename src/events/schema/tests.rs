//! The record's lines: written, read again, and read when they are none.

use super::*;
use proptest::option::of;
use proptest::prelude::*;

/// Texts as they come back: all characters visible, and not too long. Beside those of Unicode's
/// category C, the separators of lines and paragraphs are replaced.
fn text() -> impl Strategy<Value = String> {
    r"[\PC--[\u{2028}\u{2029}]]{0,30}"
}

fn at() -> impl Strategy<Value = Millis> {
    // Years 1970 to 9999, which RFC 3339 can write.
    0..253_402_300_799_999i64
}

fn fraction() -> impl Strategy<Value = f64> {
    (0..3000u32).prop_map(|thousandths| f64::from(thousandths) / 1000.0)
}

fn who() -> impl Strategy<Value = Who> {
    (text(), 1..100usize).prop_map(|(provider, token)| Who { provider, token })
}

fn how() -> impl Strategy<Value = ExitStatus> {
    prop_oneof![
        any::<u8>().prop_map(ExitStatus::Code),
        (1..65i32).prop_map(ExitStatus::Signal)
    ]
}

fn level() -> impl Strategy<Value = Level> {
    let numbers = (of(any::<u64>()), of(any::<u64>()), of(at()));
    (text(), fraction(), numbers).prop_map(|(name, used, (limit, remaining, resets))| Level {
        name,
        used,
        limit,
        remaining,
        resets,
    })
}

fn run() -> impl Strategy<Value = Run> {
    let names = proptest::collection::vec(text(), 0..4);
    let rings = proptest::collection::vec((text(), text(), 0..100usize, names), 0..4);
    (any::<u32>(), text(), text(), fraction(), rings).prop_map(
        |(pid, version, command, threshold, rings)| Run {
            schema: u64::from(pid),
            version,
            pid,
            command,
            threshold,
            providers: rings
                .into_iter()
                .map(|(name, label, tokens, names)| RecordedRing {
                    name,
                    label,
                    tokens,
                    names,
                })
                .collect(),
            rehearsal: pid % 2 == 0,
        },
    )
}

pub(crate) fn fact() -> impl Strategy<Value = Record> {
    let windows = proptest::collection::vec(level(), 0..3);
    let verdict = proptest::sample::select(VERDICTS).prop_map(|(verdict, _)| verdict);
    let cause = proptest::sample::select(CAUSES).prop_map(|(cause, _)| cause);
    let tokens = proptest::collection::vec(0..100usize, 0..4);
    prop_oneof![
        run().prop_map(Record::Run),
        (any::<bool>(), tokens).prop_map(|(again, tokens)| Record::Launch { again, tokens }),
        (who(), verdict, of(text()), of(text()), windows, 0..3u64).prop_map(
            |(who, finding, why, group, windows, left_out)| Record::Usage {
                who,
                finding,
                why,
                group,
                windows,
                left_out,
            }
        ),
        (who(), text(), any::<[u64; 7]>()).prop_map(|(who, model, counts)| {
            let [answers, counted, instead, tokens @ ..] = counts;
            let tokens = LlmTokens(tokens);
            Record::Spent {
                who,
                model,
                spent: Spent {
                    answers,
                    counted,
                    instead,
                    tokens,
                },
            }
        }),
        (
            who(),
            cause,
            of(fraction()),
            of(at()),
            of(text()),
            of(text())
        )
            .prop_map(|(who, cause, used, until, window, why)| {
                Record::Limit(LimitHit {
                    who,
                    cause,
                    used,
                    until,
                    window,
                    why,
                })
            }),
        (who(), 1..100usize).prop_map(|(who, from)| Record::Rotate { who, from }),
        (text(), of(1..100usize), at(), any::<bool>()).prop_map(
            |(provider, token, until, held)| Record::Wait {
                provider,
                token,
                until,
                held,
            }
        ),
        (text(), of(1..100usize)).prop_map(|(provider, token)| Record::Release { provider, token }),
        Just(Record::Pause),
        Just(Record::Resume),
        (any::<u64>(), any::<bool>())
            .prop_map(|(seconds, restart)| Record::Stall { seconds, restart }),
        Just(Record::Stop),
        (how(), any::<bool>()).prop_map(|(how, asked)| Record::Exit { how, asked }),
        text().prop_map(|text| Record::Note { text }),
        any::<u64>().prop_map(|lines| Record::Lost { lines }),
        how().prop_map(|how| Record::End(Ending::AsCommand(how))),
        (1..65i32).prop_map(|signal| Record::End(Ending::BySignal(signal))),
        Just(Record::End(Ending::AgainLater)),
        text().prop_map(|text| Record::End(Ending::Failure(text))),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(fact in fact(), at in at()) {
        let line = fact.json(at);
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(read(&line), Ok((at, fact)));
    }

    #[test]
    fn half_a_line_is_damaged(fact in fact(), at in at(), share in 0.0..1.0) {
        let line = fact.json(at);
        let end = (0..line.len()).rfind(|end| {
            line.is_char_boundary(*end) && *end as f64 <= share * (line.len() - 1) as f64
        });
        prop_assert_eq!(read(&line[..end.unwrap_or(0)]), Err(Unread::Damaged));
    }

    #[test]
    fn any_line_is_a_fact_or_none(line in "\\PC*|[{}\\[\\]\":,a-z0-9.-]*") {
        let _ = read(&line);
    }

    #[test]
    fn any_value_in_any_field_is_a_fact_or_none(
        fact in fact(),
        field in any::<proptest::sample::Index>(),
        value in proptest::sample::select(vec![
            "null", "-1", "1e300", "18446744073709551616", "\"x\"", "[[]]", "{}", "true",
            "\"9999-12-31T23:59:59Z\"", "\"-009999-01-01T00:00:00Z\"",
        ]),
    ) {
        let mut object: serde_json::Map<String, Value> = serde_json::from_str(&fact.json(0)).unwrap();
        let keys: Vec<String> = object.keys().cloned().collect();
        object[field.get(&keys)] = serde_json::from_str(value).unwrap();
        let _ = read(&Value::from(object).to_string());
    }
}

#[test]
fn an_event_of_a_later_version_is_unknown_and_not_damaged() {
    let later = r#"{"at":"2027-01-01T00:00:00Z","event":"teleport","to":"mars"}"#;
    assert_eq!(read(later), Err(Unread::Unknown));
    let no_time = r#"{"event":"teleport"}"#;
    assert_eq!(read(no_time), Err(Unread::Damaged));
    let more = r#"{"at":"2027-01-01T00:00:00Z","event":"pause","mood":"calm"}"#;
    assert_eq!(read(more), Ok((1_798_761_600_000, Record::Pause)));
}

#[test]
fn words_from_a_file_cannot_drive_a_terminal() {
    let line = r#"{"at":"2027-01-01T00:00:00Z","event":"note","text":"a\u001b[2Jb\n\u009bc"}"#;
    let text = "a\u{fffd}[2Jb\u{fffd}\u{fffd}c".to_owned();
    assert_eq!(read(line), Ok((1_798_761_600_000, Record::Note { text })));
}
