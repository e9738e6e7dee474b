//! Tells the service manager how the run is doing (sd_notify(3)).
//!
//! Owns the datagrams to `NOTIFY_SOCKET`: READY with the first start or wait of a run, or once a proxy
//! listens, STATUS with what happens, WATCHDOG twice in each period that the manager allows, STOPPING at the
//! end. It promises not to block, and not to fail when the manager does not listen.

use crate::common::mask::masked;
use crate::events::schema::Record;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Variables that the manager sets for ddollar; the command does not get them.
pub(crate) const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// How the manager is reached, and how often it wants a sign of life.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    /// A path, or `@` and a name in the abstract namespace (unix(7)).
    socket: String,
    /// Half of the time after which the manager takes the service for dead (sd_watchdog_enabled(3)).
    each: Option<Duration>,
}

impl Address {
    /// Reads the variables; `None` when no manager wants to be told.
    pub(crate) fn from(variable: impl Fn(&str) -> Option<String>) -> Option<Address> {
        let socket = variable("NOTIFY_SOCKET")?;
        let meant_for_us =
            variable("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(std::process::id()));
        let microseconds = variable("WATCHDOG_USEC").and_then(|text| text.parse().ok());
        let each = microseconds
            .filter(|microseconds| meant_for_us && *microseconds > 0)
            .map(|microseconds| Duration::from_micros(microseconds) / 2);
        Some(Address { socket, each })
    }
}

/// The service manager that the messages go to.
#[derive(Debug)]
pub(crate) struct Service {
    socket: UnixDatagram,
    to: SocketAddr,
    each: Option<Duration>,
    told: Option<Instant>,
    ready: bool,
}

impl Service {
    /// Opens a socket to the manager. `None`: the address is not valid, or the system refuses a socket.
    pub(crate) fn open(address: &Address) -> Option<Service> {
        let opened = Service::try_open(address);
        let log = |why: &std::io::Error| log::warn!("the service manager is not told: {why}");
        opened.inspect_err(log).ok()
    }

    fn try_open(address: &Address) -> std::io::Result<Service> {
        let to = match address.socket.strip_prefix('@') {
            #[cfg(target_os = "linux")]
            Some(name) => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&address.socket)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Service {
            socket,
            to,
            each: address.each,
            told: None,
            ready: false,
        })
    }

    /// Passes on what happened; `words` are for people.
    pub(crate) fn tell(&mut self, record: &Record, words: &str) {
        match record {
            // A run that begins with a wait does its work; a unit that is not ready in time is ended.
            Record::Launch { .. } | Record::Wait { .. } if !self.ready => self.is_ready(words),
            Record::End(_) => self.is_stopping(words),
            _ if words.is_empty() => {}
            _ => self.send(&format!("STATUS={words}")),
        }
    }

    /// Says that the service is there.
    pub(crate) fn is_ready(&mut self, words: &str) {
        self.ready = true;
        self.send(&format!("READY=1\nSTATUS={words}"));
    }

    /// Says that the service ends.
    pub(crate) fn is_stopping(&self, words: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={words}"));
    }

    /// Sends a sign of life when one is due. Returns after which time the next is.
    pub(crate) fn sign_of_life(&mut self, now: Instant) -> Option<Duration> {
        let each = self.each?;
        let rest = self.told.and_then(|told| each.checked_sub(now - told));
        if let Some(rest) = rest.filter(|rest| !rest.is_zero()) {
            return Some(rest);
        }
        self.send("WATCHDOG=1");
        self.told = Some(now);
        Some(each)
    }

    fn send(&self, text: &str) {
        if let Err(error) = self.socket.send_to_addr(masked(text).as_bytes(), &self.to) {
            log::warn!("the service manager is not told: {error}");
        }
    }
}
