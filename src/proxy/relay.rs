//! An answer on its way to the client.
//!
//! It promises that everything that is at hand goes out before anything more is waited for, that what
//! breaks off is seen to break off, and that the token is in none of it. Blocks, on the connection's
//! own thread.

use super::client::{ClientConnection, Gone, ReadResult};
use super::forward::{Counter, UpstreamResponse};
use super::redact::Redactor;
use super::response::Framing;
use super::upstream::Upstream;
use crate::common::http::reader::{BodyFraming, BodyPart};
use crate::common::http::response::{LAST_CHUNK, put_chunk};
use std::time::{Duration, Instant};

/// How long a provider may say nothing. An answer that is not streamed takes minutes, some more
/// than ten, and a request that is cut has been paid for: how long to wait is the client's to say.
/// A network that is gone shows by `upstream`'s keep-alive.
pub(super) const STALL: Duration = Duration::from_secs(3600);
/// What is gathered before it is sent on, as long as more is at hand. In bytes.
pub(super) const GATHERED: usize = 64 * 1024;

/// Passes on what both sides say in another protocol, until one of them ends. Whether the client's
/// connection goes on: never.
pub(super) fn tunnel(
    client: &mut ClientConnection,
    mut came: UpstreamResponse,
    mask: &Redactor<'_>,
) -> Result<bool, Gone> {
    let mut head = Vec::new();
    came.response.put_switch(&mut head, mask);
    client.send(&head)?;
    client.tunnel(&mut came.link, STALL)?;
    Ok(false)
}

/// Sends the response on as it comes, in chunks to a `modern` client where its length is not known. The
/// client's connection is to go on if `keep_alive`; whether it does.
pub(super) fn relay(
    client: &mut ClientConnection,
    upstream: &Upstream,
    mut came: UpstreamResponse,
    mut mask: Redactor<'_>,
    mut counter: Option<Counter<'_>>,
    modern: bool,
    keep_alive: bool,
) -> Result<bool, Gone> {
    let framing = match came.rest {
        _ if came.whole && came.response.body != BodyFraming::NONE => {
            Framing::Length(came.held.len())
        }
        BodyFraming::Length(_) => Framing::AsItCame,
        _ if modern => Framing::Chunked,
        _ => Framing::UntilEnd,
    };
    let keep_alive = keep_alive && framing != Framing::UntilEnd && !came.broken;
    // The size of the next chunk, or of the last, may begin with noughts (RFC 9112 §7.1).
    let nudge: &[u8] = match framing {
        Framing::Chunked => b"0",
        Framing::AsItCame | Framing::Length(_) | Framing::UntilEnd => b"",
    };
    let mut out = client.memory();
    came.response
        .put_client(&mut out, framing, keep_alive, &mask);
    let held = std::mem::take(&mut came.held);
    put(&mut out, &held, framing, &mut mask, &mut counter);
    drop(held);
    let mut whole = came.whole;
    while !whole && !came.broken {
        let has_more = match came.link.piece(&mut came.rest) {
            Ok(BodyPart::Data(count)) => {
                let piece = &came.link.buffered()[..count];
                put(&mut out, piece, framing, &mut mask, &mut counter);
                came.link.consume(count);
                if out.len() < GATHERED {
                    continue;
                }
                true
            }
            Ok(BodyPart::End) => {
                whole = true;
                continue;
            }
            Ok(BodyPart::More) => false,
            Err(_) => {
                came.broken = true;
                continue;
            }
        };
        client.send(&out)?;
        out.clear();
        if out.capacity() > 2 * GATHERED {
            out.shrink_to(0);
        }
        // The reader may hold what was read with it, for which nothing more has to come.
        if has_more {
            continue;
        }
        let until = Instant::now() + STALL;
        match client.read_on(&mut came.link, until, nudge)? {
            ReadResult::Some => {}
            ReadResult::End if came.rest == BodyFraming::UntilEnd => whole = true,
            ReadResult::End | ReadResult::Broken | ReadResult::Late => came.broken = true,
        }
    }
    let tail = mask.end();
    put_raw(&mut out, &tail, framing);
    if whole && framing == Framing::Chunked {
        out.extend_from_slice(LAST_CHUNK);
    }
    if let Some(counter) = &mut counter {
        counter.close();
    }
    client.send(&out)?;
    client.give_back(out);
    if whole && came.response.keep_alive {
        upstream.keep(came.link);
    }
    // What broke off ends without its last chunk, or short of its length: the client sees it.
    Ok(keep_alive && whole)
}

/// Puts a piece of a body onto what goes to the client, without the token. What it says of its cost is
/// counted before the client has it: a command may end with its last answer.
fn put(
    out: &mut Vec<u8>,
    piece: &[u8],
    framing: Framing,
    mask: &mut Redactor<'_>,
    counter: &mut Option<Counter<'_>>,
) {
    if let Some(counter) = counter {
        counter.read(piece);
    }
    match mask.piece(piece) {
        None => put_raw(out, piece, framing),
        Some(masked) => put_raw(out, &masked, framing),
    }
}

/// Puts a piece of a body as this framing has it.
pub(super) fn put_raw(out: &mut Vec<u8>, piece: &[u8], framing: Framing) {
    match framing {
        Framing::Chunked => put_chunk(out, piece),
        Framing::AsItCame | Framing::Length(_) | Framing::UntilEnd => out.extend_from_slice(piece),
    }
}
