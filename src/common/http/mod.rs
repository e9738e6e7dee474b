//! common/http.

pub(crate) mod headers;
pub(crate) mod reader;
pub(crate) mod stream;
