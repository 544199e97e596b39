//! Bytes in, bytes out: the cursor over a received frame and the frame being built.

use bytes::{BufMut, Bytes, BytesMut};

/// Byte fields from this size on are handed to the socket by reference; below it a copy costs less than one more
/// segment of a vectored write.
const SHARE_FROM_BYTES: usize = 1024;

/// Why bytes are not the message they should be. Every one of them ends the connection: the stream has no place from
/// which to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The frame ends inside a field, or a length points beyond it.
    #[error("the frame ends inside a field")]
    Truncated,
    /// The message would take more memory than was allowed.
    #[error("the message takes more memory than {0} bytes")]
    TooMuch(usize),
    /// A field holds what its type cannot.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The API is known, this version of it is not.
    #[error("version {0} is not supported")]
    Version(i16),
}

/// A cursor over one received frame. Byte fields are slices of the frame and keep it alive.
#[derive(Clone, Debug)]
pub struct Decoder {
    frame: Bytes,
    at: usize,
    /// Memory that the message takes so far beside its frame, and may take.
    taken_bytes: usize,
    most_bytes: usize,
    pub(super) version: i16,
    pub(super) flexible: bool,
}

impl Decoder {
    /// Starts at the first byte of `frame`, which does not include the 4-byte length in front of it.
    pub fn new(frame: Bytes) -> Self {
        Self { frame, at: 0, taken_bytes: 0, most_bytes: usize::MAX, version: 0, flexible: false }
    }

    /// Lets the message take so much memory beside its frame: fields of two bytes become structs of fifty.
    pub fn limit_memory(&mut self, most_bytes: usize) {
        self.most_bytes = most_bytes;
    }

    /// Memory that what has been read takes beside the frame, about.
    pub fn taken_bytes(&self) -> usize {
        self.taken_bytes
    }

    /// Counts memory that is about to be taken.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Error> {
        self.taken_bytes = self.taken_bytes.saturating_add(bytes);
        if self.taken_bytes > self.most_bytes { Err(Error::TooMuch(self.most_bytes)) } else { Ok(()) }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.frame.len() - self.at
    }

    fn advance(&mut self, n: usize) -> Result<&[u8], Error> {
        if n > self.remaining() {
            return Err(Error::Truncated);
        }
        self.at += n;
        Ok(&self.frame[self.at - n..self.at])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let bytes = self.advance(N)?;
        Ok(bytes.try_into().expect("advance gave N bytes"))
    }

    pub(super) fn str(&mut self, n: usize) -> Result<&str, Error> {
        std::str::from_utf8(self.advance(n)?).map_err(|_| Error::Malformed("UTF-8"))
    }

    pub(super) fn bytes(&mut self, n: usize) -> Result<Bytes, Error> {
        self.advance(n)?;
        Ok(self.frame.slice(self.at - n..self.at))
    }

    pub(super) fn uvarint(&mut self) -> Result<u32, Error> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| Error::Malformed("varint"));
            }
        }
        Err(Error::Malformed("varint"))
    }

    /// A length: unsigned varint of n + 1 in flexible versions, else what `fixed` reads; `None` is null.
    pub(super) fn length(&mut self, fixed: fn(&mut Self) -> Result<i32, Error>) -> Result<Option<usize>, Error> {
        let n = if self.flexible { i64::from(self.uvarint()?) - 1 } else { i64::from(fixed(self)?) };
        match n {
            -1 => Ok(None),
            0.. => {
                let n = usize::try_from(n).map_err(|_| Error::Truncated)?;
                // The least element takes one byte, so this bounds arrays too.
                if n > self.remaining() { Err(Error::Truncated) } else { Ok(Some(n)) }
            }
            _ => Err(Error::Malformed("length")),
        }
    }

    pub(super) fn length16(&mut self) -> Result<Option<usize>, Error> {
        self.length(|d| Ok(i32::from(i16::from_be_bytes(d.array()?))))
    }

    pub(super) fn length32(&mut self) -> Result<Option<usize>, Error> {
        self.length(|d| Ok(i32::from_be_bytes(d.array()?)))
    }

    /// Reads the tagged fields that end a struct of a flexible version. `take` sees each tag with a decoder over its
    /// bytes alone; what it does not know it leaves, and what it leaves unread is skipped.
    pub(super) fn tags(&mut self, mut take: impl FnMut(u32, &mut Self) -> Result<(), Error>) -> Result<(), Error> {
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let size = self.uvarint()? as usize;
            let frame = self.bytes(size)?;
            let Self { taken_bytes, most_bytes, version, .. } = *self;
            let mut field = Self { frame, at: 0, taken_bytes, most_bytes, version, flexible: true };
            take(tag, &mut field)?;
            self.taken_bytes = field.taken_bytes;
        }
        Ok(())
    }
}

/// A frame being built: small fields in one buffer, large byte fields by reference between its parts.
#[derive(Debug, Default)]
pub struct Encoder {
    small: BytesMut,
    /// Large fields, each with the length of `small` at which it belongs.
    large: Vec<(usize, Bytes)>,
    large_bytes: usize,
    pub(super) version: i16,
    pub(super) flexible: bool,
}

impl Encoder {
    /// An empty frame.
    pub fn new() -> Self {
        // Most frames are smaller; growing from nothing would take four steps to here.
        Self { small: BytesMut::with_capacity(256), ..Self::default() }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.small.len() + self.large_bytes
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The parts in order, for a vectored write. Their sum is [`len`](Self::len).
    pub fn into_segments(mut self) -> Vec<Bytes> {
        let mut segments = Vec::with_capacity(2 * self.large.len() + 1);
        let mut cut = 0;
        for (at, bytes) in self.large {
            if at > cut {
                segments.push(self.small.split_to(at - cut).freeze());
                cut = at;
            }
            segments.push(bytes);
        }
        if !self.small.is_empty() {
            segments.push(self.small.freeze());
        }
        segments
    }

    /// All of it in one piece: a copy when there are large fields, so for tests and small messages.
    pub fn to_bytes(self) -> Bytes {
        if self.large.is_empty() {
            return self.small.freeze();
        }
        self.into_segments().concat().into()
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.small.put_slice(bytes);
    }

    pub(super) fn put_bytes(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARE_FROM_BYTES {
            return self.put(bytes);
        }
        self.large.push((self.small.len(), bytes.clone()));
        self.large_bytes += bytes.len();
    }

    /// Sets the 4 bytes at the start of the frame, the length every frame begins with.
    pub(super) fn set_frame_length(&mut self) {
        let n = u32::try_from(self.len() - 4).expect("a response is far below 4 GiB");
        self.small[..4].copy_from_slice(&n.to_be_bytes());
    }

    pub(super) fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.small.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.small.put_u8(value as u8);
    }

    /// The counterpart of [`Decoder::length`]; `fixed` writes the length where the version is not flexible.
    fn length(&mut self, n: Option<usize>, fixed: impl FnOnce(&mut BytesMut, i64)) {
        let n = n.map_or(-1, |n| i64::try_from(n).expect("a length fits 63 bits"));
        if self.flexible {
            self.uvarint(u32::try_from(n + 1).expect("a field is far below 4 GiB"));
        } else {
            fixed(&mut self.small, n);
        }
    }

    pub(super) fn length16(&mut self, n: Option<usize>) {
        self.length(n, |small, n| small.put_i16(n as i16));
    }

    pub(super) fn length32(&mut self, n: Option<usize>) {
        self.length(n, |small, n| small.put_i32(n as i32));
    }

    /// Ends a struct of a flexible version with its tagged fields, in ascending order of their tags.
    pub(super) fn tags(&mut self, fields: Vec<(u32, Encoder)>) {
        self.uvarint(fields.len() as u32);
        for (tag, field) in fields {
            self.uvarint(tag);
            self.uvarint(field.len() as u32);
            let at = self.small.len();
            self.small.put_slice(&field.small);
            self.large.extend(field.large.into_iter().map(|(cut, bytes)| (at + cut, bytes)));
            self.large_bytes += field.large_bytes;
        }
    }

    /// An empty encoder of the same version, for one tagged field.
    pub(super) fn fork(&self) -> Self {
        Self { version: self.version, flexible: self.flexible, ..Self::default() }
    }
}
