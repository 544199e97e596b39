//! One GET from the daemon's admin port.
//!
//! HTTP/1.0 on purpose: the answer ends with the connection, so neither chunks nor keep-alive need to be understood.
//! Never follows redirects and never speaks TLS; the admin port is on loopback.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, bail};

/// An answer of the admin port is small; more than this is not one.
const MOST_BYTES: u64 = 16 << 20;
/// Nor are the lines in front of it long.
const MOST_HEAD_BYTES: u64 = 8 << 10;
/// A copy of a full log on a slow card takes minutes.
const DOWNLOAD_WAIT: Duration = Duration::from_secs(1800);

/// Writes the body of `http://address/path` to a file and says how long it is. `progress` hears how much of how much.
pub(super) fn download(
    address: &str,
    path: &str,
    out: &mut File,
    progress: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(address).with_context(|| hint(address))?;
    // The first byte comes once the daemon has made its copy.
    stream.set_read_timeout(Some(DOWNLOAD_WAIT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut stream = BufReader::new(stream);
    let (mut status, mut length) = (String::new(), None);
    loop {
        let mut line = String::new();
        (&mut stream).take(MOST_HEAD_BYTES).read_line(&mut line).with_context(|| hint(address))?;
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok(),
            None if status.is_empty() => line.clone_into(&mut status),
            _ => {}
        }
    }
    if status.split(' ').nth(1) != Some("200") {
        let mut why = String::new();
        // What it says beside is an extra.
        let _read = stream.take(MOST_HEAD_BYTES).read_to_string(&mut why);
        bail!("http://{address}{path}: {status}: {}", why.trim());
    }
    let length: u64 = length.context("the answer does not say how long it is")?;
    let (mut done, mut part) = (0, vec![0; 256 << 10]);
    loop {
        let count = stream.read(&mut part).context("reading from the daemon")?;
        if count == 0 {
            break;
        }
        out.write_all(&part[..count]).context("writing the copy")?;
        done += count as u64;
        progress(done, length);
    }
    if done != length {
        bail!("the connection ended after {done} of {length} bytes");
    }
    Ok(done)
}

fn hint(address: &str) -> String {
    format!("no daemon answers at http://{address}; is it running? (brooklet run, or: systemctl status brooklet)")
}

/// The body of `http://address/path`.
pub(super) fn get(address: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let hint = || hint(address);
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
