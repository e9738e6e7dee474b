//! The commands that supervise nothing real: status, report, rehearse.

pub(crate) mod rehearse;
pub(crate) mod report;
pub(crate) mod status;
