//! What follows an attempt to get a request answered: pass it on, or try again, and how.
//!
//! It promises bounds: a request is tried once with each quota group, and a provider in trouble gets
//! two attempts more. It decides and does not act. Which token comes next is `balancer`'s to say. Pure.

use crate::providers::{Finding, Testimony};
use core::time::Duration;

/// Pauses before the second and third attempt with a provider in trouble. Clients give up after
/// about three seconds of it, so that longer ones would only add to theirs.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(1000)];
/// A provider that asks for a longer pause is not waited for: the client gets to know.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Attempts at one request, whatever comes back: a safety net below the other bounds.
const MOST_ATTEMPTS: u32 = 40;

/// What an attempt came to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attempt<'a> {
    /// A response: what it says about the token, and how far that is proven.
    Answered(&'a Finding, Testimony),
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
    /// Again, with a token of a quota group that has not been tried; else the client gets what came
    /// back.
    Hop,
    /// The same, to learn whether the token or the request is to blame. Without such a token, and
    /// if that one has troubles of its own, the client gets what came back first.
    Witness,
}

/// The attempts at one request so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempts {
    all: u32,
    in_trouble: usize,
    hopped: bool,
    /// Tokens that were tried.
    tried: Vec<usize>,
    /// A refusal that a witness is to tell about: the token that met it.
    suspect: Option<usize>,
    /// Tokens with which the thing that was asked for was not found.
    absent: Vec<usize>,
}

impl Attempts {
    /// The tokens that this request was tried with since it was last held.
    pub(crate) fn tried(&self) -> &[usize] {
        &self.tried
    }

    /// The request was held until a limit ended: its tokens may be tried again.
    pub(crate) fn was_held(&mut self) {
        self.tried.clear();
    }

    /// The token to blame for a refusal, now that another one was served.
    pub(crate) fn blamed(&self) -> Option<usize> {
        self.suspect
    }

    /// The tokens that it was refused with for want of the thing that it asks for.
    pub(crate) fn absent(&self) -> &[usize] {
        &self.absent
    }

    /// Whether a request is under way that is to tell about an earlier refusal.
    pub(crate) fn has_first_answer(&self) -> bool {
        self.suspect.is_some() || !self.absent.is_empty()
    }

    /// What follows an attempt with the token at `index`.
    pub(crate) fn after(&mut self, index: usize, attempt: Attempt<'_>) -> After {
        self.all += 1;
        if self.all >= MOST_ATTEMPTS {
            return After::PassOn;
        }
        let after = self.follows(index, attempt);
        // After a pause it is the same token's turn.
        if !matches!(after, After::Pause(_)) && !self.tried.contains(&index) {
            self.tried.push(index);
        }
        after
    }

    fn follows(&mut self, index: usize, attempt: Attempt<'_>) -> After {
        let seeks_witness = self.has_first_answer();
        match attempt {
            Attempt::Answered(_, Testimony::Absent) if self.suspect.is_none() => {
                self.absent.push(index);
                After::Witness
            }
            Attempt::Answered(_, Testimony::Ambiguous) if !seeks_witness => {
                self.suspect = Some(index);
                After::Witness
            }
            // Refused alike: the request is to blame.
            Attempt::Answered(_, Testimony::Absent | Testimony::Ambiguous) => After::PassOn,
            Attempt::Answered(Finding::Served | Finding::Unclear { .. }, _) | Attempt::Spoilt => {
                After::PassOn
            }
            // A witness that has troubles of its own says nothing; another one may.
            _ if seeks_witness => After::Witness,
            // The token's own trouble: it is known now, so another one is chosen, or a wait.
            Attempt::Answered(
                Finding::Limited { .. } | Finding::SpendCapped { .. } | Finding::Rejected,
                _,
            ) => After::Again,
            Attempt::Answered(Finding::Overloaded { retry_after }, _) => {
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
    use proptest::prelude::*;

    const OVERLOADED: Finding = Finding::Overloaded { retry_after: None };
    const BARE: Finding = Finding::Limited { retry_after: None };

    fn clear(finding: &Finding) -> Attempt<'_> {
        Attempt::Answered(finding, Testimony::Clear)
    }

    #[test]
    fn a_tokens_own_trouble_goes_on_with_another() {
        let mut attempts = Attempts::default();
        for finding in [
            Finding::Limited { retry_after: None },
            Finding::SpendCapped { until: None },
            Finding::Rejected,
        ] {
            assert_eq!(attempts.after(0, clear(&finding)), After::Again);
        }
        for finding in [Finding::Served, Finding::Unclear { why: "" }] {
            assert_eq!(attempts.after(0, clear(&finding)), After::PassOn);
        }
        assert_eq!(attempts.after(0, Attempt::Spoilt), After::PassOn);
    }

    #[test]
    fn a_provider_in_trouble_gets_three_attempts_and_one_hop() {
        let mut attempts = Attempts::default();
        let mut next = || attempts.after(0, clear(&OVERLOADED));
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
        assert_eq!(attempts.after(0, clear(&finding(3))), pause);
        assert_eq!(attempts.after(0, clear(&finding(60))), After::Hop);
        assert_eq!(attempts.after(1, Attempt::Unreached), After::PassOn);
    }

    #[test]
    fn a_witness_tells_whether_the_token_or_the_request_is_to_blame() {
        let ambiguous = Attempt::Answered(&BARE, Testimony::Ambiguous);
        // Served: the first token is to blame.
        let mut attempts = Attempts::default();
        assert_eq!(attempts.after(0, ambiguous), After::Witness);
        assert_eq!(attempts.after(1, clear(&Finding::Served)), After::PassOn);
        assert_eq!(
            (attempts.blamed(), attempts.tried()),
            (Some(0), &[0, 1][..])
        );
        // Refused alike: the answer goes to the client.
        let mut attempts = Attempts::default();
        assert_eq!(attempts.after(0, ambiguous), After::Witness);
        assert_eq!(attempts.after(1, ambiguous), After::PassOn);
        // A witness with a limit of its own is none.
        let mut attempts = Attempts::default();
        assert_eq!(attempts.after(0, ambiguous), After::Witness);
        assert_eq!(attempts.after(1, clear(&BARE)), After::Witness);
        assert_eq!(attempts.after(2, clear(&OVERLOADED)), After::Witness);
        assert_eq!(attempts.after(3, clear(&Finding::Served)), After::PassOn);
        assert_eq!(attempts.blamed(), Some(0));
    }

    #[test]
    fn what_is_not_found_is_looked_for_with_each_and_nobody_is_to_blame() {
        let absent = Attempt::Answered(&Finding::Unclear { why: "" }, Testimony::Absent);
        let mut attempts = Attempts::default();
        for index in 0..3 {
            assert_eq!(attempts.after(index, absent), After::Witness);
        }
        assert_eq!(attempts.after(3, clear(&Finding::Served)), After::PassOn);
        assert_eq!(
            (attempts.blamed(), attempts.absent()),
            (None, &[0, 1, 2][..])
        );
    }

    fn finding() -> impl Strategy<Value = Finding> {
        prop_oneof![
            Just(BARE),
            Just(OVERLOADED),
            Just(Finding::SpendCapped { until: None }),
            Just(Finding::Rejected),
            Just(Finding::Unclear { why: "" }),
        ]
    }

    proptest! {
        /// Whatever comes back, each request ends: with so many groups, after one try for each and
        /// two more.
        #[test]
        fn each_request_ends(
            answers in prop::collection::vec((finding(), 0..3_usize), 60),
            groups in 1..6_usize,
        ) {
            let mut attempts = Attempts::default();
            let mut index = 0;
            let mut tries = 0;
            for (finding, testimony) in answers {
                let testimony = [Testimony::Clear, Testimony::Ambiguous, Testimony::Absent][testimony];
                tries += 1;
                let after = attempts.after(index, Attempt::Answered(&finding, testimony));
                let next = (0..groups).find(|index| !attempts.tried().contains(index));
                match after {
                    After::PassOn => break,
                    After::Pause(_) => {}
                    After::Again | After::Hop | After::Witness => match next {
                        Some(other) => index = other,
                        None => break,
                    },
                }
            }
            prop_assert!(tries <= groups + 2, "{tries} tries with {groups} groups");
        }
    }
}
