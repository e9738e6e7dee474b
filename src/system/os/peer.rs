//! Whose program is at the other end of a TCP connection on this machine.
//!
//! Owns two ways to ask the kernel: about this one socket (sock_diag(7)), and where that is not to be had,
//! as in some sandboxes, its table of all sockets (proc_pid_net(5)), which takes milliseconds. Neither
//! needs a right. A kernel that does not tell gives no answer, and never an error.

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use nix::unistd::Uid;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

/// `SOCK_DIAG_BY_FAMILY` in `linux/sock_diag.h`: the kind of a question, and of its answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` in `linux/netlink.h`.
const REQUEST: u16 = 1;
const TCP: u8 = 6;
/// Bytes of a `struct nlmsghdr` with a `struct inet_diag_req_v2`, and where the user and the other end's
/// port stand in the answer: a `struct nlmsghdr` and a `struct inet_diag_msg`.
const QUESTION: u32 = 16 + 56;
const USER_AT: usize = 16 + 64;
const REMOTE_PORT_AT: usize = 16 + 6;

/// The user of the program on the other side of a TCP connection on this machine. `None`: the kernel does
/// not tell.
pub(crate) fn tcp_peer(connection: &TcpStream) -> Option<Uid> {
    let (theirs, ours) = (connection.peer_addr().ok()?, connection.local_addr().ok()?);
    asked_for(theirs, ours).or_else(|| {
        // A program may reach an address of IPv4 through a socket of IPv6.
        ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
            .into_iter()
            .find_map(|table| {
                let table = BufReader::new(File::open(table).ok()?);
                user_of_socket(table.lines().map_while(Result::ok), theirs, ours)
            })
    })
}

/// The user of the socket with these two ends, by sock_diag(7).
fn asked_for(local: SocketAddr, remote: SocketAddr) -> Option<Uid> {
    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )
    .ok()?;
    send(
        kernel.as_raw_fd(),
        &question(local, remote),
        MsgFlags::empty(),
    )
    .ok()?;
    let mut answer = [0; 1024];
    // The kernel has answered before send(2) returns.
    let count = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).ok()?;
    let answer = answer.get(..count)?;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let user = answer.get(USER_AT..USER_AT + 4)?.try_into().ok()?;
    // In the place of a socket that is gone, the kernel finds one that listens there: it has no other end.
    let is_it = kind == BY_FAMILY
        && answer.get(REMOTE_PORT_AT..REMOTE_PORT_AT + 2)? == remote.port().to_be_bytes();
    is_it.then(|| Uid::from_raw(u32::from_ne_bytes(user)))
}

fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = match local {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let mut bytes = Vec::new();
    bytes.extend(QUESTION.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    // Number and sender.
    bytes.extend([0; 8]);
    bytes.extend([family as u8, TCP, 0, 0]);
    // In any state.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    for end in [local, remote] {
        let octets = match end.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let rest = 16 - octets.len();
        bytes.extend(octets);
        bytes.extend(vec![0; rest]);
    }
    // On any interface, and whatever its cookie.
    bytes.extend([0; 4]);
    bytes.extend([u8::MAX; 8]);
    bytes
}

/// The user of the socket with these two ends in lines of `/proc/net/tcp`.
fn user_of_socket(
    mut lines: impl Iterator<Item = String>,
    local: SocketAddr,
    remote: SocketAddr,
) -> Option<Uid> {
    let ends = |wide: bool| (in_table(local, wide), in_table(remote, wide));
    let [narrow, wide] = [ends(false), ends(true)];
    lines.find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (fields.next()?, fields.next()?);
        let is_it = |(one, other): &(String, String)| local == one && remote == other;
        if !is_it(&narrow) && !is_it(&wide) {
            return None;
        }
        Some(Uid::from_raw(fields.nth(4)?.parse().ok()?))
    })
}

/// An address as the table has it: 32 bits at a time, each as this machine reads them.
fn in_table(address: SocketAddr, wide: bool) -> String {
    let octets = match (address.ip(), wide) {
        (IpAddr::V4(ip), false) => ip.octets().to_vec(),
        (IpAddr::V4(ip), true) => ip.to_ipv6_mapped().octets().to_vec(),
        (IpAddr::V6(ip), _) => ip.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| {
        let word = word.try_into().map_or(0, u32::from_ne_bytes);
        format!("{word:08X}")
    });
    format!("{}:{:04X}", words.collect::<String>(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_other_end_of_a_connection_here_is_this_user() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            assert_eq!(tcp_peer(&server), Some(Uid::effective()), "{address}");
            let ends = (server.peer_addr().unwrap(), server.local_addr().unwrap());
            assert_eq!(question(ends.0, ends.1).len(), QUESTION as usize);
            let asked = asked_for(ends.0, ends.1);
            // Where the kernel lets itself be asked.
            assert!(
                asked.is_none_or(|user| user == Uid::effective()),
                "{asked:?}"
            );
            eprintln!("sock_diag says {asked:?}");
            drop(client);
            assert_eq!(asked_for(ends.1, "192.0.2.1:9".parse().unwrap()), None);
        }
    }

    #[test]
    fn a_line_of_the_table_is_found_by_both_ends() {
        let lines = || {
            [
                "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
                "   0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 1",
                "   1: 0000000000000000FFFF00000100007F:C351 0000000000000000FFFF00000100007F:1F90 01 0:0 0:0 0  1001 0 2",
                "   2: 0100007F:C352 0100007F:1F90",
                "   3: 0100007F:C353 0100007F:1F90 01 0:0 0:0 0 nobody",
            ]
            .map(str::to_owned)
            .into_iter()
        };
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let user = |local, remote| user_of_socket(lines(), at(local), at(remote));
        if cfg!(target_endian = "little") {
            assert_eq!(user(8080, 50000), Some(Uid::from_raw(1000)));
            assert_eq!(user(50001, 8080), Some(Uid::from_raw(1001)));
        }
        assert_eq!(user(50002, 8080), None);
        assert_eq!(user(50003, 8080), None);
        assert_eq!(user(1, 2), None);
    }
}
