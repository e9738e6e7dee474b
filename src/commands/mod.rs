//! commands.

pub(crate) mod rehearse;
pub(crate) mod report;
pub(crate) mod status;
