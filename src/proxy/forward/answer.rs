//! The beginning of an answer, as far as it must be seen before anything of it goes to the client: an
//! error, a page that something on the way has sent, a stream that has said nothing yet.

use super::*;
use crate::providers::reply::TEXT_MAX;

/// An error's body is read for what it says: so much of it, and for so long.
const ERROR_MAX: usize = 64 * 1024;

const ERROR_ARRIVAL: Duration = Duration::from_secs(15);

/// A stream is held back until its first content, but not for longer, nor more of it. What is held
/// back can still be asked for again; a client that shows its user each event sees none meanwhile.
/// `response.created` and `response.in_progress` repeat the instructions and tools of the request.
const PRELUDE_ARRIVAL: Duration = Duration::from_secs(60);

const PRELUDE_MAX: usize = 1024 * 1024;

/// A response that has begun to come.
pub(in crate::proxy) struct UpstreamResponse {
    pub(in crate::proxy) link: Link,
    pub(in crate::proxy) response: Response,
    /// What is still to come of the body.
    pub(in crate::proxy) rest: BodyFraming,
    /// The beginning of the body, as far as it had to be looked at.
    pub(in crate::proxy) held: Vec<u8>,
    /// The body is over.
    pub(in crate::proxy) whole: bool,
    /// The body broke off.
    pub(in crate::proxy) broken: bool,
    /// What it stands for, where its status does not say so: an error in the first events of a stream, or
    /// that something is not there.
    pub(in crate::proxy) failure: Option<(u16, Vec<u8>)>,
}

impl UpstreamResponse {
    /// The answer as `providers` reads it: with what it failed with in the place of its status.
    pub(super) fn reply(&self) -> Reply {
        let (status, body) = match &self.failure {
            Some((status, body)) => (*status, body.clone()),
            // What was asked for is there: the change of protocol.
            None if self.response.status == 101 => (200, Vec::new()),
            None if self.response.status >= 400 => (self.response.status, self.held.clone()),
            None => (self.response.status, Vec::new()),
        };
        Reply {
            status,
            headers: self.response.headers(),
            body,
        }
    }

    /// Its status, or that of the failure in its place.
    pub(super) fn status(&self) -> u16 {
        self.failure
            .as_ref()
            .map_or(self.response.status, |(status, _)| *status)
    }
}

/// The next bytes of a body.
pub(super) enum BodyRead {
    Data(usize),
    End,
    Broken,
    Late,
}

/// Why there is no response.
pub(super) struct UpstreamError {
    /// Some of it had come, or it was waited for as long as it may be: the provider has taken the
    /// request up.
    pub(super) began: bool,
    pub(super) why: String,
}

impl Exchange<'_> {
    /// Reads as much of the body as shows whether it is an answer: of an error all, of a stream the
    /// events before its content, of a short JSON text all, because it may be nothing but an error.
    pub(super) fn look(
        &mut self,
        mut came: UpstreamResponse,
    ) -> Result<Result<UpstreamResponse, UpstreamError>, Gone> {
        let status = came.response.status;
        let dialect = self.upstream.provider.dialect;
        let mut prelude =
            (status < 300 && came.response.is_stream()).then(|| StreamPrelude::new(dialect));
        let (span, most) = if prelude.is_some() {
            (PRELUDE_ARRIVAL, PRELUDE_MAX)
        } else if status >= 400 || came.response.is_page() {
            (ERROR_ARRIVAL, ERROR_MAX)
        } else if came.response.may_be_lone_error() {
            (ERROR_ARRIVAL, LONE_ERROR_MAX as usize)
        } else {
            return Ok(Ok(came));
        };
        let until = Instant::now() + span;
        let mut looked = 0;
        while came.held.len() < most {
            match self.pull(&mut came, until)? {
                BodyRead::Data(count) => {
                    came.held.extend_from_slice(&came.link.buffered()[..count]);
                    came.link.consume(count);
                    let seen = prelude.as_mut().map(|prelude| {
                        let text = came.response.text(&came.held).unwrap_or_default();
                        let from = std::mem::replace(&mut looked, text.len());
                        match text.get(from..).unwrap_or_default() {
                            // More of a compressed one is not read.
                            [] if from >= TEXT_MAX => Seen::Content,
                            more => prelude.look(more),
                        }
                    });
                    match seen {
                        Some(Seen::Content) => break,
                        Some(Seen::Failure { status, body }) => {
                            came.failure = Some((status, body));
                            break;
                        }
                        Some(Seen::Prelude) | None => {}
                    }
                }
                BodyRead::End => {
                    came.whole = true;
                    break;
                }
                BodyRead::Broken => {
                    came.broken = true;
                    break;
                }
                BodyRead::Late => break,
            }
        }
        let nothing = || Seen::Failure {
            status: 502,
            body: Vec::new(),
        };
        let text = came.response.text(&came.held).unwrap_or_default();
        let seen = match prelude {
            // A stream that ends before it has said anything has failed, however it ends.
            Some(_) if came.broken => nothing(),
            Some(prelude) if came.whole => match prelude.finish(&text) {
                Seen::Prelude => nothing(),
                seen => seen,
            },
            // DeepSeek was seen to give up so, after the blank lines that it sends while one waits.
            None if status < 300
                && came.whole
                && self.kind == EndpointKind::Generate
                && came.held.trim_ascii().is_empty() =>
            {
                nothing()
            }
            None if status < 300 && came.whole => lone_error(dialect, &text),
            Some(_) | None => Seen::Content,
        };
        if let Seen::Failure { status, body } = seen {
            came.failure.get_or_insert((status, body));
        }
        if matches!(status, 400 | 403 | 429)
            && self.upstream.provider.of_another(&came.reply()).is_some()
        {
            came.failure = Some((404, came.held.clone()));
        }
        Ok(self.only_answers(came))
    }

    /// The response, unless something on the way has answered in the provider's place: that is no
    /// answer, whatever its status says.
    pub(super) fn only_answers(
        &self,
        came: UpstreamResponse,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let is_suspect = came.response.status >= 400 || came.response.is_page();
        let why = match is_suspect && came.failure.is_none() {
            true => self.upstream.provider.impostor(&came.reply()),
            false => None,
        };
        match why {
            Some(why) => {
                self.reuse(came);
                Err(UpstreamError { began: false, why })
            }
            None => Ok(came),
        }
    }

    /// The next bytes of the body, if they come before then.
    pub(super) fn pull(
        &mut self,
        came: &mut UpstreamResponse,
        until: Instant,
    ) -> Result<BodyRead, Gone> {
        loop {
            match came.link.piece(&mut came.rest) {
                Ok(BodyPart::Data(count)) => return Ok(BodyRead::Data(count)),
                Ok(BodyPart::End) => return Ok(BodyRead::End),
                Ok(BodyPart::More) => {}
                Err(_) => return Ok(BodyRead::Broken),
            }
            match self.client.read_on(&mut came.link, until, b"")? {
                ReadResult::Some => {}
                ReadResult::End if came.rest == BodyFraming::UntilEnd => return Ok(BodyRead::End),
                ReadResult::End | ReadResult::Broken => return Ok(BodyRead::Broken),
                ReadResult::Late => return Ok(BodyRead::Late),
            }
        }
    }

    /// What the response says about the token.
    pub(super) fn reading(&self, came: &UpstreamResponse) -> Reading {
        let (provider, reply) = (self.upstream.provider, came.reply());
        let mut reading = provider.read(ProbeTarget::Traffic, &reply, SystemTime::now());
        reading.said = provider.refusal(&reply, &reading.finding);
        reading
    }
}
