//! common.

pub(crate) mod duration;
pub(crate) mod error;
pub(crate) mod http;
pub(crate) mod json;
pub(crate) mod logging;
pub(crate) mod style;
