//! HTTP/1.1, as far as the proxy, the built-in provider and the reading of answers share it.

pub(crate) mod headers; // the fields of an answer, as limits are looked for in them (pure)
pub(crate) mod reader; // heads and bodies off a byte source
pub(crate) mod request; // the head of a request (pure)
pub(crate) mod response; // heads and chunks that we write ourselves (pure)
pub(crate) mod stream; // time limits and the orderly end of a connection
