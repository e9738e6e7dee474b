//! How an answer gets to the client, or word that there is none.
//!
//! Promises that what leads back to the provider, such as a redirect, leads through this proxy, and that the memory
//! of a request's body is given back before its answer streams. Which answer it is was decided before.

use super::*;

impl Exchange<'_> {
    /// The client gets what came, or learns that nothing did.
    pub(super) fn pass_on(
        &mut self,
        came: Result<UpstreamResponse, UpstreamError>,
        index: usize,
    ) -> Result<Sent, Gone> {
        match came {
            Ok(came) => {
                // It is not sent again, and streams last: many of them with what they have asked
                // (a long conversation is megabytes) would fill the memory.
                self.give_body_back();
                let upstream = self.upstream;
                let token = upstream.token(index);
                let mask = Upstream::mask(&token);
                let kept = match came.response.status {
                    101 => relay::tunnel(self.client, came, &mask)?,
                    _ => {
                        let mut came = came;
                        let location = came.response.value("location");
                        if let Some(path) = location.and_then(|to| upstream.redirected(to)) {
                            came.response.replace("location", &path);
                        }
                        self.leads_results_here(&mut came);
                        let wanted = self.request.keep_alive
                            && self.large.is_none()
                            && !self.shared.is_stopping();
                        let counter = self.counter(&came.response, index);
                        let modern = self.request.modern;
                        relay::relay(self.client, upstream, came, mask, counter, modern, wanted)?
                    }
                };
                Ok(Sent::Answer(kept))
            }
            Err(UpstreamError { why, .. }) => {
                let why = format!("{} cannot be reached: {why}", self.upstream.provider.label);
                log::warn!("{why}");
                let dialect = self.upstream.provider.dialect;
                let kind = match dialect {
                    Dialect::Chat(_) => "server_error",
                    Dialect::Anthropic | Dialect::Gemini => "api_error",
                };
                Ok(Sent::Nothing(LocalResponse::error(
                    Some(dialect),
                    502,
                    kind,
                    &why,
                )))
            }
        }
    }

    /// Anthropic's SDKs ask for the results of a batch at the address that the batch names, with their own
    /// credential: here that is the proxy's secret, which the provider does not know.
    fn leads_results_here(&self, came: &mut UpstreamResponse) {
        if self.kind != EndpointKind::Other || !came.whole {
            return;
        }
        let text = &came.held;
        let start = top_value(text, b"results_url");
        let place = start.and_then(|start| Some(start + 1..end_of_text(text, start)?));
        let Some(place) = place else { return };
        if let Some(path) = self.upstream.redirected(&text[place.clone()]) {
            let here = format!("http://{}{path}", self.request.host());
            came.held.splice(place, here.into_bytes());
        }
    }

    /// The body will not be sent again.
    pub(super) fn give_body_back(&mut self) {
        let body = std::mem::take(&mut self.body);
        self.room = None;
        match body.capacity() as u64 {
            0..=SPARE_MAX => self.client.give_back(body.into_vec()),
            _ => self.shared.keep_body_memory(body),
        }
    }
}
