//! Processes, the terminal and signals, on Linux and elsewhere.

pub(crate) mod child;
pub(crate) mod descendants;
pub(crate) mod exec_shim;
pub(crate) mod exit_status;
pub(crate) mod hidden_environment;
pub(crate) mod job;
pub(crate) mod os;
pub(crate) mod program;
pub(crate) mod prompt;
pub(crate) mod signals;
pub(crate) mod standard_input;
pub(crate) mod terminal;
pub(crate) mod time_zone;
pub(crate) mod watchdog;
