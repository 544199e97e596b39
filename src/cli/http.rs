//! One GET from the daemon's admin port.
//!
//! HTTP/1.0 on purpose: the answer ends with the connection, so neither chunks nor keep-alive need to be understood.
//! Never follows redirects and never speaks TLS; the admin port is on loopback.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, bail};

/// An answer of the admin port is small; more than this is not one.
const MOST_BYTES: u64 = 16 << 20;

/// The body of `http://address/path`.
pub(super) fn get(address: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let hint = || {
        format!("no daemon answers at http://{address}; is it running? (brooklet run, or: systemctl status brooklet)")
    };
    let mut stream = TcpStream::connect(address).with_context(hint)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer).with_context(hint)?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("the answer is not HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("http://{address}{path}: {}", head.lines().next().unwrap_or_default());
    }
    Ok(answer.split_off(end + 4))
}
