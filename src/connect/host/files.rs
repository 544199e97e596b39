//! Reading the small files of `/proc` and `/sys`: whole, into one buffer that is used again.
//!
//! Never keeps a file open: the kernel makes these files' text when they are read, opening them costs little.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags},
    io::Errno,
};

/// Where the host's files lie; other places in tests.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// `/etc`, for the users' names.
    pub etc: PathBuf,
    /// Whether sockets are counted by asking the kernel directly; else, and where that fails, from `proc`.
    pub asks_kernel: bool,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), etc: "/etc".into(), asks_kernel: true }
    }
}

/// Largest file that is read; `/proc/stat` of a large machine has some 60 KiB, what is longer is cut.
const MOST_BYTES: usize = 1 << 20;

/// Capacity the buffer goes back to.
const KEPT_BYTES: usize = 16 * 1024;

/// A directory opened once, and the buffer its files are read into.
#[derive(Debug)]
pub(super) struct Files {
    directory: OwnedFd,
    /// Whether it is a real `/proc`, some of whose directories say more than others.
    pub(super) is_proc: bool,
    buffer: Vec<u8>,
}

impl Files {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())?;
        let is_proc = rustix::fs::fstatfs(&directory)?.f_type == rustix::fs::PROC_SUPER_MAGIC;
        Ok(Self { directory, is_proc, buffer: Vec::new() })
    }

    /// The whole file at `path` below the directory.
    pub(super) fn read(&mut self, path: &str) -> io::Result<&[u8]> {
        let file = rustix::fs::openat(&self.directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        if self.buffer.capacity() > KEPT_BYTES {
            self.buffer = Vec::new();
        }
        read_whole(file.as_fd(), &mut self.buffer)?;
        Ok(&self.buffer)
    }

    /// As [`Self::read`], as text without the white space and NUL around it; `None` if it cannot be read.
    pub(super) fn text(&mut self, path: &str) -> Option<&str> {
        let text = std::str::from_utf8(self.read(path).ok()?).ok()?;
        Some(text.trim_matches(|c: char| c.is_whitespace() || c == '\0'))
    }

    /// A file that holds one number.
    pub(super) fn number<T: std::str::FromStr>(&mut self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// Where a symbolic link points.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = rustix::fs::readlinkat(&self.directory, path, Vec::new()).ok()?;
        Some(target.to_string_lossy().into_owned())
    }

    /// Calls `each` with the names in the directory at `path`, but for those that begin with a dot.
    pub(super) fn names(&self, path: &str, mut each: impl FnMut(&str)) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.directory, path, flags, Mode::empty())?;
        let mut space = [std::mem::MaybeUninit::uninit(); 4096];
        let mut entries = rustix::fs::RawDir::new(directory, &mut space);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && !name.starts_with('.')
            {
                each(name);
            }
        }
        Ok(())
    }
}

impl AsFd for Files {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

fn read_whole(file: rustix::fd::BorrowedFd<'_>, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    while buffer.len() < MOST_BYTES {
        if buffer.capacity() - buffer.len() < 1024 {
            // Doubling from 4 KiB reads nearly every file in one call and its end in a second.
            buffer.reserve(buffer.len().max(4096));
        }
        match rustix::io::read(file, rustix::buffer::spare_capacity(buffer)) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The lines of a file.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty())
}

/// The words of a line.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty())
}

/// A number in decimal digits; `None` if it is anything else.
pub(super) fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// What the kernel should not have written.
pub(super) fn odd(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
