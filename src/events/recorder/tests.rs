//! What a long run leaves out of its journal.

use super::*;
use crate::providers::usage::{Usage, Window};
use crate::tokens::pool_of;
use std::time::Duration;

/// A check of each 30 seconds over 30 days: enough lines for a picture, all checks counted, and the moments
/// at which the token was near its limit, and was not any more.
#[test]
fn a_month_has_hardly_more_lines_than_a_night() {
    let (start, mut recorder) = (Instant::now(), Recorder::new(&[pool_of(&["a"])]));
    let _ = recorder.head("agent".into(), 0.95, false, 1, start);
    let pool = pool_of(&["a"]);
    let token = TokenRef::new(&pool, TokenId { ring: 0, index: 0 }, false);
    let (mut lines, mut checks, mut crossings) = (0, 0, 0);
    let all = 30 * 24 * 120;
    for number in 0..all {
        let used = if number % 10_000 == 9_999 {
            0.97
        } else {
            f64::from(number % 90) / 100.0
        };
        let windows = vec![Window {
            name: "requests".into(),
            limit: Some(1000),
            remaining: None,
            utilization: used,
            resets_at: None,
        }];
        let reading = Ok(Reading {
            usage: Usage { windows },
            finding: Finding::Served,
            quota_group: None,
            said: None,
        });
        let event = RunEvent::Checked { token, reading };
        let at = start + Duration::from_secs(30) * number;
        let Some(News {
            record: Record::Usage {
                left_out, windows, ..
            },
            ..
        }) = recorder.news(&event, at)
        else {
            continue;
        };
        lines += 1;
        checks += 1 + left_out;
        crossings += usize::from(windows[0].used > 0.95);
    }
    assert!((2_000..12_000).contains(&lines), "{lines}");
    assert!(u64::from(all) - checks < 50, "{checks} of {all}");
    assert_eq!(crossings, 8);
}
