//! events.

pub(crate) mod console;
pub(crate) mod fact;
pub(crate) mod journal;
pub(crate) mod message;
pub(crate) mod notify;
pub(crate) mod reporter;
pub(crate) mod systemd;
