//! What a supervisor owes to its child and to the shell: 60 cases, C01 to C60, whose numbers the tests
//! keep so that each case can be named. Job control goes through bash in a real terminal.

mod container; // C56, C58: PID 1, other users
mod exit; // C01 to C07, C10, C11: codes, streams, environment
mod injection; // the system refuses
mod job_control; // C14 to C17, C21 to C31, C34: stop, continue, foreground
mod kill; // SIGKILL to ddollar, two hundred times
mod modes; // C53 to C55: the terminal after the end
mod pause; // C46, C47: a limit, and every token spent
mod programs; // vim, less, htop, bash
mod prompt; // C48 to C52: the question
mod signals; // C08, C09, C12, C13, C18 to C20, C32, C33, C59: who gets which, how often
mod time; // C57: clocks
mod tree; // C35 to C45: everything that a command has started
