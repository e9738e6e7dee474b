//! What both halves promise, for the one that is built.

use super::*;
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::{getpgrp, getpid, getppid, getuid};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A process that ends when this value is dropped: its input is then at its end.
fn waiting() -> Child {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    command.spawn().unwrap()
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

#[test]
fn this_process_is_in_the_list_with_its_parent_and_its_group() {
    for own in [process(getpid()), by_pid(&processes(), getpid())] {
        let own = own.unwrap();
        let numbers = (own.pid, own.parent, own.group, own.lives);
        assert_eq!(numbers, (getpid(), getppid(), getpgrp(), true));
    }
}

/// ps(1) counts whole seconds on Linux; the other tests take some of them.
#[test]
fn the_processor_time_that_a_process_takes_is_seen() {
    let taken = || process(getpid()).unwrap().processor;
    let before = taken();
    let until = Instant::now() + Duration::from_secs(30);
    while taken() < before + Duration::from_secs(1) {
        assert!(Instant::now() < until, "{:?}", taken());
        let busy_until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < busy_until {}
    }
}

fn by_pid(all: &[Process], pid: Pid) -> Option<Process> {
    all.iter().copied().find(|process| process.pid == pid)
}

#[test]
fn a_child_descends_from_this_process_and_its_parent_does_not() {
    let mut child = waiting();
    assert!(is_descendant(pid_of(&child)));
    assert!(!is_descendant(getpid()));
    assert!(!is_descendant(getppid()));
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(!is_descendant(pid_of(&child)));
}

#[test]
fn a_zombie_does_not_live() {
    let mut child = waiting();
    let pid = pid_of(&child);
    let lives = || process(pid).map(|process| process.lives);
    assert_eq!(lives(), Some(true));
    drop(child.stdin.take());
    while lives() == Some(true) {
        std::thread::yield_now();
    }
    assert!(matches!(lives(), None | Some(false)));
    child.wait().unwrap();
    assert_eq!(lives(), None);
}

#[test]
fn descendants_are_found_in_any_order_and_the_dead_only_pass_on() {
    let one = |pid, parent, lives| Process {
        pid: Pid::from_raw(pid),
        parent: Pid::from_raw(parent),
        group: Pid::from_raw(pid),
        front: None,
        lives,
        stopped: false,
        started: 0,
        processor: Duration::ZERO,
    };
    let all = [
        one(9, 7, true),
        one(7, 5, false),
        one(5, 1, true),
        one(6, 1, true),
        one(1, 1, true),
    ];
    let found = with_descendants(&all, |process| process.pid == Pid::from_raw(5));
    let found: Vec<i32> = found.iter().map(|process| process.pid.as_raw()).collect();
    assert_eq!(found, [5, 9]);
}

#[test]
fn a_group_lives_while_it_has_members() {
    assert!(group_lives(getpgrp()));
    assert!(!group_lives(Pid::from_raw(i32::MAX)));
}

#[test]
fn a_call_tells_who_calls() {
    let (listener, address) = Address::listen().unwrap();
    let mut line = call(address.name()).unwrap();
    let (mut caller_side, _) = listener.accept().unwrap();
    assert_eq!(caller(&caller_side).unwrap(), (getuid(), getpid()));
    line.write_all(b"hello").unwrap();
    drop(line);
    let mut heard = String::new();
    caller_side.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello");
}

#[test]
fn a_private_file_is_for_this_user_and_gone_with_its_value() {
    let file = PrivateFile::new("secret").unwrap();
    let path = file.path();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "secret");
    #[cfg(all(target_os = "linux", not(feature = "portable")))]
    {
        let mut writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        assert!(writer.write_all(b"other!").is_err());
        assert!(writer.set_len(0).is_err());
    }
    let others = std::fs::metadata(&path).unwrap().permissions().mode() & 0o077;
    let way_in = Path::new(&path).parent().unwrap();
    let of_the_way = std::fs::metadata(way_in).unwrap().permissions().mode() & 0o077;
    assert!(others == 0 || of_the_way == 0, "{others:o} {of_the_way:o}");
    drop(file);
    assert!(!Path::new(&path).exists());
}

#[test]
fn a_folder_is_for_this_user_and_gone_with_its_value() {
    let folder = Folder::new().unwrap();
    let path = folder.path().to_owned();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    std::fs::write(path.join("file"), "").unwrap();
    drop(folder);
    assert!(!path.exists());
}

#[test]
fn the_terminal_is_not_waited_for_once_the_pipe_is_dropped() {
    let (readable, mut end) = std::io::pipe().unwrap();
    let (unless, dropped) = std::io::pipe().unwrap();
    end.write_all(b"x").unwrap();
    assert_eq!(is_readable(&readable, &unless), Ok(true));
    drop(dropped);
    // A process that another test starts in this moment has the end as well, until it is another program.
    let mut fds = [PollFd::new(unless.as_fd(), PollFlags::empty())];
    assert_eq!(poll(&mut fds, 10_000_u16), Ok(1));
    assert_eq!(is_readable(&readable, &unless), Ok(false));
}
