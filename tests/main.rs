//! The tests of the built program: each starts `ddollar` as a user does, against the built-in
//! provider as a process of its own, and waits for events (a line, a request, a state in /proc),
//! never for time. Each can run alone, beside the others and in any order.
//!
//! Linux only: /proc tells them what goes on, and prctl(2) brings them every orphan. With
//! `--features portable` they test there what macOS gets.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, also in its helpers"
)]

mod support; // the scrubbed environment, the provider, a run, TLS

mod cli; // help, version, bad input
mod clients; // claude, codex and the others: hooks, tokens, resumes
mod conformance; // terminals, signals and trees: 60 numbered cases
mod exit_status; // codes and signals, to the child and from it
mod failures; // a child that fails, and whether it is started again
mod faults; // a provider that breaks the protocol
mod generate; // the man page and the completions, in the programs that they are for
mod install; // the install script
mod keys; // a key in a place where none belongs
mod news; // who is told what happens: a command of the user's, the service manager
mod output; // who writes what to which stream, how loud and in which style
mod providers; // those that tell their limits otherwise, or not at all
mod proxy; // the gateway: the behaviour matrix, HTTP, security
mod rehearse; // the night in 20 seconds
mod report; // the journal of a run, and what is made of it
mod rotation; // from one token to the next
mod secrets; // no token anywhere
mod slips; // what a first evening gets wrong
mod stall; // a command that does nothing
mod state; // what one run leaves for the next, and for those beside it
mod status; // every token at once
mod tls; // a private CA
mod token_files; // tokens that come and go
mod waiting; // every token spent
