//! The format, two findings about one token, and what holds how long.

use super::*;
use crate::providers::usage::{Usage, Window};
use crate::providers::{Answer, Finding, Reading};
use crate::tokens::pool_of;
use proptest::prelude::*;
use std::time::Instant;

const CENTURY: u64 = 4_000_000_000;
/// Less than [`FORGOTTEN`], in seconds.
const MONTH: u64 = 28 * 86_400;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn name(number: usize) -> String {
    format!("{number:064x}")
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(name).collect()
}

fn entry(seen: SystemTime, verdict: StoredCondition) -> StoredToken {
    StoredToken {
        seen,
        verdict,
        group: None,
    }
}

fn limited(seen: SystemTime, span: u64) -> StoredToken {
    let until = seen + seconds(span);
    entry(seen, StoredCondition::Limited { until })
}

fn of_group(group: &str, entry: StoredToken) -> StoredToken {
    StoredToken {
        group: Some(group.into()),
        ..entry
    }
}

fn memory(entries: impl IntoIterator<Item = (usize, StoredToken)>) -> StoredTokens {
    let entries = entries.into_iter();
    StoredTokens {
        entries: entries.map(|(n, entry)| (name(n), entry)).collect(),
        models: BTreeMap::new(),
    }
}

/// The conditions of so many tokens after recalling this.
fn recalled(memory: &StoredTokens, tokens: usize, now: Now) -> Vec<Condition> {
    let mut pool = pool_of(&["a", "b", "c"][..tokens]);
    memory.recall(&mut pool, &names(tokens), 0.95, now);
    (0..tokens)
        .map(|index| pool.state(index).condition(now))
        .collect()
}

#[test]
fn the_format_reads_like_this() {
    let now = Now::of_tests().wall;
    let near = StoredCondition::NearLimit {
        used: 0.97,
        until: now + seconds(60),
    };
    let memory = memory([
        (1, of_group("org-1", limited(now, 600))),
        (2, entry(now, near)),
    ]);
    let (one, two) = (name(1), name(2));
    let text = format!(
        r#"{{
  "tokens": {{
    "{one}": {{
      "condition": "limited",
      "group": "org-1",
      "seen": "2027-01-15T08:00:00Z",
      "until": "2027-01-15T08:10:00Z"
    }},
    "{two}": {{
      "condition": "near-limit",
      "seen": "2027-01-15T08:00:00Z",
      "until": "2027-01-15T08:01:00Z",
      "used": 0.97
    }}
  }},
  "version": 2
}}
"#
    );
    assert_eq!(memory.text(), text);
    assert_eq!(StoredTokens::parse(text.as_bytes()), Ok(memory));
}

/// 956 of 1005 requests: a fraction without an end, which serde_json reads one bit off.
#[test]
fn what_is_printed_is_read_to_the_last_bit() {
    let now = Now::of_tests();
    let mut standing = TokenState::new(None);
    let window = Window {
        name: "requests".into(),
        limit: None,
        remaining: None,
        utilization: 956.0 / 1005.0,
        resets_at: Some(now.wall + seconds(60)),
    };
    let reading = Reading {
        usage: Usage {
            windows: vec![window],
        },
        finding: Finding::Served,
        quota_group: None,
        said: None,
    };
    let answer = Answer {
        asked: now.tick,
        reading: Ok(reading),
    };
    standing.record(&answer, 0.95, now);
    let memory = memory([(1, StoredToken::of(&standing, now).unwrap())]);
    assert!(memory.text().contains("near-limit"));
    assert_eq!(StoredTokens::parse(memory.text().as_bytes()), Ok(memory));
    for used in ["0.9512437810945273", "1e300"] {
        let near = format!(
            r#"{{"version":1,"tokens":{{"{}":{{"condition":"near-limit","seen":"2027-01-15T08:00:00Z","until":"2027-01-15T08:01:00Z","used":{used}}}}}}}"#,
            name(1),
        );
        let read = StoredTokens::parse(near.as_bytes()).unwrap();
        assert_eq!(read.entries.len(), 1);
        assert_eq!(StoredTokens::parse(read.text().as_bytes()), Ok(read));
    }
}

#[test]
fn what_is_no_memory_says_why() {
    let whole = memory([(1, limited(Now::of_tests().wall, 60))]).text();
    for end in 0..whole.len() - 2 {
        let cut = StoredTokens::parse(&whole.as_bytes()[..end]);
        assert_eq!(cut, Err(Unusable::Damaged), "cut off at {end}");
    }
    for (text, why) in [
        ("null", Unusable::Damaged),
        ("[]", Unusable::Damaged),
        ("{}", Unusable::Damaged),
        (r#"{"version":1}"#, Unusable::Damaged),
        (r#"{"version":1,"tokens":[]}"#, Unusable::Damaged),
        (r#"{"version":"1","tokens":{}}"#, Unusable::Damaged),
        (r#"{"version":0,"tokens":{}}"#, Unusable::Damaged),
        (r#"{"version":2}"#, Unusable::Damaged),
        (r#"{"version":3}"#, Unusable::Newer),
    ] {
        assert_eq!(StoredTokens::parse(text.as_bytes()), Err(why), "{text}");
    }
}

#[test]
fn a_damaged_entry_costs_only_itself() {
    let seen = r#""seen":"2027-01-15T08:00:00Z""#;
    let until = r#""until":"2027-01-15T08:10:00Z""#;
    for bad in [
        "7".to_owned(),
        "{}".to_owned(),
        format!(r#"{{"condition":"limited",{until}}}"#),
        format!(r#"{{"condition":"limited",{seen}}}"#),
        format!(r#"{{"condition":"limited",{seen},"until":"soon"}}"#),
        format!(r#"{{"condition":"tired",{seen},{until}}}"#),
        format!(r#"{{"condition":"near-limit",{seen},{until}}}"#),
        format!(r#"{{"condition":"near-limit",{seen},{until},"used":-1}}"#),
    ] {
        let (one, two) = (name(1), name(2));
        let good = format!(r#"{{"condition":"limited",{seen},{until},"from-later":1}}"#);
        let text =
            format!(r#"{{"version":1,"tokens":{{"{one}":{bad},"{two}":{good},"short":{good}}}}}"#);
        let wanted = memory([(2, limited(Now::of_tests().wall, 600))]);
        assert_eq!(StoredTokens::parse(text.as_bytes()), Ok(wanted), "{bad}");
    }
}

#[test]
fn the_newer_finding_counts_whoever_comes_first() {
    let now = Now::of_tests().wall;
    let old = of_group("org-1", limited(now - seconds(60), 600));
    let new = entry(now - seconds(10), StoredCondition::Usable);
    for pair in [[old.clone(), new.clone()], [new.clone(), old.clone()]] {
        let mut memory = StoredTokens::default();
        for finding in pair {
            let _ = memory.merge(vec![(name(1), of_group("org-1", finding))], now);
        }
        let known = memory.entries.get(&name(1)).unwrap();
        assert_eq!(known.verdict, StoredCondition::Usable);
    }
    // A group that is known stays known.
    let mut memory = memory([(1, old)]);
    assert!(memory.merge(vec![(name(1), new)], now));
    assert_eq!(memory.entries[&name(1)].group.as_deref(), Some("org-1"));
}

#[test]
fn what_is_known_already_is_not_written_again() {
    let now = Now::of_tests().wall;
    let mut memory = memory([(1, limited(now, 600))]);
    let again = entry(
        now + seconds(5),
        StoredCondition::Limited {
            until: now + seconds(600) + Duration::from_millis(700),
        },
    );
    assert!(!memory.merge(vec![(name(1), again)], now + seconds(5)));
    let later = limited(now + seconds(5), 900);
    assert!(memory.merge(vec![(name(1), later)], now + seconds(5)));
    let nothing = entry(now, StoredCondition::Usable);
    assert!(!memory.merge(vec![(name(2), nothing)], now + seconds(5)));
}

#[test]
fn what_has_ended_is_dropped_and_the_quota_group_kept_for_a_month() {
    let start = Now::of_tests().wall;
    let mut memory = memory([
        (1, limited(start, 60)),
        (2, of_group("org-2", limited(start, 60))),
        (3, limited(start, 900)),
    ]);
    let _ = memory.merge(Vec::new(), start + seconds(60));
    let kept = |n| {
        (
            memory.entries[&name(n)].verdict,
            &memory.entries[&name(n)].group,
        )
    };
    assert_eq!(kept(1), (StoredCondition::Usable, &None));
    assert_eq!(kept(2), (StoredCondition::Usable, &Some("org-2".into())));
    assert_eq!(kept(3), (limited(start, 900).verdict, &None));
    let _ = memory.merge(Vec::new(), start + FORGOTTEN);
    assert_eq!(memory, StoredTokens::default());
}

#[test]
fn the_newest_thousand_are_kept() {
    let start = Now::of_tests().wall;
    let many = (0..MOST + 200).map(|n| (n, limited(start + seconds(n as u64), 86_400)));
    let mut memory = memory(many);
    let _ = memory.merge(Vec::new(), start + seconds(5000));
    assert_eq!(memory.entries.len(), MOST);
    assert!(!memory.entries.contains_key(&name(199)));
    assert!(memory.entries.contains_key(&name(200)));
    assert!((memory.text().len() as u64) < 1 << 19);
}

#[test]
fn nothing_holds_beyond_its_end() {
    let start = Now::of_tests();
    let later = |span| Now {
        wall: start.wall + span,
        tick: start.tick + span,
    };
    let near = StoredCondition::NearLimit {
        used: 0.97,
        until: start.wall + seconds(600),
    };
    let capped = |until| StoredCondition::SpendCapped { until };
    for (verdict, end) in [
        (limited(start.wall, 600).verdict, seconds(600)),
        (near, seconds(600)),
        (capped(Some(start.wall + seconds(600))), seconds(600)),
        (capped(None), DAY),
        (StoredCondition::Rejected, DAY),
    ] {
        let memory = memory([(0, entry(start.wall, verdict))]);
        let before = recalled(&memory, 1, later(end - seconds(1)));
        assert_ne!(before, [Condition::Unknown], "{verdict:?}");
        let after = recalled(&memory, 1, later(end));
        assert_eq!(after, [Condition::Unknown], "{verdict:?}");
    }
}

#[test]
fn near_depends_on_the_threshold_of_the_run() {
    let now = Now::of_tests();
    let until = now.wall + seconds(600);
    let memory = memory([(
        0,
        entry(now.wall, StoredCondition::NearLimit { used: 0.7, until }),
    )]);
    for (threshold, known) in [(0.6, true), (0.7, false), (0.95, false)] {
        let mut pool = pool_of(&["a"]);
        memory.recall(&mut pool, &names(1), threshold, now);
        let standing = pool.state(0);
        assert_eq!(standing.condition(now) != Condition::Unknown, known);
        assert_eq!(standing.used(), known.then_some(0.7));
    }
}

#[test]
fn a_clock_that_was_set_back_stretches_no_wait() {
    let found = Now::of_tests();
    let memory = memory([(0, limited(found.wall, 600))]);
    let now = Now {
        wall: found.wall - seconds(86_400),
        ..found
    };
    match recalled(&memory, 1, now)[..] {
        [Condition::Limited { until }] => assert_eq!(until.remaining(now), seconds(600)),
        ref other => panic!("{other:?}"),
    }
    // And what is found from then on counts.
    let mut memory = memory;
    let usable = of_group("org-1", entry(now.wall, StoredCondition::Usable));
    assert!(memory.merge(vec![(name(0), usable)], now.wall));
    assert_eq!(memory.entries[&name(0)].verdict, StoredCondition::Usable);
}

#[test]
fn a_spent_group_is_spent_for_all_unless_one_was_found_usable_later() {
    let now = Now::of_tests();
    let ago = |span| now.wall - seconds(span);
    let spent = of_group("org-1", limited(ago(60), 600));
    let usable = |span, group| of_group(group, entry(ago(span), StoredCondition::Usable));
    let is_spent = |conditions: Vec<Condition>| -> Vec<bool> {
        let spent = |condition| matches!(condition, Condition::Limited { .. });
        conditions.into_iter().map(spent).collect()
    };
    for (sibling, found) in [
        (usable(90, "org-1"), true),
        (usable(30, "org-1"), false),
        (usable(90, "org-2"), false),
    ] {
        let memory = memory([(0, spent.clone()), (1, sibling.clone())]);
        let conditions = recalled(&memory, 3, now);
        assert_eq!(is_spent(conditions), [true, found, false], "{sibling:?}");
    }
    // A rejection is a token's own.
    let rejected = of_group("org-1", entry(ago(60), StoredCondition::Rejected));
    let memory = memory([(0, rejected), (1, usable(90, "org-1"))]);
    let conditions = recalled(&memory, 2, now);
    assert_eq!(conditions, [Condition::Rejected, Condition::Unknown]);
}

fn opus() -> Scope {
    Scope {
        kind: EndpointKind::Generate,
        class: "claude-opus-5-5".into(),
    }
}

#[test]
fn what_holds_in_one_scope_is_kept_for_that() {
    let now = Now::of_tests();
    let key = in_scope(&name(0), &opus());
    let mut memory = StoredTokens::default();
    let rejected = entry(now.wall - seconds(60), StoredCondition::Rejected);
    let _ = memory.merge(rejected.kept(&name(0), &opus()), now.wall);
    assert_eq!(recalled(&memory, 1, now), [Condition::Rejected]);
    // A limit shows that it is accepted, and holds for its own scope.
    let _ = memory.merge(limited(now.wall, 600).kept(&name(0), &opus()), now.wall);
    assert_eq!(recalled(&memory, 1, now), [Condition::Unknown]);
    let mut pool = pool_of(&["a"]);
    memory.recall(&mut pool, std::slice::from_ref(&key), 0.95, now);
    assert!(matches!(
        pool.state(0).condition(now),
        Condition::Limited { .. }
    ));
    assert_eq!(
        memory.scopes(&names(2)).into_iter().collect::<Vec<_>>(),
        [opus()]
    );
    memory
        .models
        .insert("claude".into(), "claude-opus-5-5".into());
    assert!(memory.text().contains("/generate/claude-opus-5-5"));
    assert_eq!(StoredTokens::parse(memory.text().as_bytes()), Ok(memory));
}

/// Times so many seconds apart at most.
fn any_entry(range: u64) -> impl Strategy<Value = StoredToken> {
    let moment = move || {
        (0..range, 0..1_000_000_000u32)
            .prop_map(|(s, n)| SystemTime::UNIX_EPOCH + Duration::new(s, n))
    };
    let verdict = prop_oneof![
        Just(StoredCondition::Usable),
        Just(StoredCondition::Rejected),
        (0.0..2.0, moment()).prop_map(|(used, until)| StoredCondition::NearLimit {
            used: rounded(used),
            until
        }),
        moment().prop_map(|until| StoredCondition::Limited { until }),
        proptest::option::of(moment()).prop_map(|until| StoredCondition::SpendCapped { until }),
    ];
    let group = proptest::option::of("[!-~]{1,40}");
    (moment(), verdict, group).prop_map(|(seen, verdict, group)| StoredToken {
        seen,
        verdict,
        group,
    })
}

fn any_memory(range: u64) -> impl Strategy<Value = StoredTokens> {
    proptest::collection::vec((0..20usize, any_entry(range)), 0..20).prop_map(memory)
}

/// To say the same twice says no more than once, and what has ended is gone.
fn check_merge(mut memory: StoredTokens, findings: &[(String, StoredToken)], now: SystemTime) {
    let _ = memory.merge(findings.to_vec(), now);
    for entry in memory.entries.values() {
        assert!(entry.left(now).is_some() || entry.verdict == StoredCondition::Usable);
    }
    let known = |memory: &StoredTokens| -> Vec<(String, StoredCondition, Option<String>)> {
        let entries = memory.entries.iter();
        entries
            .map(|(n, e)| (n.clone(), e.verdict, e.group.clone()))
            .collect()
    };
    let once = known(&memory);
    let _ = memory.merge(findings.to_vec(), now);
    assert_eq!(known(&memory), once);
}

/// A found seed: serde_json's quick reader of numbers is one bit off for this one.
#[test]
fn a_fraction_is_read_back_to_the_last_bit() {
    let near = StoredCondition::NearLimit {
        used: rounded(1.9592577154849422),
        until: SystemTime::UNIX_EPOCH,
    };
    let memory = memory([(0, entry(SystemTime::UNIX_EPOCH, near))]);
    assert_eq!(StoredTokens::parse(memory.text().as_bytes()), Ok(memory));
}

/// A found seed: a rejection that is seen again before its end holds for as long again.
#[test]
fn what_is_seen_again_holds_for_as_long_again() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let memory = memory([(7, entry(at(1_131_462), StoredCondition::Rejected))]);
    let again = [(name(7), entry(at(1_173_713), StoredCondition::Rejected))];
    check_merge(memory, &again, at(1_217_863));
}

/// A found seed, its times brought within what is remembered.
#[test]
fn a_merge_settles_a_limit_that_was_seen_before_the_token_was_usable() {
    let epoch = SystemTime::UNIX_EPOCH;
    let seen = epoch + Duration::new(1_508_715, 167_231_938);
    let memory = memory([(2, entry(seen, StoredCondition::Usable))]);
    let until = epoch + Duration::new(3_431_944, 1);
    let findings = [(name(2), entry(epoch, StoredCondition::Limited { until }))];
    check_merge(memory, &findings, epoch + seconds(2_116_325));
}

/// A found seed.
#[test]
fn a_merge_settles_a_group_that_is_told_of_a_rejected_token() {
    let epoch = SystemTime::UNIX_EPOCH;
    let seen = epoch + Duration::new(1_249_182, 475_360_684);
    let memory = memory([(5, entry(seen, StoredCondition::Rejected))]);
    let findings = [(
        name(5),
        of_group("a", entry(epoch, StoredCondition::Usable)),
    )];
    check_merge(memory, &findings, epoch + seconds(1_335_583));
}

/// A found seed.
#[test]
fn a_merge_settles_a_spend_cap_that_is_said_twice() {
    let epoch = SystemTime::UNIX_EPOCH;
    let capped = StoredCondition::SpendCapped { until: None };
    let seen = epoch + Duration::new(219_457, 167_613_895);
    let memory = memory([(4, entry(seen, capped))]);
    let findings = [(name(4), entry(epoch + seconds(219_458), capped))];
    check_merge(memory, &findings, epoch + seconds(305_858));
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(memory in any_memory(CENTURY)) {
        prop_assert_eq!(StoredTokens::parse(memory.text().as_bytes()), Ok(memory));
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<Vec<u8>>(), json in "\\PC*") {
        let _ = StoredTokens::parse(&text);
        let _ = StoredTokens::parse(json.as_bytes());
        let _ = StoredTokens::parse(format!(r#"{{"version":1,"tokens":{{{json}}}}}"#).as_bytes());
    }

    /// Whatever is in the file, a run can start with it, and no wait is longer than ten years.
    #[test]
    fn no_memory_makes_it_panic(memory in any_memory(CENTURY), seconds_on in 0..CENTURY) {
        let now = Now {
            wall: SystemTime::UNIX_EPOCH + seconds(seconds_on),
            tick: Instant::now(),
        };
        for condition in recalled(&memory, 3, now) {
            if let Some(until) = condition.until() {
                prop_assert!(until.remaining(now) > Duration::ZERO);
                prop_assert!(until.remaining(now) <= duration::LONGEST);
            }
        }
    }

    #[test]
    fn a_merge_settles_it(
        memory in any_memory(MONTH),
        findings in proptest::collection::btree_map(0..20usize, any_entry(MONTH), 0..20),
        seconds_on in 0..MONTH,
    ) {
        let now = SystemTime::UNIX_EPOCH + seconds(seconds_on);
        let findings: Vec<_> = findings.into_iter().map(|(n, entry)| (name(n), entry)).collect();
        check_merge(memory, &findings, now);
    }
}

#[test]
fn the_model_that_a_client_uses_is_kept() {
    let used = |user: &str, model: &str| vec![(user.to_owned(), model.to_owned())];
    let mut memory = StoredTokens::default();
    assert!(memory.learn(used("claude/anthropic", "claude-opus-5-5")));
    assert!(!memory.learn(used("claude/anthropic", "claude-opus-5-5")));
    assert!(memory.learn(used("claude/anthropic", "claude-sonnet-5-5")));
    assert_eq!(memory.model("claude/anthropic"), Some("claude-sonnet-5-5"));
    assert_eq!(memory.model("generic/anthropic"), None);
    for number in 0..2 * MOST_CLIENTS {
        memory.learn(used(&number.to_string(), "m"));
    }
    assert_eq!(memory.models.len(), MOST_CLIENTS);
    assert_eq!(StoredTokens::parse(memory.text().as_bytes()), Ok(memory));
}
