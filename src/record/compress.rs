//! The four codecs as Kafka's clients frame them, with a limit on what unpacking may cost.
//!
//! Never allocates by a size that a peer claims: output grows as it is produced, up to the caller's limit, and no codec's
//! own window or block buffer is used. Contexts are made on first use and kept by their owner, so that a broker which
//! only passes batches through has none.

use std::{fmt, io::Read as _, str::FromStr};

use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use zstd::{
    bulk::Compressor,
    zstd_safe::{self, CParameter, DCtx, zstd_sys::ZSTD_ErrorCode},
};

use super::BatchError;

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not.
    #[default]
    None,
    /// gzip, one or more members.
    Gzip,
    /// snappy in the framing of xerial's Java library; raw blocks are read as well.
    Snappy,
    /// LZ4's frame format.
    Lz4,
    /// zstd frames.
    Zstd,
}

impl Codec {
    /// Every codec.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The level clients use when nothing is said; 0 where a codec has none.
    pub fn default_level(self) -> i32 {
        match self {
            Self::None | Self::Snappy | Self::Lz4 => 0,
            Self::Gzip => 6,
            Self::Zstd => 3,
        }
    }

    /// Kafka's name for it in `compression.type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|c| c.name() == name)
            .ok_or_else(|| format!("unknown codec '{name}', expected none, gzip, snappy, lz4 or zstd"))
    }
}

/// Largest zstd window written, as a power of two. A batch is rarely larger, and a reader must hold the window.
const ZSTD_WINDOW_LOG: u32 = 18;
/// Sizes of zstd's match tables at level 3, as powers of two of 4 byte entries. Half of what it takes by itself for
/// 256 KiB: the context holds 761 KiB instead of 1017, metric events come out 0.4 % larger and no slower.
const ZSTD_TABLE_LOG: u32 = 15;

/// Compresses. Holds the zstd context between batches: about 0.8 MB after its first use at level 3, else nothing.
#[derive(Default)]
pub struct Packer {
    zstd: Option<(i32, Compressor<'static>)>,
}

impl Packer {
    /// Appends the packed `plain` to `out`. False and `out` as it was, if the codec failed or the result is no smaller.
    pub(super) fn pack(&mut self, codec: Codec, level: i32, plain: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let done = match codec {
            Codec::None => None,
            Codec::Gzip => gzip(level, plain, out),
            Codec::Snappy => snappy(plain, out),
            Codec::Lz4 => lz4(plain, out),
            Codec::Zstd => self.zstd(level, plain, out),
        };
        let smaller = done.is_some() && out.len() - start < plain.len();
        if !smaller {
            out.truncate(start);
        }
        smaller
    }

    /// Bytes the contexts hold.
    pub fn memory_bytes(&mut self) -> usize {
        self.zstd.as_mut().map_or(0, |(_, c)| c.context_mut().sizeof())
    }

    /// Gives the contexts' memory back, for an owner that has nothing to do for a while.
    pub fn release(&mut self) {
        self.zstd = None;
    }

    fn zstd(&mut self, level: i32, plain: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let start = out.len();
        let compressor = self.compressor(level)?;
        out.resize(start + zstd_safe::compress_bound(plain.len()), 0);
        let size = compressor.compress_to_buffer(plain, &mut out[start..]).ok()?;
        out.truncate(start + size);
        Some(())
    }

    fn compressor(&mut self, level: i32) -> Option<&mut Compressor<'static>> {
        if self.zstd.as_ref().is_none_or(|(l, _)| *l != level) {
            let mut compressor = Compressor::new(level).ok()?;
            compressor.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG)).ok()?;
            if level == 3 {
                compressor.set_parameter(CParameter::HashLog(ZSTD_TABLE_LOG)).ok()?;
                compressor.set_parameter(CParameter::ChainLog(ZSTD_TABLE_LOG)).ok()?;
            }
            self.zstd = Some((level, compressor));
        }
        self.zstd.as_mut().map(|(_, c)| c)
    }
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").field("zstd_level", &self.zstd.as_ref().map(|(l, _)| *l)).finish()
    }
}

fn gzip(level: i32, plain: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let level = u32::try_from(level).unwrap_or(6).min(9);
    let mut encoder = GzEncoder::new(out, Compression::new(level));
    std::io::Write::write_all(&mut encoder, plain).ok()?;
    encoder.finish().ok().map(|_| ())
}

/// What xerial's library writes first: magic, version 1, compatible from version 1.
const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Its magic alone, which decides how a packed batch is read.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
/// Its block size.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;

fn snappy(plain: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.extend_from_slice(&XERIAL_HEADER);
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(XERIAL_BLOCK_BYTES) {
        let at = out.len();
        out.resize(at + 4 + snap::raw::max_compress_len(block.len()), 0);
        let size = encoder.compress(block, &mut out[at + 4..]).ok()?;
        out[at..at + 4].copy_from_slice(&u32::try_from(size).ok()?.to_be_bytes());
        out.truncate(at + 4 + size);
    }
    Some(())
}

fn lz4(plain: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // 64 KiB independent blocks are what Kafka's Java client writes, and the least a reader must set aside.
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, out);
    std::io::Write::write_all(&mut encoder, plain).ok()?;
    encoder.finish().ok().map(|_| ())
}

/// Unpacks into a buffer of its own, up to a limit. Keeps at most 64 KiB of it, and the zstd context (94 KiB),
/// between batches.
pub struct Unpacker {
    limit_bytes: usize,
    buffer: Vec<u8>,
    zstd: Option<DCtx<'static>>,
}

/// What is kept of the buffer between batches.
const KEPT_BYTES: usize = 64 * 1024;

impl Unpacker {
    /// Refuses batches whose records take more than `limit_bytes` unpacked.
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, buffer: Vec::new(), zstd: None }
    }

    /// The limit it was made with.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Sets another limit.
    pub fn set_limit(&mut self, limit_bytes: usize) {
        self.limit_bytes = limit_bytes;
    }

    /// What was unpacked last.
    pub(super) fn unpacked(&self) -> &[u8] {
        &self.buffer
    }

    /// Gives buffer and context back, for an owner that has nothing to do for a while.
    pub fn release(&mut self) {
        self.buffer = Vec::new();
        self.zstd = None;
    }

    /// The unpacked bytes, valid until the next call.
    pub(super) fn unpack(&mut self, codec: Codec, packed: &[u8]) -> Result<&[u8], BatchError> {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BYTES);
        let mut out = Output { buffer: &mut self.buffer, limit_bytes: self.limit_bytes };
        match codec {
            Codec::None => out.append(packed)?,
            Codec::Gzip => gunzip(packed, &mut out)?,
            Codec::Snappy => unsnappy(packed, &mut out)?,
            Codec::Lz4 => unlz4(packed, &mut out)?,
            Codec::Zstd => {
                let context = match &mut self.zstd {
                    Some(context) => context,
                    None => self.zstd.insert(DCtx::try_create().ok_or(BatchError::Compressed("zstd"))?),
                };
                unzstd(context, packed, &mut out)?;
            }
        }
        Ok(&self.buffer)
    }
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacker")
            .field("limit_bytes", &self.limit_bytes)
            .field("kept_bytes", &self.buffer.capacity())
            .finish_non_exhaustive()
    }
}

/// A buffer that grows only within its limit.
struct Output<'a> {
    buffer: &'a mut Vec<u8>,
    limit_bytes: usize,
}

impl Output<'_> {
    fn left(&self) -> usize {
        self.limit_bytes.saturating_sub(self.buffer.len())
    }

    fn too_large(&self) -> BatchError {
        BatchError::TooLarge { limit_bytes: self.limit_bytes }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        if bytes.len() > self.left() {
            return Err(self.too_large());
        }
        let start = self.grow(bytes.len());
        self.buffer[start..].copy_from_slice(bytes);
        Ok(())
    }

    /// Lengthens the buffer, doubling its room but never past the limit by more than the byte that shows it was passed.
    /// Answers with the old length.
    fn grow(&mut self, by: usize) -> usize {
        let start = self.buffer.len();
        let (needed, room) = (start + by, self.buffer.capacity());
        if needed > room {
            let wanted = room.saturating_mul(2).min(self.limit_bytes.saturating_add(1)).max(needed);
            self.buffer.reserve_exact(wanted - start);
        }
        self.buffer.resize(needed, 0);
        start
    }
}

/// Least room offered to the inflater at once.
const GUNZIP_STEP_BYTES: usize = 16 * 1024;

fn gunzip(packed: &[u8], out: &mut Output<'_>) -> Result<(), BatchError> {
    let mut reader = MultiGzDecoder::new(packed);
    loop {
        // One byte more than allowed tells a batch that ends at the limit from one that goes on.
        let room = out.buffer.len().max(GUNZIP_STEP_BYTES).min(out.left() + 1);
        let start = out.grow(room);
        let size = reader.read(&mut out.buffer[start..]).map_err(|_| BatchError::Compressed("gzip"))?;
        out.buffer.truncate(start + size);
        if size == 0 {
            return Ok(());
        }
        if out.buffer.len() > out.limit_bytes {
            return Err(out.too_large());
        }
    }
}

fn unsnappy(packed: &[u8], out: &mut Output<'_>) -> Result<(), BatchError> {
    let corrupt = BatchError::Compressed("snappy");
    let mut decoder = snap::raw::Decoder::new();
    if !packed.starts_with(XERIAL_MAGIC) {
        return snappy_block(&mut decoder, packed, out);
    }
    let mut rest = packed.get(XERIAL_HEADER.len()..).ok_or(corrupt)?;
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
        let (block, after) = after.split_at_checked(size).ok_or(BatchError::Compressed("snappy"))?;
        snappy_block(&mut decoder, block, out)?;
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err(BatchError::Compressed("snappy")) }
}

fn snappy_block(decoder: &mut snap::raw::Decoder, block: &[u8], out: &mut Output<'_>) -> Result<(), BatchError> {
    let corrupt = |_| BatchError::Compressed("snappy");
    let claimed = snap::raw::decompress_len(block).map_err(corrupt)?;
    if claimed > out.left() {
        return Err(out.too_large());
    }
    // A copy element of three bytes gives at most 64: a block that claims more than that lies.
    if claimed / 22 > block.len() {
        return Err(BatchError::Compressed("snappy"));
    }
    let start = out.grow(claimed);
    let size = decoder.decompress(block, &mut out.buffer[start..]).map_err(corrupt)?;
    out.buffer.truncate(start + size);
    Ok(())
}

/// How far back a match of a linked LZ4 block may reach.
const LZ4_WINDOW_BYTES: usize = 64 * 1024;

/// Reads LZ4 frames without the block buffers a frame's header asks for (up to 8 MB). Checksums are skipped: the batch's
/// CRC covers the same bytes, and early Kafka clients got the header's wrong.
fn unlz4(packed: &[u8], out: &mut Output<'_>) -> Result<(), BatchError> {
    let corrupt = || BatchError::Compressed("lz4");
    let mut rest = packed;
    while !rest.is_empty() {
        let (magic, after) = rest.split_first_chunk::<4>().ok_or_else(corrupt)?;
        let (&[flags, sizes], after) = after.split_first_chunk::<2>().ok_or_else(corrupt)?;
        if *magic != 0x184D_2204_u32.to_le_bytes() || flags >> 6 != 1 || flags & 1 != 0 {
            return Err(corrupt());
        }
        let has_size = flags & 0b1000 != 0;
        let block_most = match sizes >> 4 & 0b111 {
            code @ 4..=7 => 1usize << (8 + 2 * code),
            _ => return Err(corrupt()),
        };
        // Content size if there is one, and the header's checksum.
        rest = after.get(if has_size { 9 } else { 1 }..).ok_or_else(corrupt)?;
        let (frame_start, linked) = (out.buffer.len(), flags & 0b10_0000 == 0);
        loop {
            let (word, after) = rest.split_first_chunk::<4>().ok_or_else(corrupt)?;
            let word = u32::from_le_bytes(*word);
            if word == 0 {
                rest = after.get(if flags & 0b100 != 0 { 4 } else { 0 }..).ok_or_else(corrupt)?;
                break;
            }
            let size = usize::try_from(word & 0x7fff_ffff).unwrap_or(usize::MAX);
            let (block, after) = after.split_at_checked(size).ok_or_else(corrupt)?;
            rest = after.get(if flags & 0b1_0000 != 0 { 4 } else { 0 }..).ok_or_else(corrupt)?;
            if word >> 31 != 0 {
                out.append(block)?;
            } else {
                lz4_block(block, block_most, if linked { frame_start } else { out.buffer.len() }, out)?;
            }
        }
    }
    Ok(())
}

/// Unpacks one block whose matches may reach back to `window_start`.
fn lz4_block(block: &[u8], most: usize, window_start: usize, out: &mut Output<'_>) -> Result<(), BatchError> {
    // A byte of a match length stands for 255 at most, so the block itself bounds what it can become.
    let room = most.min(block.len().saturating_mul(255)).min(out.left());
    let start = out.grow(room);
    let (before, into) = out.buffer.split_at_mut(start);
    let window = &before[window_start.max(start.saturating_sub(LZ4_WINDOW_BYTES))..];
    let size = if window.is_empty() {
        lz4_flex::block::decompress_into(block, into)
    } else {
        lz4_flex::block::decompress_into_with_dict(block, into, window)
    };
    match size {
        Ok(size) => {
            out.buffer.truncate(start + size);
            Ok(())
        }
        Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if room < most => Err(out.too_large()),
        Err(_) => Err(BatchError::Compressed("lz4")),
    }
}

/// Unpacks in one go into the output itself, which needs no window; one that turns out too small is doubled and the work
/// done again, so nothing is set aside on the word of a header.
fn unzstd(context: &mut DCtx<'_>, packed: &[u8], out: &mut Output<'_>) -> Result<(), BatchError> {
    let corrupt = || BatchError::Compressed("zstd");
    let claimed = zstd_safe::get_frame_content_size(packed).map_err(|_| corrupt())?;
    if claimed.is_some_and(|c| usize::try_from(c).unwrap_or(usize::MAX) > out.limit_bytes) {
        return Err(out.too_large());
    }
    let mut room = packed.len().saturating_mul(8).max(KEPT_BYTES).min(out.limit_bytes);
    loop {
        out.buffer.clear();
        out.buffer.reserve_exact(room);
        match context.decompress(out.buffer, packed) {
            Ok(_) if out.buffer.len() > out.limit_bytes => return Err(out.too_large()),
            Ok(_) => return Ok(()),
            // The library answers with the negated code.
            Err(code) if code == (ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize).wrapping_neg() => {
                if out.buffer.capacity() >= out.limit_bytes {
                    return Err(out.too_large());
                }
                room = out.buffer.capacity().saturating_mul(2).min(out.limit_bytes);
            }
            Err(_) => return Err(corrupt()),
        }
    }
}

#[cfg(test)]
mod tests;
