//! `ddollar proxy`, from the outside.

mod answers; // what counts as an answer
mod fallback; // another model while every token is spent for one
mod http; // what goes through, byte for byte, and what breaks
mod life; // start, several applications, status, the end
mod matrix; // what a provider answers, and what the application gets
mod roads; // other ways: base URLs, large bodies, WebSockets
mod scopes; // what an answer says of other models, other tokens and other things
mod security; // who is refused, and where no token is
mod spending; // what answers cost, and an end for it
mod supervised; // rotation without a restart
