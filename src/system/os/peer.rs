//! Whose program is at the other end of a TCP connection on this machine.
//!
//! Owns the reading of the kernel's table of sockets (proc_pid_net(5)). It needs no right and no
//! netlink socket; a table that is missing, foreign or odd gives no answer and never an error.

use nix::unistd::Uid;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpStream};

/// The user of the program on the other side of a TCP connection on this machine, from the kernel's
/// table of sockets (proc_pid_net(5)). `None`: the table is not there, or does not have it.
pub(crate) fn tcp_peer(connection: &TcpStream) -> Option<Uid> {
    let (theirs, ours) = (connection.peer_addr().ok()?, connection.local_addr().ok()?);
    // A program may reach an address of IPv4 through a socket of IPv6.
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .into_iter()
        .find_map(|table| {
            let table = BufReader::new(File::open(table).ok()?);
            user_of_socket(table.lines().map_while(Result::ok), theirs, ours)
        })
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
            drop(client);
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
