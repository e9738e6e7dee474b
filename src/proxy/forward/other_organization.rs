//! What one organization has and another has not: models, reasoning, and the name of an organization in a field.
//!
//! Looks at a refusal, and says whether the request goes out once more because of it: with another token, or without
//! what the token's organization cannot use. It makes no attempt itself.

use super::*;

impl Exchange<'_> {
    /// Whether the request goes out once more, with the same token and without the fields that name another
    /// organization than the token's.
    pub(super) fn leaves_out_fields(
        &self,
        came: &Result<UpstreamResponse, UpstreamError>,
        index: usize,
    ) -> bool {
        let Ok(refusal) = came else { return false };
        let fields = self.upstream.provider.mismatched(&refusal.reply());
        let is_sent = self.request.has_one_of(fields);
        let is_news = is_sent && self.upstream.left_out(index).is_empty();
        if is_news {
            self.upstream.leave_out(index, fields);
        }
        is_news
    }

    /// Whether the request goes out once more without the reasoning that the organizations of these tokens
    /// have refused, since nobody else can read it now.
    pub(super) fn leaves_out(&self, refusal: &FirstAnswer, tokens: &[usize]) -> bool {
        let of_another = |came: &UpstreamResponse| self.upstream.provider.of_another(&came.reply());
        let is_reasoning = refusal
            .came
            .as_ref()
            .is_ok_and(|came| of_another(came) == Some(OfAnother::Reasoning));
        is_reasoning
            && self
                .upstream
                .cannot_read(tokens, &reasoning::marks(&self.body))
    }

    /// Whether the organizations that were asked in vain are passed over for this model, which another one has.
    pub(super) fn lacks_model(
        &self,
        first: &FirstAnswer,
        attempts: &Attempts,
        known: bool,
    ) -> bool {
        let provider = self.upstream.provider;
        let is_model =
            |came: &UpstreamResponse| came.status() == 404 && provider.lacks_model(&came.reply());
        self.kind.is_work()
            && first.came.as_ref().is_ok_and(is_model)
            && self
                .shared
                .balancer()
                .lack(self.place, attempts.absent(), known, now())
    }
}
