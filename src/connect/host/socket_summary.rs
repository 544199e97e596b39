//! `system.socket.summary`: how many sockets there are, by protocol and state.
//!
//! The kernel is asked over netlink where that works: `/proc/net/tcp` and `tcp6` each walk the whole table of
//! connections and cost 3.4 ms on a board with a quarter of a million buckets; one dump of both families costs 0.2 ms.

use std::io;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{SOCK_DIAG, SocketAddrNetlink},
};
use serde::Serialize;

use super::files::{Files, lines, number, odd, words};

/// `system.socket`.
#[derive(Debug, Serialize)]
pub(super) struct Sockets {
    socket: Summarized,
}

#[derive(Debug, Serialize)]
struct Summarized {
    summary: Summary,
}

#[derive(Debug, Serialize)]
struct Summary {
    all: All,
    tcp: Tcp,
    udp: Udp,
}

#[derive(Debug, Serialize)]
struct All {
    count: u64,
    listening: u64,
}

#[derive(Debug, Serialize)]
struct Tcp {
    /// Bytes of buffers.
    memory: u64,
    all: States,
}

#[derive(Debug, Serialize)]
struct States {
    count: u64,
    listening: u64,
    established: u64,
    close_wait: u64,
    time_wait: u64,
    orphan: u64,
    syn_sent: u64,
    syn_recv: u64,
    fin_wait1: u64,
    fin_wait2: u64,
    last_ack: u64,
    closing: u64,
}

#[derive(Debug, Serialize)]
struct Udp {
    memory: u64,
    all: Count,
}

#[derive(Debug, Serialize)]
struct Count {
    count: u64,
}

/// TCP sockets by the kernel's number of their state, 1 to 12.
type ByState = [u64; 16];

/// What `/proc/net/sockstat` and `sockstat6` say.
#[derive(Debug, Default)]
struct Stat {
    orphans: u64,
    tcp_pages: u64,
    udp: u64,
    udp_pages: u64,
}

pub(super) fn read(proc: &mut Files, asks_kernel: bool) -> io::Result<Sockets> {
    let tcp = if asks_kernel { dump().or_else(|_| tables(proc))? } else { tables(proc)? };
    let stat = stat(proc)?;
    let count: u64 = tcp.iter().sum();
    let page_bytes = rustix::param::page_size() as u64;
    let states = States {
        count,
        listening: tcp[10],
        established: tcp[1],
        close_wait: tcp[8],
        time_wait: tcp[6],
        orphan: stat.orphans,
        syn_sent: tcp[2],
        syn_recv: tcp[3] + tcp[12],
        fin_wait1: tcp[4],
        fin_wait2: tcp[5],
        last_ack: tcp[9],
        closing: tcp[11],
    };
    Ok(Sockets {
        socket: Summarized {
            summary: Summary {
                all: All { count: count + stat.udp, listening: states.listening },
                tcp: Tcp { memory: stat.tcp_pages * page_bytes, all: states },
                udp: Udp { memory: stat.udp_pages * page_bytes, all: Count { count: stat.udp } },
            },
        },
    })
}

fn stat(proc: &mut Files) -> io::Result<Stat> {
    let mut stat = Stat::default();
    // A kernel without IPv6 has no sockstat6.
    for (path, is_optional) in [("net/sockstat", false), ("net/sockstat6", true)] {
        let bytes = match proc.read(path) {
            Err(_) if is_optional => continue,
            bytes => bytes?,
        };
        for line in lines(bytes) {
            let mut words = words(line);
            let protocol = words.next().unwrap_or_default();
            while let (Some(name), Some(value)) = (words.next(), words.next().and_then(number)) {
                match (protocol, name) {
                    (b"TCP:", b"orphan") => stat.orphans = value,
                    (b"TCP:", b"mem") => stat.tcp_pages = value,
                    (b"UDP:" | b"UDP6:", b"inuse") => stat.udp += value,
                    (b"UDP:", b"mem") => stat.udp_pages = value,
                    _ => {}
                }
            }
        }
    }
    Ok(stat)
}

fn tables(proc: &mut Files) -> io::Result<ByState> {
    let mut counts = ByState::default();
    for (path, is_optional) in [("net/tcp", false), ("net/tcp6", true)] {
        let bytes = match proc.read(path) {
            Err(_) if is_optional => continue,
            bytes => bytes?,
        };
        for line in lines(bytes).skip(1) {
            let state = words(line).nth(3).and_then(|w| std::str::from_utf8(w).ok());
            if let Some(count) = state.and_then(|s| usize::from_str_radix(s, 16).ok()).and_then(|s| counts.get_mut(s)) {
                *count += 1;
            }
        }
    }
    Ok(counts)
}

/// Request for all TCP sockets: the older message, because it alone takes both families in one walk.
const TCPDIAG_GETSOCK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
/// A netlink message's header and the request after it.
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEADER_BYTES + 60;

fn dump() -> io::Result<ByState> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(SOCK_DIAG))?;
    let mut request = [0; REQUEST_BYTES];
    request[..4].copy_from_slice(&(REQUEST_BYTES as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&TCPDIAG_GETSOCK.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request[HEADER_BYTES] = 2; // AF_INET; the kernel does not look at it
    request[REQUEST_BYTES - 8..REQUEST_BYTES - 4].fill(0xff); // all states
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut counts = ByState::default();
    // What the kernel sends at once fits a page, or 8 KiB where pages are larger.
    let mut buffer = [0; 8192];
    loop {
        // The dump is made while it is received, so there is never anything to wait for.
        let (_, length) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
        if count_states(buffer.get(..length).ok_or_else(|| odd("a cut netlink message"))?, &mut counts)? {
            return Ok(counts);
        }
    }
}

/// Counts the sockets of some netlink messages; true after the last.
fn count_states(mut bytes: &[u8], counts: &mut ByState) -> io::Result<bool> {
    while let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if length < HEADER_BYTES || length > bytes.len() {
            return Err(odd("a netlink message's length"));
        }
        match u16::from_ne_bytes([header[4], header[5]]) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return Err(odd("a netlink error")),
            _ => {
                if let Some(count) = bytes.get(HEADER_BYTES + 1).and_then(|s| counts.get_mut(usize::from(*s))) {
                    *count += 1;
                }
            }
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernels_answer_holds_both_families() {
        let before = dump().unwrap();
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0");
        let _peer = TcpStream::connect(four.local_addr().unwrap()).unwrap();
        let _accepted = four.accept().unwrap();
        let after = dump().unwrap();
        // Other tests open and close sockets meanwhile, so look for these in the tables too.
        let mut proc = Files::open("/proc".as_ref()).unwrap();
        let tables = tables(&mut proc).unwrap();
        assert!(after[10] > u64::from(six.is_ok()), "{before:?} {after:?}");
        assert!(after[1] >= 2 && tables[1] >= 2, "{after:?} {tables:?}");
    }

    #[test]
    fn a_lying_length_is_an_error() {
        let mut counts = ByState::default();
        let mut message = [0; 20];
        message[..4].copy_from_slice(&200u32.to_ne_bytes());
        assert!(count_states(&message, &mut counts).is_err());
        message[..4].copy_from_slice(&4u32.to_ne_bytes());
        assert!(count_states(&message, &mut counts).is_err());
        message[..4].copy_from_slice(&20u32.to_ne_bytes());
        message[17] = 10;
        assert!(!count_states(&message, &mut counts).unwrap());
        message[17] = 200;
        assert!(!count_states(&message, &mut counts).unwrap());
        assert_eq!((counts[10], counts.iter().sum::<u64>()), (1, 1));
    }
}
