//! What follows an attempt to get a request answered: pass it on, or try again, and when.
//!
//! It promises bounds: a request costs a provider in trouble a few attempts, and each token one.
//! It decides and does not act. Which token comes next is `balancer`'s to say. Pure.

use crate::providers::Finding;
use core::time::Duration;

/// Pauses before the second and third attempt with a provider in trouble. Clients give up after
/// about three seconds of it (facts/providers.md §4.1), so that longer ones would only add to theirs.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(1000)];
/// A provider that asks for a longer pause is not waited for: the client gets to know.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Attempts at one request, whatever comes back: a safety net below the other bounds.
const MOST_ATTEMPTS: u32 = 40;

/// What an attempt came to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attempt<'a> {
    /// A response, and what it says about the token.
    Answered(&'a Finding),
    /// The connection could not be made, or ended before anything of a response was there.
    Unreached,
    /// A response began, or was waited for as long as it may be, and cannot be used. The provider may
    /// have done the work, and has counted it.
    Spoilt,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an attempt that nothing follows leaves a client waiting"]
pub(crate) enum After {
    /// The client gets what came back.
    PassOn,
    /// Again, with whichever token is to be used now.
    Again,
    /// Again with the same token, after this pause.
    Pause(Duration),
    /// Again, with another token if there is one, else the client gets what came back.
    Hop,
}

/// The attempts at one request so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempts {
    all: u32,
    in_trouble: usize,
    hopped: bool,
}

impl Attempts {
    /// What follows an attempt.
    pub(crate) fn after(&mut self, attempt: Attempt<'_>) -> After {
        self.all += 1;
        if self.all >= MOST_ATTEMPTS {
            return After::PassOn;
        }
        match attempt {
            Attempt::Answered(Finding::Served | Finding::Unclear { .. }) | Attempt::Spoilt => {
                After::PassOn
            }
            // The token's own trouble: it is known now, so another one is chosen, or a wait.
            Attempt::Answered(
                Finding::Limited { .. } | Finding::SpendCapped { .. } | Finding::Rejected,
            ) => After::Again,
            Attempt::Answered(Finding::Overloaded { retry_after }) => {
                self.trouble(retry_after.unwrap_or_default())
            }
            Attempt::Unreached => self.trouble(Duration::ZERO),
        }
    }

    /// The provider is in trouble, which another token would most likely share: one try with it
    /// all the same, for it may be another region's or another model's.
    fn trouble(&mut self, asked_for: Duration) -> After {
        if asked_for > LONGEST_PAUSE {
            return self.hop();
        }
        let pause = PAUSES.get(self.in_trouble).copied();
        self.in_trouble += 1;
        match pause {
            Some(pause) if !self.hopped => After::Pause(pause.max(asked_for)),
            _ => self.hop(),
        }
    }

    fn hop(&mut self) -> After {
        match std::mem::replace(&mut self.hopped, true) {
            false => After::Hop,
            true => After::PassOn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLOADED: Finding = Finding::Overloaded { retry_after: None };

    #[test]
    fn a_tokens_own_trouble_goes_on_with_another() {
        let mut attempts = Attempts::default();
        for finding in [
            Finding::Limited { retry_after: None },
            Finding::SpendCapped { until: None },
            Finding::Rejected,
        ] {
            assert_eq!(attempts.after(Attempt::Answered(&finding)), After::Again);
        }
        for finding in [Finding::Served, Finding::Unclear { why: "" }] {
            assert_eq!(attempts.after(Attempt::Answered(&finding)), After::PassOn);
        }
        assert_eq!(attempts.after(Attempt::Spoilt), After::PassOn);
    }

    #[test]
    fn a_provider_in_trouble_gets_three_attempts_and_one_hop() {
        let mut attempts = Attempts::default();
        let mut next = || attempts.after(Attempt::Answered(&OVERLOADED));
        let expected = [
            After::Pause(Duration::from_millis(500)),
            After::Pause(Duration::from_millis(1000)),
            After::Hop,
            After::PassOn,
        ];
        assert_eq!([next(), next(), next(), next()], expected);
    }

    #[test]
    fn a_long_pause_is_the_clients_to_make() {
        let finding = |seconds| Finding::Overloaded {
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let mut attempts = Attempts::default();
        let pause = After::Pause(Duration::from_secs(3));
        assert_eq!(attempts.after(Attempt::Answered(&finding(3))), pause);
        assert_eq!(attempts.after(Attempt::Answered(&finding(60))), After::Hop);
        assert_eq!(attempts.after(Attempt::Unreached), After::PassOn);
    }

    #[test]
    fn nothing_goes_on_for_ever() {
        let mut attempts = Attempts::default();
        let limited = Finding::Limited { retry_after: None };
        let again =
            (0..1000).filter(|_| attempts.after(Attempt::Answered(&limited)) == After::Again);
        assert!(again.count() < 100);
    }
}
